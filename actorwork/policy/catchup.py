"""Which nominal times of a trigger fire now.

A trigger's record holds the last decided nominal time. Those after it, up to now, are *due*. Usually that is one, and
it fires. If there are several, or if one fell due before this node watched, times were *missed*:

    all     all due times within the window fire, oldest first: the newest `MOST` of them
    one     the newest fires, if it is within the window
    skip    no missed time fires: only the newest, and only if it fell due recently, while this node watched

Times that do not fire are dropped: the next decision begins after them. With `skip` the record is not changed until a
time fires, since another node that watched may be about to fire what this one missed.

`lifetime` is counted from the first registration: no nominal time after it fires. With `jitter` a nominal time is due a
little later, by an amount computed from the trigger and that time alone, so that all nodes agree.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, TypeAlias

import attrs

from actorwork.policy.schedule import Schedule, fires, newest_fires
from actorwork.shown import Value

CatchUp: TypeAlias = Literal["all", "one", "skip"]
CATCHUPS: Final[tuple[CatchUp, ...]] = ("all", "one", "skip")
Overlap: TypeAlias = Literal["allow", "skip"]
OVERLAPS: Final[tuple[Overlap, ...]] = ("allow", "skip")

MOST: Final = 1000
"""At most this many missed times fire."""
LATE: Final = 10_000
"""Milliseconds by which a watching node may be late; a time that it finds due after that counts as missed."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FiringRule(Value):
    """How a trigger fires; times in milliseconds."""

    id: str
    schedule: Schedule
    catchup: CatchUp = "all"
    window: int = 86_400_000
    jitter: int = 0
    lifetime: int | None = None


@attrs.frozen(eq=False, repr=False)
class Plan(Value):
    """`fire` these nominal times (none: do not change the record), and decide again at `wake` (None: never)."""

    fire: tuple[int, ...]
    wake: int | None


def plan(rule: FiringRule, *, registered: int, last: int, now: int, watched_since: int) -> Plan:
    """Decide which nominal times fire now.

    `last` is the last decided nominal time, `watched_since` when this node began to watch.
    """
    until = now if rule.lifetime is None else min(now, registered + rule.lifetime)
    most = MOST if rule.catchup == "all" else 1
    due: list[int] = []
    if until - rule.jitter > last:
        due = newest_fires(rule.schedule, last, until - rule.jitter, anchor=registered, most=most)
    # Later times may still wait for their jitter. Times fire in order, so the first that waits ends the list.
    wake: int | None = None
    for nominal in fires(rule.schedule, due[-1] if due else last, anchor=registered):
        if nominal > until or due_at(rule, nominal) > now:
            is_over = rule.lifetime is not None and nominal > registered + rule.lifetime
            wake = None if is_over else due_at(rule, nominal)
            break
        due.append(nominal)
    return Plan(tuple(_chosen(rule, due[-most:], now, watched_since)), wake)


def due_at(rule: FiringRule, nominal: int) -> int:
    """Return when a nominal time is due: itself, or up to `jitter` later."""
    if not rule.jitter:
        return nominal
    drawn = hashlib.sha256(f"{rule.id}:{nominal}".encode()).digest()
    return nominal + int.from_bytes(drawn[:8], "big") * rule.jitter // (1 << 64)


def _chosen(rule: FiringRule, due: list[int], now: int, watched_since: int) -> list[int]:
    if not due:
        return []
    newest = due[-1]
    on_time = newest > watched_since and now - due_at(rule, newest) <= LATE
    within = [nominal for nominal in due if now - nominal <= rule.window or (nominal == newest and on_time)]
    match rule.catchup:
        case "all":
            return within
        case "one":
            return within[-1:]
        case "skip":
            return [newest] if on_time else []
