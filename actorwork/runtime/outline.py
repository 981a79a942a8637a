"""The tree as it is now, as data and as a drawing.

root  one_for_one
├─ greeter      running   incarnation 2, 1 restart, 3 waiting, handling Greet for 0.2 s
└─ sessions     dynamic
   └─ session   running   incarnation 1
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import attrs

from actorwork.actors.life.cell import Cell
from actorwork.actors.supervision.supervisor import RunningSupervisor
from actorwork.actors.tree.pool import Pool
from actorwork.actors.tree.spec import Child, DynamicSupervisor, Process, Replicas, Supervisor
from actorwork.message import Delivery
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.actors.mailbox.calls import Item

OUTLINED: Final = 100
"""Children of one supervisor in a status for another process, at most: a dynamic one may have a hundred thousand."""


class RemotePart(Protocol):
    """A part of the tree that runs in another process, as it is shown and counted here."""

    @property
    def pid(self) -> int | None: ...
    def branches(self) -> tuple[Branch, ...]: ...
    def statistics(self) -> Mapping[str, int]: ...


@attrs.frozen(eq=False, repr=False)
class InFlightItem(Value):
    """What an actor handles now: a message's type or id, and since how many seconds."""

    what: str
    seconds: float


@attrs.frozen(eq=False, repr=False)
class Branch(Value):
    """A child in the tree, with those below it.

    `waiting` is the depth of the mailbox. `kind` is `actor`, `task`, `process`, or the strategy of a supervisor. `pid`
    is that of a running process; the children of a process are those of its last status, about a second old.
    """

    title: str
    kind: str
    state: str
    incarnation: int = 1
    restarts: int = 0
    waiting: int = 0
    in_hand: tuple[InFlightItem, ...] = ()
    children: tuple[Branch, ...] = ()
    pid: int | None = None
    label: str = ""
    """The title, with the id and the registered names of the child, if it has any."""

    def __str__(self) -> str:
        return "\n".join(_lines(self, "", ""))

    @property
    def line(self) -> str:
        """The line for it alone, without those below."""
        facts = [self.state, f"incarnation {self.incarnation}"]
        if self.kind not in ("actor", "task"):
            facts.insert(0, self.kind if self.pid is None else f"{self.kind} {self.pid}")
        if self.restarts:
            facts.append(f"{self.restarts} restart{'s' * (self.restarts > 1)}")
        if self.waiting:
            facts.append(f"{self.waiting} waiting")
        facts += [f"handling {item.what} for {item.seconds:.1f} s" for item in self.in_hand]
        return f"{self.label or self.title}  {', '.join(facts)}"


def _lines(branch: Branch, first: str, rest: str) -> Iterator[str]:
    yield first + branch.line
    for child in branch.children[:-1]:
        yield from _lines(child, f"{rest}├─ ", f"{rest}│  ")
    for child in branch.children[-1:]:
        yield from _lines(child, f"{rest}└─ ", f"{rest}   ")


def branch_of(supervision: RunningSupervisor, now: float, most: int | None = None) -> Branch:
    """Return a supervisor with all that is below it; `now` is Trio's time, `most` bounds the children shown of each."""
    children: list[Branch] = []
    for record in islice(supervision.records, most):
        member, state, counts = record.member, record.state.value, (record.incarnation, record.restarts)
        if isinstance(member, RunningSupervisor):
            below = branch_of(member, now, most)
            branch = attrs.evolve(below, state=state, incarnation=record.incarnation, restarts=record.restarts)
        elif isinstance(member, Cell):
            spawned = () if member.children is None else branch_of(member.children, now, most).children
            branch = Branch(
                record.spec.title,
                "actor",
                state,
                *counts,
                member.waiting,
                tuple(InFlightItem(_called(item), max(0.0, now - began)) for item, began in member.in_flight_since()),
                spawned,
                label=member.label,
            )
        elif isinstance(record.spec, Process):
            process = cast("RemotePart", member)
            branch = Branch(record.spec.title, "process", state, *counts, children=process.branches(), pid=process.pid)
        else:
            branch = Branch(record.spec.title, "task", state, *counts, label=member.label)
        children.append(branch)
    left_out = len(supervision.records) - len(children)
    if left_out:
        children.append(Branch(f"{left_out} more", "left out", "not shown"))
    spec = supervision.spec
    match spec:
        case Replicas():
            kind = "replicas"
        case DynamicSupervisor():
            kind = "dynamic"
        case Supervisor():
            kind = spec.strategy
    return Branch(supervision.title, kind, "running", children=tuple(children))


