"""The examples of the chapters on migrating run, so that they cannot rot."""

import re
import textwrap
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

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
    declared, used, steps, canvas, beat, signals, bridge = blocks("migrating-from-celery.md")
    main = "async def main(client, system):\n" + textwrap.indent(f"{used}\n{canvas}\nawait system.drain()\n", "    ")
    program = run("migrating-from-celery.md", f"{declared}\n{steps}\n{beat}\n{signals}\n{bridge}\n{main}")

    async def in_virtual_time() -> None:
        from actorwork.testing import open_test_system

        tree = [program[name] for name in ("send_mail", "price", "total", "Cleaner")]
        async with open_test_system(tree, middleware=[program["prerun_and_postrun"]]) as system:
            await program["main"](system.client, system)

    trio.run(in_virtual_time, clock=MockClock(autojump_threshold=0))
    # Two mails (a third was cancelled), two prices, one total.
    assert program["seen"].count("after") == 5

    from actorwork import events, open_system

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
