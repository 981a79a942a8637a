"""How many replicas of a process there should be, over all programs that run it.

    grow      at once, to as many as the backlog requires; by half as many again, and at least one, for as long as
              messages wait too long
    shrink    by one, if the remaining replicas would still be well below every target, and the number has not changed
              for `cooldown` seconds

The thresholds for growing and shrinking are apart: fewer replicas are busier, so if one were removed as soon as it was
not needed, the number would grow again at once. So under a constant load the number settles.

Each program decides by itself, from what all see at the broker: the load, and how many replicas there are together.
`share_of` then says which of them adds or removes one.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import FINITE, number, whole
from actorwork.shown import Value

SLACK: Final = 0.5
"""The fraction of a target that the remaining replicas may reach when one is removed."""
BUSY: Final = 0.7
"""The utilisation that the remaining replicas may reach."""
GROWTH: Final = 1.5
"""The growth factor while messages wait too long: the waiting time does not show how many replicas it takes."""
PAUSE: Final = 0.1
"""The fraction of `cooldown` in which new replicas may show whether they suffice."""
MOST: Final = 1000


@attrs.frozen(eq=False, repr=False)
class Scale(Value):
    """Between `min` and `max` replicas of a process, as many as the load requires.

    Programs at one broker with a process of this name and with these actors count together: `max` is the most that all
    of them have, while each keeps at least its `min`, even if these are more than `max`.
    `target_backlog` is how many messages there may be per replica (waiting and in flight, in all sources of its
    actors), `target_wait` how many seconds the oldest may wait; None disables a target. `cooldown` is how many seconds
    the number must not have changed before one replica is removed.
    """

    min: int = attrs.field(default=1, kw_only=True, validator=whole(1, MOST))
    max: int = attrs.field(default=8, kw_only=True, validator=whole(1, MOST))
    target_backlog: float | None = attrs.field(
        default=100, kw_only=True, validator=number(0, FINITE, "a finite number", above=True, optional=True)
    )
    target_wait: float | None = attrs.field(
        default=10.0,
        kw_only=True,
        converter=as_seconds,
        validator=number(0, FINITE, "a finite number", above=True, optional=True),
    )
    cooldown: float = attrs.field(
        default=60.0, kw_only=True, converter=as_seconds, validator=number(0, FINITE, "finite seconds", above=True)
    )

    def __attrs_post_init__(self) -> None:
        if self.max < self.min:
            raise SettingsError(f"Scale.max wants at least min={self.min}, got {self.max}")
        if self.target_backlog is None and self.target_wait is None:
            raise SettingsError("Scale wants a target_backlog or a target_wait, or it would never grow")


@attrs.frozen(eq=False, repr=False)
class Load(Value):
    """How much work there is, and how busy the replicas are."""

    backlog: int
    """Messages that wait or are in flight."""
    oldest: float | None
    """How many seconds the oldest unread message has waited; None if there is none."""
    utilisation: float
    """The fraction of their total concurrency that the replicas have used lately, 0 to 1."""


@attrs.frozen(eq=False, repr=False)
class Wanted(Value):
    """How many replicas there should be, and why."""

    replicas: int
    reason: str


def wanted(scale: Scale, load: Load, replicas: int, *, quiet: float) -> Wanted:
    """Return how many replicas there should be; `replicas` is the number now, unchanged for `quiet` seconds."""
    if replicas < scale.min:
        return Wanted(scale.min, f"at least {scale.min}")
    if replicas > scale.max:
        return Wanted(scale.max, f"at most {scale.max}")
    target, reason = replicas, ""
    if scale.target_backlog is not None:
        needed = math.ceil(load.backlog / scale.target_backlog)
        if needed > target:
            target, reason = needed, f"a backlog of {load.backlog}, the target is {scale.target_backlog:g} per replica"
    is_late = scale.target_wait is not None and load.oldest is not None and load.oldest > scale.target_wait
    if is_late and quiet >= scale.cooldown * PAUSE:
        more = max(replicas + 1, math.floor(replicas * GROWTH))
        if more > target:
            target, reason = (
                more,
                f"the oldest message has waited {load.oldest:.1f} s, the target is {scale.target_wait:g} s",
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


def share_of(total: int, rank: int, programs: int) -> int:
    """Return how many of `total` replicas the program of this rank (from 0 on) has, if they share evenly."""
    return total // programs + (rank < total % programs)
