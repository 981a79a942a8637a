"""How a node ends: nothing is offered any more, and nothing is lost."""

from __future__ import annotations

from actorwork.policy.settlement import Ack
from actorwork.testing.conformance.fake_consumer import (
    open_desk,
)
from actorwork.testing.conformance.questions import Questions


class Endings(Questions):
    async def test_after_stop_intake_nothing_is_offered_and_nothing_is_lost(self) -> None:
        async with self.open_broker() as broker:
            sent = self.envelopes("orders", 300)
            await broker.publish(sent)
            async with open_desk(broker, "orders", room=20) as desk:
                got = await desk.take(40)
                await desk.node.stop_intake()
                rest = list(desk.waiting)
                offered = desk.offered
                desk.waiting.clear()
                desk.node.resume(desk.subscription)
                await broker.publish(self.envelopes("orders", 1))
                await desk.expect_nothing()
                assert desk.offered == offered
                for delivery in got:
                    desk.node.settle(desk.subscription, delivery, Ack())
                await desk.release_deliveries(*rest)
                await desk.node.wait_settled()
            # Whatever was neither settled nor handed back would count as left behind.
            async with open_desk(broker, "orders", room=400) as desk:
                again = await desk.take(261)
                assert [one.id for one in again[:-1]] == [one.id for one in sent[40:]]
                assert {one.crashes for one in again} == {0}, "all that was read was offered"

    async def test_waiting_for_settlements_waits_for_all_so_far(self) -> None:
        async with self.open_broker() as broker, open_desk(broker, "orders", room=500) as desk:
            await broker.publish(self.envelopes("orders", 500))
            for delivery in await desk.take(500):
                desk.node.settle(desk.subscription, delivery, Ack())
            await desk.node.wait_settled()
            assert desk.node.statistics()["settled"] == 500
            assert await broker.backlog("orders") == 0
