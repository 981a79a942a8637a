"""What an actor does with messages that are cancelled: in flight, or waiting for their turn."""

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from actorwork import Actor, Message, MessageFailed, RateLimit, RetryPolicy, Settings, receive
from actorwork.events import CancellationIgnored
from actorwork.message import Status
from actorwork.testing import TestSystem, open_test_system
from actorwork.workflows import Flow, step
from tests.patience import PATIENCE

seen: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@attrs.frozen
class Work(Message["Worker", int]):
    name: str
    seconds: float = 100.0


@attrs.frozen
class Row:
    name: str


class Worker(Actor):
    settings = Settings(title="worker", retry=RetryPolicy(attempts=5))

    @receive
    async def work(self, message: Work) -> int:
        seen.append(f"{message.name} begins")
        try:
            if message.name == "shielded":
                with trio.CancelScope(shield=True):
                    await trio.sleep(message.seconds)
            else:
                await trio.sleep(message.seconds)
        except trio.Cancelled:
            seen.append(f"{message.name} cancelled")
            if message.name == "turned":
                raise OSError("in the middle") from None
            raise
        finally:
            seen.append(f"{message.name} ends")
        return 5


async def status_of(system: TestSystem, actor: type[Actor], id: str) -> tuple[Status, str]:
    info = await system.broker.states.find(actor.settings.default_source, id)
    assert info is not None
    return info.status, info.reason


async def cancelled(system: TestSystem, id: str, actor: type[Actor] = Worker) -> None:
    """Check that a message has ended as cancelled, and no other way."""
    with pytest.raises(MessageFailed) as caught:
        await system.client.ref(actor).receipt(id).result(timeout=1)
    assert (caught.value.type, caught.value.reason) == ("Cancelled", "too late")
    assert await status_of(system, actor, id) == (Status.CANCELLED, "too late")
    assert not system.broker.dead_letters.all
    assert not system.broker.delayed.all


@pytest.mark.parametrize("name", ["usual", "turned"])
async def test_a_handler_in_flight_is_cancelled_and_neither_tried_again_nor_a_failure(
    mock_clock: trio.testing.MockClock, name: str
):
    async with open_test_system(Worker) as system:
        receipt = await system.client.ref(Worker).submit(Work(name), id="1")
        await trio.sleep(2)
        began = trio.current_time()
        assert await receipt.cancel("too late")
        await cancelled(system, "1")
        assert trio.current_time() - began < 1
        assert seen == [f"{name} begins", f"{name} cancelled", f"{name} ends"]
        assert not await receipt.cancel("too late"), "it is over"
        # The executor goes on with the next.
        assert await system.client.ref(Worker).ask(Work("next", 1)) == 5


async def test_what_a_handler_returns_that_shields_itself_is_the_result(mock_clock: trio.testing.MockClock):
    async with open_test_system(Worker) as system:
        receipt = await system.client.ref(Worker).submit(Work("shielded", 10), id="1")
        await trio.sleep(2)
        assert await receipt.cancel()
        assert not await receipt.cancel(), "it was cancelled before"
        assert await receipt.result() == 5
        assert (await status_of(system, Worker, "1"))[0] is Status.SUCCESS
        assert await system.client.ref(Worker).ask(Work("next", 1)) == 5


async def test_one_that_waits_at_a_node_is_settled_at_once_and_never_begun(mock_clock: trio.testing.MockClock):
    async with open_test_system(Worker) as system:
        ref = system.client.ref(Worker)
        await ref.tell(Work("long", 50))
        receipts = [await ref.submit(Work(name, 1), id=name) for name in ("a", "b", "c")]
        await trio.sleep(1)
        assert await receipts[1].cancel("too late")
        await cancelled(system, "b")
        assert trio.current_time() < 10
        await system.drain()
        assert [line for line in seen if "begins" in line] == ["long begins", "a begins", "c begins"]
        assert await system.client.ref(Worker).ask(Work("next", 1)) == 5


async def test_one_that_waits_for_a_limit_is_settled_at_once_and_never_begun(mock_clock: trio.testing.MockClock):
    class Slow(Worker):
        settings = Settings(title="slow", limits=[RateLimit(1, per=60)])

    async with open_test_system(Slow) as system:
        ref = system.client.ref(Slow)
        receipts = [await ref.submit(Work(name, 1), id=name) for name in ("a", "b", "c")]
        await trio.sleep(1)
        assert await receipts[1].cancel("too late")
        await cancelled(system, "b", Slow)
        await system.drain()
        assert [line for line in seen if "begins" in line] == ["a begins", "c begins"]


async def test_one_that_waits_for_a_batch_is_not_in_it_and_one_in_a_batch_in_flight_goes_on(
    mock_clock: trio.testing.MockClock,
):
    batches: list[list[str]] = []

    class Rows(Actor):
        settings = Settings(title="rows")

        @receive(batch=3, within=10)
        async def save(self, rows: list[Row]) -> None:
            batches.append([row.name for row in rows])
            await trio.sleep(10)

    async with open_test_system(Rows) as system:
        ref = system.client.ref(Rows)
        receipts = [await ref.submit(Row(name), id=name) for name in ("a", "b")]
        await trio.sleep(1)
        assert await receipts[0].cancel("too late")
        await cancelled(system, "a", Rows)
        await trio.sleep(14)
        assert batches == [["b"]]
        assert await receipts[1].cancel("too late")
        await receipts[1].result(timeout=20)
        assert await receipts[1].status() in ("done", "SUCCESS")
        # Nothing but cancelled messages is no batch.
        receipt = await ref.submit(Row("c"), id="c")
        assert await receipt.cancel("too late")
        await trio.sleep(30)
        assert batches == [["b"]]


