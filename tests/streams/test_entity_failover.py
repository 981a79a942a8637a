"""The states of entities when a replica takes the place of their primary, whatever that had still done.

A message that was sent with `durability="replicated"` is at the replica, and kept. A settlement is not waited for, so
the last ones may be lost with the primary: then their messages are handled again, on the states that go back with them.
"""

import json
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from actorwork import Durability, Entity, Settings, System, open_client, open_system, receive
from actorwork.brokers import open_broker
from actorwork.message import Envelope
from actorwork.streams import keys
from actorwork.testing.redis_sentinel import Member, wait_for
from tests.forms import forms
from tests.patience import PATIENCE, confirmed

COMMON = {"save": '""', "repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}
ONE = Durability("replicated", within=5)
KEYS = 3
begun: list[int] = []
gates: list[trio.Event] = []


class Listing(Entity[list[int]]):
    """Its state lists the numbers of the messages of its key, in the order in which they were accepted."""

    settings = Settings(title="listing", concurrency=4)

    @receive
    async def add(self, *, number: int) -> None:
        begun.append(number)
        await gates[-1].wait()
        self.state.append(number)


SOURCE = Listing.settings.default_source


@pytest.fixture(autouse=True)
def gate() -> trio.Event:
    """Handlers wait here once they have begun."""
    begun.clear()
    gates.append(trio.Event())
    return gates[-1]


def url_of(member: Member) -> str:
    return f"redis://127.0.0.1:{member.port}/0"


@pytest.fixture
def pair(tmp_path: Path) -> Generator[tuple[Member, Member]]:
    """A primary, and a replica in sync."""
    primary = Member(tmp_path / "primary", COMMON)
    replica = Member(tmp_path / "replica", {**COMMON, "replicaof": f"127.0.0.1 {primary.port}"})
    with ExitStack() as stack:
        for member in (primary, replica):
            stack.callback(member.kill)
            member.start()
        wait_for(lambda: replica.info("replication").get("master_link_status") == "up", "the replica")
        yield primary, replica
    shutil.rmtree(tmp_path)


async def send(primary: Member, numbers: range) -> None:
    """Send numbers, each of which counts as sent once the replica has it."""
    async with open_client(url_of(primary), durability=ONE) as client:
        for number in numbers:
            envelope = Envelope(
                SOURCE, f"{number}", b'{"number": %d}' % number, headers={}, key=f"k{number % KEYS}", durability=ONE
            )
            await confirmed(partial(client.broker.publish, [envelope]))


async def states(server: Member) -> dict[str, tuple[int, list[int]]]:
    """Return the version and the list of each key."""
    found: dict[str, tuple[int, list[int]]] = {}
    async with open_broker(url_of(server), emit=lambda _: None) as broker:
        for number in range(KEYS):
            state = await broker.entities.get(SOURCE, Listing.settings.id, f"k{number}")
            if state is not None:
                found[f"k{number}"] = state.version, json.loads(state.data)
    return found


def listed(numbers: range) -> dict[str, tuple[int, list[int]]]:
    """Return the states after all of these were accepted, each once and in order."""
    by_key = {f"k{key}": [number for number in numbers if number % KEYS == key] for key in range(KEYS)}
    return {key: (len(of), of) for key, of in by_key.items()}


@asynccontextmanager
async def handling(server: Member) -> AsyncGenerator[System]:
    """Run a node, whose lease no busy machine loses."""
    async with open_system(Listing, broker=url_of(server), lease=60, grace=1) as system:
        yield system


async def until_lists(server: Member, numbers: range) -> None:
    with trio.fail_after(PATIENCE):
        while await states(server) != listed(numbers):  # noqa: ASYNC110 - another process knows
            await trio.sleep(0.01)


def promote(replica: Member) -> None:
    assert replica.call("REPLICAOF", "NO", "ONE") == b"+OK\r\n"


def wait_replicated(primary: Member, replica: Member) -> None:
    offset = int(primary.info("replication")["master_repl_offset"])
    wait_for(lambda: int(replica.info("replication")["slave_repl_offset"]) >= offset, "the replica to have it all")


@pytest.mark.parametrize("each", forms(9, more=[300]))
async def test_what_replicas_had_confirmed_is_in_the_states_once_and_in_order_after_a_failover(
    pair: tuple[Member, Member], gate: trio.Event, each: int
):
    primary, replica = pair
    gate.set()
    settled, lost = range(each), range(each, 2 * each)
    await send(primary, settled)
    async with handling(primary):
        await until_lists(primary, settled)
    await send(primary, lost)
    wait_replicated(primary, replica)
    promote(replica)
    # A node that has not heard of it goes on at the old primary, and that dies.
    async with handling(primary):
        await until_lists(primary, range(2 * each))
    assert await states(replica) == listed(settled), "its settlements are lost, and the states with them"
    primary.kill()
    async with handling(replica):
        await until_lists(replica, range(2 * each))
    async with open_broker(url_of(replica), emit=lambda _: None) as broker:
        assert await broker.backlog(SOURCE) == 0
    assert await states(replica) == listed(range(2 * each))


async def test_what_was_in_flight_at_a_failover_is_in_the_states_once_and_in_order(
    pair: tuple[Member, Member], gate: trio.Event
):
    primary, replica = pair
    numbers = range(3 * KEYS)
    await send(primary, numbers)
    async with handling(primary) as node:
        incarnation = node.node_id
        with trio.fail_after(PATIENCE):
            while len(begun) < KEYS:  # noqa: ASYNC110 - a reader decides
                await trio.sleep(0.01)
        wait_replicated(primary, replica)
        promote(replica)
        primary.kill()
        gate.set()
    assert sorted(begun) == list(range(KEYS)), "one of each key"
    assert await states(replica) == {}
    assert replica.call("DEL", keys.lease(incarnation)) == b":1\r\n", "it would run out in a minute"
    async with handling(replica):
        await until_lists(replica, numbers)
    assert sorted(begun) == sorted([*range(KEYS), *numbers]), "what was in flight runs again, and nothing else"
