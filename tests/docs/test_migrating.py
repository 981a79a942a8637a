"""The examples of the chapters on migrating run, so that they cannot rot."""

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis
import trio
from trio.testing import MockClock

from actorwork import Actor, Settings, events, open_system, receive
from actorwork.policy.settlement import Reject as RejectSettlement

DOCS = Path(__file__).parents[2] / "docs"


def blocks(chapter: str) -> list[str]:
    return re.findall(
        r"^ *```python\n(.*?)^ *```$", (DOCS / chapter).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def run(chapter: str, program: str, **names: object) -> dict[str, Any]:
    """Run a program that is made of a chapter's examples; return its names."""
    made: dict[str, Any] = {"__name__": "chapter", **names}
    exec(compile(program, f"docs/{chapter}", "exec"), made)
    return made


def test_the_examples_of_the_chapter_on_celery_run(tmp_path: Path) -> None:
    declared, used, steps, canvas, beat, signals, passing, bridge, sending = blocks("migrating-from-celery.md")
    main = "async def main(client, system):\n" + textwrap.indent(f"{used}\n{canvas}\nawait system.drain()\n", "    ")
    program = run(
        "migrating-from-celery.md", f"{declared}\n{steps}\n{beat}\n{signals}\n{passing}\n{bridge}\n{sending}\n{main}"
    )

    async def in_virtual_time() -> None:
        from actorwork.testing import open_test_system

        tree = [program[name] for name in ("send_mail", "price", "total", "Cleaner")]
        async with open_test_system(tree, middleware=[program["prerun_and_postrun"]]) as system:
            await program["main"](system.client, system)

    trio.run(in_virtual_time, clock=MockClock(autojump_threshold=0))
    # Two mails (a third was cancelled), two prices, one total.
    assert program["seen"].count("after") == 5

    url = f"sqlite:///{tmp_path}/broker.sqlite3"
    program["passes_on"](url, "Dan", "Moved")
    handled: list[events.Settled] = []
    done = trio.Event()

    def note(event: events.Event) -> None:
        if isinstance(event, events.Settled):
            handled.append(event)
            done.set()

    async def handle() -> None:
        with trio.fail_after(60):
            async with open_system(program["send_mail"], broker=url, emit=note):
                await done.wait()

    trio.run(handle)
    assert handled[0].delivery.payload == b'{"to":"Dan","subject":"Moved"}'


def test_the_examples_of_the_chapter_on_thread_pools_run(tmp_path: Path) -> None:
    chapter = "migrating-from-a-thread-pool.md"
    run(chapter, "\n".join(blocks(chapter)), url=f"sqlite:///{tmp_path}/broker.sqlite3")


def test_an_actor_takes_over_a_stream_of_everwork_where_the_worker_has_stopped(redis_url: str) -> None:
    chapter = "migrating-from-everwork.md"
    made = run(chapter, "\n".join(blocks(chapter)))
    importer: Any = made["MovedImporter"]
    imported: list[bytes | Mapping[bytes, bytes]] = []
    done = trio.Event()

    class Imported(Actor):
        settings = Settings(title="imported", sources={"imported"})

        @receive
        async def note(self, *, path: str) -> None:
            imported.append(self.context.delivery.payload)
            if path == "last.csv":
                done.set()

    rejected: list[object] = []

    def note(event: events.Event) -> None:
        if isinstance(event, events.Settled) and isinstance(event.settlement, RejectSettlement):
            rejected.append(event.settlement.failure.reason)

    def entry(path: str) -> dict[str, str]:
        return {"payload": json.dumps({"kwargs": {"path": path}, "headers": {}})}

    client: Any = redis.Redis.from_url(redis_url)  # pyright: ignore[reportUnknownMemberType] - redis-py's
    with client as server:
        # The old worker has handled an entry, and left it in the stream.
        server.xgroup_create("imports", "old", id="0", mkstream=True)
        server.xadd("imports", entry("handled by Everwork.csv"))
        handled: Any = server.xreadgroup("old", "worker", {"imports": ">"})
        server.xack("imports", "old", handled[0][1][0][0])
        for path in ("first.csv", "picture.png", "last.csv"):
            server.xadd("imports", entry(path))
        # The steps of the chapter.
        (group,) = server.xinfo_groups("imports")
        assert group["pending"] == 0
        milliseconds, number = group["last-delivered-id"].decode().split("-")
        server.xtrim("imports", minid=f"{milliseconds}-{int(number) + 1}", approximate=False)
        server.xgroup_destroy("imports", "old")

    async def handle() -> None:
        with trio.fail_after(60):
            async with open_system([importer, Imported], broker=redis_url, emit=note):
                await done.wait()

    trio.run(handle)
    assert imported == [b'{"path":"first.csv"}', b'{"path":"last.csv"}']
    assert rejected == ["no CSV: picture.png"]
