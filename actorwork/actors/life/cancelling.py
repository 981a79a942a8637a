"""Finds the deliveries of messages that were cancelled: in flight, or waiting for their turn.

    in flight    its executor cancels the handler, and settles by how that ends
    waiting      settled at once, so that whoever waits for the outcome has it; skipped when its turn comes

A message that is handled in one batch with others is left alone: the handler is one call for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeGuard

from actorwork.message import FAILED, Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actorwork.actors.mailbox.calls import Item


class CancellableExecutor(Protocol):
    @property
    def item(self) -> Item | None: ...
    def cancel(self) -> bool:
        """Cancel what is in flight; return whether that is possible, and was not done before."""
        ...


class CancellableIncarnation(Protocol):
    @property
    def executors(self) -> Iterable[CancellableExecutor]: ...


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


def is_of(item: Item | None, source: str, message_id: str) -> TypeGuard[Delivery]:
    """Whether an item is a delivery of a message; that of the hook for its failure is another one."""
    return isinstance(item, Delivery) and item.id == message_id and item.source == source and FAILED not in item.headers
