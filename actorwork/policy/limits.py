"""What bounds how much is done, and when the next may be done.

    RateLimit          so many per second: messages wait for their turn
    ConcurrencyLimit   so many at once
    Bulkhead           so many at once, of all actors of a node that name it
    CircuitBreaker     none for a while, after too many failures

A limit holds for an actor (in one process: `scope="node"`, or everywhere: `scope="global"`); `by` divides it: one limit
for each value. What a limit holds back waits; it is never failed for it.

**Rate** (GCRA): a limit remembers one moment, the theoretical arrival time of the next one if all came evenly spaced.

    interval = per / rate
    one more may begin at      max(tat, now) + interval - burst * interval
    and moves the moment to    max(tat, now) + interval

So never more than `rate + burst` begin in any `per` seconds, and who was late may catch up by `burst`. Over many nodes
the moment lies at the broker, and tokens are taken in small batches, in advance: who takes them is told how long to
wait before they count.

**Circuit**: outcomes are counted in slices of a tenth of `within`.

    closed ── at least `failures` failures, and `share` of all, within the last `within` seconds ──▶ open
    open ── `reset` seconds ──▶ half open: one probe at a time goes through
    half open ── the probe succeeds ──▶ closed, and all is forgotten
              ── the probe fails ─────▶ open
              ── the probe says nothing (cancelled, a verdict, an error that does not count) ──▶ another one is it

An outcome of what began before the circuit opened changes nothing any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from actorwork.errors import Verdict
from actorwork.message import Delivery
from actorwork.policy.bounds import number, one_of, seconds, text, whole, wrong
from actorwork.policy.intake import AHEAD

Scope: TypeAlias = Literal["node", "global"]
SCOPES: Final[tuple[Scope, ...]] = ("node", "global")
By: TypeAlias = "Literal['key'] | Callable[[Delivery], str | None] | None"

SLICES: Final = 10
"""Into how many slices the window of a circuit is cut."""
YEAR: Final = 31_536_000
LEASED_AHEAD: Final = 0.05
"""Seconds for which tokens are taken from the broker at once."""


def _divides(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and value != "key" and not callable(value):
        raise wrong(instance, attribute.name, "'key', a function of a delivery, or None", value)


@attrs.frozen
class RateLimit:
    """At most `rate` messages begin in `per` seconds, and `burst` more of those that were late.

    `burst` is a tenth of `rate` by default, at least one. `by="key"` is one limit for each `key` of messages, a
    function for each value that it returns for a delivery; where that is None, the message is not limited.
    `scope="global"` counts all nodes together, at the broker. Limits of one `name` in a node are one limit, whichever
    actors declare it.
    """

    rate: float = attrs.field(validator=number(0, 1e9, above=True))
    per: float = attrs.field(default=1.0, validator=seconds(0, YEAR, above=True))
    burst: int | None = attrs.field(default=None, kw_only=True, validator=whole(1, 1_000_000, optional=True))
    by: By = attrs.field(default=None, kw_only=True, validator=_divides)
    scope: Scope = attrs.field(default="node", kw_only=True, validator=one_of(SCOPES))
    name: str | None = attrs.field(default=None, kw_only=True, validator=text(1, 300, optional=True))

    @property
    def interval(self) -> float:
        """Seconds from one to the next."""
        return self.per / self.rate

    @property
    def at_once(self) -> int:
        """How many may begin at one moment, after a pause."""
        return max(1, math.ceil(self.rate / 10)) if self.burst is None else self.burst

    @property
    def batch(self) -> int:
        """How many tokens to take from the broker at once, at most."""
        return max(1, math.ceil(LEASED_AHEAD / self.interval))

    @property
    def ahead(self) -> int:
        """How many deliveries to hold that wait for their turn, at most: what is not held may run on another node."""
        return max(1, math.ceil(AHEAD / self.interval))


@attrs.frozen
class ConcurrencyLimit:
    """At most `limit` messages are in hand at once; `by`, `scope` and `name` are those of `RateLimit`.

    What `Settings.concurrency` is for one actor in one process, this is for a key, for several actors, or for all
    nodes.
    """

    limit: int = attrs.field(validator=whole(1, 1_000_000))
    by: By = attrs.field(default=None, kw_only=True, validator=_divides)
    scope: Scope = attrs.field(default="node", kw_only=True, validator=one_of(SCOPES))
    name: str | None = attrs.field(default=None, kw_only=True, validator=text(1, 300, optional=True))


@attrs.frozen
class Bulkhead:
    """At most `limit` messages are in hand at once, of all actors of a node that name this bulkhead."""

    name: str = attrs.field(validator=text(1, 300))
    limit: int = attrs.field(validator=whole(1, 1_000_000))


def _as_errors(value: Any) -> tuple[type[Exception], ...]:
    if isinstance(value, type):
        return (cast("type[Exception]", value),)
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _are_errors(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    kinds = cast("tuple[object, ...]", value)
    if not isinstance(value, tuple) or not kinds or not all(_is_error(kind) for kind in kinds):
        raise wrong(instance, attribute.name, "classes of exceptions", kinds)
    if any(issubclass(cast("type", kind), Verdict) for kind in kinds):
        raise wrong(instance, attribute.name, "errors; verdicts say nothing of a dependency", kinds)


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


@attrs.frozen
class CircuitBreaker:
    """Lets messages wait while what they depend on fails, and tries it with one of them now and then.

    Opens once `failures` messages failed of errors in `on` within `within` seconds, if these are at least `share` of
    all; lets a probe through after `reset` seconds. `name` is the dependency: actors of a node that name the same share
    one circuit; without a name it is the actor's own. A message that fails of such an error and leaves the circuit
    open waits with the others: that attempt does not count.
    """

    name: str | None = attrs.field(default=None, validator=text(1, 300, optional=True))
    failures: int = attrs.field(default=5, kw_only=True, validator=whole(1, 1_000_000))
    within: float = attrs.field(default=60.0, kw_only=True, validator=seconds(0, YEAR, above=True))
    reset: float = attrs.field(default=30.0, kw_only=True, validator=seconds(0, YEAR, above=True))
    share: float = attrs.field(default=0.5, kw_only=True, validator=number(0, 1, "a part"))
    on: tuple[type[Exception], ...] = attrs.field(
        default=(Exception,), kw_only=True, converter=_as_errors, validator=_are_errors
    )


Limit: TypeAlias = RateLimit | ConcurrencyLimit | Bulkhead | CircuitBreaker

LIMITS: Final = (RateLimit, ConcurrencyLimit, Bulkhead, CircuitBreaker)

# ---- rate ----


def reserved(tat: float, now: float, *, interval: float, burst: int, cost: int = 1) -> tuple[float, float]:
    """Return the moment that `cost` more move it to, and how many seconds to wait before these may begin."""
    moved = (tat if tat > now else now) + cost * interval  # noqa: FURB136 - asked for every message, where max costs more
    wait = moved - burst * interval - now
    return moved, wait if wait > 0.0 else 0.0  # noqa: FURB136 - as above


# ---- circuit ----


@attrs.frozen
class Closed:
    """All is well, or nearly: `slices` are the number of a slice of time, and how many failed of how many in it."""

    slices: tuple[tuple[int, int, int], ...] = ()


@attrs.frozen
class Open:
    """Nothing goes through until then."""

    until: float


@attrs.frozen
class HalfOpen:
    """One at a time goes through, to see."""

    probing: bool = False


State: TypeAlias = Closed | Open | HalfOpen


def admitted(state: State, now: float) -> tuple[State, bool]:
    """Return the state after one more wants to begin, and whether it may."""
    match state:
        case Closed():
            return state, True
        case Open(until=until) if now < until:
            return state, False
        case HalfOpen(probing=True):
            return state, False
        case _:
            return HalfOpen(probing=True), True


def after_outcome(state: State, rule: CircuitBreaker, now: float, *, failed: bool | None, probe: bool) -> State:
    """Return the state after what was admitted has ended; `failed` is None where that says nothing."""
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