def outline(root: RunningSupervisor, now: float) -> dict[str, Any]:
    """Return a tree for another process to show, as JSON."""
    return attrs.asdict(branch_of(root, now, OUTLINED))


def branch_from(outlined: dict[str, Any]) -> Branch:
    """Return the branch that an outline describes."""
    facts: dict[str, Any] = {
        **outlined,
        "in_hand": tuple(InFlightItem(**item) for item in outlined["in_hand"]),
        "children": tuple(branch_from(child) for child in outlined["children"]),
    }
    return Branch(**facts)


def parts_of(root: RunningSupervisor) -> Iterator[RemotePart]:
    """Yield the parts of a tree that run in other processes."""
    for record in root.records:
        if isinstance(record.member, RunningSupervisor):
            yield from parts_of(record.member)
        elif isinstance(record.spec, Process):
            yield cast("RemotePart", record.member)


def _called(item: Item) -> str:
    return item.id if isinstance(item, Delivery) else type(item.message).__name__


def supervisor_of(root: RunningSupervisor, which: Hashable) -> RunningSupervisor:
    """Return a supervisor in the tree by its name, its id, or a path of ids; raises `LookupError`."""
    found = [root] if which is None else list(_path(root, which)) or [s for s in _all(root) if s.title == which]
    if len(found) != 1:
        known = ", ".join(repr(supervision.title) for supervision in _all(root))
        many = f"{len(found)} supervisors are called {which!r}: give a tuple of ids, from below the root"
        raise LookupError(many if found else f"no supervisor {which!r} in this system, which has {known}")
    return found[0]


def local_of(root: RunningSupervisor, actor: object) -> Cell | None:
    """Return the local actor of a class that the tree has from the start, or None; raises `LookupError` for several."""
    found = [
        record.member
        for supervision in _all(root)
        if not isinstance(supervision.spec, (Pool, DynamicSupervisor))
        for record in supervision.records
        if isinstance(record.member, Cell) and record.member.child.actor is actor
    ]
    if len(found) > 1:
        raise LookupError(
            f"{len(found)} local actors of this system are a {found[0].title!r}: give each a name, Child(…, name=…),"
            " for system.whereis(name)"
        )
    return found[0] if found else None


def pool_of(root: RunningSupervisor, which: object) -> RunningSupervisor:
    """Return a pool in the tree by its name, or by the actor class of its members; raises `LookupError`."""
    pools = [supervision for supervision in _all(root) if isinstance(supervision.spec, Pool)]
    found = [pool for pool in pools if pool.title == which or _members(pool) == {which}]
    if len(found) != 1:
        known = ", ".join(repr(pool.title) for pool in pools) or "none"
        raise LookupError(f"{len(found)} pools are called {which!r} in this system, which has {known}")
    return found[0]


def _members(pool: RunningSupervisor) -> set[type | None]:
    return {record.spec.actor for record in pool.records if isinstance(record.spec, Child)}


def _path(root: RunningSupervisor, which: Hashable) -> Iterator[RunningSupervisor]:
    """Yield the supervisors under a path of ids, or under one id at any depth."""
    for supervision in _all(root):
        record = supervision.records.get(which)
        if record is not None and isinstance(record.member, RunningSupervisor):
            yield record.member
    if isinstance(which, tuple):
        at: RunningSupervisor | None = root
        for step in cast("tuple[Hashable, ...]", which):
            record = at.records.get(step) if at is not None else None
            at = record.member if record is not None and isinstance(record.member, RunningSupervisor) else None
        if at is not None:
            yield at


def _all(root: RunningSupervisor) -> Iterator[RunningSupervisor]:
    yield root
    for record in root.records:
        if isinstance(record.member, RunningSupervisor):
            yield from _all(record.member)
