"""The tree as it is now, as data and as a drawing.

root  one_for_one
├─ greeter      running   incarnation 2, 1 restart, 3 waiting, handling Greet for 0.2 s
└─ sessions     dynamic
   └─ session   running   incarnation 1
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from actorwork.actors.cell import Cell
from actorwork.actors.child import DynamicSupervisor
from actorwork.actors.supervision import Supervision
from actorwork.message import Delivery

if TYPE_CHECKING:
    from actorwork.actors.mailbox import Item


@attrs.frozen
class InHand:
    """What an actor handles now: a message's type or id, and for how many seconds."""

    what: str
    seconds: float


@attrs.frozen
class Branch:
    """A child in the tree, with those below it.

    `waiting` is the depth of the mailbox. `kind` is `actor`, `task`, or the strategy of a supervisor.
    """

    title: str
    kind: str
    state: str
    incarnation: int = 1
    restarts: int = 0
    waiting: int = 0
    in_hand: tuple[InHand, ...] = ()
    children: tuple[Branch, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self, "", ""))

    @property
    def line(self) -> str:
        """What is said of it alone, without those below."""
        facts = [self.state, f"incarnation {self.incarnation}"]
        if self.kind not in ("actor", "task"):
            facts.insert(0, self.kind)
        if self.restarts:
            facts.append(f"{self.restarts} restart{'s' * (self.restarts > 1)}")
        if self.waiting:
            facts.append(f"{self.waiting} waiting")
        facts += [f"handling {item.what} for {item.seconds:.1f} s" for item in self.in_hand]
        return f"{self.title}  {', '.join(facts)}"


def _lines(branch: Branch, first: str, rest: str) -> Iterator[str]:
    yield first + branch.line
    for child in branch.children[:-1]:
        yield from _lines(child, f"{rest}├─ ", f"{rest}│  ")
    for child in branch.children[-1:]:
        yield from _lines(child, f"{rest}└─ ", f"{rest}   ")


def branch_of(supervision: Supervision, now: float) -> Branch:
    """Return a supervisor with all that is below it; `now` is Trio's time."""
    children: list[Branch] = []
    for slot in supervision.slots:
        member, state, counts = slot.member, slot.state.value, (slot.incarnation, slot.restarts)
        if isinstance(member, Supervision):
            below = branch_of(member, now)
            branch = attrs.evolve(below, state=state, incarnation=slot.incarnation, restarts=slot.restarts)
        elif isinstance(member, Cell):
            spawned = () if member.children is None else branch_of(member.children, now).children
            branch = Branch(
                slot.spec.title,
                "actor",
                state,
                *counts,
                len(member.mailbox),
                tuple(InHand(_called(item), max(0.0, now - began)) for item, began in member.in_hand_since()),
                spawned,
            )
        else:
            branch = Branch(slot.spec.title, "task", state, *counts)
        children.append(branch)
    spec = supervision.spec
    kind = "dynamic" if isinstance(spec, DynamicSupervisor) else spec.strategy
    return Branch(supervision.title, kind, "running", children=tuple(children))


def _called(item: Item) -> str:
    return item.id if isinstance(item, Delivery) else type(item.message).__name__
