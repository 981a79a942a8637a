"""A server that dies, forgets, or is unreachable: the node resumes by itself, and loses nothing that was stored."""

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import trio

from actorwork.message import Envelope, MessageIds
from actorwork.testing.proxy import open_proxy
from actorwork.testing.redis_server import open_redis_server
from tests.patience import BUSY

from .conftest import Drill, Node, Place, Redis, open_place, until
from .workers import RECEIPTS, Listing, Worker

NUMBERS = range(1000)
LATER = range(10_000, 10_100)
RETURN = 2.0 + BUSY
"""Seconds after the server's return within which a node has settled something again: two on a quiet machine."""
GROUP = Worker.settings.id


async def wait_progress(redis: Redis, since: float, *, within: float = RETURN) -> None:
    """Wait until the server has accepted another settlement, or all of them, at most `within` seconds after `since`."""
    before = redis("XLEN", RECEIPTS)
    limit = since + within

    def is_on() -> bool:
        return redis("XLEN", RECEIPTS) > before or redis("XLEN", "work") == 0

    await until(is_on, "the first settlement", within=limit - time.monotonic())


async def in_mid_work(drill: Drill, redis: Redis, node: Node, *, ended: int = 100) -> None:
    """Wait until the node has handled some messages; another node that is much quicker may leave it fewer."""

    def is_on() -> bool:
        return drill.ledger.count("ended", pid=node.pid) >= ended or redis("XLEN", "work") == 0

    await until(is_on, f"{ended} messages handled by {node}")


@pytest.mark.parametrize("lease", [0.5, 10.0], ids=["lease lost", "lease kept"])
async def test_a_server_killed_with_9_and_started_again_is_worked_on_within_two_seconds(
    drill: Drill, servers: ExitStack, lease: float
):
    """With `appendfsync everysec` a kill may lose what the server has accepted: it does not write while it syncs."""
    redis = Redis(servers.enter_context(open_redis_server(append_only=True)))
    async with open_place(redis.url) as place:
        await place.send_numbers("work", NUMBERS)
    node = await drill.start_up("worker", redis.url, lease=lease)
    for turn in range(2):
        await in_mid_work(drill, redis, node, ended=100 + 300 * turn)
        redis.server.kill()
        await node.wait_line("no connection to the broker", count=turn + 1)
        await trio.sleep(lease + 0.2 if lease < 1 else 0.2)
        redis.server.start()
        back = time.monotonic()
        await wait_progress(redis, back)
    async with open_place(redis.url) as place:
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(NUMBERS)
        assert await place.broker.dead_letters.list() == []


async def test_a_server_that_comes_back_empty_is_worked_on_within_two_seconds(drill: Drill, servers: ExitStack):
    redis = Redis(servers.enter_context(open_redis_server()))
    async with open_place(redis.url) as place:
        await place.send_numbers("work", NUMBERS)
    node = await drill.start_up("worker", redis.url, lease=1)
    await in_mid_work(drill, redis, node)
    redis.server.kill()
    await node.wait_line("no connection to the broker")
    redis.server.start()
    back = time.monotonic()
    async with open_place(redis.url) as place:
        await place.send_numbers("work", LATER)
        await wait_progress(redis, back)
        await place.wait_empty("work")
        await node.stop()
        receipts = await place.receipts()
        assert sorted(one["number"] for one in receipts) == list(LATER)


