"""Clients purge sources: what was there ends as cancelled, and runs do not wait for steps that are gone."""

import pytest
import trio

from actorwork import Actor, Settings, open_client, open_system, receive, sync
from actorwork.clients.purging import PORTION
from actorwork.errors import MessageFailed
from actorwork.message import Envelope
from actorwork.testing import MemoryBroker
from actorwork.testing.conformance import PATIENCE
from actorwork.workflows import group, step


class Till(Actor):
    settings = Settings(title="till")

    @receive
    async def take(self, *, number: int) -> int:
        return number


async def test_a_purge_is_counted_in_advance_and_recorded(broker: MemoryBroker | str):
    async with open_client(broker) as client:
        till = client.ref(Till)
        receipt = await till.submit({"number": 1})
        await till.tell({"number": 2}, delay=600)
        dry = await client.purge(till.source, dry_run=True)
        assert (dry.found.ready, dry.found.delayed, dry.found.total, dry.dropped) == (1, 1, 2, 0)
        assert await receipt.status() == "PENDING"
        assert await client.broker.audit.list() == []
        done = await client.purge(till.source, reason="a test")
        assert (done.found, done.dropped) == (dry.found, 2)
        assert await receipt.status() == "CANCELLED"
        with pytest.raises(MessageFailed, match="a test"):
            await receipt.result(timeout=PATIENCE)
        (entry,) = await client.broker.audit.list()
        assert (entry.action, entry.what, entry.how_many, entry.reason, entry.outcome) == (
            "purge",
            till.source,
            2,
            "a test",
            "done",
        )
        with pytest.raises(ValueError, match="a source wants"):
            await client.purge("no source", dry_run=True)


async def test_a_run_whose_steps_are_purged_draws_its_conclusions(broker: MemoryBroker | str):
    async with open_client(broker) as client:
        source = client.ref(Till).source
        steps = [step(Till, {"number": number}) for number in range(3)]
        run = await client.start(group(steps))
        dry = await client.purge(source, dry_run=True)
        assert (dry.found.ready, dry.found.steps) == (3, 3)
        assert (await client.purge(source, reason="a test")).dropped == 3
        with pytest.raises(MessageFailed, match="a test"):
            await run.result(timeout=PATIENCE)
        assert (await run.info()).status == "FAILURE"
        assert {str(one.status) for one in await run.steps() if one.message} == {"CANCELLED"}
        async with open_system(Till, broker=broker):
            assert await client.ref(Till).ask({"number": 4}, timeout=PATIENCE) == 4


async def test_a_purge_ends_though_more_is_sent_meanwhile():
    broker = MemoryBroker()
    async with open_client(broker) as client, trio.open_nursery() as nursery:
        count = PORTION + 10
        broker.keep([Envelope("orders", str(number), b"1") for number in range(count)])

        async def send() -> None:
            number = count
            while True:
                broker.keep([Envelope("orders", str(number), b"1")])
                number += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(send)
        done = await client.purge("orders")
        nursery.cancel_scope.cancel()
    assert done.dropped == done.found.total >= count


def test_a_client_without_an_event_loop_purges(redis_url: str):
    with sync.open_client(redis_url) as client:
        client.publish("orders", {"number": 1})
        assert client.purge("orders", dry_run=True).found.ready == 1
        assert client.purge("orders").dropped == 1
