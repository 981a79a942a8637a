"""A producer whose broker falls silent, and who is killed meanwhile: what was accepted arrives once, in order."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from actorwork.testing.proxy import open_proxy

from . import producer
from .conftest import HOUSE, PATIENCE, Drill, Redis, until


class Producers:
    """Starts one producer after the other: with one spool, and each going on where the last one was."""

    def __init__(self, drill: Drill, url: str, rate: float) -> None:
        self._drill = drill
        self._command = [
            sys.executable,
            str(Path(producer.__file__)),
            url,
            str(drill.folder / "spool.sqlite3"),
            str(drill.ledger.path),
            str(rate),
        ]
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, env={"PYTHONPATH": str(HOUSE)}, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as the kernel does that is out of memory."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()

    async def wait_kept(self, more: int, *, within: float = PATIENCE) -> None:
        """Wait until so many messages more were accepted."""
        goal = self._drill.ledger.count("kept") + more
        await until(lambda: self._drill.ledger.count("kept") >= goal, f"{more} messages more", within=within)


def arrived(here: Redis, source: str) -> list[int]:
    """Return the numbers in a source, in the order of the stream."""
    entries: list[tuple[bytes, list[bytes]]] = here("XRANGE", source, "-", "+")
    return [int(dict(zip(fields[::2], fields[1::2], strict=True))[b"data"]) for _, fields in entries]


async def check_arrivals(here: Redis, drill: Drill) -> int:
    """See that what was accepted has arrived, nothing twice, everything in its order; return how much that was."""
    total = 0
    for source in producer.SOURCES:
        kept = [note.facts["number"] for note in drill.ledger.notes("kept") if note.facts["source"] == source]

        def are_there(source: str = source, kept: Sequence[int] = kept) -> bool:
            return set(kept) <= set(arrived(here, source))

        await until(are_there, f"{len(kept)} messages of {source}", within=30)
        numbers = arrived(here, source)
        assert numbers == sorted(set(numbers)), "each once, and in order"
        assert kept == sorted(set(kept))
        total += len(kept)
    return total


@pytest.mark.slow
async def test_a_producer_that_is_killed_while_its_broker_is_silent_loses_nothing(here: Redis, drill: Drill):
    async with open_proxy(here.url) as proxy:
        producers = Producers(drill, proxy.url, 200)
        try:
            producers.start()
            await producers.wait_kept(50)
            proxy.black_hole()
            await producers.wait_kept(100)
            producers.kill()
            producers.start()
            await producers.wait_kept(100)
            proxy.flow()
            await producers.wait_kept(10)
            producers.kill()  # In the middle of its replay, or nearly so.
            producers.start()
            await producers.wait_kept(50)
            producers.stop()
            assert await check_arrivals(here, drill) > 300
        finally:
            producers.kill()


@pytest.mark.chaos
@pytest.mark.actorwork(timeout=240)
async def test_a_minute_of_silence_under_a_stream_of_messages(here: Redis, drill: Drill):
    async with open_proxy(here.url) as proxy:
        producers = Producers(drill, proxy.url, 200)
        try:
            producers.start()
            await producers.wait_kept(400)
            proxy.black_hole()
            for _ in range(3):
                await trio.sleep(15)
                producers.kill()
                producers.start()
            await trio.sleep(15)
            proxy.flow()
            await producers.wait_kept(400)
            producers.kill()
            producers.start()
            await producers.wait_kept(400)
            producers.stop()
            assert await check_arrivals(here, drill) > 3000
        finally:
            producers.kill()
