"""What users do to the states of entities in the embedded store: by the commands for it, and by hand."""

import math
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from actorwork import Entity, Settings, receive
from actorwork.embedded.broker import open_broker
from actorwork.embedded.entities import EmbeddedEntities
from actorwork.embedded.store import MANY, Store
from actorwork.events import EntityStalled
from actorwork.policy.entities import StateChange
from actorwork.testing import open_test_system
from tests.protocol.models import EmbeddedWorld


async def test_a_state_that_is_put_is_kept_for_as_long_as_before_unless_its_user_says_more() -> None:
    world = EmbeddedWorld()
    entities: Any = EmbeddedEntities(cast("Any", world))
    try:

        async def put(data: bytes, **more: Any) -> int:
            return await entities.put("orders", "group", "ann", data, **more)

        assert await put(b"1", ttl=10) == 1
        world.advance(8)
        assert await put(b"2") == 2
        world.advance(8)
        assert await put(b"3") == 3, "it is kept as long after this change as after the last one"
        world.advance(12)
        assert await put(b"4") == 1, "it had expired"
        world.advance(1_000_000)
        assert await put(b"5", ttl=10) == 2
        assert await put(b"6", ttl=math.inf) == 3
        world.advance(1_000_000)
        assert await put(b"7") == 4
    finally:
        world.close()


async def test_states_that_have_expired_are_deleted_a_thousand_at_once(tmp_path: Path) -> None:
    async with open_broker(f"sqlite:///{tmp_path / 'x.db'}", emit=lambda _: None) as broker:

        def fill(store: Store) -> None:
            number = store.source("orders")
            for key in range(MANY + 5):
                change = StateChange(version=0, data=b"1", stamp="1", ttl=10.0 if key else None, history=1)
                store.entities.change(number, "group", str(key), change, by="", node="")

        async def prune() -> tuple[bool, int, int]:
            def run(store: Store) -> tuple[bool, int, int]:
                store.transaction.now += 20
                has_more = store.prune()
                (left,) = store.execute("select count(*) from entities").fetchone()
                (past,) = store.execute("select count(*) from pasts").fetchone()
                return has_more, left, past

            return await broker._writer.ask(run)

        await broker._writer.ask(fill)
        assert await prune() == (True, 5, 5)
        assert await prune() == (False, 1, 1)


@attrs.define
class Balance:
    amount: int = 0


class Account(Entity[Balance]):
    settings = Settings(title="account", concurrency=8)

    @receive
    async def deposit(self, amount: int) -> int:
        self.state.amount += amount
        return self.state.amount


@pytest.mark.parametrize(
    "spoilt",
    [
        "version = 'abc'",
        "version = -1",
        f"version = {2**63 - 1}",
        "marks = 'abcdefgh'",
        "schema = 'x'",
        "at = 'x'",
        "data = 7",
    ],
)
async def test_a_row_that_others_have_spoilt_holds_up_its_key_alone_and_skips_no_message(
    spoilt: str, mock_clock: trio.testing.MockClock
) -> None:
    async with open_test_system(Account) as system:
        ann, ben = (system.client.ref(Account, key=key) for key in ("ann", "ben"))
        await ann.put(Balance(1))
        await ben.put(Balance(1))
        await system.broker._writer.ask(lambda store: store.execute(f"update entities set {spoilt} where key = 'ann'"))
        stalled, other = await ann.submit(10), await ben.submit(10)
        assert await other.result() == 11
        await trio.sleep(10)
        assert [event.key for event in system.of(EntityStalled)] == ["ann"]
        await ann.put(Balance(5), force=True)
        assert await stalled.result() == 15
        assert system.dead_letters == []


async def test_a_state_that_was_written_by_hand_as_text_is_read() -> None:
    async with open_test_system(Account) as system:
        ann = system.client.ref(Account, key="ann")
        await ann.put(Balance(1))
        statement = """update entities set data = '{"amount": 7}' where key = 'ann'"""
        await system.broker._writer.ask(lambda store: store.execute(statement))
        assert await ann.ask(1) == 8
