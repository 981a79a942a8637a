"""What a node reports of itself, as values and as JSON of at most 8 KB.

    NodeReport    one OS process: where it runs, its lease, its loop, what it costs
    EntityReport  what an entity has done, its hot keys among it
    PartReport    a child in its tree, with those below it: an actor, a task, a process, a supervisor
    HeldMessage   a running message
    HoldUp        a limit that holds messages back, or an open circuit
    LockReport    a lock that a handler holds, or waits for
    StallReport   how often the loop was blocked, and where it was last
    StoredReport, Ask, Mail, Counts, Found    what the broker returns about reports, commands, sources and messages

`written` leaves out what is as usual, and the ends of a tree that is too large; `read` takes what any version has
written, ignores fields that it does not know, and raises `ValueError` for everything else. A report may come from
another version, or from another program that has written the key, so nothing in it is trusted.

All times are in seconds since the epoch, by the broker's clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, TypeVar, cast

import attrs

from actorwork.message import NO_HEADERS, Json
from actorwork.shown import Value

LARGEST: Final = 8192
"""Bytes of a report, at most."""
DEEPEST: Final = 30
"""Levels of a tree that are read."""
LONGEST: Final = 2000
"""Characters of a text in a report that are read."""
SHOWN_IN_HAND: Final = 5
"""Running messages of one actor that a report names, the oldest ones."""
SHOWN_KEYS: Final = 5
"""Keys of an entity that a report names: the hottest, and those that are stalled."""
LONGEST_KEY: Final = 200
"""Characters of a key in these, or of the name of a lock; a longer one is cut."""
SHOWN_LOCKS: Final = 10
"""Locks that a report names: those that are held or waited for the longest."""

LONGEST_STACK: Final = 1000
"""Characters of the stack of a stall in a report: the innermost frames stay."""

T = TypeVar("T")
_set: Final = object.__setattr__


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, got {value!r:.100}")  # noqa: TRY004 - so is every other defect
    return value[:LONGEST]


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a whole number was expected, got {value!r:.100}")  # noqa: TRY004 - as above
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"a number was expected, got {value!r:.100}")
    return float(value)


def _optional(read: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else read(value)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(one) for one in _list(value))


def _counts(value: object) -> Mapping[str, int]:
    if not isinstance(value, Mapping):
        raise ValueError(f"an object was expected, got {value!r:.100}")  # noqa: TRY004 - as above
    return {_text(name): _count(count) for name, count in cast("Mapping[object, object]", value).items()}


def _list(value: object) -> list[object]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"a list was expected, got {value!r:.100}")  # noqa: TRY004 - as above
    return list(cast("list[object]", value))


def _each(kind: Callable[[], type[T]]) -> Callable[[object], tuple[T, ...]]:
    """Return a converter for a list of values, each of which may be JSON."""

    def read_all(value: object) -> tuple[T, ...]:
        return tuple(one if isinstance(one, kind()) else _value_of(kind(), one) for one in _list(value))

    return read_all


@cache
def _form_of(kind: type[Any]) -> tuple[Mapping[str, Any], Mapping[str, Callable[[object], Any]], frozenset[str]]:
    """Return the usual values of a kind of value, what reads each field, and the fields that must be there."""
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(kind)
    usual: dict[str, Any] = {
        field.name: {} if isinstance(field.default, attrs.Factory) else field.default  # pyright: ignore[reportArgumentType]
        for field in fields
        if field.default is not attrs.NOTHING
    }
    readers = {field.name: cast("Callable[[object], Any]", field.converter) for field in fields}
    return usual, readers, frozenset(readers.keys() - usual.keys())


def _value_of(kind: type[T], facts: object) -> T:
    """Make a value of JSON; raises `ValueError`.

    Without its constructor, which would convert the usual values too: of an overview of a thousand nodes, that was two
    thirds of the time.
    """
    if not isinstance(facts, dict):
        raise ValueError(f"an object was expected, got {facts!r:.100}")  # noqa: TRY004 - as above
    usual, readers, required = _form_of(kind)
    values = dict(usual)
    for name, fact in cast("dict[str, object]", facts).items():
        reader = readers.get(name)
        if reader is not None:
            values[name] = reader(fact)
    if not required <= values.keys():
        raise ValueError(f"no {kind.__name__}: without {', '.join(sorted(required - values.keys()))}")
    one = object.__new__(kind)
    for name, value in values.items():
        _set(one, name, value)
    return one


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HeldMessage(Value):
    """A message that an actor handles now: its id, or the type of a local message, whose `source` is empty."""

    what: str = attrs.field(converter=_text)
    since: float = attrs.field(converter=_number)
    source: str = attrs.field(default="", converter=_text)
    key: str = attrs.field(default="", converter=_text)
    attempt: int = attrs.field(default=1, converter=_count)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HoldUp(Value):
    """A limit that holds messages of an actor back, or a circuit that is open.

    `kind` is `rate`, `concurrency`, `bulkhead` or `circuit`. `waiting` counts the messages that this node holds for it.
    `until` is when the next may begin, or None if that depends on the end of others.
    """

    kind: str = attrs.field(converter=_text)
    name: str = attrs.field(converter=_text)
    waiting: int = attrs.field(default=0, converter=_count)
    until: float | None = attrs.field(default=None, converter=_optional(_number))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LockReport(Value):
    """A lock that a handler of an actor holds since a moment, or waits for; `message` is what it handles."""

    name: str = attrs.field(converter=_text)
    actor: str = attrs.field(converter=_text)
    since: float = attrs.field(converter=_number)
    message: str = attrs.field(default="", converter=_text)
    is_held: bool = attrs.field(default=False, converter=bool)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HotKey(Value):
    """A key with many messages: it had `count` at least, in the last one to two minutes."""

    key: str = attrs.field(converter=_text)
    count: int = attrs.field(converter=_count)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class EntityReport(Value):
    """What an entity has done in one process.

    `kept` counts the instances that wait in memory for the next message of their key, `activations` all that were made.
    `commits` counts states that went with a settlement, `conflicts` those that the broker refused since the state had
    changed meanwhile, `refused` those that were too large or no JSON. `stalled` counts keys whose state the node cannot
    read; `stalled_keys` are some of these. `ttl` and `history` are as the actor declares them, `schema` is the version
    of the schema of its states.
    """

    kept: int = attrs.field(default=0, converter=_count)
    activations: int = attrs.field(default=0, converter=_count)
    commits: int = attrs.field(default=0, converter=_count)
    conflicts: int = attrs.field(default=0, converter=_count)
    refused: int = attrs.field(default=0, converter=_count)
    stalled: int = attrs.field(default=0, converter=_count)
    stalled_keys: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    hot: tuple[HotKey, ...] = attrs.field(default=(), converter=_each(lambda: HotKey))
    ttl: float | None = attrs.field(default=None, converter=_optional(_number))
    history: int = attrs.field(default=0, converter=_count)
    schema: int = attrs.field(default=0, converter=_count)


def _entities(value: object) -> EntityReport:
    return value if isinstance(value, EntityReport) else _value_of(EntityReport, value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PartReport(Value):
    """A child in the tree of a node, with those below it.

    `kind` is `actor`, `task`, `process`, `left out`, or what a supervisor is: its strategy, `replicas` or `dynamic`.
    `waiting` is the depth of the mailbox, and `capacity` how many local messages it takes. `handling` counts what is
    running, and `in_hand` names the oldest of it. `seconds_each` is how long a delivery takes, as the latest have
    shown. An entity has `entities`. A process has `pid` and, once it is up, the `node` that has a report of its own.
    """

    title: str = attrs.field(converter=_text)
    kind: str = attrs.field(default="actor", converter=_text)
    state: str = attrs.field(default="running", converter=_text)
    label: str = attrs.field(default="", converter=_text)
    incarnation: int = attrs.field(default=1, converter=_count)
    restarts: int = attrs.field(default=0, converter=_count)
    sources: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    waiting: int = attrs.field(default=0, converter=_count)
    capacity: int = attrs.field(default=0, converter=_count)
    concurrency: int = attrs.field(default=1, converter=_count)
    handling: int = attrs.field(default=0, converter=_count)
    in_hand: tuple[HeldMessage, ...] = attrs.field(default=(), converter=_each(lambda: HeldMessage))
    hold_ups: tuple[HoldUp, ...] = attrs.field(default=(), converter=_each(lambda: HoldUp))
    seconds_each: float | None = attrs.field(default=None, converter=_optional(_number))
    entities: EntityReport | None = attrs.field(default=None, converter=_optional(_entities))
    pid: int | None = attrs.field(default=None, converter=_optional(_count))
    node: str = attrs.field(default="", converter=_text)
    children: tuple[PartReport, ...] = attrs.field(default=(), converter=_each(lambda: PartReport))

    def walk(self) -> Iterator[PartReport]:
        """Yield it and all that are below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StallReport(Value):
    """How often the loop of a node has been blocked, for `seconds` in all.

    The last stall was `last` seconds long and ended `at` a moment; `stack` is where the loop was, the innermost frame
    last.
    """

    count: int = attrs.field(converter=_count)
    seconds: float = attrs.field(converter=_number)
    at: float = attrs.field(converter=_number)
    last: float = attrs.field(converter=_number)
    stack: str = attrs.field(default="", converter=_text)


