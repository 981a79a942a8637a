"""A process that has reached its limit is replaced; one with a handler that does not end, by force."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from actorwork import Client, MessageFailed, Process, open_client, open_system
from actorwork.events import ChildExited, Event, HandlerHung, ProcessReplaced, ReplacementFailed
from actorwork.runtime.processes import process_child
from actorwork.runtime.processes.recycling import memory_of, reason_to_replace
from tests.forms import AT_REDIS

from .conftest import PATIENCE, Said, is_alive, until
from .hoard import Hoarder, Overdue, Shielded, Sleeper
from .workers import GO_ON, say


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_child, "_LEAST_LIFE", 0.1)
    monkeypatch.setattr(process_child, "_TRY_AGAIN_SPENT", 0.2)
    monkeypatch.setattr(process_child, "HEARTBEAT", 0.1)


def of(kind: type[Any], seen: list[Event]) -> list[Any]:
    """Return the events of this node, without those of its processes."""
    return [event for event in seen if isinstance(event, kind) and event.origin is None]


def asked(client: Client, message: dict[str, Any]) -> Callable[[], Awaitable[int]]:
    async def ask() -> int:
        return await client.ref(Hoarder).ask(message, timeout=PATIENCE)

    return ask


@AT_REDIS
async def test_after_so_many_messages_a_successor_is_up_before_the_old_one_goes(url: str, said: Said):
    seen: list[Event] = []
    tree = Process([Hoarder], name="far", max_messages=5)
    async with open_system(tree, broker=url, emit=seen.append) as system, open_client(system.broker) as client:
        (first,) = said.pids("up")
        await client.ref(Hoarder).tell({"waits": True})
        await said.wait("begins")
        for _ in range(4):
            assert await asked(client, {})() == first
        # A sixth message waits for the new one: nothing more is begun in the old one.
        assert await asked(client, {})() != first
        await said.wait("up", 2)
        second = said.pids("up")[1]
        # The old one finishes its message in flight, while the new one handles others.
        await until(lambda: of(ProcessReplaced, seen), "the replacement")
        (replaced,) = of(ProcessReplaced, seen)
        assert (replaced.pid, replaced.successor) == (first, second)
        assert "it has handled 5 messages" in replaced.why
        say(GO_ON)
        await until(lambda: not is_alive(first), "the end of the old one")
        assert said.pids("done") == [first]
        await until(lambda: system.statistics()["settled"] == 6, "all to be counted")
        (far,) = system.tree().children
        assert (far.pid, far.incarnation, far.restarts) == (second, 1, 0)
        assert not of(ChildExited, seen)
    assert not is_alive(second)
    assert not system.forced


@pytest.mark.long
async def test_above_so_much_memory_it_is_replaced(file_url: str, said: Said):
    seen: list[Event] = []
    tree = Process([Hoarder], name="far", max_memory="250MB")
    async with open_system(tree, broker=file_url, emit=seen.append) as system, open_client(system.broker) as client:
        first = await asked(client, {"megabytes": 300})()
        await until(lambda: of(ProcessReplaced, seen), "the replacement")
        assert "MB of memory; the limit of a process is 250 MB" in of(ProcessReplaced, seen)[0].why
        # Until it has been told so, the old one may still take a message.
        with trio.fail_after(PATIENCE):
            while await asked(client, {})() == first:
                pass
        assert not of(ChildExited, seen)


async def test_a_process_handles_exactly_as_many_messages_as_it_may(url: str):
    tree = Process([Hoarder, Sleeper], name="far", max_messages=10, start_method="forkserver")
    async with open_system(tree, broker=url), open_client(url) as client:
        sent = [await client.ref(Hoarder).submit({}) for _ in range(30)]
        sent += [await client.ref(Sleeper).submit({"seconds": 0}) for _ in range(10)]
        handled = Counter([await receipt.result(timeout=PATIENCE) for receipt in sent])
    assert list(handled.values()) == [10, 10, 10, 10]


@pytest.mark.long
async def test_one_whose_successor_does_not_start_stays_and_begins_nothing_more(file_url: str, said: Said):
    seen: list[Event] = []
    tree = Process([Hoarder], name="far", max_messages=1)
    broken = trio.Path(f"{said.file}.broken")
    async with open_system(tree, broker=file_url, emit=seen.append) as system, open_client(system.broker) as client:
        await broken.touch()
        first = await asked(client, {})()
        await until(lambda: of(ReplacementFailed, seen), "the failure")
        failed = of(ReplacementFailed, seen)[0]
        assert failed.pid == first
        assert "no disk" in str(failed.error)
        receipt = await client.ref(Hoarder).submit({})
        await until(lambda: len(of(ReplacementFailed, seen)) > 1, "another try")
        assert await receipt.status() == "PENDING"
        assert is_alive(first)
        await broken.unlink()
        await until(lambda: of(ProcessReplaced, seen), "the replacement")
        assert await receipt.result(timeout=PATIENCE) != first


@pytest.mark.long
async def test_a_stop_ends_both_in_order(file_url: str, said: Said):
    seen: list[Event] = []
    tree = Process([Hoarder], name="far", max_messages=1)
    async with open_system(tree, broker=file_url, emit=seen.append) as system, open_client(system.broker) as client:
        await client.ref(Hoarder).tell({"waits": True})
        await said.wait("begins")
        await asked(client, {})()
        await until(lambda: of(ProcessReplaced, seen), "the replacement")
        system.stop()
        say(GO_ON)
        await system.wait_stopped()
    assert said.pids("done") == said.pids("up")[:1]
    assert not any(is_alive(pid) for pid in said.pids("up"))
    assert not system.forced


async def test_a_handler_that_sits_in_a_thread_for_ever_is_the_end_of_its_process(file_url: str, said: Said):
    seen: list[Event] = []
    tree = Process([Overdue], name="far", hang_timeout=3)
    async with open_system(tree, broker=file_url, emit=seen.append) as system, open_client(system.broker) as client:
        receipt = await client.ref(Overdue).submit({"seconds": 60})
        (first,) = await said.wait("sleeps")
        # Its message has ended at its deadline, without it.
        with pytest.raises(MessageFailed, match="ExecutionTimeout"):
            await receipt.result(timeout=PATIENCE)
        await until(lambda: of(HandlerHung, seen), "the report")
        (hung,) = of(HandlerHung, seen)
        assert (hung.process, hung.pid, hung.title, hung.message_id) == ("far", first, "overdue", receipt.id)
        assert 3 <= round(hung.seconds, 2) < 30
        assert "in sleep" in hung.stacks
        await client.ref(Overdue).tell({"seconds": 0})
        assert (await said.wait("sleeps", 2))[1] != first
        (ended,) = of(ChildExited, seen)
        assert "a handler of 'overdue' had not ended" in str(ended.exit.error)


async def test_a_handler_that_shields_itself_is_the_end_of_its_process_after_hang_timeout(file_url: str, said: Said):
    seen: list[Event] = []
    tree = Process([Shielded], hang_timeout=3)
    async with open_system(tree, broker=file_url, emit=seen.append) as system, open_client(system.broker) as client:
        receipt = await client.ref(Shielded).submit({"seconds": 60})
        with pytest.raises(MessageFailed, match="died while they handled"):
            await receipt.result(timeout=PATIENCE)
        (hung,) = of(HandlerHung, seen)
        assert (hung.title, hung.message_id) == ("shielded", receipt.id)
        assert 3 <= round(hung.seconds, 2) < 30
        await client.ref(Shielded).tell({"seconds": 0})
        await said.wait("sleeps", 2)


@pytest.mark.parametrize(
    ("settled", "memory", "why"),
    [
        (9, 999_999_999, ""),
        (10, None, "it has handled 10 messages; the limit of a process is 10"),
        (0, 1_200_000_001, "it has 1200 MB of memory; the limit of a process is 1000 MB"),
        (0, None, ""),
    ],
)
def test_when_it_is_due(settled: int, memory: int | None, why: str):
    reason = reason_to_replace(Process([Hoarder], max_messages=10, max_memory="1GB"), settled, memory)
    assert reason.startswith(why)
    assert bool(reason) is bool(why)
    assert not reason_to_replace(Process([Hoarder]), 10**9, 10**12)


def test_what_a_process_has_in_memory():
    memory = memory_of(os.getpid())
    assert memory is not None
    assert 10_000_000 < memory < 10_000_000_000
    assert memory_of(2**22 + 1) is None