async def test_states_that_a_killed_server_without_aof_has_lost_are_told_of_and_go_on_from_what_is_left(
    drill: Drill, servers: ExitStack
):
    redis = Redis(servers.enter_context(open_redis_server()))
    source, group = Listing.settings.default_source, Listing.settings.id

    async def add(place: Place, *numbers: int) -> None:
        ids = MessageIds(os.urandom(8).hex())
        await place.broker.publish(
            [
                Envelope(source, next(ids), json.dumps({"number": number}).encode(), headers={}, key="one")
                for number in numbers
            ]
        )
        await place.wait_empty(source)

    async with open_place(redis.url) as place:
        node = await drill.start_up("listing", redis.url, lease=60)
        await add(place, 0, 1, 2)
        redis("SAVE")
        await add(place, 3, 4)
    redis.server.kill()
    await node.wait_line("no connection to the broker")
    redis.server.start()
    async with open_place(redis.url) as place:
        await add(place, 5)
        # Whether its own last commit was accepted, the node has not learned.
        await node.wait_line("has gone back from version 4 to 3")
        await add(place, 6)
        state = await place.broker.entities.get(source, group, "one")
        assert state is not None
        assert (state.version, json.loads(state.data)) == (5, [0, 1, 2, 5, 6])
        await node.stop()
        assert len(node.lines("has gone back")) == 1


Wipe = Callable[[Redis], object]

WIPES: dict[str, Wipe] = {
    "FLUSHALL": lambda redis: redis("FLUSHALL"),
    "FLUSHALL and SCRIPT FLUSH": lambda redis: [redis("FLUSHALL"), redis("SCRIPT", "FLUSH")],
    "DEL of the stream": lambda redis: redis("DEL", "work"),
    "SCRIPT FLUSH": lambda redis: redis("SCRIPT", "FLUSH"),
    "CLIENT KILL": lambda redis: redis("CLIENT", "KILL", "TYPE", "normal"),
}


@pytest.mark.parametrize("wipe", WIPES.values(), ids=WIPES)
async def test_whatever_an_administrator_deletes_the_node_goes_on_within_two_seconds(
    here: Redis, drill: Drill, wipe: Wipe
):
    async with open_place(here.url) as place:
        await place.send_numbers("work", NUMBERS)
        node = await drill.start_up("worker", here.url, lease=1)
        await in_mid_work(drill, here, node)
        wipe(here)
        wiped = time.monotonic()
        await place.send_numbers("work", LATER)
        await wait_progress(here, wiped)
        await place.wait_empty("work")
        await node.stop()
        numbers = [one["number"] for one in await place.receipts()]
        assert len(set(numbers)) == len(numbers)
        assert set(LATER) <= set(numbers)


async def test_a_group_that_is_destroyed_is_made_again_and_no_message_is_lost(here: Redis, drill: Drill):
    async with open_place(here.url) as place:
        await place.send_numbers("work", NUMBERS)
        node = await drill.start_up("worker", here.url, lease=1)
        for turn in range(3):
            await in_mid_work(drill, here, node, ended=100 + 200 * turn)
            here("XGROUP", "DESTROY", "work", GROUP)
            destroyed = time.monotonic()
            await wait_progress(here, destroyed)
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(NUMBERS)


async def test_an_idle_node_whose_group_is_destroyed_or_whose_server_is_emptied_handles_the_next_message(
    here: Redis, drill: Drill
):
    async with open_place(here.url) as place:
        node = await drill.start_up("worker", here.url, lease=1)
        for number, wipe in enumerate(
            [lambda: here("XGROUP", "DESTROY", "work", GROUP), lambda: here("FLUSHALL"), lambda: here("DEL", "work")]
        ):
            wipe()
            await place.send_numbers("work", [number])
            await drill.wait_notes("ended", number + 1, within=RETURN)
        await node.stop()


@pytest.mark.long
async def test_connections_cut_in_mid_reply_lose_nothing(here: Redis, drill: Drill):
    async with open_place(here.url) as place, open_proxy(here.url) as proxy:
        await place.send_numbers("work", NUMBERS)
        node = await drill.start_up("worker", proxy.url, lease=1.5)
        sent = list(NUMBERS)
        cuts = [(proxy.cut_after, length) for length in (1, 37, 1000, 5)]
        cuts += [(proxy.cut_after_request, length) for length in (1, 100)]
        for turn, (cut, length) in enumerate(cuts):
            more = range(10_000 + 100 * turn, 10_050 + 100 * turn)
            cut(length)
            await place.send_numbers("work", more)
            sent += more
            # The proxy holds the replies back until the bytes of its budget have passed, which is not measured here.
            await until(lambda: proxy._request_budget is None and proxy._reply_budget is None, "the cut")
            await wait_progress(here, time.monotonic())
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(sent)
        assert await place.broker.dead_letters.list() == []


