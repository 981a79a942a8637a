"""Two versions of a program side by side, upgraded and rolled back under load: states keep what either has written."""

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

from actorwork.message import Envelope, MessageIds
from tests.forms import AT_A_FILE, AT_REDIS

from .conftest import Drill, Node, Place, open_place, until_true
from .workers import AGING

KEYS = 20
LEASE = 1.0
LONG = pytest.mark.parametrize("each", [6, pytest.param(30, marks=pytest.mark.long)])
"""How many messages each key gets in each stage."""
LONG_AFTER = 120.0
GROUP, SOURCE = AGING.id, AGING.default_source


class Load:
    """Messages for all keys, stage by stage."""

    def __init__(self, place: Place, drill: Drill, each: int) -> None:
        self.place = place
        self.drill = drill
        self.each = each
        self.count = 0
        self._ids = MessageIds(os.urandom(8).hex())

    async def send(self) -> None:
        numbers = range(self.count, self.count + KEYS * self.each)
        self.count += len(numbers)
        await self.place.broker.publish([self._message(number) for number in numbers])

    def _message(self, number: int) -> Envelope:
        data = json.dumps({"number": number}).encode()
        return Envelope(SOURCE, next(self._ids), data, headers={}, key=f"k{number % KEYS}")

    def handled_by(self, *nodes: Node) -> int:
        return sum(self.drill.ledger.count("ended", pid=node.pid) for node in nodes)

    async def send_and_wait(self, *nodes: Node) -> None:
        """Send messages until these nodes have handled some: others may take most of them."""
        goal = self.handled_by(*nodes) + KEYS
        await self.send()

        async def is_enough() -> bool:
            if self.handled_by(*nodes) >= goal:
                return True
            if await self.place.broker.backlog(SOURCE) == 0:
                await self.send()
            return False

        await until_true(is_enough, f"{KEYS} messages handled by {nodes}", within=LONG_AFTER)

    async def states(self) -> dict[str, Any]:
        found = {f"k{key}": await self.place.broker.entities.get(SOURCE, GROUP, f"k{key}") for key in range(KEYS)}
        return {key: json.loads(state.data) for key, state in found.items() if state is not None}

    def expected(self) -> dict[str, list[int]]:
        return {f"k{key}": list(range(key, self.count, KEYS)) for key in range(KEYS)}


@LONG
@AT_A_FILE
async def test_an_upgrade_that_adds_a_field_and_its_rollback_lose_nothing_of_either_version(
    url: str, drill: Drill, each: int
):
    async with open_place(url) as place:
        load = Load(place, drill, each)
        older = await drill.start_up("older", url, lease=LEASE)
        await load.send_and_wait(older)
        newer = await drill.start_up("newer", url, lease=LEASE)
        await load.send_and_wait(older, newer)
        await older.stop()
        await load.send_and_wait(newer)
        again = await drill.start_up("older", url, lease=LEASE)
        await load.send_and_wait(newer, again)
        await newer.stop()
        await load.send_and_wait(again)
        await place.wait_empty(SOURCE, within=LONG_AFTER)
        await again.stop()
        states = await load.states()
        assert {key: state["numbers"] for key, state in states.items()} == load.expected()
        counted = sum(state.get("newer", 0) for state in states.values())
        assert 0 < counted <= load.handled_by(newer), "handlers whose settlement was refused are noted, and not counted"
        assert await place.broker.dead_letters.list() == []


@LONG
@AT_REDIS
async def test_an_upgrade_with_a_migration_and_its_rollback_hold_keys_up_and_lose_nothing(
    url: str, drill: Drill, each: int
):
    async with open_place(url) as place:
        load = Load(place, drill, each)
        older = await drill.start_up("older", url, lease=LEASE)
        await load.send_and_wait(older)
        migrated = await drill.start_up("migrated", url, lease=LEASE)
        await load.send_and_wait(migrated)
        await migrated.stop()
        await load.send()
        await older.wait_line("because this node cannot use version")
        before = await load.states()
        again = await drill.start_up("migrated", url, lease=LEASE)
        await load.send()
        await place.wait_empty(SOURCE, within=LONG_AFTER)
        for node in (older, again):
            await node.stop()
        states = await load.states()
        assert {key: numbers_of(state) for key, state in states.items()} == load.expected()
        assert all(numbers_of(states[key])[: len(numbers_of(old))] == numbers_of(old) for key, old in before.items())
        assert await place.broker.dead_letters.list() == []


def numbers_of(state: dict[str, Any]) -> Sequence[int]:
    """Return the numbers that a state of either shape lists."""
    return state["numbers"] if "numbers" in state else [*state["earlier"][1:], state["last"]]
