"""The outcomes that a bridge waits for: those that are sent to it, and those that it has to look up.

A message names the address of the bridge that has published it, and its outcome is sent there. The outcome of a message
that another bridge may have published (one that has died, or that is slower) is stored at the broker, like all of them:
it is looked up, at once and whenever the message has changed.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from actorwork.abc import Broker, Changes, PendingOutcome
from actorwork.errors import BrokerError
from actorwork.message import Outcome

_LOOK_AGAIN: Final = 10.0
"""Seconds after a failed look until the next one, if nothing has changed before."""


class StoredOutcome(PendingOutcome):
    """The outcome of a message that another bridge may have published."""

    def __init__(self, broker: Broker, changes: Changes, source: str, id: str) -> None:
        self._broker = broker
        self._changes = changes
        self._source = source
        self._id = id

    def __repr__(self) -> str:
        return f"<StoredOutcome of {self._id} of {self._source}>"

    async def outcome(self) -> Outcome:
        watch = await self._changes.watch(self._source, self._id)
        try:
            while True:
                try:
                    found = await self._broker.find_outcome(self._source, self._id)
                except BrokerError:  # The broker reports that it is away, and tells all watches when it is back.
                    with trio.move_on_after(_LOOK_AGAIN):
                        await watch.changed()
                    continue
                if found is not None:
                    return found
                await watch.changed()
        finally:
            await watch.aclose()

    def close(self) -> None:
        """There is nothing to close: the watch ends with the wait."""


@attrs.define(eq=False)
class Followed:
    """A task whose outcome is awaited; while its message is held back, that can only be its cancellation."""

    id: str
    outcome: PendingOutcome
    due: float
    is_held: bool
    waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Cancelled when another wait has taken its place."""
