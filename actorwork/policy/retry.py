"""How long to wait before the next attempt of a message.

    backoff            delay before attempt n + 1, after n failures
    Fixed              delay
    Linear             delay * n, at most cap
    Exponential        base * factor ** (n - 1), at most cap, then reduced by up to the fraction `jitter`
    Uniform            uniformly distributed between low and high

Those beside `Exponential`, which is the default, are in backoffs.py.

The jitter is subtracted after the cap, so the cap is never exceeded and many simultaneous failures still spread out.

The error decides which policy applies (`rule_for`): the rule for its class or, failing that, for the nearest of its
base classes; without one, the policy that holds the rules. If one group has several errors, each with its own rule, the
strictest decides: "never" before fewer attempts before more.

An error may itself say when to try again: its `retry_after` (seconds, a `timedelta`, or the digits of an HTTP header)
overrides the backoff, up to a day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias, cast

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import SettingsError, Verdict
from actorwork.policy.bounds import FINITE, is_number, number, whole
from actorwork.shown import Value

Dice: TypeAlias = Callable[[], float]
"""Returns a number in [0, 1), as `random.random` does."""


class BackoffFunction(Protocol):
    """Computes how long to wait after a number of failures."""

    def delay(self, failures: int, dice: Dice) -> float:
        """Return seconds to wait after the `failures`-th failure in a row (1, 2, …)."""
        ...


VERDICT_ATTEMPTS: Final = 20
"""The attempts of an explicit `Retry` if the actor has no retry policy of its own."""

_SECONDS: Final = number(0, FINITE, "finite seconds")


def _can_delay(_: object, __: attrs.Attribute[BackoffFunction], value: object) -> None:
    if isinstance(value, type) or not callable(getattr(value, "delay", None)):
        raise SettingsError(
            f"RetryPolicy.backoff wants Fixed, Linear, Exponential, Uniform or an object with delay(failures, dice),"
            f" got {value!r}"
        )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Exponential(Value):
    """`factor` times as long after every failure, from `base` to `cap` seconds, reduced by up to `jitter` of it."""

    base: float = attrs.field(default=1.0, converter=as_seconds, validator=_SECONDS)
    factor: float = attrs.field(default=2.0, validator=number(1, 100))
    cap: float = attrs.field(default=300.0, converter=as_seconds, validator=_SECONDS)
    jitter: float = attrs.field(default=0.5, validator=number(0, 1, "a fraction"))

    def delay(self, failures: int, dice: Dice) -> float:
        try:
            whole = self.base * self.factor ** (failures - 1)
        except OverflowError:
            whole = self.cap
        return min(self.cap, whole) * (1 - self.jitter * dice())


LONGEST_RETRY_AFTER: Final = 86_400.0
"""Seconds: a server that asks for more is mistaken, and the message would practically never come back."""


def _as_rules(value: Mapping[type[Exception], RetryPolicy | None]) -> Mapping[type[Exception], RetryPolicy | None]:
    # A value that is not a mapping is passed on unchanged, for the validator to refuse.
    return MappingProxyType(dict(value)) if isinstance(cast("Any", value), Mapping) else value


def _are_rules(_: object, __: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Mapping):
        raise SettingsError(f"RetryPolicy.on wants a mapping such as {{TimeoutError: None}}, got {value!r}")
    for kind, rule in cast("Mapping[object, object]", value).items():
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise SettingsError(f"RetryPolicy.on wants exception classes as keys, got {kind!r}")
        if issubclass(kind, Verdict):
            raise SettingsError(
                f"RetryPolicy.on wants errors as keys; {kind.__name__} is a verdict, to which no rule applies"
            )
        if rule is not None and not isinstance(rule, RetryPolicy):
            raise SettingsError(f"RetryPolicy.on[{kind.__name__}] wants a RetryPolicy, or None for never, got {rule!r}")
        if rule is not None and rule.on:
            raise SettingsError(f"RetryPolicy.on[{kind.__name__}] has rules of its own, which would be ignored")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RetryPolicy(Value):
    """How often a message is tried in all, and how long to wait in between.

    `attempts=1`, the default, means that the first error fails the message. `on` has rules for exception classes and
    their subclasses, of which the most specific one decides; None means never again.
    """

    attempts: int = attrs.field(default=1, validator=whole(1, 1_000_000))
    backoff: BackoffFunction = attrs.field(factory=Exponential, validator=_can_delay)
    on: Mapping[type[Exception], RetryPolicy | None] = attrs.field(
        factory=dict, converter=_as_rules, validator=_are_rules, hash=False
    )

    @property
    def attempts_of_verdicts(self) -> int:
        """Up to how many attempts an explicit `raise Retry` is honoured."""
        return self.attempts


NEVER: Final = RetryPolicy()
"""One attempt."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class DefaultRetryPolicy(RetryPolicy):
    """The policy of an actor that names none: an error fails the message at once, but `raise Retry` is honoured.

    A class of its own, so that `RetryPolicy(attempts=1)`, which means one attempt whatever the handler raises, stays
    distinguishable.
    """

    @property
    def attempts_of_verdicts(self) -> int:
        """A handler that raises `Retry` without a policy means it, but not forever."""
        return VERDICT_ATTEMPTS


def rule_for(errors: Iterable[BaseException], policy: RetryPolicy) -> RetryPolicy:
    """Return the policy that applies to errors that came in one group."""
    if not policy.on:
        return policy
    return min((_rule_of(error, policy) for error in errors), key=lambda rule: rule.attempts, default=policy)


def _rule_of(error: BaseException, policy: RetryPolicy) -> RetryPolicy:
    for kind in type(error).__mro__:
        if kind in policy.on:
            return policy.on[kind] or NEVER
    return policy


def retry_after(error: BaseException) -> float | None:
    """Return the seconds to wait that an error asks for, or None."""
    try:
        wanted: object = getattr(error, "retry_after", None)
        if isinstance(wanted, timedelta):
            wanted = wanted.total_seconds()
        elif isinstance(wanted, (str, bytes)):
            wanted = float(wanted)
    except Exception:  # noqa: BLE001 - a user's property may raise anything, and a str may be a date: then the error asks for nothing
        return None
    if not is_number(wanted) or math.isnan(wanted):
        return None
    return min(max(0.0, float(wanted)), LONGEST_RETRY_AFTER)
