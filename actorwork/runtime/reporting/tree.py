"""The tree of a node as its report shows it: bounded, and in the broker's time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, cast

import attrs

from actorwork.actors.life.cell import Cell
from actorwork.actors.limits.limiters import CircuitBreakerState, Limiter
from actorwork.actors.supervision.supervisor import RunningSupervisor
from actorwork.actors.tree.spec import DynamicSupervisor, Process, Replicas, Supervisor
from actorwork.message import Delivery
from actorwork.policy.limits import Bulkhead, CircuitBreaker, ConcurrencyLimit, Limit, RateLimit
from actorwork.policy.reports import (
    LONGEST_KEY,
    SHOWN_IN_HAND,
    SHOWN_KEYS,
    SHOWN_LOCKS,
    EntityReport,
    HeldMessage,
    HoldUp,
    HotKey,
    LockReport,
    PartReport,
)
from actorwork.settings import Entities

if TYPE_CHECKING:
    from actorwork.actors.limits.registry import LimiterRegistry
    from actorwork.actors.mailbox.calls import Item
    from actorwork.state.lock import LockUse

SHOWN: Final = 200
"""Children of one supervisor that are looked at, at most: a dynamic one may have a hundred thousand."""


class ProcessPart(Protocol):
    """A process of the tree, as its supervisor has it."""

    @property
    def pid(self) -> int | None: ...
    @property
    def node(self) -> str: ...


class Portrait:
    """One look at a tree. `ahead` is by how many seconds the broker's clock is ahead of Trio's, at `now`."""

    def __init__(self, limiters: LimiterRegistry, now: float, ahead: float) -> None:
        self._limiters = limiters
        self._now = now
        self._ahead = ahead

    def __repr__(self) -> str:
        return f"<Portrait at {self._now:.3f}>"

    def of(self, supervision: RunningSupervisor) -> PartReport:
        """Return a supervisor with all that is below it."""
        children: list[PartReport] = []
        for record in islice(supervision.records, SHOWN):
            member = record.member
            if isinstance(member, RunningSupervisor):
                part = self.of(member)
            elif isinstance(member, Cell):
                part = self._actor(member)
            elif isinstance(record.spec, Process):
                process = cast("ProcessPart", member)
                part = PartReport(title=record.spec.title, kind="process", pid=process.pid, node=process.node)
            else:
                part = PartReport(title=record.spec.title, kind="task", label=_label(member.label, record.spec.title))
            children.append(
                attrs.evolve(part, state=record.state.value, incarnation=record.incarnation, restarts=record.restarts)
            )
        left_out = len(supervision.records) - len(children)
        if left_out:
            children.append(PartReport(title=f"{left_out} more", kind="left out", state="not shown"))
        return PartReport(title=supervision.title, kind=_kind(supervision.spec), children=tuple(children))

    def _actor(self, cell: Cell) -> PartReport:
        in_hand = sorted(cell.in_flight_since(), key=lambda held: held[1])
        settings = cell.settings
        return PartReport(
            title=cell.title,
            label=_label(cell.label, cell.title),
            sources=() if cell.consumer is None else tuple(cell.consumer.subscription.sources),
            waiting=cell.waiting,
            capacity=settings.mailbox.capacity,
            concurrency=settings.concurrency,
            handling=len(in_hand),
            in_hand=tuple(self._held(item, began) for item, began in in_hand[:SHOWN_IN_HAND]),
            hold_ups=tuple(self._hold_ups(cell)),
            seconds_each=cell.mailbox.seconds_each,
            entities=self._entities(cell),
            children=() if cell.children is None else self.of(cell.children).children,
        )

    def locks(self, uses: Iterable[LockUse]) -> tuple[LockReport, ...]:
        """Return the locks that actors use, the longest use first."""
        return tuple(
            LockReport(
                name=_short(use.name),
                actor=use.actor,
                since=use.since + self._ahead,
                message=use.message,
                is_held=use.is_held,
            )
            for use in sorted(uses, key=lambda use: use.since)[:SHOWN_LOCKS]
        )

    def _held(self, item: Item, began: float) -> HeldMessage:
        since = began + self._ahead
        if not isinstance(item, Delivery):
            return HeldMessage(what=type(item.message).__name__, since=since)
        return HeldMessage(
            what=item.id, since=since, source=item.source, key=item.key or "", attempt=max(1, item.attempt)
        )

    def _entities(self, cell: Cell) -> EntityReport | None:
        counts = None if cell.consumer is None else cell.consumer.entity_counts
        if counts is None:
            return None
        stalled = counts.stalled_keys(self._now)
        declared = cell.settings.entities or Entities()
        return EntityReport(
            kept=getattr(None if cell.current is None else cell.current.instance, "active", 0),
            activations=counts.activations,
            commits=counts.commits,
            conflicts=counts.conflicts,
            refused=counts.refused,
            stalled=len(stalled),
            stalled_keys=tuple(map(_short, stalled[:SHOWN_KEYS])),
            hot=tuple(HotKey(key=_short(key), count=count) for key, count in counts.hot.hottest(SHOWN_KEYS, self._now)),
            ttl=declared.ttl,
            history=declared.history,
            schema=counts.schema,
        )

    def _hold_ups(self, cell: Cell) -> Iterable[HoldUp]:
        if cell.admission is None:
            return
        waiting: dict[Limiter, tuple[int, float]] = {}
        for limiter, count, wait in cell.admission.hold_ups(self._now):
            before, soonest = waiting.get(limiter, (0, math.inf))
            waiting[limiter] = before + count, min(soonest, wait)
        for limiter in cell.admission.limiters:
            if isinstance(limiter, CircuitBreakerState) and limiter.is_open and limiter not in waiting:
                waiting[limiter] = 0, limiter.wait("", self._now)
        for limiter, (count, wait) in waiting.items():
            if isinstance(limiter, CircuitBreakerState) and not limiter.is_open:
                continue
            limit = self._limiters.limit_of(limiter)
            until = None if math.isinf(wait) else self._now + wait + self._ahead
            name = (None if limit is None else limit.name) or cell.title
            yield HoldUp(kind=_kind_of(limit), name=name, waiting=count, until=until)


def _short(key: str) -> str:
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 1]}…"


def _label(label: str, title: str) -> str:
    return "" if label == title else label


def _kind(spec: object) -> str:
    match spec:
        case Replicas():
            return "replicas"
        case DynamicSupervisor():
            return "dynamic"
        case Supervisor():
            return spec.strategy
        case _:
            return "supervisor"


def _kind_of(limit: Limit | None) -> str:
    match limit:
        case RateLimit():
            return "rate"
        case ConcurrencyLimit():
            return "concurrency"
        case Bulkhead():
            return "bulkhead"
        case CircuitBreaker():
            return "circuit"
        case None:
            return "limit"