def _stalls(value: object) -> StallReport:
    return value if isinstance(value, StallReport) else _value_of(StallReport, value)


def cut_stack(stack: str, longest: int = LONGEST_STACK) -> str:
    """Return the innermost frames of a stack that `longest` characters hold, one at least."""
    kept: list[str] = []
    for line in reversed(stack.splitlines()):
        longest -= len(line) + 1
        if longest < 0 and kept:
            break
        kept.append(line)
    return "\n".join(reversed(kept))[-LONGEST:]


_NOTHING: Final = PartReport(title="root", kind="one_for_one")


def _part(value: object) -> PartReport:
    return value if isinstance(value, PartReport) else _value_of(PartReport, value)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class NodeReport(Value):
    """What a node reports of itself.

    `state` is `running`, `stopping`, or `blocked` if its loop has not run for a while: then `blocked` has the
    stack. `lease` is its length and `lease_margin` what was left of it, `loop_lag` how late the loop was, in
    seconds; `memory` is in bytes; `cpu` is the share of one core since the last report, `cpu_seconds` the sum so
    far. `process` is the title of the `Process` that it runs, and empty for a program's own process. `pauses` are
    those that the node obeys, in words, and `locks` are those that its actors use. `counters` are those of
    `Node.statistics`, and `history` is what `policy.history` reads. `stalls` is None while the loop has not been
    blocked. The next report follows within `interval` seconds, or (0) when it is asked for.
    """

    name: str = attrs.field(converter=_text)
    host: str = attrs.field(converter=_text)
    pid: int = attrs.field(converter=_count)
    version: str = attrs.field(converter=_text)
    started: float = attrs.field(converter=_number)
    at: float = attrs.field(converter=_number)
    state: str = attrs.field(default="running", converter=_text)
    lease: float = attrs.field(default=0.0, converter=_number)
    lease_margin: float | None = attrs.field(default=None, converter=_optional(_number))
    loop_lag: float = attrs.field(default=0.0, converter=_number)
    memory: int = attrs.field(default=0, converter=_count)
    cpu: float = attrs.field(default=0.0, converter=_number)
    cpu_seconds: float = attrs.field(default=0.0, converter=_number)
    threads: int = attrs.field(default=0, converter=_count)
    process: str = attrs.field(default="", converter=_text)
    interval: float = attrs.field(default=10.0, converter=_number)
    pauses: tuple[str, ...] = attrs.field(default=(), converter=_texts)
    counters: Mapping[str, int] = attrs.field(factory=dict[str, int], converter=_counts)
    history: str = attrs.field(default="", converter=_text)
    locks: tuple[LockReport, ...] = attrs.field(default=(), converter=_each(lambda: LockReport))
    stalls: StallReport | None = attrs.field(default=None, converter=_optional(_stalls))
    blocked: str = attrs.field(default="", converter=_text)
    tree: PartReport = attrs.field(default=_NOTHING, converter=_part)

    def __hash__(self) -> int:
        return hash((self.name, self.pid, self.at))

    @property
    def uptime(self) -> float:
        """Seconds that it had been running when it wrote this."""
        return max(0.0, self.at - self.started)

    @property
    def parts(self) -> tuple[PartReport, ...]:
        """All parts of its tree, supervisors included."""
        return tuple(self.tree.walk())

    @property
    def actors(self) -> tuple[PartReport, ...]:
        """The actors in its tree."""
        return tuple(part for part in self.tree.walk() if part.kind == "actor")

    @property
    def processes(self) -> tuple[PartReport, ...]:
        """The processes that it has started, one for each replica."""
        return tuple(part for part in self.tree.walk() if part.kind == "process")

    @property
    def is_whole(self) -> bool:
        """Whether it shows the whole tree: of a large one, parts are left out."""
        return all(part.kind != "left out" for part in self.tree.walk())


