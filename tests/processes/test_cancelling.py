"""Messages in the hands of a process are cancelled, and by force it is replaced for a handler that does not end."""

import pytest
import trio

from actorwork import MessageFailed, Process, open_client, open_system
from actorwork.events import ChildExited, Event, ProcessReplaced
from actorwork.message import Status
from tests.forms import AT_A_FILE, AT_REDIS

from .conftest import PATIENCE, Said, is_alive, until
from .workers import Stuck, Worker


@AT_A_FILE
async def test_a_handler_in_another_process_is_cancelled_and_its_process_goes_on(url: str, said: Said):
    tree = Process([Worker], name="far")
    async with open_system(tree, broker=url), open_client(url) as client:
        receipt = await client.ref(Worker).submit({"what": "sleep", "n": 600})
        (pid,) = await said.wait("sleep begins")
        assert await receipt.cancel("too late")
        with pytest.raises(MessageFailed, match="too late") as caught:
            await receipt.result(timeout=PATIENCE)
        assert caught.value.type == "Cancelled"
        assert await receipt.status() is Status.CANCELLED
        assert said.pids("cancelled") == [pid]
        assert await client.ref(Worker).ask({}, timeout=PATIENCE) == pid
        assert len(said.pids("sleep begins")) == 1
        assert await client.broker.dead_letters.list() == []


@AT_REDIS
async def test_by_force_the_process_of_a_handler_that_cannot_be_cancelled_is_replaced_and_no_other_attempt_counted(
    url: str, said: Said
):
    how = "sit" if url.startswith("sqlite") else "shield"  # In a thread with one broker, and shielded with the other.
    seen: list[Event] = []
    tree = Process([Stuck, Worker], name="far", shutdown_timeout=2)
    async with open_system(tree, broker=url, emit=seen.append), open_client(url) as client:
        stuck = await client.ref(Stuck).submit({"type": how, "seconds": 600})
        (first,) = await said.wait(f"{how}s")
        other = await client.ref(Worker).submit({"what": "sleep", "n": 600})
        await said.wait("sleep begins")
        assert await stuck.cancel("too late", force=True)
        # What else was in flight there is handed back, and begins again in the successor.
        _, second = await said.wait("sleep begins", 2)
        assert second != first
        assert said.pids("cancelled") == [first]
        await until(lambda: not is_alive(first), "the end of the first process")
        with pytest.raises(MessageFailed, match="too late") as caught:
            await stuck.result(timeout=PATIENCE)
        assert caught.value.type == "Cancelled"
        assert (await stuck.info()).status is Status.CANCELLED
        with trio.fail_after(PATIENCE):
            # It is noted a moment after it has begun.
            while (again := await other.info()).status is not Status.STARTED:  # noqa: ASYNC110 - by another process
                await trio.sleep(0.01)
        assert (again.attempt, again.deliveries) == (1, 1)
        assert await other.cancel("no more")
        with pytest.raises(MessageFailed, match="no more"):
            await other.result(timeout=PATIENCE)
        assert said.pids(f"{how}s") == [first]
        assert await client.broker.dead_letters.list() == []
        assert not [event for event in seen if isinstance(event, ChildExited) and event.origin is None]
    (replaced,) = [event for event in seen if isinstance(event, ProcessReplaced)]
    assert (replaced.pid, replaced.successor) == (first, second)
    assert replaced.why == f"message {stuck.id} of 'stuck' was cancelled by force"
