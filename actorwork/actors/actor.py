"""The base class of every actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, overload

from actorwork.actors.context.context import Context
from actorwork.errors import NotRunning, SettingsError
from actorwork.settings import Settings


class _ContextSlot:
    """Stands where the context will be; a test, like the runtime, simply sets the attribute."""

    @overload
    def __get__(self, actor: None, owner: type[Any]) -> _ContextSlot: ...
    @overload
    def __get__(self, actor: Actor, owner: type[Any]) -> Context: ...
    def __get__(self, actor: Actor | None, owner: type[Any]) -> _ContextSlot | Context:
        if actor is None:
            return self
        raise NotRunning(
            f"{owner.__qualname__}.context exists only while the actor runs in a system (from `startup` to `shutdown`);"
            " in a unit test set `actor.context` to a stand-in of your own"
        )


class Actor:
    """A worker with state of its own, which handles one message at a time.

    A subclass declares its `settings` and marks its handlers with `receive`. Every incarnation is a fresh
    instance; what it needs comes in through its constructor (`Child(partial(Greeter, db=db))`).
    """

    settings: ClassVar[Settings]
    context: Context = _ContextSlot()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        settings = cls.__dict__.get("settings")
        if settings is not None and not isinstance(settings, Settings):
            raise SettingsError(f"{cls.__qualname__}.settings wants a Settings(title=…), got {settings!r}")

    async def startup(self) -> None:
        """Acquire resources. No message is handled before this returns; failing here is a failed start."""

    async def shutdown(self) -> None:
        """Release resources. Called once at the end of every incarnation that started, also after a crash.

        Cancelled when the shutdown timeout has passed.
        """

    def on_undelivered(self, messages: Sequence[object]) -> None:
        """Be given the local messages that were told but will not be handled, since the actor has ended for good.

        Called on the last incarnation, after its `shutdown`; must not wait. They are reported as undelivered all the
        same.
        """
