"""`python -m docs.site.links DIRECTORY`: check that the links within a built site lead somewhere, without a network.

Sphinx checks the links that pages are written with. This reads the pages that it has made: each link and each picture
leads to a file of the site, each part after `#` to an element with that id, and each picture says what it shows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs

NOT_OURS = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
"""How links begin that lead out of the site."""
BY_A_PROGRAM = {"genindex.html", "search.html", "py-modindex.html"}
"""Pages of the theme, whose contents are made elsewhere."""


@attrs.frozen
class Page:
    """What a page has: the ids of its elements, its links, and pictures without a text."""

    ids: frozenset[str]
    links: tuple[str, ...]
    silent: tuple[str, ...]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: dict[str, None] = {}
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.update(value for value in (given.get("id"), given.get("name")) if value)
        for name in ("href", "src"):
            if value := given.get(name):
                self.links[value] = None
        if tag == "img" and not given.get("alt"):
            self.silent.append(given.get("src") or "?")


def read(text: str) -> Page:
    """Read a page of HTML."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return Page(frozenset(reader.ids), tuple(reader.links), tuple(reader.silent))


def problems(site: Path) -> Iterator[str]:
    """Yield what is wrong on the pages of a site, one sentence each."""
    pages = {file: read(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        here = file.relative_to(site)
        for link in page.links:
            if (problem := _problem_of(link, file, pages)) is not None:
                yield f"{here}: {link} {problem}"
        for picture in page.silent:
            yield f"{here}: the picture {picture} has no text that says what it shows"


def _problem_of(link: str, file: Path, pages: Mapping[Path, Page]) -> str | None:
    if NOT_OURS.match(link):
        return None
    parts = urlsplit(link)
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "leads to a file that is not there"
    anchor = unquote(parts.fragment)
    page = pages.get(target)
    if anchor and page is not None and target.name not in BY_A_PROGRAM and anchor not in page.ids:
        return f"leads to a page that has nothing with the id {anchor!r}"
    return None


if __name__ == "__main__":
    (directory,) = sys.argv[1:]
    found = list(problems(Path(directory).resolve()))
    print("\n".join(found) or f"{directory}: all links within it lead somewhere")
    sys.exit(bool(found))
