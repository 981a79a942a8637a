"""A message that has expired is not handled: it is counted, its asker gets an error, and it is no dead letter."""

import pytest
import trio
import trio.testing

from actorwork import Actor, MessageFailed, Settings, events, open_client, open_system, receive
from actorwork.policy.settlement import EXPIRED, Reject
from actorwork.testing.memory import MemoryBroker
from tests.doubles import Kept


class Slow(Actor):
    settings = Settings(title="slow")

    @receive
    async def work(self, *, seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds


def expired(kept: Kept) -> list[str]:
    return [
        event.delivery.id
        for event in kept.of(events.Settled)
        if isinstance(event.settlement, Reject) and event.settlement.failure.type == EXPIRED
    ]


async def test_a_message_that_waited_too_long_is_rejected(mock_clock: trio.testing.MockClock):
    kept = Kept()
    broker = MemoryBroker()
    async with open_system(Slow, broker=broker, emit=kept), open_client(broker) as client:
        slow = client.ref(Slow)
        await slow.tell({"seconds": 10})
        late = await slow.submit({"seconds": 1}, expires=5)
        in_time = await slow.submit({"seconds": 1}, expires=11)
        with pytest.raises(MessageFailed, match=r"rejected message .* it had not begun by") as caught:
            await late.result()
        assert caught.value.type == "Expired"
        assert await in_time.result() == 1
        assert expired(kept) == [late.id]
        assert await broker.backlog(slow.source) == 0
        assert not await broker.dead_letters.list()


async def test_what_has_begun_does_not_expire(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with open_system(Slow, broker=broker, emit=Kept()), open_client(broker) as client:
        receipt = await client.ref(Slow).submit({"seconds": 60}, expires=5)
        assert await receipt.result(timeout=100) == 60


async def test_a_message_that_is_due_after_it_expires_is_never_begun(mock_clock: trio.testing.MockClock):
    kept = Kept()
    broker = MemoryBroker()
    async with open_system(Slow, broker=broker, emit=kept), open_client(broker) as client:
        receipt = await client.ref(Slow).submit({"seconds": 1}, delay=20, expires=10)
        with pytest.raises(MessageFailed) as caught:
            await receipt.result()
        assert caught.value.type == EXPIRED
        assert expired(kept) == [receipt.id]
