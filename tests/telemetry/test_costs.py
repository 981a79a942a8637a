"""What telemetry costs a message where none is switched on: one call, by which its end could have been logged."""

import logging
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import CodeType, FrameType

import pytest
import trio
import trio.testing

from actorwork import Actor, Child, Settings, open_client, open_system, receive
from actorwork.testing import MemoryBroker
from benchmarks.instructions import without_hooks

TELEMETRY = str(Path("actorwork", "telemetry"))


class Counting(Actor):
    settings = Settings(title="counting", sources={"marks"})

    def __init__(self, done: trio.Event) -> None:
        self.done = done

    @receive
    async def mark(self, number: int) -> None:
        if number == 0:
            self.done.set()


def kind_of(code: CodeType) -> str:
    return f"{Path(code.co_filename).name}:{code.co_name}"


async def calls_into_telemetry(messages: int) -> Counter[str]:
    """Drain messages without telemetry; return how often each of its functions was called meanwhile."""
    found = Counter[str]()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and TELEMETRY in frame.f_code.co_filename:
            found[kind_of(frame.f_code)] += 1

    broker, done = MemoryBroker(), trio.Event()
    async with open_client(broker) as client:
        for number in reversed(range(messages)):
            await client.publish("marks", number)
        sys.setprofile(note)
        try:
            async with open_system(Child(partial(Counting, done)), broker=broker):
                await done.wait()
        finally:
            sys.setprofile(None)
    return found


async def test_without_telemetry_a_message_makes_one_call_into_it(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="actorwork")
    few, many = await calls_into_telemetry(100), await calls_into_telemetry(300)
    many.subtract(few)
    assert {name: count for name, count in many.items() if count} == {"logs.py:acked": 200}


def test_the_hooks_that_the_benchmark_cuts_out_are_those_of_the_package(tmp_path: Path):
    without_hooks(tmp_path)
    program = "import actorwork.actors.execution.deliveries as cut, actorwork.streams.settler; print(cut.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert Path(shown.strip()).is_relative_to(tmp_path)