@pytest.mark.long
async def test_a_server_that_refuses_for_a_while_is_worked_on_when_it_accepts_again(here: Redis, drill: Drill):
    async with open_place(here.url) as place, open_proxy(here.url) as proxy:
        await place.send_numbers("work", NUMBERS)
        node = await drill.start_up("worker", proxy.url, lease=1)
        await in_mid_work(drill, here, node)
        proxy.refuse()
        proxy.cut()
        await trio.sleep(1.5)
        proxy.accept()
        await wait_progress(here, time.monotonic())
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(NUMBERS)


@pytest.mark.parametrize(
    "seconds", [pytest.param(2, id="a moment"), pytest.param(25, id="long", marks=pytest.mark.long)]
)
async def test_a_black_hole_in_mid_work_costs_nothing_but_its_own_time(here: Redis, drill: Drill, seconds: float):
    async with open_place(here.url) as place, open_proxy(here.url) as proxy:
        await place.send_numbers("work", NUMBERS)
        node = await drill.start_up("worker", proxy.url, lease=1)
        await in_mid_work(drill, here, node)
        proxy.black_hole()
        await trio.sleep(seconds)
        proxy.flow()
        await wait_progress(here, time.monotonic())
        await place.wait_empty("work")
        await node.stop()
        await place.check_account(NUMBERS)
        assert await place.broker.dead_letters.list() == []


@pytest.mark.parametrize(
    ("seconds", "dark"),
    [
        pytest.param(6, 0, id="seconds"),
        pytest.param(0, 2, id="out of reach"),
        pytest.param(65, 0, id="a minute", marks=pytest.mark.long),
        pytest.param(0, 40, id="long out of reach", marks=pytest.mark.long),
    ],
)
async def test_an_idle_node_is_alive_and_handles_the_next_message_at_once(
    here: Redis, drill: Drill, seconds: float, dark: float
):
    async with open_place(here.url) as place, open_proxy(here.url) as proxy:
        node = await drill.start_up("worker", proxy.url, lease=1 if dark else 10)
        await place.send_numbers("work", [0])
        await drill.wait_notes("ended", 1)
        await trio.sleep(seconds)
        if dark:
            proxy.black_hole()
            await trio.sleep(dark)
            proxy.flow()
        sent = time.monotonic()
        await place.send_numbers("work", [1])
        await drill.wait_notes("ended", 2)
        assert drill.ledger.notes("begun")[1].at - sent < (RETURN if dark else BUSY)
        await place.wait_empty("work")
        await node.stop()
        if not dark:
            assert {line.level for line in node.lines()} <= {"DEBUG", "INFO", "WARNING"}
            assert proxy.accepted <= 4
        await place.check_account(range(2))


async def test_a_server_that_is_frozen_makes_no_message_settled_twice(drill: Drill, servers: ExitStack):
    """The server is stopped for two leases: whether these expire meanwhile or not, each message is settled once."""
    redis = Redis(servers.enter_context(open_redis_server()))
    async with open_place(redis.url) as place:
        nodes = [await drill.start_up("worker", redis.url, lease=0.6) for _ in range(2)]
        await place.send_numbers("work", NUMBERS)
        for node in nodes:
            await in_mid_work(drill, redis, node)
        redis.server.pause()
        await trio.sleep(1.2)
        redis.server.resume()
        await wait_progress(redis, time.monotonic())
        await place.wait_empty("work")
        for node in nodes:
            await node.stop()
        await place.check_account(NUMBERS)
