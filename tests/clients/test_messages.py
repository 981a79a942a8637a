"""Clients list tracked messages by state."""

import pytest

from actorwork import Actor, Settings, open_client, open_system, receive, sync
from actorwork.errors import MessageFailed
from actorwork.records import MessageState
from actorwork.testing import MemoryBroker
from actorwork.testing.conformance import PATIENCE
from actorwork.workflows import step


class Till(Actor):
    settings = Settings(title="till")

    @receive
    async def take(self, *, number: int) -> int:
        if number < 0:
            raise ValueError(f"no order {number}")
        return number


async def test_messages_are_found_by_state_with_arguments_and_duration(broker: MemoryBroker | str):
    async with open_client(broker) as client:
        till = client.ref(Till)
        async with open_system(Till, broker=broker):
            good = await till.submit({"number": 1})
            assert await good.result(timeout=PATIENCE) == 1
            bad = await till.submit({"number": -1})
            with pytest.raises(MessageFailed):
                await bad.result(timeout=PATIENCE)
            run = await client.start(step(Till, {"number": 2}))
            assert await run.result(timeout=PATIENCE) == 2
        later = await till.submit({"number": 3}, delay=600)
        waits = await till.submit({"number": 4})
        await till.tell({"number": 5})
        everything = await client.messages(actor=Till)
        assert {one.info.id: one.state for one in everything.found if "/" not in one.info.id} == {
            good.id: "succeeded",
            bad.id: "failed",
            later.id: "delayed",
            waits.id: "waiting",
        }
        assert (everything.searched, everything.is_complete) == (5, True)
        assert {state: count for state, count in everything.counts.items() if count} == {
            "waiting": 1,
            "delayed": 1,
            "succeeded": 2,
            "failed": 1,
        }
        ended = await client.messages("succeeded", "failed", actor="till")
        assert [one.state for one in ended.found].count("succeeded") == 2
        assert all(one.duration is not None and one.info.actor == "till" for one in ended.found)
        failed = await client.messages("failed")
        assert [(one.info.id, one.payload) for one in failed.found] == [(bad.id, b'{"number":-1}')]
        assert failed.found[0].info.reason == "no order -1"
        (delayed,) = (await client.messages("delayed", source=till.source)).found
        assert (delayed.payload, delayed.duration) == (b'{"number":3}', None)
        few = await client.messages(source=till.source, search=2, limit=1)
        assert (len(few.found), few.searched, few.is_complete) == (1, 2, False)


async def test_what_cannot_be_found_is_refused():
    broker = MemoryBroker()
    async with open_client(broker) as client:
        assert (await client.messages()).found == []
        wrong: MessageState = "lost"  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
        with pytest.raises(ValueError, match=r"a state of messages is one of waiting, delayed, .*, got 'lost'"):
            await client.messages(wrong)
        with pytest.raises(LookupError, match="no actor 'till' has run at this broker"):
            await client.messages(actor="till")
        await client.ref(Till).submit({"number": 1})
        assert len((await client.messages("waiting", actor="till")).found) == 1


def test_a_client_without_an_event_loop_lists_them(redis_url: str):
    with sync.open_client(redis_url) as client:
        receipt = client.ref(Till).submit({"number": 1})
        answer = client.messages("waiting", actor=Till)
        assert [(one.info.id, one.payload) for one in answer.found] == [(receipt.id, b'{"number":1}')]
