"""Many nodes read one source: what each of them costs the server, and that one maintains for all."""

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from actorwork.abc import Subscription
from actorwork.message import Priority
from actorwork.streams import keys
from actorwork.streams.node import RedisNode
from actorwork.streams.reclaimer import Reclaimer
from actorwork.streams.scripts import LOOK, MAINTAIN
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.commands import Script
from actorwork.testing.redis_server import open_redis_server
from tests.patience import BUSY, PATIENCE
from tests.streams.bench_of_actors import Scene, inbox, open_scene, subscription

TENDED = "actorwork:{orders}:tended:group-a"


class Recording:
    """A client that notes which scripts are run."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.scripts: list[Script] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def run_script(self, script: Script, *args: Any, **options: Any) -> Any:
        self.scripts.append(script)
        return await self._client.run_script(script, *args, **options)


class Peer:
    """A node that does nothing by itself: a test has it look and maintain."""

    def __init__(self, scene: Scene, of: Subscription, nursery: trio.Nursery) -> None:
        self.client = Recording(scene.broker.client)
        self.node = RedisNode(
            self.client,  # pyright: ignore[reportArgumentType] - it is one, to those who only call it
            Address.parse("redis://nowhere"),
            [of],
            lease=3600,
            emit=scene.events.append,
            begin_settling=nursery,
            layouts=scene.broker.layouts,
        )

    @property
    def reclaimer(self) -> Reclaimer:
        (reclaimer,) = [part.reclaimer for part in self.node._intake.parts]  # pyright: ignore[reportPrivateUsage]
        return reclaimer

    async def begin(self, scene: Scene) -> None:
        await scene.call("SET", keys.lease(self.node.incarnation), "here")
        for source_set in self.node._intake.source_sets:  # pyright: ignore[reportPrivateUsage]
            await source_set.make_groups(are_restored=False)
            for source in source_set.names:
                await scene.call("XGROUP", "CREATECONSUMER", source, source_set.group, self.node.incarnation)

    async def look(self) -> list[Script]:
        """Look, and return the scripts that were run for it."""
        self.client.scripts.clear()
        await self.reclaimer.look()
        return list(self.client.scripts)


@asynccontextmanager
async def open_peers(url: str, *subscriptions: Subscription) -> AsyncGenerator[tuple[Scene, list[Peer]]]:
    async with open_scene(url) as scene, trio.open_nursery() as nursery:
        peers = [Peer(scene, of, nursery) for of in subscriptions]
        for peer in peers:
            await peer.begin(scene)
        yield scene, peers
        nursery.cancel_scope.cancel()


async def let_know_each_other(scene: Scene, peers: Sequence[Peer]) -> None:
    """Have nodes maintain, until each knows that it is not alone."""
    for peer in (*peers, *peers):
        await peer.reclaimer.maintain()
        await scene.call("HSET", TENDED, "since", 0)  # A second has passed.


async def until_it_only_looks(peer: Peer, before: Callable[[], Any]) -> None:
    """Do something and have a node look, until it does no more than that; a test that stands still between is late."""
    with trio.fail_after(10 + BUSY):
        while True:
            await before()
            if await peer.look() == [LOOK]:
                return


async def freshen(scene: Scene) -> None:
    """Note that a node has maintained just now."""
    seconds, micros = await scene.call("TIME")
    await scene.call("HSET", TENDED, "at", int(seconds) * 1000 + int(micros) // 1000)


async def commands(scene: Scene) -> int:
    """Return how many commands the server has run, those within scripts included."""
    text: bytes = await scene.call("INFO", "commandstats")
    return sum(int(line.split(b"calls=")[1].split(b",")[0]) for line in text.split(b"\r\n") if b"calls=" in line)


@pytest.mark.parametrize("count", [10, 40])
async def test_a_look_costs_the_server_the_same_however_many_nodes_there_are(redis_url: str, count: int):
    async with open_peers(redis_url, *(subscription() for _ in range(count))) as (scene, peers):
        await let_know_each_other(scene, peers)
        for one_look in (Reclaimer.look, Reclaimer.maintain):
            before = await commands(scene)
            for peer in peers:
                await one_look(peer.reclaimer)
            # With XINFO CONSUMERS, and an EXISTS for each node, a look at 40 nodes took 54 commands.
            assert (await commands(scene) - before) / count < 35


async def test_one_node_maintains_for_all(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await until_it_only_looks(other, one.reclaimer.maintain)


async def test_a_node_that_begins_maintains_once_and_not_again_before_it_is_time(redis_url: str):
    async with open_peers(redis_url, subscription()) as (_, (peer,)), trio.open_nursery() as nursery:
        (part,) = peer.node._intake.parts  # pyright: ignore[reportPrivateUsage]
        nursery.start_soon(part.run)
        with trio.fail_after(PATIENCE):
            while MAINTAIN not in peer.client.scripts:  # noqa: ASYNC110 - no event says so
                await trio.sleep(0.001)
            first = peer.reclaimer._times.looked_at  # pyright: ignore[reportPrivateUsage]
            while peer.client.scripts.count(MAINTAIN) < 2:  # noqa: ASYNC110 - as above
                await trio.sleep(0.001)
        assert trio.current_time() - first >= 0.9
        nursery.cancel_scope.cancel()


async def test_a_node_maintains_when_the_other_one_has_not_for_a_while(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.call("HINCRBY", TENDED, "at", -1000)
        assert await other.look() == [LOOK, MAINTAIN]


async def test_a_node_that_is_alone_asks_nobody(redis_url: str):
    async with open_peers(redis_url, subscription()) as (_, (one,)):
        assert [await one.look(), await one.look()] == [[MAINTAIN], [MAINTAIN]]


async def test_what_a_node_has_no_room_for_is_taken_over_by_the_next_that_looks(redis_url: str):
    full, idle = subscription(capacity=0), subscription()
    async with open_peers(redis_url, full, idle) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.send("orders", b"a")
        await scene.die_with(idle, 1)
        await one.reclaimer.maintain()
        assert await other.look() == [LOOK, MAINTAIN]
        assert (await inbox(idle).take_one()).crashes == 1


async def test_a_message_is_promoted_by_whichever_node_looks_when_it_is_due(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.send("orders", b"a", delay=0.3)
        await one.reclaimer.maintain()
        with trio.fail_after(10 + BUSY):
            while await scene.length("orders") == 0:
                await trio.sleep(0.02)
                await other.look()
        assert await scene.call("ZCARD", "actorwork:{orders}:delayed") == 0


async def test_a_look_finds_a_priority_that_no_notice_told_of(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.send("orders", b"a", priority=Priority.HIGH)
        await freshen(scene)
        await other.look()
        (source_set,) = other.node._intake.source_sets  # pyright: ignore[reportPrivateUsage]
        assert Priority.HIGH in source_set.streams


async def test_a_look_finds_a_reply_that_was_lost(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.send("orders", b"a")
        await scene.call("XREADGROUP", "GROUP", "group-a", other.node.incarnation, "STREAMS", "orders", ">")
        (source_set,) = other.node._intake.source_sets  # pyright: ignore[reportPrivateUsage]
        for _ in range(3):
            await freshen(scene)
            await other.look()
        assert source_set.must_recover


async def test_a_look_finds_that_the_lease_is_gone(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        checked: list[bool] = []
        monkeypatch.setattr(other.reclaimer, "_on_no_lease", lambda: checked.append(True))
        await scene.kill(other.node)
        assert await other.look() == [LOOK]
        assert checked == [True]


async def test_where_nothing_can_be_noted_every_node_maintains(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.call("SET", TENDED, "not a hash")
        await one.reclaimer.maintain()
        assert await other.look() == [LOOK, MAINTAIN]


async def test_consumers_of_dead_nodes_go_and_never_those_with_something_pending(redis_url: str):
    full = subscription(capacity=0)
    async with open_peers(redis_url, full) as (scene, (one,)):
        await scene.send("orders", b"a")
        dead = await scene.die_with(full, 1)
        await scene.call("XGROUP", "CREATECONSUMER", "orders", "group-a", "idle")
        await one.reclaimer.maintain()
        consumers = {consumer[b"name"] for consumer in await scene.call("XINFO", "CONSUMERS", "orders", "group-a")}
        assert consumers == {dead.encode(), one.node.incarnation.encode()}


async def test_of_many_nodes_few_do_what_is_asked_of_all(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        await scene.call("HSET", TENDED, "nodes", 1000)
        await until_it_only_looks(other, lambda: freshen(scene))
        times = other.reclaimer._times  # pyright: ignore[reportPrivateUsage]
        times.dice = lambda: 0.5
        other.node.notify("orders")
        assert not times.must_maintain()
        times.dice = lambda: 0.01
        other.node.notify("orders")
        await trio.sleep(0.05)
        assert times.must_maintain()


async def test_nodes_that_all_look_in_one_turn_do_not_seem_few_in_the_next_and_are_forgotten_soon(redis_url: str):
    async with open_peers(redis_url, subscription()) as (scene, (one,)):
        seconds, _ = await scene.call("TIME")
        seen: list[int] = []
        await one.reclaimer.maintain()
        for asked in (60, 60, 60, 60, 60, 60, *([0] * 8)):
            # Of a turn of a thousand seconds, so that it does not matter how long this test takes.
            a_while_ago = (int(seconds) - 1000) * 1000
            await scene.call("HSET", TENDED, "asked", asked * 1_000_000, "since", a_while_ago)
            await one.reclaimer.maintain()
            seen.append(int(await scene.call("HGET", TENDED, "nodes")))
        assert 55 <= seen[5] <= 61
        assert 16 < seen[6] < 40
        assert seen[-1] == 1


def read_many_shards(peer: Peer, count: int) -> None:
    """Make a node believe that it reads so many shards of this kind."""
    peer.reclaimer._fellows = lambda: [peer.reclaimer] * count  # pyright: ignore[reportPrivateUsage]


async def next_look(scene: Scene, peer: Peer, *, nodes: int, roomy: int) -> float:
    """Return in how many seconds a node looks again, if there seem to be so many."""
    await scene.call("HSET", TENDED, "nodes", nodes, "roomy", roomy)
    peer.reclaimer._times.nodes = nodes  # pyright: ignore[reportPrivateUsage]
    await until_it_only_looks(peer, lambda: freshen(scene))
    times = peer.reclaimer._times  # pyright: ignore[reportPrivateUsage]
    return times._look_at - times.looked_at  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("shards", "nodes", "roomy", "seconds"),
    [
        pytest.param(100, 60, 60, 5.0, id="sixteen nodes look in a second"),
        pytest.param(100, 1000, 1000, 10.0, id="each looks now and then"),
        pytest.param(100, 1000, 20, 2.0, id="few nodes have room"),
        pytest.param(100, 1000, 0, 2.0, id="nodes of an older version maintain"),
        pytest.param(1, 1000, 1000, 2.0, id="few shards tell of nodes that have ended"),
    ],
)
async def test_the_more_nodes_read_many_shards_the_rarer_each_looks(
    redis_url: str, shards: int, nodes: int, roomy: int, seconds: float
):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        read_many_shards(other, shards)
        assert 0.5 * seconds <= await next_look(scene, other, nodes=nodes, roomy=roomy) <= seconds


async def test_nodes_without_room_are_not_counted_among_those_that_look_for_others(redis_url: str):
    full = subscription(capacity=0)
    async with open_peers(redis_url, subscription(), full) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])

        async def begin_counting() -> None:
            await scene.call("HSET", TENDED, "asked", 100_000, "full", 0)
            await freshen(scene)

        await until_it_only_looks(other, begin_counting)
        asked, counted = await scene.call("HMGET", TENDED, "asked", "full")
        assert int(asked) - 100_000 == int(counted) > 0
        seconds, _ = await scene.call("TIME")
        a_while_ago = (int(seconds) - 1000) * 1000
        await scene.call("HSET", TENDED, "asked", 10_000_000, "full", 8_000_000, "since", a_while_ago)
        await one.reclaimer.maintain()
        nodes, roomy = map(int, await scene.call("HMGET", TENDED, "nodes", "roomy"))
        assert 0 < roomy < nodes / 2


async def test_what_is_in_flight_is_looked_at_soon_although_the_next_look_is_far_away(redis_url: str):
    of = subscription()
    async with open_peers(redis_url, subscription(), of) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        read_many_shards(other, 100)
        times = other.reclaimer._times  # pyright: ignore[reportPrivateUsage]
        (source_set,) = other.node._intake.source_sets  # pyright: ignore[reportPrivateUsage]
        await scene.send("orders", b"a")
        ((_, entries),) = (
            await scene.call("XREADGROUP", "GROUP", "group-a", other.node.incarnation, "STREAMS", "orders", ">")
        ).items()
        await next_look(scene, other, nodes=1000, roomy=1000)
        times._look_at = trio.current_time() + 3600  # pyright: ignore[reportPrivateUsage]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.reclaimer.run)
            await trio.testing.wait_all_tasks_blocked()
            source_set.offer(source_set.by_stream[b"orders"], entries)
            await scene.call("HSET", "actorwork:{orders}:cancelled", "0-0", "0why")
            with trio.fail_after(PATIENCE):
                while not inbox(of).cancelled:  # noqa: ASYNC110 - no event says so
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert set(inbox(of).cancelled) == {"0-0"}


async def test_nothing_is_asked_of_the_server_when_what_was_in_flight_is_settled_by_then(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, (one, other)):
        await let_know_each_other(scene, [one, other])
        read_many_shards(other, 100)
        await next_look(scene, other, nodes=1000, roomy=1000)
        times = other.reclaimer._times  # pyright: ignore[reportPrivateUsage]
        times._look_at = trio.current_time() + 3600  # pyright: ignore[reportPrivateUsage]
        other.client.scripts.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.reclaimer.run)
            await trio.testing.wait_all_tasks_blocked()
            times.glance_soon()
            with trio.fail_after(PATIENCE):
                while times._glance_at < math.inf:  # noqa: ASYNC110 # pyright: ignore[reportPrivateUsage]
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert other.client.scripts == []


async def test_a_source_that_none_has_maintained_makes_a_node_look_at_all_others_of_its_actor(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription(), subscription()) as (scene, peers):
        _, other, fellow = peers
        await let_know_each_other(scene, peers)
        read_many_shards(fellow, 100)
        await next_look(scene, fellow, nodes=1000, roomy=1000)
        other.reclaimer._fellows = lambda: [other.reclaimer, fellow.reclaimer] * 50  # pyright: ignore[reportPrivateUsage]
        await next_look(scene, other, nodes=1000, roomy=1000)
        times = fellow.reclaimer._times  # pyright: ignore[reportPrivateUsage]
        times._look_at = trio.current_time() + 3600  # pyright: ignore[reportPrivateUsage]
        await scene.call("HINCRBY", TENDED, "at", -5000)
        assert await other.look() == [LOOK, MAINTAIN]
        assert times._look_at <= trio.current_time() + 1  # pyright: ignore[reportPrivateUsage]
        # The others may have ended, so it does not go back to looking rarely at once. (For as long as this test takes.)
        assert times._careful_until > -math.inf  # pyright: ignore[reportPrivateUsage]
        times._careful_until = math.inf  # pyright: ignore[reportPrivateUsage]
        assert await next_look(scene, fellow, nodes=1000, roomy=1000) <= 2


async def test_one_of_those_that_look_at_the_same_time_maintains(redis_url: str):
    async with open_peers(redis_url, subscription(), subscription()) as (scene, peers):
        await let_know_each_other(scene, peers)
        with trio.fail_after(PATIENCE):
            while True:
                await freshen(scene)
                await scene.call("HINCRBY", TENDED, "at", -900)
                for peer in peers:
                    peer.client.scripts.clear()
                async with trio.open_nursery() as nursery:
                    for peer in peers:
                        nursery.start_soon(peer.reclaimer.look)
                ran = [script for peer in peers for script in peer.client.scripts]
                if sorted(script.name for script in ran) == ["look", "look", "maintain"]:
                    return  # Unless a quarter of a second passed between the two.


def append_only_files(directory: str) -> bytes:
    return b"".join(path.read_bytes() for path in Path(directory).rglob("*aof*") if path.is_file())


async def test_what_is_noted_of_maintenance_is_not_written_to_the_disk():
    with open_redis_server(append_only=True) as server:
        async with open_peers(server.url, subscription(), subscription()) as (scene, (one, other)):
            await one.reclaimer.maintain()
            other.reclaimer._times.nodes = 2  # pyright: ignore[reportPrivateUsage]
            await other.look()
            assert await scene.call("EXISTS", TENDED)
            await scene.call("SET", "written", "last")
            await scene.call("CONFIG", "SET", "appendfsync", "always")
            written = append_only_files((await scene.call("CONFIG", "GET", "dir"))[b"dir"].decode())
            assert b"written" in written
            assert TENDED.encode() not in written
