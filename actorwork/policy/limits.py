"""Limits: how many messages may begin, and when the next may.

    RateLimit          messages per second
    ConcurrencyLimit   messages at once
    Bulkhead           messages at once, over all actors of a node that name it
    CircuitBreaker     none for a while, after too many failures

A limit applies to an actor (in one process: `scope="node"`, or over all nodes: `scope="global"`); `by` divides it into
one limit for each value. A message that a limit holds back waits; it does not fail.

**Rate** (GCRA): a limit stores one moment, the theoretical arrival time (tat) of the next message if all came evenly
spaced.

    interval = per / rate
    one more may begin at      max(tat, now) + interval - burst * interval
    and moves the moment to    max(tat, now) + interval

So never more than `rate + burst` begin in any `per` seconds, and late messages may catch up by `burst`. For all nodes
together the broker stores the moment. Nodes take tokens in small batches, in advance; the broker answers how long the
node must wait before it may use them.

**Circuit**: outcomes are counted in slices of a tenth of `within`.

    closed ── at least `failures` failures, and `share` of all, within the last `within` seconds ──▶ open
    open ── `reset` seconds ──▶ half open: one probe at a time goes through
    half open ── the probe succeeds ──▶ closed, and past failures are forgotten
              ── the probe fails ─────▶ open
              ── the probe is inconclusive (cancelled, a verdict, an error that does not count) ──▶ another probe

The outcome of a message that began before the circuit opened no longer changes anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import attrs

from actorwork.durations import as_seconds
from actorwork.errors import Verdict
from actorwork.message import Delivery
from actorwork.policy.bounds import number, one_of, seconds, text, whole, wrong
from actorwork.policy.intake import AHEAD
from actorwork.shown import Value

Scope: TypeAlias = Literal["node", "global"]
SCOPES: Final[tuple[Scope, ...]] = ("node", "global")
By: TypeAlias = "Literal['key'] | Callable[[Delivery], str | None] | None"

SLICES: Final = 10
"""The number of slices in the window of a circuit."""
YEAR: Final = 31_536_000
LEASED_AHEAD: Final = 0.05
"""Seconds' worth of tokens that a node takes from the broker at once."""


