"""Templates: each page is drawn from its own JSON, so that nothing is on a page that the API does not have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup, escape

from actorwork.inspection.words import duration, moment
from actorwork.policy.runs.drawing import style as style_of_graphs
from actorwork.web.charts import duration_chart, rate_chart, scale_of, short
from actorwork.web.sparklines import spark

HERE: Final = Path(__file__).parent

_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Return what a browser is sent unchanged, by name: the bytes and their type."""
    found = {
        path.name: (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted((HERE / "static").iterdir())
        if path.suffix in _TYPES
    }
    sheet, kind = found["style.css"]
    # The colours of graphs are made where the graphs are; a strict policy takes no style from within a page.
    found["style.css"] = (sheet + style_of_graphs().encode(), kind)
    return found


class Renderer:
    """The templates, compiled, and the static files with a stamp of their contents."""

    def __init__(self) -> None:
        self.files = static_files()
        self.stamp = hashlib.sha256(b"".join(data for data, _ in self.files.values())).hexdigest()[:12]
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # Jinja types both by what it puts in them itself.
        filters = cast("dict[str, Any]", self._environment.filters)
        filters |= {one.__name__: one for one in (count, since, when, told, pretty, size, word, short, sentence)}
        names = cast("dict[str, Any]", self._environment.globals)
        names["query"] = query
        names |= {one.__name__: one for one in (spark, rate_chart, duration_chart, scale_of)}
        names["ui"] = self._environment.get_template("ui.html").module

    def __repr__(self) -> str:
        return f"<Renderer {self.stamp}>"

    def main(self, template: str, facts: Mapping[str, Any], frame: Mapping[str, Any]) -> str:
        """Draw the middle of a page."""
        return self._environment.get_template(template).render(d=facts, **frame)

    def whole(self, main: str, frame: Mapping[str, Any]) -> str:
        """Draw a page around its middle."""
        return self._environment.get_template("base.html").render(main=Markup(main.strip()), stamp=self.stamp, **frame)  # noqa: S704 - drawn above, escaped


@cache
def renderer() -> Renderer:
    """Return the renderer of all dashboards of this program: its templates are compiled once."""
    return Renderer()


def count(number: int | None) -> str:
    """Write a number with thousands separated: `1,234`; nothing for None."""
    return "" if number is None else f"{number:,}"


def since(seconds: float | None) -> str:
    """Write a length of time in its largest unit or two: `4m10s`, `3d`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return "< 1s"
    # Of an hour the seconds do not matter, nor of a day the minutes.
    for bound, step in ((600, 1), (36_000, 60), (864_000, 3600)):
        if seconds < bound:
            return duration(seconds - seconds % step)
    return duration(seconds - seconds % 86_400)


def when(at: str | float | None) -> Markup:
    """Write a time, ISO 8601 or seconds since the epoch, as an element that the script turns into local time."""
    if at is None or at == "":
        return Markup("")
    iso = at if isinstance(at, str) else moment(at)
    try:
        shown = datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return escape(iso)
    return Markup('<time datetime="{}">{}</time>').format(iso, shown)


def told(text: str) -> Markup:
    """Write a sentence about what runs: times in it as elements, and own sources without their names in full."""
    return Markup("").join(
        when(part) if number % 2 else escape(_OWN_SOURCE.sub("its own source", part))
        for number, part in enumerate(_MOMENT.split(text))
    )


_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)")
_OWN_SOURCE: Final = re.compile(r"'worker:[0-9a-f]{16}:source'")


def sentence(text: str) -> str:
    """Write an error or a reason as a sentence: a capital first, a full stop last."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?', ':')) else '.'}" if text else ""


def pretty(value: object) -> str:
    """Write a JSON value for people to read."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def size(bytes: int | None) -> str:
    """Write a number of bytes: `3.2 MB`."""
    if bytes is None:
        return ""
    value, units = float(bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"


def word(number: int, one: str, several: str = "") -> str:
    """Return a word for a number of things: `letter`, `letters`."""
    return one if number == 1 else several or f"{one}s"


def query(**parameters: object) -> str:
    """Return parameters of a link, without those that are empty: `?source=a%2Fb`."""
    given = {name: str(value) for name, value in parameters.items() if value not in ("", None)}
    return f"?{urlencode(given)}" if given else ""
