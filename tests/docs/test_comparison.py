"""The figures of the chapter that compares are those of the benchmarks' results."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHAPTER = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "results" / "two-cores-redis-7.md").read_text(encoding="utf-8")
LOCAL = (ROOT / "benchmarks" / "actors" / "README.md").read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]


def test_the_figures_of_the_table_are_those_of_the_results() -> None:
    section = RESULTS.split("## Later, with workflows")[1].split("\n## ")[0]
    measured = {row[0].lower(): row for row in rows(section)}
    names = {"actorwork, without an event loop": "actorwork-sync"}
    table = [row for row in rows(CHAPTER.split("## Figures")[1]) if row[0] and not row[0].startswith("---")]
    assert len(table) == 9
    for name, sends, reply, whole, chord in table:
        row = measured[names.get(name, name).lower()]
        assert sends == row[1], name
        assert reply == row[4], name
        assert whole in ("–", row[6]), name
        milliseconds = re.match(r"\d+ ms", row[8])
        assert chord == "–" if milliseconds is None else chord.startswith(milliseconds[0]), name


def test_the_figures_in_sentences_are_rounded_from_the_results() -> None:
    drains = {row[0]: row[3] for row in rows(RESULTS) if len(row) > 20}
    assert "handled 83,000 messages" in CHAPTER
    assert drains["actorwork"].startswith("83,")
    assert "over redis-py did 145,000" in CHAPTER
    assert drains["raw-100"] == "144,852"
    assert "huey 3,300" in CHAPTER.replace("\n", " ")
    assert drains["huey"] == "3,347"
    for figure in ("670,000", "82,000", "5.4 KB"):
        assert figure in CHAPTER
        assert figure in LOCAL


def test_the_figures_of_the_chapter_on_entities_are_those_of_the_results() -> None:
    chapter = (ROOT / "docs" / "entities.md").read_text(encoding="utf-8").split("## What it costs")[1].split("\n## ")[0]
    measured = rows(RESULTS.split("## Entities beside plain actors with keys")[1].split("\n## ")[0])
    assert len(measured) == 6
    assert rows(chapter) == measured
