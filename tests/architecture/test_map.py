"""The chapter on architecture describes what exists: every path that it names is there."""

import re
import tomllib
from pathlib import Path

HOUSE = Path(__file__).parents[2]
PACKAGE = HOUSE / "actorwork"
CHAPTER = (HOUSE / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.lua)?)`", CHAPTER)
PATHS = sorted({name for name in NAMED if "/" in name})
PLANNED: set[str] = set()


def floors() -> list[set[str]]:
    contracts = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "floors"]
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def exists(path: str) -> bool:
    return (PACKAGE / path).exists() or (PACKAGE / f"{path}.py").is_file()


def test_every_path_that_the_chapter_names_exists():
    assert len(PATHS) > 40
    assert [path for path in PATHS if not exists(path)] == []


def test_the_chapter_draws_the_floors_of_the_contract():
    drawn = re.search(r"^```text\n(.*?)^```$", CHAPTER, re.DOTALL | re.MULTILINE)
    assert drawn is not None
    lines = [set(re.findall(r"\w+", line.split(maxsplit=1)[1])) for line in drawn[1].splitlines()]
    assert set().union(*lines) == set().union(*floors()) - PLANNED
    order = [floor - PLANNED for floor in floors()]
    ground = lines.pop()
    assert [floor for floor in order if not floor <= ground] == lines


def test_the_chapter_shows_every_sub_room_of_actors():
    rooms = [path.name for path in (PACKAGE / "actors").iterdir() if (path / "__init__.py").is_file()]
    assert [room for room in rooms if f"`actors/{room}/`" not in CHAPTER] == []