def _divides(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and value != "key" and not callable(value):
        raise wrong(instance, attribute.name, "'key', a function of a delivery, or None", value)


@attrs.frozen(eq=False, repr=False)
class RateLimit(Value):
    """At most `rate` messages begin in `per` seconds, and up to `burst` late ones in addition.

    `burst` is a tenth of `rate` by default, at least one. `by="key"` makes one limit for each `key` of messages, a
    function one for each value that it returns for a delivery; if it returns None, the message is not limited.
    `scope="global"` counts all nodes together, at the broker. Limits of one `name` in a node are one limit, whichever
    actors declare it.
    """

    rate: float = attrs.field(validator=number(0, 1e9, above=True))
    per: float = attrs.field(default=1.0, converter=as_seconds, validator=seconds(0, YEAR, above=True))
    burst: int | None = attrs.field(default=None, kw_only=True, validator=whole(1, 1_000_000, optional=True))
    by: By = attrs.field(default=None, kw_only=True, validator=_divides)
    scope: Scope = attrs.field(default="node", kw_only=True, validator=one_of(SCOPES))
    name: str | None = attrs.field(default=None, kw_only=True, validator=text(1, 300, optional=True))

    @property
    def interval(self) -> float:
        """Seconds from one message to the next."""
        return self.per / self.rate

    @property
    def at_once(self) -> int:
        """How many may begin at the same moment, after a pause."""
        return max(1, math.ceil(self.rate / 10)) if self.burst is None else self.burst

    @property
    def batch(self) -> int:
        """The most tokens to take from the broker at once."""
        return max(1, math.ceil(LEASED_AHEAD / self.interval))

    @property
    def ahead(self) -> int:
        """The most deliveries to hold while they wait for the rate: what is not held may run on another node."""
        return max(1, math.ceil(AHEAD / self.interval))


RATES: Final = ("rate", "per", "burst")
"""The fields of a `RateLimit` that may change while a system runs."""
L = TypeVar("L")


@attrs.frozen(repr=False)
class Rates(Value):
    """Changes of rates: fields of `RateLimit` by the names of limits, and by the titles of actors for one without."""

    limits: Mapping[str, Mapping[str, float]] = attrs.field(factory=dict[str, Mapping[str, float]])
    actors: Mapping[str, Mapping[str, float]] = attrs.field(factory=dict[str, Mapping[str, float]])

    def __hash__(self) -> int:
        return hash((tuple(self.limits), tuple(self.actors)))

    def of(self, limit: object, whose: str) -> Mapping[str, float]:
        """Return what is changed in a limit of an actor."""
        if not isinstance(limit, RateLimit):
            return {}
        return self.limits.get(limit.name, {}) if limit.name else self.actors.get(whose, {})

    def applied_to(self, limit: L, whose: str) -> L:
        """Return a limit with what is changed in it."""
        changed = self.of(limit, whose)
        return attrs.evolve(cast("Any", limit), **changed) if changed else limit


@attrs.frozen(eq=False, repr=False)
class ConcurrencyLimit(Value):
    """At most `limit` messages are in flight at once; `by`, `scope` and `name` are those of `RateLimit`.

    `Settings.concurrency` limits one actor in one process; this limits a key, several actors, or all nodes together.
    """

    limit: int = attrs.field(validator=whole(1, 1_000_000))
    by: By = attrs.field(default=None, kw_only=True, validator=_divides)
    scope: Scope = attrs.field(default="node", kw_only=True, validator=one_of(SCOPES))
    name: str | None = attrs.field(default=None, kw_only=True, validator=text(1, 300, optional=True))


@attrs.frozen(eq=False, repr=False)
class Bulkhead(Value):
    """At most `limit` messages are in flight at once, over all actors of a node that name this bulkhead."""

    name: str = attrs.field(validator=text(1, 300))
    limit: int = attrs.field(validator=whole(1, 1_000_000))


def _as_errors(value: Any) -> tuple[type[Exception], ...]:
    if isinstance(value, type):
        return (cast("type[Exception]", value),)
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _are_errors(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    kinds = cast("tuple[object, ...]", value)
    if not isinstance(value, tuple) or not kinds or not all(_is_error(kind) for kind in kinds):
        raise wrong(instance, attribute.name, "exception classes", kinds)
    if any(issubclass(cast("type", kind), Verdict) for kind in kinds):
        raise wrong(instance, attribute.name, "errors; a verdict does not show whether a dependency works", kinds)


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


@attrs.frozen(eq=False, repr=False)
class CircuitBreaker(Value):
    """Makes messages wait while their dependency fails, and probes it with one message at intervals.

    The circuit opens once `failures` messages have failed with errors in `on` within `within` seconds, if these are at
    least the fraction `share` of all; it admits a probe after `reset` seconds. `name` is the dependency: actors of a
    node that name the same one share one circuit; without a name the circuit is the actor's own. A message that fails
    with such an error and leaves the circuit open waits with the others: that attempt does not count.
    """

    name: str | None = attrs.field(default=None, validator=text(1, 300, optional=True))
    failures: int = attrs.field(default=5, kw_only=True, validator=whole(1, 1_000_000))
    within: float = attrs.field(
        default=60.0, kw_only=True, converter=as_seconds, validator=seconds(0, YEAR, above=True)
    )
    reset: float = attrs.field(default=30.0, kw_only=True, converter=as_seconds, validator=seconds(0, YEAR, above=True))
    share: float = attrs.field(default=0.5, kw_only=True, validator=number(0, 1, "a fraction"))
    on: tuple[type[Exception], ...] = attrs.field(
        default=(Exception,), kw_only=True, converter=_as_errors, validator=_are_errors
    )


Limit: TypeAlias = RateLimit | ConcurrencyLimit | Bulkhead | CircuitBreaker

LIMITS: Final = (RateLimit, ConcurrencyLimit, Bulkhead, CircuitBreaker)

# ---- rate ----


def reserved(tat: float, now: float, *, interval: float, burst: int, cost: int = 1) -> tuple[float, float]:
    """Return the moment after `cost` more messages, and how many seconds to wait before these may begin."""
    moved = (tat if tat > now else now) + cost * interval  # noqa: FURB136 - asked for every message, where max costs more
    wait = moved - burst * interval - now
    return moved, wait if wait > 0.0 else 0.0  # noqa: FURB136 - as above


# ---- circuit ----


@attrs.frozen(eq=False, repr=False)
class Closed(Value):
    """Everything is admitted. Each of `slices` is (number of the time slice, failures in it, outcomes in it)."""

    slices: tuple[tuple[int, int, int], ...] = ()


@attrs.frozen(eq=False, repr=False)
class Open(Value):
    """Nothing is admitted until `until`."""

    until: float


@attrs.frozen(eq=False, repr=False)
class HalfOpen(Value):
    """One probe at a time is admitted."""

    probing: bool = False


CircuitState: TypeAlias = Closed | Open | HalfOpen


def admitted(state: CircuitState, now: float) -> tuple[CircuitState, bool]:
    """Return the state after one more message asks to begin, and whether it may."""
    match state:
        case Closed():
            return state, True
        case Open(until=until) if now < until:
            return state, False
        case HalfOpen(probing=True):
            return state, False
        case _:
            return HalfOpen(probing=True), True


def after_outcome(
    state: CircuitState, rule: CircuitBreaker, now: float, *, failed: bool | None, probe: bool
) -> CircuitState:
    """Return the state after an admitted message has ended; `failed` is None if the outcome is inconclusive."""
    if probe and isinstance(state, HalfOpen):
        if failed is None:
            return HalfOpen()
        return Open(now + rule.reset) if failed else Closed()
    if failed is None or probe or not isinstance(state, Closed):
        return state
    number = int(now // (rule.within / SLICES))
    slices = _counted(state.slices, number, failed=failed)
    lost = sum(failures for _, failures, _ in slices)
    if failed and lost >= rule.failures and lost >= rule.share * sum(count for _, _, count in slices):
        return Open(now + rule.reset)
    return Closed(slices)


def _counted(slices: Sequence[tuple[int, int, int]], number: int, *, failed: bool) -> tuple[tuple[int, int, int], ...]:
    kept = [one for one in slices if one[0] > number - SLICES]
    if kept and kept[-1][0] == number:
        _, failures, count = kept.pop()
    else:
        failures = count = 0
    return (*kept, (number, failures + failed, count + 1))
