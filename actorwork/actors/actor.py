"""The base class of every actor."""

from __future__ import annotations

import inspect
from typing import Any, overload

from actorwork.actors.context.context import Context
from actorwork.actors.handlers.annotations import keep_local_names
from actorwork.actors.handlers.declared import check_declared
from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.tree.hooks import Hooks
from actorwork.errors import NotRunning


class _ContextSlot:
    """Raises until the context is there; a test, like the runtime, sets the attribute."""

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


class Actor(Hooks):
    """A worker with state of its own, which handles one message at a time.

    A subclass declares its `settings` and marks its handlers with `receive`. Every incarnation is a fresh
    instance; what it needs comes in through its constructor (`Child(partial(Greeter, db=db))`).
    """

    context: Context = _ContextSlot()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Now, and not when the actor starts: the locals of the function that defines the class are gone by then.
        keep_local_names(cls, inspect.currentframe())
        check_declared(cls)

    @classmethod
    def __reply_type__(cls, message: object) -> Any:
        """Return the type of the reply to a message, for a workflow; raise `MessageRefused` if no handler takes it."""
        return handlers_of(cls).reply_type(message)
