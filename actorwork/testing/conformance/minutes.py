"""What was handled in each minute: counts of many nodes add up."""

from __future__ import annotations

from actorwork.policy.minutes import ALL, MinuteCounts
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.reports import now_of


class MinuteTests(ContractTests):
    async def test_counts_of_a_minute_add_up_over_nodes(self) -> None:
        async with self.open_broker() as broker, self.open_broker() as other:
            minute = int(await now_of(broker) // 60)
            await broker.minutes.add(minute, {ALL: MinuteCounts(1, {3: 5}), "mails": MinuteCounts(1, {3: 4, 40: 1})})
            await other.minutes.add(minute, {ALL: MinuteCounts(0, {3: 2}), "mails": MinuteCounts(0, {3: 2})})
            await other.minutes.add(minute - 2, {ALL: MinuteCounts(0, {7: 1}), "reports": MinuteCounts(2, {7: 2})})
            mails = await broker.minutes.read("mails", minute - 5, minute)
            assert {at: (one.failed, one.buckets) for at, one in mails.items()} == {minute: (1, {3: 6, 40: 1})}
            every = await other.minutes.read(ALL, minute - 5, minute)
            assert {at: (one.failed, one.buckets) for at, one in every.items()} == {
                minute - 2: (0, {7: 1}),
                minute: (1, {3: 7}),
            }
            assert dict(await broker.minutes.read("reports", minute - 1, minute)) == {}
            assert dict(await broker.minutes.read("unknown", minute - 119, minute)) == {}

    async def test_many_sources_are_added_together(self) -> None:
        async with self.open_broker() as broker:
            minute = int(await now_of(broker) // 60)
            counts = {f"s{number}": MinuteCounts(number, {number % 90: 1 + number}) for number in range(1001)}
            await broker.minutes.add(minute, counts)
            for number in (0, 499, 500, 1000):
                (found,) = (await broker.minutes.read(f"s{number}", minute, minute)).values()
                assert (found.failed, found.buckets) == (number, {number % 90: 1 + number})
