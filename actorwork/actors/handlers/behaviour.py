"""What an actor handles messages with now: its class's handlers, or those that `become` has put in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actorwork.actors.handlers.table import HandlerTable, local_keywords
from actorwork.errors import MessageRefused, SettingsError

if TYPE_CHECKING:
    from actorwork.actors.handlers.table import Handler
    from actorwork.message import Delivery


class Behaviour:
    """One actor's handlers. `unbecome`, and every restart, lead back to those of its class."""

    __slots__ = ("_title", "current", "usual")

    def __init__(self, title: str, usual: HandlerTable) -> None:
        self._title = title
        self.usual = usual
        """The class's handlers."""
        self.current = usual
        # An attribute and no property: executors compare it with `usual` for every message.

    def __repr__(self) -> str:
        return f"<behaviour of {self._title!r}: {self.current!r}>"

    @property
    def is_changed(self) -> bool:
        return self.current is not self.usual

    def become(self, handlers: Sequence[Callable[..., Any]]) -> None:
        """Handle with these methods alone; raises `SettingsError` for one that cannot be a handler here."""
        if not handlers:
            raise SettingsError("become wants at least one method; unbecome goes back to the class's handlers")
        table = HandlerTable(f"{self._title} as {', '.join(handler.__name__ for handler in handlers)}")
        for handler in handlers:
            table.add(getattr(handler, "__func__", handler))
        # The limits and batches of an actor are set up once, from its class: rules of other methods would be ignored.
        unknown = {handler.name for handler in table if handler.has_rules}
        unknown -= {handler.name for handler in self.usual}
        if unknown:
            raise SettingsError(
                f"become: {', '.join(sorted(unknown))} has a limit or a retry policy of its own: mark it with @receive"
            )
        self.current = table

    def unbecome(self) -> None:
        self.current = self.usual

    def check(self, message: object) -> None:
        """Raise `MessageRefused` if neither the class's handlers nor the current ones take a local message."""
        try:
            local_keywords(self.usual.for_message(message), message)
        except MessageRefused:
            if self.current is self.usual:
                raise
            local_keywords(self.current.for_message(message), message)

    def for_delivery(self, delivery: Delivery) -> Handler:
        """Return the handler of a delivery; raises `CodecError` where there is none."""
        return self.current.for_delivery(delivery)
