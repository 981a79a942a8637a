"""A producer that is killed while its broker is silent: what it had accepted arrives once, in order."""

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from actorwork import Spool, open_client
from actorwork.streams.broker import RedisBroker
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import open_redis_server
from tests.forms import forms

from . import producer
from .conftest import PATIENCE, ROOT, Drill, Redis, open_place, until


class Producers:
    """Starts one producer after another, with one spool; each continues where the last one stopped."""

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
        self.process = subprocess.Popen(self._command, env={"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill the producer, as the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait()

    async def stop(self) -> None:
        self.process.terminate()
        await until(lambda: self.process.poll() is not None, "the end of the producer")

    async def wait_kept(self, more: int, *, within: float = PATIENCE) -> None:
        """Wait until `more` further messages were accepted."""
        goal = self._drill.ledger.count("kept") + more
        await until(lambda: self._drill.ledger.count("kept") >= goal, f"{more} more messages", within=within)


@attrs.frozen
class Quiet:
    """A broker that can be made to say nothing, while connections to it stay, and new ones are made."""

    url: str
    fall_silent: Callable[[], object]
    speak: Callable[[], object]


@asynccontextmanager
async def behind_a_proxy(url: str) -> AsyncGenerator[Quiet]:
    async with open_proxy(url) as proxy:
        yield Quiet(proxy.url, proxy.black_hole, proxy.flow)


@asynccontextmanager
async def of_primaries(cluster: RedisCluster) -> AsyncGenerator[Quiet]:
    """A cluster all of whose primaries stand still for a while."""

    def send(which: signal.Signals) -> None:
        for member in cluster.members:
            member.send_signal(which)

    cluster.flush()
    try:
        yield Quiet(cluster.url, partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT))
    finally:
        send(signal.SIGCONT)


@pytest.fixture(params=forms("redis", more=["cluster"]))
def quiet(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Quiet]:
    if request.param == "redis":
        return behind_a_proxy(request.getfixturevalue("redis_url"))
    return of_primaries(request.getfixturevalue("primaries"))


def numbers_of(entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[int]:
    return [int(dict(zip(fields[::2], fields[1::2], strict=True))[b"data"]) for _, fields in entries]


def arrived(here: Redis, source: str) -> list[int]:
    """Return the numbers in a source, in the order of the stream."""
    return numbers_of(here("XRANGE", source, "-", "+"))


async def check_arrivals(url: str, drill: Drill) -> int:
    """Check that the accepted messages have arrived, each once and in order; return their number.

    A client in this process replays what the last producer left in its spool.
    """
    async with open_client(url, spool=Spool(path=drill.folder / "spool.sqlite3")) as client:
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert client.statistics()["spool_messages"] == 0
    found: dict[str, list[int]] = {}
    async with open_place(url) as place:
        assert isinstance(place.broker, RedisBroker)
        for source in producer.SOURCES:
            found[source] = numbers_of(await place.broker.client.call("XRANGE", source, "-", "+"))
    total = 0
    for source in producer.SOURCES:
        kept = [note.facts["number"] for note in drill.ledger.notes("kept") if note.facts["source"] == source]
        numbers = found[source]
        assert set(kept) <= set(numbers), "nothing is lost"
        assert numbers == sorted(set(numbers)), "each once, and in order"
        assert kept == sorted(set(kept))
        total += len(kept)
    return total


async def test_a_source_that_is_no_stream_keeps_no_other_one_waiting(here: Redis, tmp_path: Path):
    here("SET", "wrong", "a text")
    spool = Spool(path=tmp_path / "spool.sqlite3", patience=0.2)
    async with open_proxy(here.url) as proxy, open_client(proxy.url, spool=spool) as client:
        await client.publish("orders", 0)
        proxy.black_hole()
        for number in range(1, 4):
            await client.publish("wrong", number)
            await client.publish("orders", number)
        proxy.flow()
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert client.statistics()["spool_set_aside"] == 3
        assert arrived(here, "orders") == [0, 1, 2, 3]
        here("DEL", "wrong")


async def test_a_server_without_memory_is_waited_for(tmp_path: Path, servers: ExitStack):
    server = servers.enter_context(open_redis_server())
    here = Redis(server)
    async with open_client(server.url, spool=Spool(path=tmp_path / "spool.sqlite3", patience=0.2)) as client:
        await client.publish("orders", 0)
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()  # Only if the server was slower than the patience there is something to send.
        here("CONFIG", "SET", "maxmemory", "1")
        await client.publish("orders", 1)
        assert client.statistics()["spool_messages"] == 1
        here("CONFIG", "SET", "maxmemory", "0")
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert arrived(here, "orders") == [0, 1]


async def test_a_client_that_is_opened_before_its_server_sends_when_it_comes(tmp_path: Path, servers: ExitStack):
    server = servers.enter_context(open_redis_server())
    server.kill()
    async with open_client(server.url, spool=Spool(path=tmp_path / "spool.sqlite3", patience=0.2)) as client:
        await client.publish("orders", 0)
        server.start()
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert client.broker.url.startswith("unix://")
        assert arrived(Redis(server), "orders") == [0]


async def test_a_producer_that_is_killed_while_its_broker_is_silent_loses_nothing(
    quiet: AbstractAsyncContextManager[Quiet], drill: Drill
):
    async with quiet as broker:
        producers = Producers(drill, broker.url, 200)
        try:
            producers.start()
            await producers.wait_kept(50)
            broker.fall_silent()
            await producers.wait_kept(100)
            producers.kill()
            producers.start()
            await producers.wait_kept(100)
            broker.speak()
            await producers.wait_kept(10)
            producers.kill()  # In the middle of its replay, or nearly so.
            producers.start()
            await producers.wait_kept(50)
            await producers.stop()
            assert await check_arrivals(broker.url, drill) > 300
        finally:
            producers.kill()


@pytest.mark.long
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
            await producers.stop()
            assert await check_arrivals(here.url, drill) > 3000
        finally:
            producers.kill()
