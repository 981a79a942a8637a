"""Each page of the tutorial does what it shows: its files in virtual time, and its commands as a reader types them."""

import importlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import yaml

from actorwork import Child, MessageFailed
from actorwork.durations import as_seconds
from actorwork.testing import advance, open_test_system, pytest_plugin
from tests.docs.tutorial import PAGES, TUTORIAL, Reader, blocks, files_of

FIRST, DESK, STUDIO, TILL, BOOKS, ALBUM, WEB, TESTS, OPERATIONS, PRODUCTION = range(1, len(PAGES) + 1)
pytest_plugins = ["pytester"]

INDEX = (TUTORIAL / "index.md").read_text(encoding="utf-8")


def text_of(page: int) -> str:
    return PAGES[page - 1].read_text(encoding="utf-8")


def has_photos(directory: Path) -> None:
    (directory / "photos").mkdir()
    for name in ("beach", "cat", "dog", "sun"):
        (directory / "photos" / f"{name}.jpg").write_text(name, encoding="utf-8")


class Project:
    """The files of a page, as modules."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._patch = patch

    def at(self, page: int) -> "Project":
        files_of(page, self.directory)
        for file in self.directory.glob("*.py"):  # A test of something else may have imported one of the same name.
            self._patch.delitem(sys.modules, file.stem, raising=False)
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
    has_photos(project.directory)
    async with open_test_system(project.shop.shop) as system:
        system.faults.deliver_twice(studio.Studio)
        reply = await system.client.ref(desk.Desk).ask(desk.Order("B1", "Ann", ["sun.jpg"]), timeout=60)
        assert reply in text_of(STUDIO)
        await system.drain()
        assert not system.dead_letters
    (page,) = project.directory.glob("pages/*/*")
    assert "data:image/jpeg;base64,c3Vu" in page.read_text(encoding="utf-8")


class Bank:
    """A bank in the process of the test, which is out of order, away, or open, call by call."""

    def __init__(self, *troubles: int | None) -> None:
        self.charges: dict[str, Any] = {}
        self.calls = 0
        self._troubles = list(troubles)

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        trouble = self._troubles.pop(0) if self._troubles else 200
        if trouble is None:
            raise httpx.ConnectError("all attempts to connect failed")
        if request.method == "GET":
            return httpx.Response(200, json=list(self.charges.values()))
        if trouble == 200:
            self.charges.setdefault(request.headers["Idempotency-Key"], json.loads(request.content))
        return httpx.Response(trouble, json="charged Ann 20 cents")


async def test_each_album_is_charged_once_whatever_the_bank_does(project: Project, actorwork_clock: object) -> None:
    project.at(TILL)
    till = project.till
    bank = Bank(200, 503, *[None] * 8, 200, 503)
    async with open_test_system(Child(partial(till.Till, transport=bank.transport()))) as system:
        began = trio.current_time()
        for number in range(12):
            await system.client.ref(till.Till).tell(till.Charge(f"C{number}", "Ann", 20))
        system.faults.deliver_twice(till.Till)
        await system.drain(scheduled=True)
        assert not system.dead_letters
        assert len(bank.charges) == 12
        assert bank.calls > 20
        assert trio.current_time() - began > 10 + 2  # The circuit was open, and four calls in a second are allowed.


async def test_the_books_are_closed_every_evening(project: Project, actorwork_clock: object) -> None:
    project.at(BOOKS)
    bank = Bank(503, None)
    bank.charges["album C1"] = {"order": "C1", "customer": "Ann", "cents": 20}
    async with open_test_system(Child(partial(project.books.Books, transport=bank.transport()))) as system:
        await advance(3 * 86_400)
        await system.drain()
        assert not system.dead_letters
    reports = sorted(project.directory.glob("reports/*"))
    assert [report.read_text(encoding="utf-8") for report in reports] == ["1 albums, 0.20 EUR\n"] * 3
    assert len({report.name[11:] for report in reports}) == 1


async def test_an_album_that_is_ordered_twice_is_made_once(project: Project) -> None:
    project.at(ALBUM)
    desk, studio, till = project.desk, project.studio, project.till
    has_photos(project.directory)
    studio.SECONDS = 0
    bank = Bank()
    charging = Child(partial(till.Till, transport=bank.transport()))
    async with open_test_system([desk.Desk, charging, studio.Studio, project.album.Bindery]) as system:
        for _ in range(2):
            await system.client.ref(desk.Desk).ask(desk.Order("E1", "Ann", ["sun.jpg", "cat.jpg"]), timeout=60)
        assert await system.client.run("E1").result(timeout=60) == "albums/E1.html"
        assert len(bank.charges) == bank.calls == 1
    made = (project.directory / "albums" / "E1.html").read_text(encoding="utf-8")
    assert made.index("sun.jpg") < made.index("cat.jpg")


def test_the_tests_of_the_shop_pass(
    project: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.at(TESTS)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # Others take a second to load.
    runner: Any = pytester  # Its types are partly unknown.
    result = runner.inline_run("-p", "no:cacheprovider", str(project.directory), plugins=[pytest_plugin])
    passed, skipped, failed = result.listoutcomes()
    assert [report.longreprtext for report in failed] == []
    assert (len(passed), len(skipped)) == (text_of(TESTS).count("async def test_"), 0)


def test_what_is_deployed_has_its_files_and_waits_for_longer_than_the_grace(project: Project) -> None:
    project.at(PRODUCTION)
    compose = yaml.safe_load((project.directory / "compose.yaml").read_text(encoding="utf-8"))
    image = (project.directory / "Dockerfile").read_text(encoding="utf-8")
    settings = tomllib.loads((project.directory / "shop.toml").read_text(encoding="utf-8"))
    assert as_seconds(compose["services"]["shop"]["stop_grace_period"]) > as_seconds(settings["grace"])
    (copied,) = re.findall(r"^COPY --chown=actorwork (.*) /app/$", image, re.MULTILINE)
    assert all(list(project.directory.glob(pattern)) for pattern in copied.split())
    (arguments,) = re.findall(r"^CMD (.*)$", image, re.MULTILINE)
    run, tree, *flags = json.loads(arguments)
    assert (run, flags) == ("run", ["--config", "shop.toml"])
    module, _, name = tree.partition(":")
    assert getattr(getattr(project, module), name)
    writes = {volume.partition(":")[2] for volume in compose["services"]["shop"]["volumes"] if volume[0] != "."}
    assert all(path in image for path in writes)
    assert {volume.partition(":")[0] for volume in compose["services"]["shop"]["volumes"][1:]} < set(compose["volumes"])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    directory = tmp_path / "albums"
    directory.mkdir()
    pid = os.getpid()
    # An address that no other program of this machine uses.
    here = f"127.{pid >> 16 & 255}.{pid >> 8 & 255}.{pid & 255}"
    reader = Reader(directory, here, {"HOME": str(tmp_path), "UVICORN_HOST": here})
    yield reader
    reader.leave()


def test_the_first_message_needs_one_file_and_two_commands(reader: Reader) -> None:
    text = text_of(FIRST)
    reader.follow(text[: text.index("## What happened")])


@pytest.mark.long
@pytest.mark.parametrize(
    "pages",
    [(FIRST, DESK), (STUDIO,), (TILL,), (BOOKS,), (ALBUM,), (WEB,), (TESTS,), (OPERATIONS,), (PRODUCTION,)],
    ids=lambda pages: str(pages[-1]),
)
def test_a_reader_sees_what_a_page_shows(reader: Reader, pages: Sequence[int]) -> None:
    """A page, with those whose dead letters it shows."""
    files_of(pages[0] - 1, reader.directory, reader.address)
    if STUDIO not in pages:
        has_photos(reader.directory)
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
