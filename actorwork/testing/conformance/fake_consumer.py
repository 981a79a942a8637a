"""The consumers in the tests: an actor as a broker sees it, in this process or in another.

FakeConsumer      a sink with bounded credit, its subscription, and the node that reads for it
RemoteConsumer    the same in a process of its own, which can be killed and stopped
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import attrs
import trio

from actorwork.abc import Broker, Node, PendingOutcome, Subscription
from actorwork.events import Event, Fenced, LeaseLost
from actorwork.message import Delivery, Envelope, Failure
from actorwork.policy.settlement import Ack, Settlement

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Broker]]

PATIENCE: Final = 60.0
"""Seconds after which a test gives up waiting for something that must happen."""
QUIET: Final = 0.15
"""Seconds in which nothing must come, if no later message can prove it."""
LATE: Final = 10.0
"""Seconds by which a busy machine may be late."""
FAILURE: Final = Failure("ValueError", "no such thing", "Traceback: here")
HISTORY: Final = "actorwork-history"


class FakeConsumer:
    """A sink with bounded credit, its subscription, and the node that reads for it."""

    def __init__(
        self, group: str, sources: Sequence[str], *, room: int, max_crashes: int, is_told_failures: bool = False
    ) -> None:
        self.capacity = room
        self.reserve = 0
        """The extra credit for urgent deliveries."""
        self.waiting: list[Delivery] = []
        self.most = 0
        self.offered = 0
        self.revoked = 0
        self.cancelled: dict[tuple[str, str], tuple[str, bool]] = {}
        """The messages that are to be cancelled, by source and id: why, and whether by force."""
        self.events: list[Event] = []
        self.node: Node
        self.subscription = Subscription(
            group, f"actor {group}", tuple(sources), self, max_crashes, is_told_failures=is_told_failures
        )
        self._change = trio.Event()

    # The sink.

    def credit(self, *, urgent: bool = False) -> int:
        return max(0, self.capacity + (self.reserve if urgent else 0) - len(self.waiting))

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.waiting.extend(deliveries)
        self.offered += len(deliveries)
        self.most = max(self.most, len(self.waiting))
        self._changed()

    def cancel(self, source: str, message_id: str, reason: str, *, force: bool = False) -> None:
        self.cancelled[source, message_id] = (reason, force)
        self._changed()

    def revoke(self) -> None:
        self.waiting.clear()
        self.revoked += 1
        self._changed()

    # The actor.

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self._changed()

    def seen(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def _changed(self) -> None:
        self._change.set()
        self._change = trio.Event()

    async def wait(self, condition: Callable[[], object], what: str) -> None:
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._change.wait()
            return
        raise AssertionError(f"waited {PATIENCE} s for {what}; waiting: {self.waiting}, events: {self.events[-5:]}")

    async def take(self, count: int = 1) -> list[Delivery]:
        """Take `count` deliveries, each as soon as it is offered."""
        taken: list[Delivery] = []
        while len(taken) < count:
            missing = count - len(taken)
            await self.wait(lambda: self.waiting, f"{missing} deliveries more of {count}")
            taken += self.waiting[:missing]
            del self.waiting[:missing]
            self.node.resume(self.subscription)
        return taken

    async def take_one(self) -> Delivery:
        return (await self.take())[0]

    async def settle(
        self, delivery: Delivery, settlement: Settlement | None = None, published: Sequence[Envelope] = ()
    ) -> None:
        """Settle (by default: acknowledge), and wait until it is applied."""
        self.node.settle(self.subscription, delivery, settlement or Ack(), published)
        await self.node.wait_settled()

    async def release_deliveries(self, *deliveries: Delivery, aside: float = 0.0) -> None:
        await self.node.release_deliveries(self.subscription, deliveries, aside=aside)

    async def expect_only(self, last: str) -> None:
        """Check that the next delivery has this id: no other came before it."""
        delivery = await self.take_one()
        assert delivery.id == last, f"expected {last} and nothing before it, got {delivery}"
        await self.settle(delivery)

    async def expect_nothing(self, seconds: float = QUIET) -> None:
        await trio.sleep(seconds)
        assert not self.waiting, f"expected nothing, got {self.waiting}"

    async def expect_nothing_more(self, seconds: float = QUIET) -> None:
        before = list(self.waiting)
        await trio.sleep(seconds)
        assert self.waiting == before, f"expected nothing but {before}, got {self.waiting}"


@asynccontextmanager
async def open_consumer(
    broker: Broker,
    *sources: str,
    group: str = "first",
    room: int = 100,
    max_crashes: int = 3,
    lease: float = 5.0,
    is_told_failures: bool = False,
) -> AsyncGenerator[FakeConsumer]:
    """Open a node with one subscription."""
    consumer = FakeConsumer(group, sources, room=room, max_crashes=max_crashes, is_told_failures=is_told_failures)
    async with broker.open_node([consumer.subscription], lease=lease, emit=consumer.emit) as node:
        consumer.node = node
        yield consumer


# ------------------------------------------------------------------------------------------------ another process


@attrs.define(eq=False)
class RemoteConsumer:
    """A consumer in another process. Its deliveries are identified by their numbers there, from 0 on.

    Arguments are pickled: an envelope needs its own headers, at least `{}`.
    """

    _process: Any
    _connection: Any

    async def take(self, count: int = 1) -> list[str]:
        """Take `count` deliveries, and return their ids."""
        return await self._ask("take", count)

    async def settle(self, number: int, settlement: Settlement, published: Sequence[Envelope] = ()) -> None:
        await self._ask("settle", number, settlement, list(published))

    async def publish_fenced(self, number: int, published: Sequence[Envelope]) -> bool:
        return await self._ask("publish_fenced", number, list(published))

    async def report(self) -> dict[str, Any]:
        """Return `revoked`, `offered`, `incarnation`, `fenced`, `lost` (pairs of incarnations)."""
        return await self._ask("report")

    async def wait_revoked(self) -> None:
        await self._ask("wait_revoked")

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        self._process.kill()
        await trio.to_thread.run_sync(self._process.join, abandon_on_cancel=True)

    async def _ask(self, *command: object) -> Any:
        self._connection.send(command)
        with trio.move_on_after(PATIENCE + 2):
            is_error, answer = await trio.to_thread.run_sync(self._connection.recv, abandon_on_cancel=True)
            if is_error:
                raise AssertionError(f"in the other process: {answer}")
            return answer
        raise AssertionError(f"the other process did not answer to {command}")


@asynccontextmanager
async def open_remote_consumer(
    opener: Opener, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
) -> AsyncGenerator[RemoteConsumer]:
    """Open a consumer in a process of its own, which is killed at the end of the block."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_serve_remote_consumer, args=((there, opener, sources, group, room, max_crashes, lease),), daemon=True
    )
    await trio.to_thread.run_sync(process.start)
    there.close()
    consumer = RemoteConsumer(process, here)
    try:
        with trio.move_on_after(PATIENCE + 10):
            await trio.to_thread.run_sync(here.recv, abandon_on_cancel=True)
        yield consumer
    finally:
        with trio.CancelScope(shield=True):
            await consumer.kill()
        here.close()


