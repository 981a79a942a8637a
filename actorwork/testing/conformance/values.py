"""Shared values and locks of all nodes."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from actorwork.abc import ListsLocks
from actorwork.errors import LockLost
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    until,
)


class ValueTests(ContractTests):
    lists_locks = True
    """Whether a broker that can list the locks that are held does so."""

    async def test_a_shared_value_is_what_was_set_last_by_anybody(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.values.get("rate") is None
            first = await broker.values.set("rate", b'{"x": "\xc3\xbc"}')
            kept = await other.values.get("rate")
            assert kept is not None
            assert (kept.data, kept.version) == (b'{"x": "\xc3\xbc"}', first)
            second = await other.values.set("rate", b"2")
            assert first is not None
            assert second is not None
            assert second > first
            assert await broker.values.get("RATE") is None
            assert await broker.values.delete("rate")
            assert not await broker.values.delete("rate")
            assert await other.values.get("rate") is None
            third = await broker.values.set("rate", b"3")
            assert third is not None
            assert third > second, "a version is never used twice"

    async def test_a_shared_value_is_exchanged_only_by_who_has_read_it(self) -> None:
        async with self.open_broker() as broker:
            values = broker.values
            assert await values.set("rate", b"1", version=7) is None
            first = await values.set("rate", b"1", version=0)
            assert first is not None
            assert await values.set("rate", b"2", version=0) is None
            second = await values.set("rate", b"2", version=first)
            assert second is not None
            assert await values.set("rate", b"3", version=first) is None
            kept = await values.get("rate")
            assert kept is not None
            assert kept.data == b"2"
            await values.delete("rate")
            assert await values.set("rate", b"3", version=second) is None
            assert await values.set("rate", b"3", version=0) is not None

    async def test_what_many_add_adds_up(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            async with trio.open_nursery() as nursery:
                for values in (broker.values, other.values) * 20:
                    nursery.start_soon(partial(values.add, "count", 2, start=b"5"))
            assert await broker.values.add("count", -3, start=b"5") == b"82"
            assert await broker.values.add("count", 0.5, start=b"0") == b"82.5"
            assert await broker.values.add("more", 1, start=str(2**53).encode()) is None
            await broker.values.set("word", b'"many"')
            assert await broker.values.add("word", 1, start=b"0") is None
            kept = await broker.values.get("word")
            assert kept is not None
            assert kept.data == b'"many"'

    async def test_a_shared_value_is_forgotten_when_its_time_is_over(self) -> None:
        async with self.open_broker() as broker:
            values = broker.values

            async def are_gone() -> bool:
                return await values.get("short") is None and await values.get("fenced") is None

            await values.set("short", b"1", ttl=0.2)
            await values.set("fenced", b"1", ttl=0.2, fence=3)
            await values.set("long", b"1", ttl=0.2)
            await values.set("long", b"2")
            await until(are_gone, "what was kept for a moment to be gone")
            assert await values.add("short", 1, start=b"0", ttl=60) == b"1"
            kept = await values.get("long")
            assert kept is not None
            assert kept.data == b"2"
            with pytest.raises(LockLost):
                await values.set("fenced", b"2", fence=2)

    async def test_a_write_under_an_older_token_is_refused(self) -> None:
        async with self.open_broker() as broker:
            values = broker.values
            await values.set("rate", b"1", fence=5)
            await values.set("rate", b"2", fence=5)
            for refused in (
                partial(values.set, "rate", b"0", fence=4),
                partial(values.add, "rate", 1, start=b"0", fence=4),
                partial(values.delete, "rate", fence=4),
            ):
                with pytest.raises(LockLost, match=r"rate.*5.*4"):
                    await refused()
            kept = await values.get("rate")
            assert kept is not None
            assert kept.data == b"2"
            assert await values.delete("rate", fence=6)
            with pytest.raises(LockLost):
                await values.set("rate", b"3", fence=5)
            assert await values.set("rate", b"4") is not None, "a write without a token is not checked"

    async def test_a_lock_has_one_owner_and_its_tokens_grow(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            first = await broker.values.take_lock("door", "ann", 60)
            assert first is not None
            assert await broker.values.take_lock("door", "ann", 60) == first, "a second request returns the same"
            assert await other.values.take_lock("door", "ben", 60) is None
            assert await other.values.take_lock("window", "ben", 60) is not None
            assert not await other.values.keep_lock("door", "ben", 60)
            assert not await other.values.free_lock("door", "ben")
            assert await broker.values.keep_lock("door", "ann", 60)
            assert await broker.values.free_lock("door", "ann")
            assert not await broker.values.keep_lock("door", "ann", 60)
            second = await other.values.take_lock("door", "ben", 60)
            assert second is not None
            assert second > first

    async def test_the_locks_that_are_held_are_listed_if_the_broker_lists_any(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            if not isinstance(other.values, ListsLocks) or not self.lists_locks:
                return
            door = await broker.values.take_lock("door", "ann at home", 60)
            await broker.values.take_lock("wind: <ow>", "ben", 600)
            await broker.values.take_lock("gate", "ann", 60)
            assert await broker.values.keep_lock("door", "ann at home", 120)
            assert await broker.values.free_lock("gate", "ann")
            await broker.values.take_lock("shed", "ann", 0.1)

            async def is_over() -> bool:
                return await other.values.take_lock("shed", "ben", 0.1) is not None

            await until(is_over, "the lock to run out")
            assert isinstance(other.values, ListsLocks)
            first, second, *_ = await other.values.held_locks(10)
            assert [(one.name, one.owner) for one in (first, second)] == [
                ("wind: <ow>", "ben"),
                ("door", "ann at home"),
            ]
            assert second.token == door
            assert 200 < first.until - second.until < 600
            assert [one.name for one in await other.values.held_locks(1)] == ["wind: <ow>"]
            assert "gate" not in [one.name for one in await other.values.held_locks(10)]

    async def test_a_lock_that_is_not_kept_is_anybodys(self) -> None:
        async with self.open_broker() as broker:
            tokens = [await broker.values.take_lock("door", "ann", 0.2)]

            async def is_taken() -> bool:
                tokens[1:] = [await broker.values.take_lock("door", "ben", 60)]
                return tokens[1] is not None

            await until(is_taken, "the lock to run out")
            assert tokens[0] is not None
            assert tokens[1] is not None
            assert tokens[1] > tokens[0]
            assert not await broker.values.keep_lock("door", "ann", 60)
