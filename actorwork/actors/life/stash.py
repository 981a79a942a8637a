"""Messages that an actor has set aside with `context.stash`, in the order in which it did.

It takes two steps. `context.stash` checks that there is room and marks the message in flight; when its handler has
ended, the executor adds the message here. Handlers that run at the same time (`Settings.concurrency`) may all have
found the same last place: the bound is then exceeded by at most one message for each of the others.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from actorwork.errors import MailboxFull
from actorwork.message import Delivery

if TYPE_CHECKING:
    from actorwork.actors.mailbox.calls import Item
    from actorwork.actors.mailbox.mailbox import Mailbox


class Stash:
    """One actor's stashed messages; they survive its restarts."""

    __slots__ = ("_bound", "_items", "_mailbox", "_title")

    def __init__(self, title: str, bound: int, mailbox: Mailbox) -> None:
        self._title = title
        self._bound = bound
        self._mailbox = mailbox
        self._items: list[Item] = []

    def __repr__(self) -> str:
        return f"<stash of {self._title!r}: {len(self._items)} of {self._bound}>"

    def __len__(self) -> int:
        return len(self._items)

    def check_room(self) -> None:
        """Raise `MailboxFull` if there is no room for one more."""
        count = len(self._items)
        if count >= self._bound:
            raise MailboxFull(f"{self._title!r} has stashed {count} of {self._bound} messages; unstash some first")

    def add(self, item: Item) -> None:
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
