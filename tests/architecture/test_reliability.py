"""The table of windows is no wish: each test that it names is there."""

import re
from pathlib import Path

HOUSE = Path(__file__).parents[2]
CHAPTER = (HOUSE / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`(test_\w+)`", CHAPTER))


def test_each_test_that_the_chapter_names_is_there():
    there = {
        name
        for path in (HOUSE / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert NAMED - there == set()


def test_each_window_names_a_test():
    start = CHAPTER.index("| window |")
    rows = [line for line in CHAPTER[start : CHAPTER.index("\n\n", start)].splitlines()[2:] if line]
    assert len(rows) > 10
    assert [row for row in rows if "`test_" not in row] == []
