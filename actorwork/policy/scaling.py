"""How many replicas of a process there should be.

    grow      at once, to as many as the backlog asks for; by half as many again, and at least one, for as long as
              messages wait too long
    shrink    by one, if what is left would still be well below every target, and nothing has changed for `cooldown`

What makes it grow and what lets it shrink lie apart: fewer replicas are busier, and would grow again at once if they
were allowed to go as soon as they are not needed. So under a constant load the number comes to rest.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from actorwork.errors import SettingsError
from actorwork.policy.bounds import FINITE, number, whole

SLACK: Final = 0.5
"""Up to which part of a target those that are left may come when one goes."""
BUSY: Final = 0.7
"""Up to which utilisation they may come."""
GROWTH: Final = 1.5
"""Times as many as there are, when messages wait too long: how many it takes cannot be seen from how long they wait."""
PAUSE: Final = 0.1
"""The part of `cooldown` that those who have just come are given to show whether they suffice."""
MOST: Final = 1000


@attrs.frozen
class Scale:
    """Between `min` and `max` replicas of a process, as many as it takes.

    `target_backlog` is how many messages there may be for each (waiting and in hand, in all sources of its actors),
    `target_wait` for how many seconds the oldest may wait; None leaves one of them out. `cooldown` is for how many
    seconds nothing must have changed before one goes.
    """

    min: int = attrs.field(default=1, kw_only=True, validator=whole(1, MOST))
    max: int = attrs.field(default=8, kw_only=True, validator=whole(1, MOST))
    target_backlog: float | None = attrs.field(
        default=100, kw_only=True, validator=number(0, FINITE, "a finite number", above=True, optional=True)
    )
    target_wait: float | None = attrs.field(
        default=10.0, kw_only=True, validator=number(0, FINITE, "a finite number", above=True, optional=True)
    )
    cooldown: float = attrs.field(default=60.0, kw_only=True, validator=number(0, FINITE, "finite seconds", above=True))

    def __attrs_post_init__(self) -> None:
        if self.max < self.min:
            raise SettingsError(f"Scale.max wants at least min={self.min}, got {self.max}")
        if self.target_backlog is None and self.target_wait is None:
            raise SettingsError("Scale wants a target_backlog or a target_wait, or it would never grow")


@attrs.frozen
class Load:
    """What there is to do, and how busy those are that do it."""

    backlog: int
    """Messages that wait or are in hand."""
    oldest: float | None
    """For how many seconds the oldest that nobody has taken has waited; None where there is none."""
    utilisation: float
    """Which part of what the replicas can have in hand at once they have, lately; 0 to 1."""


@attrs.frozen
class Wanted:
    """How many there should be, and why."""

    replicas: int
    reason: str


def wanted(scale: Scale, load: Load, replicas: int, *, quiet: float) -> Wanted:
    """Return how many replicas there should be, of which there are so many, for `quiet` seconds now."""
    if replicas < scale.min:
        return Wanted(scale.min, f"at least {scale.min}")
    if replicas > scale.max:
        return Wanted(scale.max, f"at most {scale.max}")
    target, reason = replicas, ""
    if scale.target_backlog is not None:
        needed = math.ceil(load.backlog / scale.target_backlog)
        if needed > target:
            target, reason = needed, f"a backlog of {load.backlog}, {scale.target_backlog:g} are for each"
    is_late = scale.target_wait is not None and load.oldest is not None and load.oldest > scale.target_wait
    if is_late and quiet >= scale.cooldown * PAUSE:
        more = max(replicas + 1, math.floor(replicas * GROWTH))
        if more > target:
            target, reason = (
                more,
                f"the oldest message has waited {load.oldest:.1f} s, {scale.target_wait:g} are allowed",
            )
    target = min(target, scale.max)
    if target > replicas:
        return Wanted(target, reason)
    if not is_late and replicas > scale.min and quiet >= scale.cooldown and _can_spare_one(scale, load, replicas):
        return Wanted(replicas - 1, f"a backlog of {load.backlog}, utilisation {load.utilisation:.0%}")
    return Wanted(replicas, "")


def _can_spare_one(scale: Scale, load: Load, replicas: int) -> bool:
    left = replicas - 1
    if scale.target_backlog is not None and load.backlog > left * scale.target_backlog * SLACK:
        return False
    if scale.target_wait is not None and load.oldest is not None and load.oldest > scale.target_wait * SLACK:
        return False
    return load.utilisation * replicas <= left * BUSY
