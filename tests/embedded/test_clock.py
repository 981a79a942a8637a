"""A wall clock that jumps: the machine slept, or an operator set the clock."""

import time
from pathlib import Path

import pytest
import trio

from actorwork.embedded.broker import open_broker
from actorwork.message import Envelope
from actorwork.testing.conformance import open_consumer
from tests.patience import PATIENCE

HOUR = 3600.0
LEASE = 2.0


def ignore(_: object) -> None:
    pass


@pytest.mark.parametrize("step", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_clock_that_is_set_costs_no_lease_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
):
    url = f"sqlite:///{tmp_path}/messages.db"
    right = time.time
    async with (
        open_broker(url, emit=ignore) as here,
        open_broker(url, emit=ignore) as there,
        open_consumer(here, "orders", lease=LEASE) as holder,
        open_consumer(there, "orders", lease=LEASE, room=0) as other,
    ):
        await here.publish([Envelope("orders", "one", b"1")])
        delivery = await holder.take_one()
        other.capacity = 10
        other.node.resume(other.subscription)
        monkeypatch.setattr(time, "time", lambda: right() + step)
        # Several looks of each at the leases of the other.
        await trio.sleep(1.2 * LEASE)
        assert (holder.revoked, other.revoked, other.waiting) == (0, 0, [])
        await holder.settle(delivery)
        assert holder.node.statistics()["settled"] == 1
        await there.publish([Envelope("orders", "two", b"2"), Envelope("orders", "late", b"3", delay=0.2)])
        taken = [one.id for consumer in (holder, other) for one in consumer.waiting]
        with trio.fail_after(PATIENCE):
            while sorted(taken) != ["late", "two"]:
                await trio.sleep(0.02)
                taken = [one.id for consumer in (holder, other) for one in consumer.waiting]