async def test_a_handler_in_a_thread_is_left_behind_and_reported_with_force():
    go_on = threading.Event()

    class Blocking(Actor):
        settings = Settings(title="blocking")

        @receive
        def block(self, message: Row) -> None:
            seen.append("blocks")
            go_on.wait(20)

    async with open_test_system(Blocking) as system:
        try:
            receipt = await system.client.ref(Blocking).submit(Row("x"), id="1")
            with trio.fail_after(PATIENCE):
                while not seen:  # noqa: ASYNC110 - a thread sets no event of Trio's
                    await trio.sleep(0.01)
            assert await receipt.cancel("too late", force=True)
            with trio.fail_after(PATIENCE), pytest.raises(MessageFailed, match="too late"):
                await receipt.result()
            with trio.fail_after(PATIENCE):
                while not ignored(system):  # noqa: ASYNC110 - an event of ours sets none of Trio's
                    await trio.sleep(0.01)
            (event,) = ignored(system)
            assert (event.title, event.message_id) == ("blocking", "1")
            assert "in wait" in event.where
        finally:
            go_on.set()


def ignored(system: TestSystem) -> list[CancellationIgnored]:
    return [event for event in system.events if isinstance(event, CancellationIgnored)]


async def test_with_force_a_handler_that_ends_in_time_is_not_reported(mock_clock: trio.testing.MockClock):
    async with open_test_system(Worker) as system:
        receipt = await system.client.ref(Worker).submit(Work("usual"), id="1")
        await trio.sleep(2)
        assert await receipt.cancel("too late", force=True)
        await cancelled(system, "1")
        await trio.sleep(5)
        assert ignored(system) == []


@pytest.mark.parametrize("forced_at_first", [True, False])
async def test_with_force_a_handler_that_shields_itself_is_reported_once_after_a_second(
    mock_clock: trio.testing.MockClock, forced_at_first: bool
):
    async with open_test_system(Worker) as system:
        receipt = await system.client.ref(Worker).submit(Work("shielded", 20), id="1")
        await trio.sleep(2)
        assert await receipt.cancel("too late", force=forced_at_first)
        if not forced_at_first:
            await trio.sleep(5)
            assert ignored(system) == []
            assert await receipt.cancel("too late", force=True), "that is more"
        assert not await receipt.cancel("too late", force=True)
        await trio.sleep(0.5)
        assert ignored(system) == []
        await trio.sleep(1.5)
        (event,) = ignored(system)
        assert (event.title, event.message_id) == ("worker", "1")
        assert 1 <= event.seconds < 1.5
        assert "in work" in event.where.splitlines()[0]
        (node,) = system.broker.nodes
        (subscription,) = node._intakes
        for _ in range(5):
            subscription.sink.cancel(receipt.source, "1", "too late", force=True)  # As brokers do, until it is over.
            await trio.sleep(1)
        assert len(ignored(system)) == 1
        assert await receipt.result() == 5


async def test_with_force_one_that_has_not_begun_is_dropped_and_nothing_is_reported(
    mock_clock: trio.testing.MockClock,
):
    async with open_test_system(Worker) as system:
        ref = system.client.ref(Worker)
        await ref.tell(Work("long", 50))
        receipt = await ref.submit(Work("waits"), id="1")
        await trio.sleep(1)
        assert await receipt.cancel("too late", force=True)
        await cancelled(system, "1")
        await trio.sleep(5)
        assert ignored(system) == []


@asynccontextmanager
async def running_run(system: TestSystem, **options: Any) -> AsyncGenerator[Any]:
    done = step(Worker, Work("done", 1), name="done")
    running = step(Worker, Work("running"), name="running", after=[done])
    queued = step(Worker, Work("queued"), name="queued", after=[done])
    delayed = step(Worker, Work("delayed"), name="delayed", delay=50)
    unsent = step(Worker, Work("unsent"), name="unsent", after=[running, queued, delayed])
    run = await system.client.start(
        Flow(unsent, on_error=lambda _: step(Worker, Work("alarm")), **options), id="the-run"
    )
    await trio.sleep(5)
    assert seen == ["done begins", "done ends", "running begins"]
    yield run


async def test_cancelling_a_run_cancels_its_steps_wherever_they_are(mock_clock: trio.testing.MockClock):
    async with open_test_system(Worker) as system, running_run(system) as run:
        assert await run.cancel("too late")
        await trio.sleep(1)
        assert seen == ["done begins", "done ends", "running begins", "running cancelled", "running ends"]
        statuses = {one.name: one.status for one in await run.steps()}
        assert statuses.pop("done") == "SUCCESS"
        assert set(statuses.values()) == {"CANCELLED"}
        assert await run.status() == "CANCELLED"
        await trio.sleep(200)
        assert len(seen) == 5, "nothing more has begun, on_error neither"
        assert not await run.cancel("again")
        assert await status_of(system, Worker, "the-run/1") == (Status.CANCELLED, "too late")


async def test_a_deadline_cancels_the_steps_in_flight(mock_clock: trio.testing.MockClock):
    async with open_test_system(Worker) as system, running_run(system, deadline=60) as run:
        await trio.sleep(54)
        assert len(seen) == 3
        await trio.sleep(2)
        assert seen[3:5] == ["running cancelled", "running ends"]
        assert await run.status() == "FAILURE"
        await trio.sleep(1)
        assert seen[5:] == ["alarm begins"]
