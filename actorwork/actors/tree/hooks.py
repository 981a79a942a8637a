"""What the runtime calls on an actor, and what an actor class declares.

Below `Actor` because the description of a tree needs only this: `Actor` adds the context, which returns supervisors,
whose descriptions are made of actor classes. Without `Hooks` these would import each other in a ring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from actorwork.errors import SettingsError
from actorwork.settings import Settings


class Hooks:
    """The part of `Actor` that descriptions and cells know."""

    settings: ClassVar[Settings]

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
        """Receive the local messages that were told but will not be handled, since the actor has ended for good.

        Called on the last incarnation, after its `shutdown`; must not wait. They are reported as undelivered all the
        same.
        """
