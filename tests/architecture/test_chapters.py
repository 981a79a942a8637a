"""The chapters' examples are run, so that they cannot rot."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from actorwork import Actor, Settings, receive
from actorwork.testing import open_test_system

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_of_the_chapter_on_state_run():
    declared, used = re.findall(r"```python\n(.*?)```", (DOCS / "state.md").read_text(encoding="utf-8"), re.DOTALL)
    program = (
        f"{declared}\nimport trio\nfrom actorwork import open_client, open_system\n"
        "async def main():\n"
        "    async with open_system(Ledger, broker='sqlite://') as system:\n"
        "        url = system.broker\n"
        "        assert await system.ref(Ledger).ask('closed', timeout=3) == 'closed'\n"
        f"{textwrap.indent(used, '        ')}\ntrio.run(main)\n"
    )
    exec(compile(program, "docs/state.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_policy_run():
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "policy.md").read_text(encoding="utf-8"), re.DOTALL)
    program = "\n".join(examples) + textwrap.dedent("""
        import trio
        from actorwork import open_client
        from actorwork.testing import open_test_system

        async def main():
            assert await rate_of("EUR") == 1.0
            async with open_test_system([Mailer, Billing, Rows], middleware=[note]) as system:
                async with open_client(system.broker, middleware=[stamped]) as client:
                    await client.ref(Mailer).tell({"to": "ann"})
                    for order in range(10):
                        await client.ref(Billing).tell({"order": order}, key="k")
                    receipts = [await client.ref(Rows).submit({"id": 1}), await client.ref(Rows).submit({"n": 1})]
                    await system.drain()
                    assert [await receipt.status() for receipt in receipts] == ["SUCCESS", "REJECTED"]
                    assert len(taken) == 13
                await system.client.ref(Mailer).tell({"to": "ben"})
                await system.drain()
                assert type(system.broker.settled[-1].settlement).__name__ == "Reject"

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        """)
    exec(compile(program, "docs/policy.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_limits_of_time_run():
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "limits.md").read_text(encoding="utf-8"), re.DOTALL)
    program = "\n".join(examples) + textwrap.dedent("""
        from actorwork.testing import open_test_system

        async def main():
            await trio.sleep(1)
            async with open_test_system(Fetcher) as system:
                text = await system.client.ref(Fetcher).ask(Fetch(["a", "b", "c"]), timeout=60)
                assert text == "the text of a\\nthe text of b"
            async with open_test_system(Generator) as system:
                await system.client.ref(Generator).tell({"request": "17"}, id="17")
                await system.drain()
                system.assert_sent("notices", id="17", why="no such page")

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        """)
    exec(compile(program, "docs/limits.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_actors_run():
    found = re.findall(r"```python\n(.*?)```", (DOCS / "actors.md").read_text(encoding="utf-8"), re.DOTALL)
    declared, used, importer = found
    program = (
        f"{declared}\nimport trio\nfrom actorwork import open_client, open_system\n{importer}\n"
        f"async def main():\n{textwrap.indent(used, '    ')}\n"
        "    async with open_system(Importer, broker='sqlite://') as system:\n"
        "        await system.ref(Importer).ask({'path': 'x'}, timeout=3)\n"
        "trio.run(main)\n"
    )
    exec(compile(program, "docs/actors.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_delivery_run():
    declared, *_ = re.findall(r"```python\n(.*?)```", (DOCS / "actors.md").read_text(encoding="utf-8"), re.DOTALL)
    used, hook = re.findall(r"```python\n(.*?)```", (DOCS / "delivery.md").read_text(encoding="utf-8"), re.DOTALL)
    program = (
        f"{declared}\nimport json, trio\nfrom collections.abc import Mapping\nfrom typing import Any\n"
        f"from actorwork import open_client\n{hook}\n"
        'fields = {b\'payload\': b\'{"kwargs": {"path": "x"}, "headers": {"a": 1}}\'}\n'
        "assert everwork(fields) == (None, {'path': 'x'}, {'a': 1})\n"
        f"async def main():\n    async with open_client('sqlite://') as client:\n{textwrap.indent(used, ' ' * 8)}\n"
        "trio.run(main)\n"
    )
    exec(compile(program, "docs/delivery.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_the_spool_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "spool.md").read_text(encoding="utf-8"), re.DOTALL)
    program = f"{example}\nimport trio\ntrio.run(take_orders, 'sqlite://', {str(tmp_path / 'spool')!r})\n"
    exec(compile(program, "docs/spool.md", "exec"), {"__name__": "chapter"})
    assert capsys.readouterr().out == "0 wait\n"


def test_the_examples_of_the_chapter_on_dead_letters_run(capsys: pytest.CaptureFixture[str]):
    declared, used = re.findall(
        r"```python\n(.*?)```", (DOCS / "dead-letters.md").read_text(encoding="utf-8"), re.DOTALL
    )
    handler = """
    async def take(self, *, number: int) -> None:
        raise ValueError(f"no order {number}")
