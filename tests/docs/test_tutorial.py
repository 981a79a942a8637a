"""Each page of the tutorial does what it shows: its files in virtual time, and its commands as a reader types them."""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actorwork import MessageFailed
from actorwork.testing import open_test_system
from tests.docs.tutorial import PAGES, TUTORIAL, Reader, blocks, files_of

FIRST, DESK, STUDIO = range(1, len(PAGES) + 1)

INDEX = (TUTORIAL / "index.md").read_text(encoding="utf-8")


def text_of(page: int) -> str:
    return PAGES[page - 1].read_text(encoding="utf-8")


class Project:
    """The files of a page, as modules."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._patch = patch

    def at(self, page: int) -> "Project":
        files_of(page, self.directory)
        self._patch.chdir(self.directory)
        self._patch.setattr(sys, "path", [str(self.directory), *sys.path])
        importlib.invalidate_caches()
        return self

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    before = dict(sys.modules)
    yield Project(tmp_path, monkeypatch)
    for name, module in list(sys.modules.items()):
        if name not in before and str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


async def test_the_first_message_is_handled(project: Project, actorwork_clock: object) -> None:
    order = project.at(FIRST).shop.order
    async with open_test_system(order) as system:
        reply = await system.client.call(order, customer="Ann", photos=["beach.jpg", "cat.jpg"])
    assert f'"{reply}"' in text_of(FIRST)


async def test_the_desk_rejects_what_is_no_order_and_its_bug_costs_none(
    project: Project, actorwork_clock: object
) -> None:
    project.at(DESK)
    desk = project.desk

    async def ordered(*photos: str) -> str:
        try:
            return await system.client.ref(desk.Desk).ask(desk.Order("A1", "Ann", list(photos)), timeout=10)
        except MessageFailed as error:
            return error.reason

    async with open_test_system(project.shop.shop) as system:
        assert await ordered("beach.jpg", "cat.png") == "Ann, your album A1 is number 1 today"
        assert await ordered() == "an album needs a photo"
        assert await ordered("film.mov") == "film is no photo"
        assert await ordered("new.year.jpg") == "Ann, your album A1 is number 2 today"


async def test_a_page_that_is_drawn_twice_is_there_once(project: Project) -> None:
    project.at(STUDIO)
    desk, studio = project.desk, project.studio
    studio.SECONDS = 0
    (project.directory / "photos").mkdir()
    (project.directory / "photos" / "sun.jpg").write_bytes(b"sun")
    async with open_test_system(project.shop.shop) as system:
        system.faults.deliver_twice(studio.Studio)
        reply = await system.client.ref(desk.Desk).ask(desk.Order("B1", "Ann", ["sun.jpg"]), timeout=60)
        assert reply in text_of(STUDIO)
        await system.drain()
        assert not system.dead_letters
    (page,) = project.directory.glob("pages/*/*")
    assert "data:image/jpeg;base64,c3Vu" in page.read_text(encoding="utf-8")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    directory = tmp_path / "albums"
    directory.mkdir()
    pid = os.getpid()
    # An address that no other program of this machine uses.
    here = f"127.{pid >> 16 & 255}.{pid >> 8 & 255}.{pid & 255}"
    reader = Reader(directory, {"HOME": str(tmp_path), "BANK": f"http://{here}:8100"})
    yield reader
    reader.leave()


def test_the_first_message_needs_one_file_and_two_commands(reader: Reader) -> None:
    text = text_of(FIRST)
    reader.follow(text[: text.index("## What happened")])


@pytest.mark.long
@pytest.mark.parametrize("pages", [(FIRST, DESK), (STUDIO,)], ids=lambda pages: str(pages[-1]))
def test_a_reader_sees_what_a_page_shows(reader: Reader, pages: Sequence[int]) -> None:
    """A page, with those whose dead letters it shows."""
    files_of(pages[0] - 1, reader.directory)
    for page in pages:
        reader.follow(text_of(page))


def test_pages_name_the_next_one_and_have_no_block_that_is_not_tried() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for text, following in zip(texts, PAGES[1:], strict=False):
        assert text.rstrip().endswith(f"({following.name})")
    tried = {"python", "console", "text"}
    for text in texts:
        # An `sh` block is how a new environment is made.
        assert [block.text for block in blocks(text) if not block.file and block.language not in tried | {"sh"}] == []
    assert [page.name for page in PAGES] == re.findall(r"\((\d\d-[\w-]+\.md)\)", INDEX)


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL / "index.md"], ids=lambda page: page.name)
def test_a_page_is_set_in_120_columns(page: Path) -> None:
    """All but rows of tables, and what programs print."""
    text = re.sub(
        r"^```(?:console|text)\n.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []
