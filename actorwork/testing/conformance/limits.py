"""Limits over all nodes: rates, and how many at once."""

from __future__ import annotations

import pytest
import trio

from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import LATE, until


class LimitTests(ContractTests):
    async def test_tokens_are_taken_in_advance_by_everybody_together(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            stores = (broker.limit_store, other.limit_store) * 5
            waits = [await store.acquire_rate("mail", 10, 1000, 4, 2) for store in stores]
            # Two per two hundred seconds; the first four at once.
            assert waits == [pytest.approx(max(0, 200 * (n - 1)), abs=LATE * 2) for n in range(10)]
            assert await broker.limit_store.acquire_rate("MAIL", 10, 1000, 4, 1) == 0

    async def test_many_who_ask_at_once_are_told_different_moments(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            waits: list[float] = []

            async def ask(number: int) -> None:
                store = (broker, other)[number % 2].limit_store
                waits.append(await store.acquire_rate("mail", 1, 100, 1, 1))

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(ask, number)
            assert sorted(waits) == [pytest.approx(100 * n, abs=LATE * 2) for n in range(20)]

    async def test_a_rate_that_nobody_uses_fills_up_again(self) -> None:
        async with self.open_broker() as broker:

            async def is_empty() -> bool:
                # A process that stands still between the two calls finds it filled up again.
                await broker.limit_store.acquire_rate("mail", 20, 1, 2, 2)
                return await broker.limit_store.acquire_rate("mail", 20, 1, 2, 1) > 0

            assert await broker.limit_store.acquire_rate("mail", 20, 1, 2, 2) == 0
            await until(is_empty, "an empty bucket")

            async def is_full() -> bool:
                await trio.sleep(0.2)
                return await broker.limit_store.acquire_rate("mail", 20, 1, 2, 2) == 0

            await until(is_full, "a full bucket")

    async def test_there_are_as_many_slots_as_the_limit_says(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.limit_store.acquire_slot("db", 2, "a", 60)
            assert await other.limit_store.acquire_slot("db", 2, "b", 60)
            assert not await broker.limit_store.acquire_slot("db", 2, "c", 60)
            assert await other.limit_store.acquire_slot("DB", 2, "c", 60)
            assert await broker.limit_store.acquire_slot("db", 2, "b", 60), "a holder may renew it"
            assert await other.limit_store.release_slot("db", "a")
            assert not await other.limit_store.release_slot("db", "a")
            assert await broker.limit_store.acquire_slot("db", 2, "c", 60)
            assert not await broker.limit_store.acquire_slot("db", 2, "a", 60)

    async def test_who_has_a_slot_keeps_it_though_the_limit_is_lower_by_now(self) -> None:
        async with self.open_broker() as broker:
            for holder in ("a", "b", "c"):
                assert await broker.limit_store.acquire_slot("db", 3, holder, 60)
            assert await broker.limit_store.acquire_slot("db", 1, "b", 60)
            assert not await broker.limit_store.acquire_slot("db", 1, "d", 60)

    async def test_a_slot_that_is_not_renewed_is_anybodys(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            assert await broker.limit_store.acquire_slot("db", 1, "dead", 0.3)

            async def is_free() -> bool:
                return await other.limit_store.acquire_slot("db", 1, "next", 60)

            await until(is_free, "the slot")
            assert not await broker.limit_store.acquire_slot("db", 1, "dead", 60)
            assert not await broker.limit_store.release_slot("db", "dead")

    async def test_who_has_slots_is_known_until_they_run_out(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            store, theirs = broker.limit_store, other.limit_store
            assert await store.count_slots("seats") == 0
            assert list(await store.slot_holders("seats")) == []
            for holder in ("b", "a"):
                assert await store.acquire_slot("seats", 5, holder, 60)
            assert await theirs.acquire_slot("seats", 5, "dead", 0.2)
            assert await theirs.acquire_slot("others", 5, "x", 60)

            async def has_run_out() -> bool:
                return await theirs.count_slots("seats") == 2

            await until(has_run_out, "the end of a slot that is not renewed")
            assert list(await theirs.slot_holders("seats")) == ["a", "b"]
            assert await store.release_slot("seats", "a")
            assert list(await theirs.slot_holders("seats")) == ["b"]
