"""The bounds of the record of what users did to a system."""

from __future__ import annotations

from typing import Final

MOST_ENTRIES: Final = 10_000
"""A broker keeps this many entries, the newest."""
LONGEST: Final = 1_000
"""Characters of each text of an entry; the rest is cut off."""


def cut(text: str) -> str:
    """Return a text as an entry holds it."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
