"""Everything together."""

from __future__ import annotations

from collections import Counter

import trio

from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.testing.conformance.contract import ContractTests
from actorwork.testing.conformance.fake_consumer import (
    FAILURE,
    FakeConsumer,
    open_consumer,
    until,
)


class WholeTests(ContractTests):
    async def test_the_ledger_balances(self) -> None:
        """Sent = acknowledged + rejected + dead + delayed, whatever came between."""
        sent = self.envelopes("orders", 240)
        ends: Counter[str] = Counter()
        runs: Counter[str] = Counter()
        async with (
            self.open_broker() as broker,
            self.open_broker() as other,
            open_consumer(broker, "orders", room=16) as one,
            open_consumer(other, "orders", room=16) as two,
        ):

            async def work(consumer: FakeConsumer) -> None:
                while True:
                    delivery = await consumer.take_one()
                    number = int(delivery.payload if isinstance(delivery.payload, bytes) else b"0")
                    runs[delivery.id] += 1
                    ends_with: Settlement = Ack()
                    if number % 7 == 0 and runs[delivery.id] == 1:
                        await consumer.release_deliveries(delivery)
                        continue
                    if number % 5 == 0 and delivery.attempt < 3:
                        ends_with = Retry(0.01 * (number % 3), FAILURE)
                    elif number % 40 == 1:
                        ends_with = Retry(600, FAILURE)
                    elif number % 11 == 0:
                        ends_with = Fail(FAILURE)
                    elif number % 13 == 0:
                        ends_with = Reject(FAILURE)
                    consumer.node.settle(consumer.subscription, delivery, ends_with)
                    ends["later" if ends_with == Retry(600, FAILURE) else type(ends_with).__name__] += 1

            async def is_empty() -> bool:
                settled = sum(count for end, count in ends.items() if end != "Retry")
                return settled == len(sent) and await broker.backlog("orders") == 0

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, one)
                nursery.start_soon(work, two)
                await broker.publish(sent)
                await until(is_empty, f"all to end, {ends}")
                nursery.cancel_scope.cancel()
            assert set(runs) == {one.id for one in sent}
            assert len(await broker.dead_letters.list("orders", limit=1000)) == ends["Fail"]
            assert ends["Ack"] + ends["Reject"] + ends["Fail"] + ends["later"] == len(sent)
            assert one.node.statistics()["fenced"] + two.node.statistics()["fenced"] == 0

    async def test_it_can_be_looked_at(self) -> None:
        async with self.open_broker() as broker, open_consumer(broker, "orders") as consumer:
            findings = await broker.diagnose()
            assert findings
            assert {finding.level for finding in findings} <= {"ok", "warning", "error"}
            assert all(finding.subject and finding.text for finding in findings)
            assert all(finding.advice for finding in findings if finding.level != "ok"), "a finding says what to do"
            counters = {"read", "settled", "fenced", "reclaimed", "released", "dead_lettered"}
            assert counters <= set(consumer.node.statistics())
            assert consumer.node.incarnation
            assert broker.url
            assert " at 0x" not in repr(broker) + repr(consumer.node)
