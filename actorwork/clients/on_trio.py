"""The driver of clients in Trio programs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from actorwork.clients.driver import OutOfTime
from actorwork.errors import BrokerError, NotRunning
from actorwork.state.on_trio import TrioWaiting

if TYPE_CHECKING:
    from actorwork.abc import Changes, Replies, Watch
    from actorwork.clients.driver import Reached

T = TypeVar("T")


class ClientClosed(BrokerError, NotRunning):
    """The client was closed: a `BrokerError` as from every closed client, and what a system that has ended raises."""


def closed(url: str) -> ClientClosed:
    return ClientClosed(f"this client of {url} is closed: its block, or the system that it belongs to, has ended")


class EndingChanges:
    """The changes that a broker hears of, until the client has ended: then all who wait for some get `ClientClosed`."""

    def __init__(self, changes: Changes, url: str) -> None:
        self._changes = changes
        self._url = url
        self._waits: set[trio.CancelScope] = set()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<EndingChanges at {self._url}, {len(self._waits)} waits>"

    async def watch(self, source: str, id: str) -> EndingWatch:
        return EndingWatch(await self._changes.watch(source, id), self)

    async def wait(self, watch: Watch) -> None:
        if not self._is_over:
            with trio.CancelScope() as scope:
                self._waits.add(scope)
                try:
                    await watch.changed()
                    return
                finally:
                    self._waits.discard(scope)
        raise closed(self._url)

    def end(self) -> None:
        self._is_over = True
        for scope in self._waits:
            scope.cancel(reason="the client has ended")


@attrs.frozen
class EndingWatch:
    """One caller that watches."""

    _watch: Watch
    _changes: EndingChanges

    async def changed(self) -> None:
        await self._changes.wait(self._watch)

    async def aclose(self) -> None:
        await self._watch.aclose()


class TrioDriver:
    """Its tasks run in the client's nursery, and outlive the calls that start them."""

    def __init__(self, reached: Reached, nursery: trio.Nursery) -> None:
        self._reached = reached
        self._nursery = nursery
        self._replies: Replies | None = None
        self._changes: Changes | None = None
        self._opening = trio.Lock()

    def __repr__(self) -> str:
        return f"<TrioDriver at {self._reached.url}>"

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def within(self, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
        with trio.move_on_after(seconds):
            return await work()
        raise OutOfTime

    async def aclose(self, updates: Any) -> None:
        with trio.CancelScope(shield=True):
            await updates.aclose()

    @property
    def waiting(self) -> TrioWaiting:
        return TrioWaiting()

    async def replies(self) -> Replies:
        # If cancelled while opening, the half-open place is closed again, and the next `ask` tries anew.
        async with self._opening:
            replies = self._replies
            if replies is None:
                replies = self._replies = await self._start_replies()
            return replies

    async def changes(self) -> Changes:
        async with self._opening:
            changes = self._changes
            if changes is None:
                changes = self._changes = await self._start_changes()
            return changes

    async def _start_changes(self) -> Changes:
        changes: Changes = await self._kept_open(self._keep_changes_open)
        return changes

    async def _keep_changes_open(self, *, task_status: trio.TaskStatus[Changes]) -> None:
        broker = self._reached.broker or await self._reached.wait()
        async with broker.open_changes() as changes:
            ending = EndingChanges(changes, self._reached.url)
            task_status.started(ending)
            try:
                await trio.sleep(math.inf)
            finally:
                self._changes = None
                ending.end()

    async def _start_replies(self) -> Replies:
        replies: Replies = await self._kept_open(self._keep_replies_open)
        return replies

    async def _kept_open(self, keep: Callable[..., Awaitable[object]]) -> Any:
        try:
            return await self._nursery.start(keep)
        except RuntimeError as error:
            # Trio's, of a nursery that is over: its block has cancelled it at its end.
            if isinstance(error, NotRunning) or not self._nursery.cancel_scope.cancel_called:
                raise
            raise closed(self._reached.url) from None

    async def _keep_replies_open(self, *, task_status: trio.TaskStatus[Replies]) -> None:
        broker = self._reached.broker or await self._reached.wait()
        async with broker.open_replies() as replies:
            task_status.started(replies)
            try:
                await trio.sleep(math.inf)
            finally:
                self._replies = None
