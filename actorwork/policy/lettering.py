"""Letters in drawings: what fits into how much room, before any font is known, and what XML may contain."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from xml.sax.saxutils import escape

_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML may contain, escaped or not, and what terminals obey."""


def text(value: str) -> str:
    """Return a text as XML takes it."""
    return escape(_FORBIDDEN.sub("�", value))


def width(what: str, size: float) -> float:
    """Return about how wide a text is: fonts differ, so it is rather too wide."""
    return sum(size * _share(one) for one in what)


def _share(one: str) -> float:
    if unicodedata.east_asian_width(one) in "WF":
        return 1.05
    if one in "iljtf.,:;'|! ()[]/":
        return 0.36
    if one in "mwMW@%—…×":
        return 0.9
    return 0.68 if one.isupper() or one.isdecimal() else 0.58


def cut(what: str, size: float, room: float) -> str:
    """Return a text, or as much of it as there is room for."""
    what = " ".join(what.split())
    if width(what, size) <= room:
        return what
    room -= width("…", size)
    for place, one in enumerate(what):
        room -= size * _share(one)
        if room < 0:
            return what[:place].rstrip() + "…"
    return what


def number(value: float) -> str:
    """Return a number with one decimal at most."""
    return f"{value:.1f}".rstrip("0").rstrip(".")
