"""Where deliveries gather for a handler that takes several at once.

The first delivery begins a batch. The batch is due when it is full or when its time is over; in the second case a
`BatchTimeout` in the actor's self queue makes an executor take it. Until then its deliveries are not in flight: no
timeout runs, a shutdown releases them, a pause releases those of its sources, and a restart of the actor leaves them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from actorwork.actors.mailbox.calls import Queue, SystemCall
from actorwork.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.limits.admission import AdmissionQueue, Permit
    from actorwork.actors.mailbox.mailbox import Mailbox
    from actorwork.message import Delivery


@attrs.frozen(eq=False, repr=False)
class BatchItem(Shown):
    """A delivery in a batch, decoded, with its permit."""

    delivery: Delivery
    message: object
    permit: Permit | None


@attrs.frozen(eq=False, repr=False)
class Batch(Shown):
    """Deliveries for one handler, in the order in which they came."""

    handler: Handler
    items: list[BatchItem] = attrs.field(factory=list[BatchItem])


class BatchTimeout(SystemCall):
    """Has an executor handle a batch whose time is over, unless it was full before."""

    __slots__ = ("batch",)

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch, None, None, queue=Queue.SELF)
        self.batch = batch


class Batches:
    """The batches of one actor, one at a time for each handler."""

    __slots__ = ("_admission", "_batches", "_mailbox", "_start_soon", "_title")

    def __init__(
        self, title: str, mailbox: Mailbox, admission: AdmissionQueue | None, start_soon: Callable[..., None]
    ) -> None:
        self._title = title
        self._mailbox = mailbox
        self._admission = admission
        self._start_soon = start_soon
        self._batches: dict[str, Batch] = {}

    def __repr__(self) -> str:
        return f"<batches of {self._title!r}: {len(self)} waiting>"

    def __len__(self) -> int:
        return sum(len(batch.items) for batch in self._batches.values())

    def __iter__(self) -> Iterator[Delivery]:
        for batch in self._batches.values():
            for item in batch.items:
                yield item.delivery

    def join(self, handler: Handler, size: int, within: float, item: BatchItem) -> Batch | None:
        """Add an item; return the batch if it is full."""
        batch = self._batches.get(handler.name)
        if batch is None:
            batch = self._batches[handler.name] = Batch(handler)
            if size > 1:
                self._start_soon(self._wait, batch, within)
        batch.items.append(item)
        if len(batch.items) < size:
            return None
        del self._batches[handler.name]
        return batch

    def take(self, batch: Batch) -> Batch | None:
        """Remove and return a batch whose time is over; None if it was full before."""
        name = batch.handler.name
        # By identity: since this one was full, the next one may have begun.
        if self._batches.get(name) is not batch:
            return None
        return self._batches.pop(name)

    def take_deliveries(self, sources: Collection[str] | None = None) -> list[Delivery]:
        """Remove and return what will not be handled here: all deliveries, or those from `sources`.

        The others stay, within the same time.
        """
        found: list[Delivery] = []
        for name, batch in list(self._batches.items()):
            taken = [item for item in batch.items if sources is None or item.delivery.source in sources]
            rest = [] if sources is None else [item for item in batch.items if item.delivery.source not in sources]
            batch.items[:] = rest  # in place: `_wait` has this batch
            if not rest:
                del self._batches[name]
            for item in taken:
                if self._admission is not None and item.permit is not None:
                    self._admission.leave(item.permit)
                self._mailbox.delivery_set_aside()
                found.append(item.delivery)
        return found

    async def _wait(self, batch: Batch, within: float) -> None:
        await trio.sleep(within)
        if self._batches.get(batch.handler.name) is batch:
            self._mailbox.put(BatchTimeout(batch))