def written(report: NodeReport, largest: int = LARGEST) -> bytes:
    """Return a report as JSON of at most `largest` bytes.

    Where it is too large, the children of each supervisor are left out from the end, those that have something running
    last, and a part of the kind `left out` tells how many.
    """
    most = max((len(part.children) for part in report.tree.walk()), default=0)
    while True:
        data = json.dumps(_facts_of(report, most), separators=(",", ":"), ensure_ascii=False).encode()
        if len(data) <= largest:
            return data
        if most == 0:
            break
        # The size is nearly proportional to the parts, so the second round suffices as a rule.
        most = min(most - 1, int(0.9 * most * largest / len(data)))
    # What is left can be this large only by its texts.
    bare = attrs.evolve(
        report,
        tree=_NOTHING,
        pauses=(f"{len(report.pauses)} pauses",),
        counters={},
        history="",
        locks=(),
        stalls=None if report.stalls is None else attrs.evolve(report.stalls, stack=""),
        blocked=report.blocked[-500:],
    )
    return json.dumps(_facts_of(bare, 0), separators=(",", ":")).encode()


def read(data: bytes) -> NodeReport:
    """Return the report that JSON describes; raises `ValueError` for what is none."""
    if len(data) > 16 * LARGEST:
        raise ValueError(f"a report of {len(data)} bytes, where {LARGEST} are the most")
    try:
        return _value_of(NodeReport, json.loads(data))
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"not a report: {type(error).__name__}") from error