"""
    program = (
        f"from actorwork import receive\n{declared}\n    @receive{handler}\n"
        f"import trio\nfrom actorwork import open_client, open_system\n{used}\n"
        "async def main():\n"
        "    async with open_system(Till, broker='sqlite://') as system, open_client(system.broker) as client:\n"
        "        for number in range(2):\n"
        "            await client.publish('orders', {'number': number})\n"
        "        with trio.fail_after(5):\n"
        "            while await what_failed(system.broker) != [(2, 'no order 1')]:\n"
        "                await trio.sleep(0.01)\n"
        "trio.run(main)\n"
    )
    exec(compile(program, "docs/dead-letters.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_triggers_run():
    declared, calendar, changed, used = re.findall(
        r"```python\n(.*?)```", (DOCS / "triggers.md").read_text(encoding="utf-8"), re.DOTALL
    )
    program = (
        f"{declared}{calendar}\nimport trio\nfrom actorwork import open_client, open_system\n"
        "async def main():\n"
        "    async with open_system(Cleaner, broker='sqlite://', cron_schedule=Weekdays) as system:\n"
        "        async with open_client(system.broker) as client:\n"
        "            while not await client.triggers():\n"
        "                await trio.sleep(0.01)\n"
        f"{textwrap.indent(changed + used, '            ')}\ntrio.run(main)\n"
    )
    exec(compile(program, "docs/triggers.md", "exec"), {"__name__": "chapter"})


@pytest.mark.parametrize("chapter", sorted(DOCS.glob("*.md")), ids=lambda chapter: chapter.name)
def test_a_chapter_is_set_in_120_columns(chapter: Path):
    """All but rows of tables, which cannot be broken, and what programs print."""
    blocks = re.compile(r"^```(\w*)\n.*?^```$", re.DOTALL | re.MULTILINE)
    text = blocks.sub(lambda block: block[0] if block[1] else "", chapter.read_text(encoding="utf-8"))
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_the_examples_of_the_chapter_on_workflows_run():
    declared, started, growing, grown, tested = re.findall(
        r"```python\n(.*?)```", (DOCS / "workflows.md").read_text(encoding="utf-8"), re.DOTALL
    )
    program = (
        f"{declared}\n{growing}\nimport trio\nfrom actorwork.testing import open_test_system\n"
        "async def main():\n"
        "    async with open_test_system([Fetcher, Counter, Visitor]) as system:\n"
        "        client = system.client\n"
        f"{textwrap.indent(started, '        ')}\n{textwrap.indent(grown, '        ')}\n"
        f"{textwrap.indent(tested, '    ')}\n"
        "trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))\n"
    )
    exec(compile(program, "docs/workflows.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_clients_run(tmp_path: Path):
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "clients.md").read_text(encoding="utf-8"), re.DOTALL)
    url = f"sqlite:///{tmp_path / 'messages.db'}"
    node = (
        "import sys, trio\nfrom actorwork import Actor, Settings, open_system, receive\n"
        "class Greeter(Actor):\n    settings = Settings(title='greeter')\n"
        "    @receive\n    async def greet(self, *, name: str) -> str:\n        return f'Hello {name}'\n"
        "async def main():\n    async with open_system(Greeter, broker=sys.argv[1]):\n"
        "        print('up', flush=True)\n        await trio.to_thread.run_sync(sys.stdin.read)\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", node, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        for example in examples:
            exec(compile(example, "docs/clients.md", "exec"), {"__name__": "chapter", "url": url})
        program.communicate("", timeout=30)


def test_the_examples_of_the_chapter_on_functions_run():
    declared, *used = re.findall(r"```python\n(.*?)```", (DOCS / "functions.md").read_text(encoding="utf-8"), re.DOTALL)
    program = (
        f"{declared}\nimport trio\nfrom actorwork.testing import open_test_system\n"
        "from actorwork.workflows import group, step\n"
        "async def main():\n"
        "    async with open_test_system([send_mail, total, size]) as system:\n"
        "        client = system.client\n"
        f"{textwrap.indent(chr(10).join(used), '        ')}\n"
        "trio.run(main)\n"
    )
    exec(compile(program, "docs/functions.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_asyncio_run(monkeypatch: pytest.MonkeyPatch):
    fetcher, counter = re.findall(r"```python\n(.*?)```", (DOCS / "asyncio.md").read_text(encoding="utf-8"), re.DOTALL)
    # aiohttp is not installed here: this stands for it, and uses asyncio as that does.
    library = types.ModuleType("aiohttp")
    exec(
        "import asyncio\n"
        "class Response:\n"
        "    status = 200\n"
        "    async def __aenter__(self):\n        await asyncio.sleep(0)\n        return self\n"
        "    async def __aexit__(self, *_):\n        await asyncio.sleep(0)\n"
        "    async def read(self):\n        return b'one two three'\n"
        "class ClientSession:\n"
        "    open = []\n"
        "    def __init__(self):\n        self.loop = asyncio.get_running_loop()\n"
        "    async def __aenter__(self):\n        self.open.append(self)\n        return self\n"
        "    async def __aexit__(self, *_):\n        self.open.remove(self)\n"
        "    def get(self, url):\n"
        "        assert asyncio.current_task().get_loop() is self.loop\n        return Response()\n",
        vars(library),
    )
    monkeypatch.setitem(sys.modules, "aiohttp", library)
    program = (
        f"import asyncio, trio\nfrom actorwork import actor, current_context\n{fetcher}\n{counter}\n"
        "from actorwork.testing import open_test_system\n"
        "async def main():\n"
        "    async with open_test_system([Fetcher, count]) as system:\n"
        "        assert await system.client.ref(Fetcher).ask({'url': 'http://x'}) == 200\n"
        "        assert len(aiohttp.ClientSession.open) == 1\n"
        "        system.assert_sent('pages', url='http://x', words=3)\n"
        "    assert not aiohttp.ClientSession.open\n"
        "trio.run(main)\n"
    )
    exec(compile(program, "docs/asyncio.md", "exec"), {"__name__": "chapter"})


def test_the_examples_of_the_chapter_on_tracing_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = InMemorySpanExporter()
    monkeypatch.setattr("opentelemetry.sdk.trace.export.ConsoleSpanExporter", lambda: kept)
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "tracing.md").read_text(encoding="utf-8"), re.DOTALL)
    program = "\n".join(examples[:2]) + textwrap.dedent(f"""
        import asyncio

        from opentelemetry import context, propagate

        from actorwork import SystemThread

        async def main():
            context.attach(propagate.extract({{"traceparent": "00-{trace_id}-00f067aa0ba902b7-01"}}))
            assert await place_order(broker, "lamp") == "lamp"

        broker = "sqlite:///{tmp_path}/broker.sqlite3"
        with SystemThread([Orders], broker=broker, telemetry=TRACING):
            asyncio.run(main())
        """)
    exec(compile(program, "docs/tracing.md", "exec"), {"__name__": "chapter"})
    spans = kept.get_finished_spans()
    assert {span.name for span in spans} == {"process actor:orders", "create packing"}
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {trace_id}


def test_the_recipe_for_structlog_binds_what_is_handled():
    examples = re.findall(r"```python\n(.*?)```", (DOCS / "tracing.md").read_text(encoding="utf-8"), re.DOTALL)
    chapter: dict[str, Any] = {"__name__": "chapter"}
    exec(compile("import os\n" + examples[-1], "docs/tracing.md", "exec"), chapter)

    class Packer(Actor):
        settings = Settings(title="packer")

        @receive
        async def pack(self, order: str) -> None:
            structlog.get_logger("shop").warning("packed", order=order)
            logging.getLogger("library").warning("labelled")

    async def main() -> None:
        async with open_test_system(Packer, middleware=[chapter["bound"]]) as system:
            headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
            await system.client.ref(Packer).tell("lamp", id="m1", headers=headers)
            await system.drain()

    text = io.StringIO()
    handler = logging.StreamHandler(text)
    try:
        chapter["configure_logs"](handler)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        logging.getLogger().removeHandler(handler)
        structlog.reset_defaults()
    lines = {line["event"]: line for line in map(json.loads, text.getvalue().splitlines())}
    wanted = {"actor": "packer", "message_id": "m1", "attempt": 1, "level": "warning"}
    for event in ("packed", "labelled"):
        assert {name: lines[event][name] for name in wanted} == wanted
        assert lines[event]["node"].endswith(f":{os.getpid()}")
        assert len(lines[event]["trace_id"]) == 32
    assert lines["packed"]["order"] == "lamp"


def test_the_example_of_the_chapter_on_inspecting_runs(tmp_path: Path):
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "inspecting.md").read_text(encoding="utf-8"), re.DOTALL)
    program = f"{example}\nimport trio\ntrio.run(look, 'sqlite:///{tmp_path}/messages.db')\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "'code': 'nothing'" in ended.stdout
