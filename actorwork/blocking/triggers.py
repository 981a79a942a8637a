"""The triggers at a broker, for programs without `await`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from actorwork.blocking.driver import run

if TYPE_CHECKING:
    from actorwork.actors.actor import Actor
    from actorwork.clients.triggers import TriggerParts, Triggers as AsyncTriggers
    from actorwork.policy.trigger import Trigger
    from actorwork.records import TriggerRecord


class Triggers:
    """The triggers at a broker; `client.triggers()` lists them."""

    def __init__(self, triggers: AsyncTriggers) -> None:
        self._triggers = triggers

    def __repr__(self) -> str:
        return f"<sync {self._triggers!r}>"

    def __call__(self) -> Sequence[TriggerRecord]:
        """Return all triggers that the broker knows, by actor and title."""
        return run(self._triggers())

    def put(
        self,
        actor: type[Actor] | str,
        trigger: Trigger,
        *,
        is_on: bool = True,
        reason: str = "",
        force: bool = False,
    ) -> TriggerRecord:
        """Put a trigger of an actor at the broker, in the place of one with its title; return its record."""
        return run(self._triggers.put(actor, trigger, is_on=is_on, reason=reason, force=force))

    def change(
        self, actor: type[Actor] | str, trigger: str, *, reason: str = "", **parts: Unpack[TriggerParts]
    ) -> TriggerRecord:
        """Change parts of a trigger; return its record. They stay as they are here until the trigger is reset."""
        return run(self._triggers.change(actor, trigger, reason=reason, **parts))

    def reset(self, actor: type[Actor] | str, trigger: str, *, reason: str = "") -> TriggerRecord:
        """Have a trigger fire as the code declares it; return its record."""
        return run(self._triggers.reset(actor, trigger, reason=reason))

    def delete(self, actor: type[Actor] | str, trigger: str, *, reason: str = "") -> None:
        """Delete a trigger that no code declares."""
        run(self._triggers.delete(actor, trigger, reason=reason))
