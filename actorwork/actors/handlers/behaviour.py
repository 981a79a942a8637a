"""What an actor handles messages with now: its class's handlers, or those that `become` has put in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actorwork.actors.handlers.table import HandlerTable, handlers_of, local_keywords
from actorwork.errors import MessageRefused, SettingsError

if TYPE_CHECKING:
    from actorwork.actors.handlers.table import Handler
    from actorwork.message import Delivery


class Behaviour:
    """A choice of handlers, never changed in place: `become` returns another one.

    All actors of a class begin with the same object, so an idle actor, of which there may be a hundred thousand, has
    none of its own.
    """

    __slots__ = ("current", "usual")

    def __init__(self, usual: HandlerTable, current: HandlerTable) -> None:
        self.usual = usual
        """The class's handlers."""
        self.current = current

    def __repr__(self) -> str:
        return f"<behaviour: {self.current!r}>"

    @property
    def is_changed(self) -> bool:
        return self.current is not self.usual

    def become(self, title: str, handlers: Sequence[Callable[..., Any]]) -> Behaviour:
        """Return the behaviour with these methods alone; raises `SettingsError` for one that cannot be a handler."""
        if not handlers:
            raise SettingsError("become wants at least one method; unbecome goes back to the class's handlers")
        table = HandlerTable(f"{title} as {', '.join(handler.__name__ for handler in handlers)}", self.usual.cls)
        for handler in handlers:
            table.add(getattr(handler, "__func__", handler))
        # The limits and batches of an actor are set up once, from its class: rules of other methods would be ignored.
        unknown = {handler.name for handler in table if handler.has_rules}
        unknown -= {handler.name for handler in self.usual}
        if unknown:
            raise SettingsError(
                f"become: {', '.join(sorted(unknown))} has a limit or a retry policy of its own: mark it with @receive"
            )
        return Behaviour(self.usual, table)

    def unbecome(self) -> Behaviour:
        """Return the behaviour with the class's own handlers."""
        return Behaviour(self.usual, self.usual) if self.is_changed else self

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


def behaviour_of(cls: type) -> Behaviour:
    """Return the behaviour with which all actors of a class begin, made when first asked for."""
    behaviour: Behaviour | None = cls.__dict__.get("__actorwork_behaviour__")
    if behaviour is None:
        table = handlers_of(cls)
        behaviour = Behaviour(table, table)
        cls.__actorwork_behaviour__ = behaviour  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    return behaviour
