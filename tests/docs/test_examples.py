"""Examples of chapters whose programs run until they are stopped, or need a server; and no other is left out."""

import ast
import asyncio
import re
import textwrap
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import CO_COROUTINE
from pathlib import Path
from types import CodeType
from typing import Any

import httpx
import pytest
import trio

from actorwork import Actor, Entity, Process, RateLimit, Settings, System, open_client, open_system, receive
from actorwork.telemetry.metrics import Registry
from actorwork.testing import open_test_system

ROOT = Path(__file__).parents[2]


def blocks(chapter: str, language: str = "python") -> list[str]:
    text = (ROOT / "docs" / chapter).read_text(encoding="utf-8")
    return [
        textwrap.dedent(block)
        for block in re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    ]


async def execute(block: str, **names: object) -> dict[str, Any]:
    """Run an example, in which anything may be awaited; return its names."""
    made: dict[str, Any] = {"__name__": "__main__", **names}
    code = compile(block, "example", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    ended: Any = eval(code, made)
    if code.co_flags & CO_COROUTINE:
        await ended
    return made


def actor_of(title: str) -> type[Actor]:
    class OfTheReader(Actor):
        settings = Settings(title=title)

        @receive
        async def take(self, *, path: str = "") -> None: ...

    return OfTheReader


GREETER, CLEANER = actor_of("greeter"), actor_of("cleaner")


class Runs:
    """Takes the place of `run`: keeps what it is called with, so that a test opens the same system."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Any, dict[str, Any]]] = []

        def run(tree: Any, **options: Any) -> None:
            self.calls.append((tree, options))

        patch.setattr("actorwork.run", run)

    @asynccontextmanager
    async def open(self, **changed: Any) -> AsyncGenerator[System]:
        """Open the system of the last call, with other addresses."""
        tree, options = self.calls[-1]
        given: dict[str, Any] = {**options, "broker": "sqlite://", **changed}
        async with open_system(tree, **given) as system:
            yield system


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


async def test_the_examples_of_the_chapter_on_running_run(runs: Runs) -> None:
    program, embedding, processes = blocks("running.md")
    await execute(program, Greeter=GREETER, Cleaner=CLEANER)
    async with runs.open() as system:
        await system.ref(CLEANER).ask({"path": "x"}, timeout=60)
    async with trio.open_nursery() as nursery:
        served = await execute(embedding, Greeter=GREETER, url="sqlite://", nursery=nursery)
        await served["system"].ref(GREETER).ask({}, timeout=60)
        served["system"].stop()
    made = await execute(processes + "\nmade = Process", VideoCutter=GREETER, Thumbnails=CLEANER)
    assert made["made"] is Process


@pytest.mark.parametrize("chapter", ["health.md", "metrics.md"])
async def test_a_program_with_a_monitor_answers_at_its_address(chapter: str, runs: Runs) -> None:
    program = blocks(chapter)[0].replace(":9464", ":0")
    await execute(program, Greeter=GREETER, Cleaner=CLEANER, url="sqlite://")
    async with runs.open() as system, httpx.AsyncClient() as browser:
        assert system.monitor is not None
        assert (await browser.get(f"{system.monitor.url}/ready")).status_code == 200


async def test_a_client_counts_what_it_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORWORK_HOME", str(tmp_path))
    made = await execute(blocks("metrics.md")[1])
    await trio.to_thread.run_sync(made["main"])  # It asserts.


async def test_a_program_reads_its_own_metrics() -> None:
    made = await execute(blocks("metrics.md")[-1])
    async with open_system([GREETER], broker="sqlite://", metrics=True) as system:
        assert isinstance(system.metrics, Registry)
        assert made["waiting"](system.metrics) == 0


async def test_the_examples_of_the_chapter_on_supervision_run(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    tree, administration = blocks("supervision.md")

    class Session(Actor):
        def __init__(self, user: str) -> None:
            self.user = user

    known = {name: actor_of(name.lower()) for name in ("Database", "Reader", "Writer", "Mailer", "Indexer")}
    made = await execute(tree, Session=Session, **known)
    async with runs.open() as system:
        made = await execute(administration, **{**made, "system": system})
        assert made["session"] is not None
    assert "writer" in capsys.readouterr().out


def test_the_examples_of_the_chapter_on_configuration_run(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,), (program,) = blocks("configuration.md", "toml"), blocks("configuration.md")
    monkeypatch.chdir(tmp_path)
    # Four processes would cost what this test is not for.
    file = file.replace("redis://localhost:6379/0", "sqlite://").partition("[processes")[0]
    for name in ("actorwork.toml", "base.toml"):
        Path(name).write_text(file, encoding="utf-8")
    Path("host.toml").write_text('grace = "15s"\n', encoding="utf-8")

    class Mailer(Actor):
        settings = Settings(title="mailer", limits=[RateLimit(1, name="smtp")])

        @receive
        async def mail(self, *, to: str) -> None: ...

    class Cart(Entity[int]):
        settings = Settings(title="cart")

        @receive
        async def put(self, *, price: int) -> None: ...

    trio.run(partial(execute, program, tree=[Mailer, Cart]))
    assert [options for _, options in runs.calls] == [{"config": "actorwork.toml"}, {"config": []}]


async def test_the_examples_of_the_chapter_on_entities_run(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/broker.sqlite3"
    program, looking, migrating = blocks("entities.md")
    made = await execute(program.replace("redis://localhost:6379/0", url))
    async with runs.open(broker=url):
        await made["main"]()
        assert capsys.readouterr().out == "5\nBalance(amount=5)\n"
        async with open_client(url) as client:
            ann = client.ref(made["Account"], key="ann")
            await execute(
                looking, **{**made, "client": client, "ann": ann, "yesterday": datetime.now(UTC) - timedelta(1)}
            )
    assert (await execute(migrating, **made))["in_cents"]({"amount": 7}) == {"cents": 700}


async def test_the_example_of_the_chapter_on_steering_runs(
    actorwork_clock: object, capsys: pytest.CaptureFixture[str]
) -> None:
    class Till(Actor):
        settings = Settings(title="till")

        @receive
        async def pay(self, *, price: str) -> None:
            raise ValueError(price)

    (example,) = blocks("steering.md")
    async with open_test_system(Till) as system:
        await system.client.ref(Till).submit({"price": "1.50"})
        await system.drain()
        await execute(example, client=system.client)
    assert "failed" in capsys.readouterr().out


async def test_the_example_of_a_publish_that_replicas_confirm_runs(
    redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = blocks("reliability.md")
    async with open_client(redis_url) as client:
        await execute(example, client=client)
    assert capsys.readouterr().out.startswith("1 0 ")  # This server has no replica.


def test_the_dashboard_in_an_application_lets_in_its_users(tmp_path: Path) -> None:
    (example,) = blocks("dashboard.md")
    example = example.replace("redis://localhost:6379/0", f"sqlite:///{tmp_path}/broker.sqlite3")

    async def statuses() -> list[int]:
        api: Any = (await execute(example))["api"]
        found: list[int] = []
        for session in ({}, {"user": "ann"}):

            async def with_session(scope: Any, receive: Any, send: Any, session: Any = session) -> None:
                await api({**scope, "session": session}, receive, send)

            transport = httpx.ASGITransport(with_session)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
                found.append((await browser.get("/ops/")).status_code)
        return found

    refused, let_in = asyncio.run(statuses())
    assert refused in (401, 403)
    assert let_in == 200


async def test_the_example_of_a_source_with_shards_declares_them() -> None:
    (block,) = blocks("shards.md")
    assert (await execute(block))["Till"].settings.shards == {"orders": 16}


@pytest.mark.long
async def test_the_example_of_a_cluster_for_tests_runs(capsys: pytest.CaptureFixture[str]) -> None:
    await trio.to_thread.run_sync(trio.run, execute, *blocks("cluster.md"))
    assert capsys.readouterr().out.startswith("redis+cluster://127.0.0.1:")


def named(files: Iterable[Path]) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_each_chapter_with_examples_is_named_by_a_test_that_runs_them() -> None:
    tests = named((ROOT / "tests").rglob("test_*.py"))
    chapters = [path.name for path in (ROOT / "docs").glob("*.md") if blocks(path.name)]
    assert len(chapters) > 25
    assert [chapter for chapter in chapters if f'"{chapter}"' not in tests] == []
