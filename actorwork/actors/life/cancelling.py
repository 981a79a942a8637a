"""Finds the deliveries of messages that were cancelled: in flight, or waiting for their turn.

    in flight    its executor cancels the handler, and settles by how that ends
    waiting      settled at once, so that those that wait for the outcome have it; skipped when its turn comes

A message that is handled in one batch with others is left alone: the handler is one call for all of them. With force, a
handler that does not end is reported, so that its process can be replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

import trio

from actorwork import events
from actorwork.message import FAILED, Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actorwork.abc import EventSink
    from actorwork.actors.mailbox.calls import Item
    from actorwork.settings import Settings

GRACE: Final = 1.0
"""Seconds that a handler has to end after its message was cancelled with force."""


class CancellableExecutor(Protocol):
    @property
    def item(self) -> Item | None: ...
    def cancel(self) -> bool:
        """Cancel what is in flight; return whether that is possible, and was not done before."""
        ...


class CancellableIncarnation(Protocol):
    @property
    def executors(self) -> Iterable[CancellableExecutor]: ...


class HandlersAtWork(Protocol):
    def where(self, actor_id: str, message_id: str) -> str | None:
        """Return the stack of the handler that is at work on a message, left behind or not; None if there is none."""
        ...


class CancellableActor(Protocol):
    title: str
    settings: Settings


class WaitingItems(Protocol):
    def __iter__(self) -> Iterator[Item]: ...


def cancel_in_flight(incarnation: CancellableIncarnation | None, source: str, message_id: str) -> Delivery | None:
    """Cancel the handler of a message; return its delivery, if there is one that can be cancelled."""
    for executor in () if incarnation is None else incarnation.executors:
        if is_of(executor.item, source, message_id) and executor.cancel():
            return executor.item
    return None


def waiting_in(holdings: Iterable[WaitingItems], source: str, message_id: str) -> Delivery | None:
    for holding in holdings:
        for item in holding:
            if is_of(item, source, message_id):
                return item
    return None


async def report_if_ignored(
    handlers: HandlersAtWork, emit: EventSink, actor: CancellableActor, message_id: str
) -> None:
    """Report the handler of a message that was cancelled with force, unless it ends within `GRACE`."""
    began = trio.current_time()
    await trio.sleep(GRACE)
    where = handlers.where(actor.settings.id, message_id)
    if where is not None:
        seconds = trio.current_time() - began
        emit(events.CancellationIgnored(actor.settings.id, actor.title, message_id, seconds, where))


def is_of(item: Item | None, source: str, message_id: str) -> TypeGuard[Delivery]:
    """Whether an item is a delivery of a message; that of the hook for its failure is another one."""
    return isinstance(item, Delivery) and item.id == message_id and item.source == source and FAILED not in item.headers
