"""What the runtime calls on an actor, and what an actor class declares.

Below `Actor` because the description of a tree needs only this: `Actor` adds the context, which returns supervisors,
whose descriptions are made of actor classes. Without `Hooks` these would import each other in a ring.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, cast

from actorwork.errors import SettingsError
from actorwork.message import Failure
from actorwork.settings import Settings

_LOCAL: Final = "__actorwork_settings__"
"""The attribute of a class without settings that holds those of a local actor."""


class Hooks:
    """The part of `Actor` that descriptions and cells know."""

    settings: ClassVar[Settings]
    """What the actor declares about itself. Without it the actor is local, under the name of its class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        settings = cls.__dict__.get("settings")
        if settings is not None and not isinstance(settings, Settings):
            raise SettingsError(f"{cls.__qualname__}.settings wants a Settings(title=…), got {settings!r}")
        if settings is not None and settings.entities is not None and not getattr(cls, "__actorwork_entity__", False):
            raise SettingsError(f"{cls.__qualname__} is no Entity, so it takes no Settings(entities=…)")

    async def startup(self) -> None:
        """Acquire resources. No message is handled before this returns; failing here is a failed start."""

    async def shutdown(self) -> None:
        """Release resources. Called once at the end of every incarnation that started, also after a crash.

        Cancelled when the shutdown timeout has passed.
        """

    async def failed(self, message: Any, failure: Failure) -> None:
        """Learn that a message of this actor has become a dead letter, in a handler of its own.

        Called once for each failure, on whatever node runs the actor: also after the process that handled the message
        has died, and while the actor crashes of it. If a process dies while this runs, it is called again, elsewhere.
        `message` is as its handler takes it (for handlers with keywords a dict of them); if it cannot be read as that,
        its JSON, or else its bytes, or a foreign producer's fields. What is published here is sent. An error is
        reported, and changes nothing.
        """

    def on_undelivered(self, messages: Sequence[object]) -> None:
        """Receive the local messages that were told but will not be handled, since the actor has ended for good.

        Called on the last incarnation, after its `shutdown`; must not wait. They are reported as undelivered all the
        same.
        """


def has_settings(actor: type[Hooks]) -> bool:
    """Whether an actor class declares settings, and with them the title by which a broker knows it."""
    return isinstance(getattr(actor, "settings", None), Settings)


def settings_of(actor: type[Hooks]) -> Settings:
    """Return the settings of an actor class, or those of a local actor under the name of the class."""
    if has_settings(actor):
        return actor.settings
    local: Settings | None = vars(actor).get(_LOCAL)
    if local is None:  # Made once for each class: there may be a hundred thousand actors.
        local = Settings(title=actor.__name__)
        setattr(actor, _LOCAL, local)
    return local


def no_title(actor: type) -> str:
    """Return the reason why a broker cannot reach an actor without settings."""
    return (
        f"{actor.__qualname__} has no settings, so it is a local actor, which no broker knows; declare"
        " settings = Settings(title=…) in the class"
    )


def hook_of(actor: Any, name: str) -> Callable[..., Awaitable[Any]]:
    """Return a hook of an instance, to be awaited on Trio; that of an actor on asyncio runs on its loop."""
    hook: Callable[..., Awaitable[Any]] = getattr(actor, name)
    if settings_of(cast("Hooks", actor).__class__).loop == "trio":
        return hook
    return partial(actor.context.on_asyncio, hook)


def has_hook(actor: object, name: str) -> bool:
    """Whether an actor's class has a hook of its own."""
    return getattr(actor, name) is not getattr(Hooks, name)


def has_hooks(actor: object) -> bool:
    """Whether it has `startup` or `shutdown`: hooks that do nothing are not worth a scope."""
    return has_hook(actor, "startup") or has_hook(actor, "shutdown")
