"""The backoffs that a program may choose: how long a message waits for its next attempt, a child for its restart.

    Fixed, Linear, Uniform    of a message; the usual one is `Exponential`, beside the table of all in retry.py
    Backoff                   of a child; without one it does not wait. restart.py computes the delays

They are apart because few programs name one, and each is a class more to create at a start.
"""

from __future__ import annotations

from typing import Final

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import SettingsError
from actorwork.policy.bounds import FINITE, number, seconds, whole
from actorwork.policy.retry import Dice
from actorwork.shown import Value

_SECONDS: Final = number(0, FINITE, "finite seconds")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Fixed(Value):
    """Always the same delay, in seconds."""

    seconds: float = attrs.field(default=1.0, converter=as_seconds, validator=_SECONDS)

    def delay(self, failures: int, dice: Dice) -> float:
        return self.seconds


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Linear(Value):
    """One `step` more after every failure, at most `cap`; both in seconds."""

    step: float = attrs.field(default=1.0, converter=as_seconds, validator=_SECONDS)
    cap: float = attrs.field(default=300.0, converter=as_seconds, validator=_SECONDS)

    def delay(self, failures: int, dice: Dice) -> float:
        return min(self.cap, self.step * failures)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Uniform(Value):
    """Uniformly distributed between `low` and `high` seconds."""

    low: float = attrs.field(default=0.0, converter=as_seconds, validator=_SECONDS)
    high: float = attrs.field(default=1.0, converter=as_seconds, validator=_SECONDS)

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise SettingsError(f"Uniform wants low <= high, got low={self.low!r}, high={self.high!r}")

    def delay(self, failures: int, dice: Dice) -> float:
        return self.low + (self.high - self.low) * dice()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Backoff(Value):
    """How long to wait before a child is restarted; all in seconds.

    The first restart waits `min`; every further failure in a row doubles the delay, up to `max`; each delay is
    lengthened by up to the fraction `jitter`. Once the child has been up for more than `reset_after` seconds without a
    failure (default: half of min + max), the count starts again. With delays the intensity may never be exceeded, so
    after more than `max_attempts` failures in a row the supervisor gives up (None: never).
    """

    min: float = attrs.field(default=0.1, converter=as_seconds, validator=number(0, FINITE, "a finite number"))
    max: float = attrs.field(default=30.0, converter=as_seconds, validator=number(0, FINITE, "a finite number"))
    jitter: float = attrs.field(default=0.2, validator=number(0, FINITE, "a finite number"))
    reset_after: float | None = attrs.field(default=None, converter=as_seconds, validator=seconds(0, optional=True))
    max_attempts: int | None = attrs.field(default=None, validator=whole(1, optional=True))

    def __attrs_post_init__(self) -> None:
        if self.min > self.max:
            raise SettingsError(f"Backoff wants min <= max, got min={self.min!r}, max={self.max!r}")
