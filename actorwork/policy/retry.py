"""How long to wait before a message is run again.

    backoff            delay before attempt n + 1, after n failures
    Fixed              delay
    Linear             delay * n, at most cap
    Exponential        base * factor ** (n - 1), at most cap, then up to `jitter` of it taken off
    Uniform            anything between low and high

The jitter is taken off after the cap, so the cap is never exceeded and a crowd of failures still spreads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import attrs

from actorwork.errors import SettingsError

Dice: TypeAlias = Callable[[], float]
"""A number in [0, 1), as `random.random` gives."""


class Backoff(Protocol):
    """Says how long to wait after so many failures."""

    def delay(self, failures: int, dice: Dice) -> float:
        """Return seconds to wait after the `failures`-th failure in a row (1, 2, …)."""
        ...


def _not_negative(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < float("inf"):
        raise SettingsError(f"{type(instance).__name__}.{attribute.name} wants finite seconds >= 0, got {value!r}")


@attrs.frozen(kw_only=True)
class Fixed:
    """Always the same delay, in seconds."""

    seconds: float = attrs.field(default=1.0, validator=_not_negative)

    def delay(self, failures: int, dice: Dice) -> float:
        return self.seconds


@attrs.frozen(kw_only=True)
class Linear:
    """One `step` more after every failure, at most `cap`; both in seconds."""

    step: float = attrs.field(default=1.0, validator=_not_negative)
    cap: float = attrs.field(default=300.0, validator=_not_negative)

    def delay(self, failures: int, dice: Dice) -> float:
        return min(self.cap, self.step * failures)


@attrs.frozen(kw_only=True)
class Exponential:
    """`factor` times as long after every failure, from `base` to `cap` seconds, less a random part up to `jitter` of it."""

    base: float = attrs.field(default=1.0, validator=_not_negative)
    factor: float = attrs.field(default=2.0)
    cap: float = attrs.field(default=300.0, validator=_not_negative)
    jitter: float = attrs.field(default=0.5)

    @factor.validator
    def _factor_grows(self, _: attrs.Attribute[float], value: float) -> None:
        if not 1 <= value <= 100:
            raise SettingsError(f"Exponential.factor wants 1 to 100, got {value!r}")

    @jitter.validator
    def _jitter_is_a_part(self, _: attrs.Attribute[float], value: float) -> None:
        if not 0 <= value <= 1:
            raise SettingsError(f"Exponential.jitter wants a part from 0 to 1, got {value!r}")

    def delay(self, failures: int, dice: Dice) -> float:
        try:
            whole = self.base * self.factor ** (failures - 1)
        except OverflowError:
            whole = self.cap
        return min(self.cap, whole) * (1 - self.jitter * dice())


@attrs.frozen(kw_only=True)
class Uniform:
    """Anything between `low` and `high` seconds."""

    low: float = attrs.field(default=0.0, validator=_not_negative)
    high: float = attrs.field(default=1.0, validator=_not_negative)

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise SettingsError(f"Uniform wants low <= high, got low={self.low!r}, high={self.high!r}")

    def delay(self, failures: int, dice: Dice) -> float:
        return self.low + (self.high - self.low) * dice()


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often a message is tried in all, and how long to wait in between.

    `attempts=1`, the default, means that the first error fails the message.
    """

    attempts: int = attrs.field(default=1)
    backoff: Backoff = attrs.field(factory=Exponential)

    @attempts.validator
    def _attempts_are_countable(self, _: attrs.Attribute[int], value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
            raise SettingsError(f"RetryPolicy.attempts wants a whole number from 1 to 1000000, got {value!r}")
