"""Topics: one message to every actor that subscribes, within a system.

Nothing is stored, and publishing never waits: a subscriber whose mailbox is full misses the message, which is reported
as undelivered. Messages that must arrive belong to a source at the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from actorwork.errors import ActorStopped, MailboxFull, MessageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actorwork.actors.refs.ref import ActorRef

OnUndelivered: TypeAlias = "Callable[[Sequence[object], str], None]"
"""Reports messages that a subscriber had no room for."""


class Topics:
    """The subscribers of each topic. A subscription ends with the incarnation that made it."""

    def __init__(self) -> None:
        self._subscribers: dict[str, dict[ActorRef[Any], OnUndelivered]] = {}

    def __repr__(self) -> str:
        return f"<topics: {', '.join(f'{topic} ({len(refs)})' for topic, refs in self._subscribers.items())}>"

    def subscribe(self, topic: str, ref: ActorRef[Any], undelivered: OnUndelivered) -> None:
        """Send an actor every message of a topic; once each, however often it subscribes."""
        self._subscribers.setdefault(topic, {})[ref] = undelivered

    def unsubscribe(self, topic: str, ref: ActorRef[Any]) -> None:
        subscribers = self._subscribers.get(topic, {})
        subscribers.pop(ref, None)
        if not subscribers:
            self._subscribers.pop(topic, None)

    def publish(self, topic: str, message: object) -> int:
        """Tell every subscriber, without waiting; return how many took it.

        Raises `MessageRefused` if a subscriber has no handler for it, once all the others have got it.
        """
        taken = 0
        refused: MessageRefused | None = None
        for ref, undelivered in list(self._subscribers.get(topic, {}).items()):
            try:
                ref.tell_nowait(message)
            except MessageRefused as error:
                refused = error
            except MailboxFull:
                undelivered([message], "full")
            except ActorStopped:
                undelivered([message], "gone")
            else:
                taken += 1
        if refused is not None:
            raise refused
        return taken
