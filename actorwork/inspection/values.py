"""What an inspection returns: values, for a terminal, a page and JSON alike.

Each answer carries `as_of`, the moment at which the broker was asked, in seconds since the epoch by the broker's clock,
as all times here are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs

from actorwork.message import Json
from actorwork.policy.history import Past
from actorwork.policy.idle import Reason
from actorwork.policy.reports import EntityReport, HeldMessage, HoldUp, NodeReport, PartReport
from actorwork.policy.series import Series
from actorwork.records import MessageInfo, Pause
from actorwork.shown import Value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class NodeInfo(Value):
    """A node, as it reported itself last.

    `id` is its incarnation, under which it owns deliveries. `report` is None where what stands at the broker is no
    report; then `problem` says why, as it does where the node has lost its lease. `age` is how many seconds ago it was
    written, and `is_late` whether the next one is overdue.
    """

    id: str
    report: NodeReport | None
    age: float = 0.0
    is_late: bool = False
    has_lost_lease: bool = False
    problem: str = ""
    parent: str = ""
    """The node that has started it, for the process of a `Process`, as far as it is known."""

    @property
    def name(self) -> str:
        """Host and pid, or the id of a node whose report cannot be read."""
        return self.id if self.report is None else self.report.name

    @property
    def state(self) -> str:
        """`running`, `stopping`, `blocked`, `lease lost`, `late` or `unreadable`."""
        if self.report is None:
            return "unreadable"
        if self.has_lost_lease and self.report.state != "blocked":
            return "lease lost"
        return "late" if self.is_late and self.report.state == "running" else self.report.state


@attrs.frozen(kw_only=True, eq=False, repr=False)
class NodePage(Value):
    """Nodes, by id: `total` of all, and the id after which the next page begins, or None."""

    as_of: float
    nodes: tuple[NodeInfo, ...]
    total: int
    next: str | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Holder(Value):
    """A running message, with the node and the actor that handle it."""

    node: str
    name: str
    actor: str
    message: HeldMessage


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ActorInfo(Value):
    """An actor on all nodes that run it, by title.

    `states` counts its places in the trees by state. `why` says why nothing happens, or that something does.
    """

    title: str
    nodes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    states: Mapping[str, int] = attrs.field(factory=dict[str, int])
    waiting: int = 0
    capacity: int = 0
    concurrency: int = 0
    handling: int = 0
    in_hand: tuple[Holder, ...] = ()
    restarts: int = 0
    hold_ups: tuple[HoldUp, ...] = ()
    backlog: int = 0
    """Messages of its sources that are ready or in flight."""
    dead: int = 0
    """Dead letters of its sources, also those of other actors that read them."""
    pause: Pause | None = None
    why: Reason | None = None
    entities: EntityReport | None = None
    """What its nodes report together, if it is an entity."""

    def __hash__(self) -> int:
        return hash((self.title, self.nodes))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SourceInfo(Value):
    """A source: what waits in it, and which actors on which nodes read it.

    `backlog` counts what is ready or in flight, or waits behind others with its key. `oldest` is how many seconds ago
    the oldest message in it entered, `next_due` when the first delayed one is due.
    """

    name: str
    backlog: int = 0
    delayed: int = 0
    dead: int = 0
    oldest: float | None = None
    next_due: float | None = None
    actors: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    handling: int = 0
    pause: Pause | None = None
    why: Reason | None = None
    minutes: Series | None = None
    """What was handled in the last two hours, if it was asked for."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Problem(Value):
    """What needs a person: `kind` is `node`, `actor`, `source` or `dead letters`, and `name` says which.

    `node` is the id of a node that reports itself.
    """

    kind: str
    name: str
    text: str
    node: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Overview(Value):
    """Everything at one broker: what runs where, what is late, and what needs a person.

    The lists are bounded: `actors_left_out` and `sources_left_out` count the others. Sources with a backlog come first,
    the oldest in front.
    """

    as_of: float
    broker: str
    nodes: tuple[NodeInfo, ...]
    actors: tuple[ActorInfo, ...]
    sources: tuple[SourceInfo, ...]
    pauses: tuple[Pause, ...]
    problems: tuple[Problem, ...]
    backlog: int = 0
    handling: int = 0
    delayed: int = 0
    dead: int = 0
    restarts: int = 0
    oldest: float | None = None
    actors_left_out: int = 0
    sources_left_out: int = 0
    past: Past | None = None
    """What all nodes that run now have done in the last hour, minute by minute."""
    minutes: Series | None = None
    """What was handled in the last two hours, on all nodes, also those that have ended."""
    commands: int = 0
    """How many commands this took at the broker."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TreeInfo(Value):
    """The tree of a program: its parts, in which the trees of its processes stand at their places."""

    as_of: float
    node: str
    name: str
    root: PartReport


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MessageView(Value):
    """One message: what is known of its life, who holds it, and why nothing happens.

    `info` is None for a message that is not tracked. `payload` is the text of what is found of it (delayed, waiting
    for its key, or a dead letter), else None. `dead` is its entry among the dead letters.
    """

    as_of: float
    id: str
    source: str
    why: Reason
    info: MessageInfo | None = None
    holder: Holder | None = None
    key: str = ""
    due: float | None = None
    dead: str = ""
    headers: Mapping[str, Json] = attrs.field(factory=dict[str, Json])
    payload: str | None = None
    result: str | None = None
    """The JSON of its result, once it has one."""

    def __hash__(self) -> int:
        return hash((self.source, self.id))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stack(Value):
    """Where a thread or a task is: one line for each frame, the innermost last."""

    name: str
    kind: str
    """`thread` or `task`."""
    lines: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Stacks(Value):
    """The stacks of a node. `blocked_for` is for how many seconds its loop had not run, or None if it answered itself.

    A node that does not answer has `no_answer`, which says so, and no stacks.
    """

    as_of: float
    node: str
    name: str
    stacks: tuple[Stack, ...] = ()
    blocked_for: float | None = None
    no_answer: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Obeyed(Value):
    """What a node said to a command; `done` is False if it refused, or did not answer: `text` tells."""

    node: str
    name: str
    done: bool
    text: str
    is_answered: bool = True


def as_json(value: object) -> Any:
    """Return a value of this module, or a list of them, as what `json.dumps` takes.

    Properties that say something of their own (`state` of a node, whether a reason `is_fine`) are among the fields.
    """
    if attrs.has(type(value)):
        facts = {field.name: as_json(getattr(value, field.name)) for field in attrs.fields(cast("Any", type(value)))}
        match value:
            case NodeInfo():
                facts |= {"name": value.name, "state": value.state}
            case Reason():
                facts["is_fine"] = value.is_fine
            case NodeReport():
                facts["uptime"] = value.uptime
            case _:
                pass
        return facts
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(one) for one in cast("Iterable[object]", value)]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
