"""Why nothing happens, in one line: of a message, an actor, and a source.

`Reason` is the answer. Its `code` is for programs:

    paused        by whom, since when, and why
    no reader     no node reports that it reads the source, or runs the actor
    lease lost    the node that has it has not renewed its lease
    blocked       the loop of the node is blocked
    circuit       a circuit is open, until when
    limit         a limit holds messages back, until when
    key           another message with its key is running, where
    delayed       it is not due yet, until when
    stopped       the actor has ended, or is being restarted
    full          the mailbox is full, or all that may run at once is running
    working       nothing is wrong: it is running, since when
    ready         nothing is wrong: it is the turn of a reader
    nothing       nothing waits
    over          it has ended
    unknown       the broker does not know it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import attrs

from actorwork.policy.pauses import is_there
from actorwork.policy.reports import Counts, HeldMessage, HoldUp, PartReport
from actorwork.records import Pause
from actorwork.shown import Value

Code: TypeAlias = Literal[
    "paused",
    "no reader",
    "lease lost",
    "blocked",
    "circuit",
    "limit",
    "stopped",
    "key",
    "delayed",
    "full",
    "working",
    "ready",
    "nothing",
    "over",
    "unknown",
]

FINE: frozenset[Code] = frozenset({"working", "ready", "nothing", "over", "delayed"})
"""The reasons that need no person."""


@attrs.frozen(eq=False, repr=False)
class Reason(Value):
    """Why nothing happens: a code for programs, and one line for people.

    `by` is who, `node` the node and `subject` the limit, circuit, key or pause that it is about, where there is one;
    `since` and `until` are in seconds since the epoch, by the broker's clock.
    """

    code: Code
    text: str
    subject: str = ""
    by: str = ""
    node: str = ""
    since: float | None = None
    until: float | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_fine(self) -> bool:
        """Whether it needs no person."""
        return self.code in FINE


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Place(Value):
    """An actor on one node. `state` is that of the node: running, stopping, blocked, late or lease lost."""

    node: str
    name: str
    state: str
    part: PartReport
    blocked_for: float = 0.0
    process: str = ""
    """The title of the process that the node runs, if it runs one."""
    pauses: tuple[str, ...] = ()
    """What the node obeys, as it reports it: also what its own configuration pauses."""

    @property
    def is_alive(self) -> bool:
        return self.state in ("running", "stopping")

    def reads(self, source: str) -> bool:
        """Whether the actor reads a source there."""
        return source in self.part.sources

    def hasof_pause(self, source: str) -> bool:
        """Whether the node starts no message of a source."""
        return str(Pause("source", source)) in self.pauses


def of_source(counts: Counts, pauses: Iterable[Pause], places: Sequence[Place], *, is_whole: bool = True) -> Reason:
    """Say why nothing is read from a source. `places` are those of its readers.

    `is_whole` is whether the reports show every actor: if not, that no reader is found does not mean there is none.
    """
    pauses = list(pauses)
    everything = _pause(pauses, "everything", "") or _pause(pauses, "source", counts.source)
    if everything is not None:
        return of_pause(everything)
    actors = {place.part.title for place in places}
    of_actors = [pause for pause in pauses if pause.kind == "actor" and pause.name in actors]
    if of_actors and len({pause.name for pause in of_actors}) == len(actors):
        return of_pause(of_actors[0])
    if not counts.backlog:
        return _nothing(counts)
    what = f"{_many(counts.backlog)} in {counts.source!r}"
    return _of_places(places, what, pauses, [counts.source], is_whole=is_whole)


def of_actor(
    title: str, counts: Sequence[Counts], pauses: Iterable[Pause], places: Sequence[Place], *, is_whole: bool = True
) -> Reason:
    """Say why an actor does nothing; `counts` are those of its sources, `places` those where it runs."""
    pauses = list(pauses)
    everything = _pause(pauses, "everything", "") or _pause(pauses, "actor", title)
    if everything is not None:
        return of_pause(everything)
    of_sources = [
        pause for pause in pauses if pause.kind == "source" and any(pause.name == one.source for one in counts)
    ]
    waiting = [one for one in counts if one.backlog]
    local = sum(place.part.waiting + place.part.handling for place in places)
    # What it runs comes from another one of its sources, unless all of them are paused.
    of_interest = counts if local else waiting or counts
    if of_sources and {pause.name for pause in of_sources} >= {one.source for one in of_interest}:
        return of_pause(of_sources[0])
    backlog = sum(one.backlog for one in counts)
    if not places:
        more = f": {_many(backlog)} for it" if backlog else ""
        seen = "runs it" if is_whole else "reports that it runs it, and not all reports show all actors"
        return Reason("no reader", f"no node {seen}{more}")
    if not backlog and not local and any(place.is_alive and place.part.state == "running" for place in places):
        return _nothing(max(counts, key=lambda one: one.delayed, default=Counts(title)))
    what = f"{_many(max(backlog, local))} for {title!r}"
    return _of_places(places, what, pauses, [] if local else [one.source for one in waiting], is_whole=is_whole)


def _of_places(
    places: Sequence[Place], what: str, pauses: Sequence[Pause], sources: Sequence[str], *, is_whole: bool
) -> Reason:
    """Say what keeps readers that have something to read, from `sources` alone if there are any."""
    if not places:
        seen = "reads it" if is_whole else "reports that it reads it, and not all reports show all actors"
        return Reason("no reader", f"no node {seen}: {what}")
    alive = [place for place in places if place.is_alive]
    if not alive:
        return _dead(places[0])
    running = [place for place in alive if place.part.state == "running"]
    if not running:
        one = alive[0]
        return Reason("stopped", f"{one.part.title!r} is {one.part.state} on {one.name}: {what}", node=one.node)
    off = [_off(place, pauses) for place in running]
    if all(off):
        return of_pause(next(pause for pause in off if pause is not None))
    if sources and all(place.hasof_pause(source) for place in running for source in sources):
        one = Pause("source", sources[0], "paused_sources", f"the configuration of {running[0].name}")
        return of_pause(one)
    held = [(place, hold_up) for place in running for hold_up in place.part.hold_ups]
    circuits = [(place, hold_up) for place, hold_up in held if hold_up.kind == "circuit"]
    if circuits and len({place.node for place, _ in circuits}) == len({place.node for place in running}):
        return _held_up(*min(circuits, key=lambda one: one[1].until or 0.0))
    busy = [place for place in running if place.part.handling]
    if busy and all(place.part.handling >= place.part.concurrency for place in running):
        return _full(busy, what)
    if busy:
        return _working(busy)
    if held:
        return _held_up(*held[0])
    return Reason("ready", f"the next reader takes it: {what}")


def of_held(place: Place, message: HeldMessage) -> Reason:
    """Say what is with a running message."""
    if not place.is_alive:
        return _dead(place)
    more = f", attempt {message.attempt}" if message.attempt > 1 else ""
    text = f"running in {place.part.title!r} on {place.name} since {at(message.since)}{more}"
    return Reason("working", text, node=place.node, since=message.since)


def of_received(place: Place | None, node: str) -> Reason:
    """Say what is with a message that a node has been given, and that no actor is handling there."""
    if place is None:
        return Reason("lease lost", f"node {node}, which has it, is gone: another node takes it over", node=node)
    if not place.is_alive:
        return _dead(place)
    part = place.part
    if part.hold_ups:
        return _held_up(place, part.hold_ups[0])
    if part.handling >= part.concurrency:
        return _full([place], f"{part.waiting} in the mailbox")
    return Reason("ready", f"it waits in the mailbox of {part.title!r} on {place.name}", node=place.node)


def of_delayed(due: float) -> Reason:
    return Reason("delayed", f"delayed until {at(due)}", until=due)


def of_key(key: str, holder: Place | None, message: HeldMessage | None) -> Reason:
    """Say that a message waits behind another one with its key."""
    where, since, node = "", None, ""
    if holder is not None and message is not None:
        where = (
            f": message {message.what} is running in {holder.part.title!r} on {holder.name} since {at(message.since)}"
        )
        since, node = message.since, holder.node
    return Reason("key", f"it waits behind another message with the key {key!r}{where}", key, node=node, since=since)


def at(moment: float) -> str:
    """Return a moment, in seconds since the epoch, in words; one that no calendar has, as the number."""
    try:
        return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return f"{moment:g}"


def _pause(pauses: Iterable[Pause], kind: str, name: str) -> Pause | None:
    return next((pause for pause in pauses if pause.kind == kind and pause.name == name), None)


def _off(place: Place, pauses: Iterable[Pause]) -> Pause | None:
    """Return the pause of the actor, its node or its process, if there is one."""
    return next(
        (
            pause
            for pause in pauses
            if (pause.kind == "actor" and pause.name == place.part.title)
            or is_there(pause, node=place.name, process=place.process)
        ),
        None,
    )


def of_pause(pause: Pause) -> Reason:
    """Say what a pause does: by whom, since when, and why."""
    by = f" by {pause.by}" if pause.by else ""
    why = f" ({pause.reason})" if pause.reason else ""
    since = f" since {at(pause.at)}" if pause.at else ""
    text = f"{pause} is paused{by}{since}{why}"
    return Reason("paused", text, str(pause), pause.by, since=pause.at or None)


def _nothing(counts: Counts) -> Reason:
    if counts.delayed and counts.due is not None:
        text = f"nothing is ready; the first of {_many(counts.delayed)} that are delayed is due {at(counts.due)}"
        return Reason("delayed", text, until=counts.due)
    return Reason("nothing", "nothing waits")


def _dead(place: Place) -> Reason:
    match place.state:
        case "blocked":
            text = f"the loop of {place.name} has been blocked for {place.blocked_for:.0f} s"
            return Reason("blocked", text, node=place.node)
        case "late":
            text = f"{place.name} has not reported in time: it may be suspended, or cut off"
            return Reason("lease lost", text, node=place.node)
        case _:
            text = f"the lease of {place.name} is lost: another node takes over what it has"
            return Reason("lease lost", text, node=place.node)


def _held_up(place: Place, hold_up: HoldUp) -> Reason:
    until = "" if hold_up.until is None else f" until {at(hold_up.until)}"
    if hold_up.kind == "circuit":
        text = f"the circuit {hold_up.name!r} is open on {place.name}{until or ', and a probe is on its way'}"
        return Reason("circuit", text, hold_up.name, node=place.node, until=hold_up.until)
    until = until or " until another message ends"
    text = f"the {hold_up.kind} limit {hold_up.name!r} holds {_many(hold_up.waiting)} back on {place.name}{until}"
    return Reason("limit", text, hold_up.name, node=place.node, until=hold_up.until)


def _full(busy: Sequence[Place], what: str) -> Reason:
    handling = sum(place.part.handling for place in busy)
    oldest = _oldest(busy)
    since = "" if oldest is None else f", the oldest since {at(oldest[1].since)} on {oldest[0].name}"
    text = f"all places are taken: {_many(handling)} running{since}; {what}"
    if oldest is None:
        return Reason("full", text)
    return Reason("full", text, oldest[1].what, node=oldest[0].node, since=oldest[1].since)


def _working(busy: Sequence[Place]) -> Reason:
    handling, oldest = sum(place.part.handling for place in busy), _oldest(busy)
    if oldest is None:
        return Reason("working", f"{_many(handling)} running")
    text = f"{_many(handling)} running, the oldest since {at(oldest[1].since)} on {oldest[0].name}"
    return Reason("working", text, oldest[1].what, node=oldest[0].node, since=oldest[1].since)


def _oldest(places: Iterable[Place]) -> tuple[Place, HeldMessage] | None:
    held = [(place, message) for place in places for message in place.part.in_hand]
    return min(held, key=lambda one: one[1].since, default=None)


def _many(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"