def _serve_remote_consumer(arguments: tuple[Any, ...]) -> None:
    trio.run(_remote_consumer, *arguments)


async def _remote_consumer(
    connection: Any,
    opener: Opener,
    sources: Sequence[str],
    group: str,
    room: int,
    max_crashes: int,
    lease: float,
) -> None:
    taken: list[Any] = []
    async with (
        opener() as broker,
        open_consumer(broker, *sources, group=group, room=room, max_crashes=max_crashes, lease=lease) as consumer,
    ):
        connection.send("ready")
        while True:
            command: tuple[Any, ...] = await trio.to_thread.run_sync(connection.recv, abandon_on_cancel=True)
            name, arguments = command[0], command[1:]
            try:
                answer: object = None
                if name == "take":
                    new = await consumer.take(*arguments)
                    taken += new
                    answer = [delivery.id for delivery in new]
                elif name == "settle":
                    number, settlement, published = arguments
                    await consumer.settle(taken[number], settlement, published)
                elif name == "publish_fenced":
                    number, published = arguments
                    answer = await consumer.node.publish_fenced(consumer.subscription, taken[number], published)
                elif name == "wait_revoked":
                    await consumer.wait(lambda: consumer.revoked, "being revoked")
                elif name == "report":
                    answer = {
                        "revoked": consumer.revoked,
                        "offered": consumer.offered,
                        "incarnation": consumer.node.incarnation,
                        "fenced": len(consumer.seen(Fenced)),
                        "counted": consumer.node.statistics()["fenced"],
                        "lost": [(event.incarnation, event.successor) for event in consumer.seen(LeaseLost)],
                    }
                connection.send((False, answer))
            except Exception as error:  # noqa: BLE001 - reported to the calling process
                connection.send((True, repr(error)))


async def expect_cancelled(waiting: PendingOutcome, broker: Broker, source: str, id: str) -> None:
    """Check that the outcome of a message is `Cancelled`, both for a caller that waits for it and in the store."""
    with trio.fail_after(PATIENCE):
        for outcome in (await waiting.outcome(), await broker.find_outcome(source, id)):
            assert outcome is not None
            assert outcome.status == "rejected"
            assert outcome.failure is not None
            assert outcome.failure.type == "Cancelled"


async def until(condition: Callable[[], Awaitable[object]], what: str, *, within: float = PATIENCE) -> None:
    """Poll a condition until it holds."""
    with trio.move_on_after(within):
        while not await condition():  # noqa: ASYNC110 - the broker sends no notification of such conditions
            await trio.sleep(0.01)
        return
    raise AssertionError(f"waited {within} s for {what}")


def true_of(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        await trio.lowlevel.checkpoint()
        return condition()

    return ask