def _facts_of(value: object, most: int) -> dict[str, Any]:
    """Return a value as JSON, without the fields that are as usual."""
    facts: dict[str, Any] = {}
    for field in attrs.fields(cast("Any", type(value))):
        fact = getattr(value, field.name)
        if isinstance(fact, (PartReport, EntityReport, StallReport)):
            facts[field.name] = _facts_of(fact, most)
        elif field.name == "children":
            if fact:
                facts["children"] = [_facts_of(one, most) for one in _shown(fact, most)]
        elif isinstance(fact, tuple) and fact and not isinstance(fact[0], str):
            facts[field.name] = [_facts_of(one, most) for one in cast("tuple[object, ...]", fact)]
        elif fact != (field.default if field.default is not attrs.NOTHING else None) and fact not in ((), {}):
            facts[field.name] = round(fact, 6) if isinstance(fact, float) else fact
    return facts


def _shown(children: tuple[PartReport, ...], most: int) -> list[PartReport]:
    if len(children) <= most:
        return list(children)
    # Sorting is stable: among those that are equally busy the first ones stay.
    kept = set(map(id, sorted(children, key=_rank)[:most]))
    shown = [child for child in children if id(child) in kept]
    return [*shown, PartReport(title=f"{len(children) - len(shown)} more", kind="left out", state="not shown")]


def _rank(part: PartReport) -> int:
    """Order parts by how much they matter to a reader: supervisors, those that work or have trouble, others."""
    if part.children or part.kind == "process":
        return 0
    return 1 if part.handling or part.waiting or part.hold_ups or part.restarts else 2


@attrs.frozen(eq=False, repr=False)
class StoredReport(Value):
    """A node's report as it stands at the broker; nothing in `data` is checked.

    `has_lease` is whether the node holds its lease now. A node that reads nothing may hold none.
    """

    node: str
    data: bytes
    has_lease: bool


@attrs.frozen(eq=False, repr=False)
class Ask(Value):
    """A command to a node: its id, under which the answer is stored, and its JSON."""

    id: str
    data: bytes


@attrs.frozen(eq=False, repr=False)
class Mail(Value):
    """What a node finds at the broker: commands, oldest first, and for how many more seconds reports are watched."""

    asks: Sequence[Ask] = ()
    watched: float = 0.0


@attrs.frozen(eq=False, repr=False)
class Counts(Value):
    """What is in a source: ready or in flight or behind others with its key; delayed; dead letters.

    `oldest` is how many seconds ago the oldest entry that is still there was added, `due` when the first delayed
    message is due, in seconds since the epoch.
    """

    source: str
    backlog: int = 0
    delayed: int = 0
    dead: int = 0
    oldest: float | None = None
    due: float | None = None


@attrs.frozen(eq=False, repr=False)
class Found(Value):
    """A message as it stands at the broker: `ready` (or in flight), `delayed` until `due`, or behind another with its
    `key`.
    """

    where: Literal["ready", "delayed", "key"]
    data: bytes
    key: str = ""
    headers: Mapping[str, Json] = NO_HEADERS
    due: float | None = None
