"""Messages that an actor has set aside with `context.stash`, in the order in which it did.

It takes two steps. `context.stash` reserves a place and marks the message in flight; when its handler has returned, the
executor adds the message here. Handlers run at the same time (`Settings.concurrency`), also in threads, and each
must find the places of the others taken. A handler that fails after all has ended its message, and frees the place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from threading import Lock
from typing import TYPE_CHECKING

from actorwork.actors.mailbox.calls import CallState
from actorwork.errors import MailboxFull
from actorwork.message import Delivery

if TYPE_CHECKING:
    from actorwork.actors.context.in_flight import InFlight
    from actorwork.actors.mailbox.calls import Item, LocalCall
    from actorwork.actors.mailbox.mailbox import Mailbox


class Stash:
    """One actor's stashed messages; they survive its restarts."""

    __slots__ = ("_bound", "_items", "_lock", "_mailbox", "_reserved", "_title")

    def __init__(self, title: str, bound: int, mailbox: Mailbox) -> None:
        self._title = title
        self._bound = bound
        self._mailbox = mailbox
        self._items: list[Item] = []
        self._reserved: list[InFlight | LocalCall] = []
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<stash of {self._title!r}: {len(self._items)} of {self._bound}>"

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def reserve(self, current: InFlight | LocalCall) -> None:
        """Mark the message in flight as stashed; raises `MailboxFull` if there is no place for it."""
        with self._lock:
            # Those whose handlers have failed after all have another state by now.
            self._reserved = [one for one in self._reserved if one.state is CallState.STASHED and one is not current]
            count = len(self._items) + len(self._reserved)
            if count >= self._bound:
                raise MailboxFull(f"{self._title!r} has stashed {count} of {self._bound} messages; unstash some first")
            current.state = CallState.STASHED
            self._reserved.append(current)

    def add(self, item: Item) -> None:
        """Take in a message whose handler has returned."""
        with self._lock:
            # By identity; a delivery has ended the `InFlight` that stood for it, and `reserve` finds that.
            self._reserved = [one for one in self._reserved if one is not item]
        self._items.append(item)
        if isinstance(item, Delivery):
            self._mailbox.delivery_set_aside()

    def unstash(self) -> None:
        """Put all messages to the front of the mailbox, in their order."""
        items, self._items = self._items, []
        if items:
            self._mailbox.put_first(items)

    def take_deliveries(self, sources: Collection[str] | None = None) -> list[Delivery]:
        """Remove and return the deliveries; none for a pause of `sources`, since their handling has begun."""
        if sources is not None:
            return []
        found = [item for item in self._items if isinstance(item, Delivery)]
        self._items = [item for item in self._items if not isinstance(item, Delivery)]
        return found
