"""Where deliveries gather for a handler that takes several at once.

The first one begins a gathering. It is over when it is full, or when its time is: then a message in the actor's own
lane has an executor take it. Until then they are in nobody's hand: no timeout runs, a shutdown hands them back, a pause
those of its sources, and a restart of the actor leaves them where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from actorwork.actors.mailbox.calls import Queue, SystemCall

if TYPE_CHECKING:
    from collections.abc import Collection

    from actorwork.actors.handlers.table import Handler
    from actorwork.actors.life.cell import Cell
    from actorwork.actors.limits.admission import Permit
    from actorwork.message import Delivery


@attrs.frozen(eq=False)
class BatchItem:
    """A delivery in a batch, read, and what it holds at the gate."""

    delivery: Delivery
    message: object
    permit: Permit | None


@attrs.frozen(eq=False)
class Batch:
    """A batch that is not full yet."""

    handler: Handler
    members: list[BatchItem] = attrs.field(factory=list[BatchItem])


@attrs.frozen(eq=False)
class BatchTimeout:
    """Tells the actor that the time of a gathering is over."""

    gathering: Batch


class Batches:
    """What gathers for the handlers of one actor."""

    __slots__ = ("_cell", "_gatherings")

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._gatherings: dict[str, Batch] = {}

    def __repr__(self) -> str:
        return f"<batches of {self._cell.title!r}: {len(self)} waiting>"

    def __len__(self) -> int:
        return sum(len(gathering.members) for gathering in self._gatherings.values())

    def join(self, handler: Handler, size: int, within: float, member: BatchItem) -> Batch | None:
        """Add a member; return the batch if it is full."""
        gathering = self._gatherings.get(handler.name)
        if gathering is None:
            gathering = self._gatherings[handler.name] = Batch(handler)
            if size > 1:
                self._cell.services.start_soon(self._wait, gathering, within)
        gathering.members.append(member)
        if len(gathering.members) < size:
            return None
        del self._gatherings[handler.name]
        return gathering

    def take(self, gathering: Batch) -> Batch | None:
        """Take out a batch whose time is over, unless it was full before."""
        name = gathering.handler.name
        if self._gatherings.get(name) is not gathering:
            return None
        return self._gatherings.pop(name)

    def take_all(self) -> list[BatchItem]:
        """Take out all that wait: they will not be handled here."""
        found = [member for gathering in self._gatherings.values() for member in gathering.members]
        self._gatherings.clear()
        return found

    def take_from(self, sources: Collection[str]) -> list[BatchItem]:
        """Take out those that came from these sources; others go on gathering, within the same time."""
        found: list[BatchItem] = []
        for name, gathering in list(self._gatherings.items()):
            found += [member for member in gathering.members if member.delivery.source in sources]
            gathering.members[:] = [member for member in gathering.members if member.delivery.source not in sources]
            if not gathering.members:
                del self._gatherings[name]
        return found

    async def _wait(self, gathering: Batch, within: float) -> None:
        await trio.sleep(within)
        if self._gatherings.get(gathering.handler.name) is gathering:
            self._cell.mailbox.put(SystemCall(BatchTimeout(gathering), None, None, queue=Queue.SELF))
