"""Everything that the nodes of a broker report, read once and put in order.

An actor on a node is a `Place`. Places by title and by source are what all questions are answered from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from actorwork.errors import BrokerError
from actorwork.inspection.values import Holder, NodeInfo
from actorwork.policy.idle import Place
from actorwork.policy.reports import NodeReport, StoredReport, read
from actorwork.state.known_actors import Known, known_actors

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.records import Pause

READ_AT_ONCE: Final = 200
"""Reports that one command returns, at most: 1.6 MB."""
LATE_AFTER: Final = 5.0
"""Seconds that a report may be overdue."""


@attrs.define(eq=False)
class Gathered:
    """What was read, as of one moment."""

    as_of: float
    nodes: Sequence[NodeInfo]
    pauses: Sequence[Pause] = ()
    known: Known = attrs.field(factory=dict[str, Sequence[str]])
    commands: int = 0
    is_whole: bool = True
    """Whether all reports show all their actors."""
    by_title: dict[str, list[Place]] = attrs.field(factory=dict[str, list[Place]])
    by_source: dict[str, list[Place]] = attrs.field(factory=dict[str, list[Place]])

    @classmethod
    def of(
        cls, as_of: float, nodes: Sequence[NodeInfo], pauses: Sequence[Pause], known: Known, commands: int
    ) -> Gathered:
        found = cls(as_of, nodes, pauses, known, commands)
        for node in nodes:
            if node.report is None:
                found.is_whole = False
                continue
            state, blocked = state_of(node), node.report.loop_lag
            for part in node.report.tree.walk():
                if part.kind == "left out":
                    found.is_whole = False
                if part.kind != "actor":
                    continue
                place = Place(
                    node=node.id,
                    name=node.name,
                    state=state,
                    part=part,
                    blocked_for=blocked,
                    process=node.report.process,
                    pauses=node.report.pauses,
                )
                found.by_title.setdefault(part.title, []).append(place)
                for source in part.sources:
                    found.by_source.setdefault(source, []).append(place)
        return found

    @property
    def sources(self) -> list[str]:
        """All sources that an actor reads, or has read."""
        return sorted({*self.by_source, *(source for sources in self.known.values() for source in sources)})

    @property
    def readers(self) -> dict[str, list[str]]:
        """The titles of the actors that read each source, or have read it."""
        found: dict[str, set[str]] = {source: set() for source in self.sources}
        for title, sources in self.known.items():
            for source in sources:
                found[source].add(title)
        for source, places in self.by_source.items():
            found[source] |= {place.part.title for place in places}
        return {source: sorted(titles) for source, titles in found.items()}

    @property
    def titles(self) -> list[str]:
        """All actors that run, or have run."""
        return sorted({*self.by_title, *self.known})

    def held(self, places: Iterable[Place]) -> list[Holder]:
        """Return what is running at places, the oldest first, as far as reports name it."""
        found = [
            Holder(node=place.node, name=place.name, actor=place.part.title, message=message)
            for place in places
            for message in place.part.in_hand
        ]
        return sorted(found, key=lambda one: one.message.since)

    def place_of(self, holder: Holder) -> Place:
        return next(place for place in self.by_title[holder.actor] if place.node == holder.node)


def state_of(node: NodeInfo) -> str:
    """Return how a node is, as `Place` has it."""
    report = node.report
    if report is not None and report.state == "blocked":
        return "blocked"
    if node.has_lost_lease:
        return "lease lost"
    return "late" if node.is_late else "stopping" if node.state == "stopping" else "running"


async def read_nodes(broker: Broker, nodes: Sequence[str], as_of: float) -> tuple[list[NodeInfo], int]:
    """Return nodes with their reports, and how many commands that took."""
    found: list[NodeInfo] = []
    commands = 0
    for start in range(0, len(nodes), READ_AT_ONCE):
        commands += 1
        found += [info_of(one, as_of) for one in await broker.reports.get(nodes[start : start + READ_AT_ONCE])]
    return with_parents(found), commands


def info_of(stored: StoredReport, as_of: float) -> NodeInfo:
    """Read a report; one that is none becomes a node that says so."""
    try:
        report = read(stored.data)
    except ValueError as error:
        return NodeInfo(id=stored.node, report=None, problem=f"what it reports cannot be read: {error}")
    age = max(0.0, as_of - report.at)
    is_late = bool(report.interval) and age > report.interval + LATE_AFTER
    has_lost_lease = report.lease_margin is not None and not stored.has_lease
    return NodeInfo(
        id=stored.node,
        report=report,
        age=age,
        is_late=is_late,
        has_lost_lease=has_lost_lease,
        problem=_problem_of(report, age, is_late=is_late, has_lost_lease=has_lost_lease),
    )


def _problem_of(report: NodeReport, age: float, *, is_late: bool, has_lost_lease: bool) -> str:
    if report.state == "blocked":
        lines = report.blocked.splitlines()
        where = f" in {lines[-1]}" if lines else ""
        return f"its loop has been blocked for {report.loop_lag:.0f} s{where}"
    if has_lost_lease:
        return "its lease is lost: other nodes take over what it has"
    return f"it has not reported for {age:.0f} s: it may be suspended, or cut off" if is_late else ""


def with_parents(nodes: Sequence[NodeInfo]) -> list[NodeInfo]:
    """Note in each node which of the others has started it."""
    parents = {
        part.node: node.id
        for node in nodes
        if node.report is not None
        for part in node.report.tree.walk()
        if part.kind == "process" and part.node
    }
    return [attrs.evolve(node, parent=parents[node.id]) if node.id in parents else node for node in nodes]


async def gather(broker: Broker) -> Gathered:
    """Read all reports, what is paused, and which actors have run. Raises `BrokerError`."""
    as_of, names = await broker.reports.nodes()
    nodes, commands = await read_nodes(broker, names, as_of)
    pauses = await broker.pauses.list()
    try:
        known = await known_actors(broker.values)
    except BrokerError:  # A user with few rights may not read them.
        known = dict[str, Sequence[str]]()
    return Gathered.of(as_of, nodes, pauses, known, commands + 4)
