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
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from actorwork.testing.redis_server import open_redis_server
from tests.forms import forms

from . import producer
from .conftest import PATIENCE, ROOT, Drill, Place, Redis, open_place, until


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


@attrs.frozen
class Own:
    """Servers of a drill's own: one, or the primaries of a cluster."""

    url: str
    ask: Callable[..., object]
    """Sends a command to each of them."""
    kill: Callable[[], object]
    start: Callable[[], object]


@pytest.fixture(params=forms("redis", more=["cluster"]))
def own(request: pytest.FixtureRequest, servers: ExitStack) -> Own:
    if request.param == "redis":
        server = servers.enter_context(open_redis_server())
        return Own(server.url, Redis(server), server.kill, server.start)
    cluster = servers.enter_context(open_redis_cluster())

    def start() -> None:
        for member in cluster.members:
            member.start()

    return Own(cluster.url, lambda *command: [one.call(*command) for one in cluster.members], cluster.kill, start)


@pytest.fixture(params=forms("redis", more=["cluster"]))
def quiet(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Quiet]:
    if request.param == "redis":
        return behind_a_proxy(request.getfixturevalue("redis_url"))
    return of_primaries(request.getfixturevalue("primaries"))


def numbers_of(entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[int]:
    return [int(dict(zip(fields[::2], fields[1::2], strict=True))[b"data"]) for _, fields in entries]


async def arrived(place: Place, source: str) -> list[int]:
    """Return the numbers in a source, in the order of the stream."""
    assert isinstance(place.broker, RedisBroker)
    return numbers_of(await place.broker.client.call("XRANGE", source, "-", "+"))


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
        for source in producer.SOURCES:
            found[source] = await arrived(place, source)
    total = 0
    for source in producer.SOURCES:
        kept = [note.facts["number"] for note in drill.ledger.notes("kept") if note.facts["source"] == source]
        numbers = found[source]
        assert set(kept) <= set(numbers), "nothing is lost"
        assert numbers == sorted(set(numbers)), "each once, and in order"
        assert kept == sorted(set(kept))
        total += len(kept)
    return total


async def test_a_source_that_is_no_stream_keeps_no_other_one_waiting(
    quiet: AbstractAsyncContextManager[Quiet], tmp_path: Path
):
    spool = Spool(path=tmp_path / "spool.sqlite3", patience=0.2)
    async with quiet as broker, open_place(broker.url) as place, open_client(broker.url, spool=spool) as client:
        assert isinstance(place.broker, RedisBroker)
        await place.broker.client.call("SET", "wrong", "a text")
        await client.publish("orders", 0)
        broker.fall_silent()
        for number in range(1, 4):
            await client.publish("wrong", number)
            await client.publish("orders", number)
        broker.speak()
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert client.statistics()["spool_set_aside"] == 3
        assert await arrived(place, "orders") == [0, 1, 2, 3]
        await place.broker.client.call("DEL", "wrong")


async def test_servers_without_memory_are_waited_for(tmp_path: Path, own: Own):
    spool = Spool(path=tmp_path / "spool.sqlite3", patience=0.2)
    async with open_place(own.url) as place, open_client(own.url, spool=spool) as client:
        await client.publish("orders", 0)
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()  # Only if the server was slower than the patience there is something to send.
        own.ask("CONFIG", "SET", "maxmemory", "1")
        await client.publish("orders", 1)
        assert client.statistics()["spool_messages"] == 1
        own.ask("CONFIG", "SET", "maxmemory", "0")
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert await arrived(place, "orders") == [0, 1]


async def test_a_client_that_is_opened_before_its_servers_sends_when_they_come(tmp_path: Path, own: Own):
    own.kill()
    async with open_client(own.url, spool=Spool(path=tmp_path / "spool.sqlite3", patience=0.2)) as client:
        await client.publish("orders", 0)
        await trio.to_thread.run_sync(own.start)
        with trio.fail_after(PATIENCE):
            await client.wait_replayed()
        assert client.broker.url.partition("://")[0] in ("unix", "redis+cluster")
        async with open_place(own.url) as place:
            assert await arrived(place, "orders") == [0]


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
@pytest.mark.parametrize(("quiet", "seconds"), [("redis", 15), ("cluster", 3)], indirect=["quiet"])
async def test_a_minute_of_silence_under_a_stream_of_messages(
    quiet: AbstractAsyncContextManager[Quiet], seconds: float, drill: Drill
):
    """At a cluster a fifth of that: so long that each member takes the others for dead."""
    async with quiet as broker:
        producers = Producers(drill, broker.url, 200)
        try:
            producers.start()
            await producers.wait_kept(400)
            broker.fall_silent()
            for _ in range(3):
                await trio.sleep(seconds)
                producers.kill()
                producers.start()
            await trio.sleep(seconds)
            broker.speak()
            await producers.wait_kept(400)
            producers.kill()
            producers.start()
            await producers.wait_kept(400)
            await producers.stop()
            assert await check_arrivals(broker.url, drill) >= 1200
        finally:
            producers.kill()
