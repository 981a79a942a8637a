"""Who takes part in the questions: an actor as a broker sees it, in this process or in another.

Desk          an inlet with so much room, its subscription, and the node that reads for it
RemoteDesk    the same in a process of its own, which can be killed and stopped
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

PATIENCE: Final = 8.0
"""Seconds after which a test gives up waiting for what must come."""
QUIET: Final = 0.15
"""Seconds for which nothing must come, where no later message can prove it."""
LATE: Final = 0.5
"""Seconds by which a busy machine may be late."""
FAILURE: Final = Failure("ValueError", "no such thing", "Traceback: here")
HISTORY: Final = "actorwork-history"


class FakeConsumer:
    """An inlet with so much room, its subscription, and the node that reads for it."""

    def __init__(self, group: str, sources: Sequence[str], *, room: int, max_crashes: int) -> None:
        self.capacity = room
        self.reserve = 0
        """How much room is kept for urgent deliveries when there is none for others."""
        self.waiting: list[Delivery] = []
        self.most = 0
        self.offered = 0
        self.revoked = 0
        self.events: list[Event] = []
        self.node: Node
        self.subscription = Subscription(group, f"actor {group}", tuple(sources), self, max_crashes)
        self._news = trio.Event()

    # The inlet.

    def credit(self, *, urgent: bool = False) -> int:
        return max(0, self.capacity + (self.reserve if urgent else 0) - len(self.waiting))

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.waiting.extend(deliveries)
        self.offered += len(deliveries)
        self.most = max(self.most, len(self.waiting))
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
        self._news.set()
        self._news = trio.Event()

    async def wait(self, condition: Callable[[], object], what: str) -> None:
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._news.wait()
            return
        raise AssertionError(f"waited {PATIENCE} s for {what}; waiting: {self.waiting}, events: {self.events[-5:]}")

    async def take(self, count: int = 1) -> list[Delivery]:
        """Take so many deliveries, each as soon as it is there."""
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

    async def release_deliveries(self, *deliveries: Delivery) -> None:
        await self.node.release_deliveries(self.subscription, deliveries)

    async def expect_only(self, last: str) -> None:
        """See that the next delivery is the one of this id: nothing was before it."""
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
async def open_desk(
    broker: Broker,
    *sources: str,
    group: str = "first",
    room: int = 100,
    max_crashes: int = 3,
    lease: float = 5.0,
) -> AsyncGenerator[FakeConsumer]:
    """Open a node with one subscription."""
    desk = FakeConsumer(group, sources, room=room, max_crashes=max_crashes)
    async with broker.open_node([desk.subscription], lease=lease, emit=desk.emit) as node:
        desk.node = node
        yield desk


# ------------------------------------------------------------------------------------------------ another process


@attrs.define(eq=False)
class RemoteDesk:
    """A desk in another process. What it took is named by its number there, from 0 on.

    What is sent there is pickled: an envelope needs headers of its own, `{}` at least.
    """

    _process: Any
    _connection: Any

    async def take(self, count: int = 1) -> list[str]:
        """Take so many, and return their ids."""
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

    def go_on(self) -> None:
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
async def open_remote_desk(
    opener: Opener, *sources: str, group: str = "first", room: int = 100, max_crashes: int = 3, lease: float = 5.0
) -> AsyncGenerator[RemoteDesk]:
    """Open a desk in a process of its own, which is killed at the end if it still lives."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_serve_remote_desk, args=((there, opener, sources, group, room, max_crashes, lease),), daemon=True
    )
    await trio.to_thread.run_sync(process.start)
    there.close()
    desk = RemoteDesk(process, here)
    try:
        with trio.move_on_after(PATIENCE + 10):
            await trio.to_thread.run_sync(here.recv, abandon_on_cancel=True)
        yield desk
    finally:
        with trio.CancelScope(shield=True):
            await desk.kill()
        here.close()


def _serve_remote_desk(arguments: tuple[Any, ...]) -> None:
    trio.run(_remote_desk, *arguments)


async def _remote_desk(
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
        open_desk(broker, *sources, group=group, room=room, max_crashes=max_crashes, lease=lease) as desk,
    ):
        connection.send("ready")
        while True:
            command: tuple[Any, ...] = await trio.to_thread.run_sync(connection.recv, abandon_on_cancel=True)
            name, arguments = command[0], command[1:]
            try:
                answer: object = None
                if name == "take":
                    new = await desk.take(*arguments)
                    taken += new
                    answer = [delivery.id for delivery in new]
                elif name == "settle":
                    number, settlement, published = arguments
                    await desk.settle(taken[number], settlement, published)
                elif name == "publish_fenced":
                    number, published = arguments
                    answer = await desk.node.publish_fenced(desk.subscription, taken[number], published)
                elif name == "wait_revoked":
                    await desk.wait(lambda: desk.revoked, "being revoked")
                elif name == "report":
                    answer = {
                        "revoked": desk.revoked,
                        "offered": desk.offered,
                        "incarnation": desk.node.incarnation,
                        "fenced": len(desk.seen(Fenced)),
                        "counted": desk.node.statistics()["fenced"],
                        "lost": [(event.incarnation, event.successor) for event in desk.seen(LeaseLost)],
                    }
                connection.send((False, answer))
            except Exception as error:  # noqa: BLE001 - told to whoever asked
                connection.send((True, repr(error)))


async def expect_cancelled(waiting: PendingOutcome, broker: Broker, source: str, id: str) -> None:
    """See that whoever waits for a message's outcome is told that it was cancelled, and whoever looks finds it."""
    with trio.fail_after(PATIENCE):
        for outcome in (await waiting.outcome(), await broker.find_outcome(source, id)):
            assert outcome is not None
            assert outcome.status == "rejected"
            assert outcome.failure is not None
            assert outcome.failure.type == "Cancelled"


async def until(condition: Callable[[], Awaitable[object]], what: str, *, within: float = PATIENCE) -> None:
    """Ask again and again whether it is so."""
    with trio.move_on_after(within):
        while not await condition():  # noqa: ASYNC110 - a broker says nothing by itself of what is asked here
            await trio.sleep(0.01)
        return
    raise AssertionError(f"waited {within} s for {what}")


def true_of(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        await trio.lowlevel.checkpoint()
        return condition()

    return ask
