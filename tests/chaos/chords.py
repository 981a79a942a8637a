"""The work of the act with workflows: chords of ten members, and nodes that run them.

    member, member, … (ten) ──▶ body ──▶ chords:receipts

    python -m tests.chaos.chords TREE URL LEDGER        a node; TREE is one of `TREES`

A member returns a value that no other member of any chord returns. A body notes in the ledger what it is given, each
time that it runs, and publishes it with its settlement: so there are as many receipts of a body as settlements of it
that the broker has accepted. At the end `audit` compares both with what the chords are made of.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
import trio

from actorwork import Actor, Intensity, Message, Process, Retry, Settings, Supervisor, receive
from actorwork.workflows import Flow, chord, step

from .workers import REPLICAS, ledger, run_node, some

RECEIPTS: Final = "chords:receipts"
MEMBERS: Final = 10
FLAKY: Final = 31
"""One member in this many raises `Retry` before it returns."""
SLOW: Final = 53
"""One member in this many takes a while, in which others of its chord end."""
UNBURIED: Final = 1_000_000
"""The limit of crashes here: each run is to succeed, however many processes one of its messages has seen die."""


@attrs.frozen
class Value(Message["Member", int]):
    number: int
    place: int


@attrs.frozen
class Join(Message["Body", int]):
    number: int
    values: list[int]


class Member(Actor):
    """Returns the value of its place."""

    settings = Settings(title="chord member", sources={"chords:members"}, concurrency=8, max_crashes=UNBURIED)

    @receive
    async def take(self, message: Value) -> int:
        value = values_of(message.number)[message.place]
        ledger().note("begun", self.context.delivery.id, number=message.number)
        if value % FLAKY == 0 and self.context.delivery.attempt == 1:
            raise Retry(delay=0.1)
        await trio.sleep(0.2 if value % SLOW == 0 else 0.001)
        ledger().note("ended", self.context.delivery.id, number=message.number)
        return value


class Body(Actor):
    """Takes the values of a chord, and returns their sum."""

    settings = Settings(title="chord body", sources={"chords:bodies"}, concurrency=8, max_crashes=UNBURIED)

    @receive
    async def join(self, message: Join) -> int:
        ledger().note("given", self.context.delivery.id, number=message.number, values=message.values)
        await trio.sleep(0.001)
        self.context.publish(RECEIPTS, {"number": message.number, "values": message.values})
        ledger().note("ended", self.context.delivery.id, number=message.number)
        return sum(message.values)


SOURCES: Final = (Member.settings.default_source, Body.settings.default_source)

# The supervisors never give up here: their intensity is tested elsewhere.
_PATIENT: Final = Intensity(restarts=1000, period=1)
_PARTS: Final = [Member, Body]
TREES: Final = {
    "single": Supervisor(_PARTS, intensity=_PATIENT),
    "processes": Supervisor(
        [Process(_PARTS, replicas=REPLICAS, intensity=_PATIENT, hang_timeout=30, name="parts")], intensity=_PATIENT
    ),
}


def values_of(number: int) -> list[int]:
    """Return what the body of a chord is to be given: not in their own order, lest one that sorts them passes."""
    return [number * MEMBERS + (7 * place + number) % MEMBERS for place in range(MEMBERS)]


def flow_of(number: int) -> Flow[int]:
    members = [step(Member, Value(number, place), name=f"member {place}") for place in range(MEMBERS)]
    return Flow(chord(members, Body, lambda values: Join(number, values)), title="chaos")


# ------------------------------------------------------------------------------------------------------------ the audit


@attrs.frozen(kw_only=True)
class Audit:
    """What became of the chords, by their numbers; all but `again` must be empty."""

    missing: Sequence[int]
    """Started, and no settlement of the body was accepted."""
    doubled: Mapping[int, int]
    """How many settlements of the body were accepted, where that is more than one."""
    foreign: Mapping[int, list[int]]
    """What the body was given in one of its runs, if these are not the chord's own values in their places."""
    unknown: Sequence[int]
    """Bodies of chords that were never started."""
    unsuccessful: Mapping[int, str]
    """How the run ended, or where it stands, if it is not a success with the sum of its values."""
    again: int
    """Runs of bodies beyond the first one: their node died, or lost its lease, before the settlement."""

    def complaints(self) -> list[str]:
        """Return a sentence for each promise that was broken, with the first of the chords in question."""
        found: list[str] = []
        if self.missing:
            found.append(f"chords whose body has not run to an accepted end: {some(self.missing)}")
        if self.doubled:
            each = some(f"{number} ({count} times)" for number, count in self.doubled.items())
            found.append(f"chords whose body ran to an accepted end more than once: {each}")
        if self.foreign:
            each = some(f"{number} got {got}, wanted {values_of(number)}" for number, got in self.foreign.items())
            found.append(f"chords whose body was given other values than its own: {each}")
        if self.unknown:
            found.append(f"bodies of chords that were never started: {some(self.unknown)}")
        if self.unsuccessful:
            each = some(f"{number} ({how})" for number, how in self.unsuccessful.items())
            found.append(f"runs that are no success with the sum of their values: {each}")
        return found


def audit(
    started: Iterable[int],
    *,
    given: Mapping[int, Sequence[list[int]]],
    receipts: Iterable[tuple[int, list[int]]],
    ends: Mapping[int, str | int],
) -> Audit:
    """Compare what bodies were given, and what was accepted of them, with the chords that were started.

    `given`: by the ledger, what the body of a chord was given in each of its runs. `receipts`: the same of each
    settlement that the broker has accepted. `ends`: the result of a run that was a success, or words for another end.
    """
    chords = sorted(started)
    accepted = list(receipts)
    seen = [*((number, values) for number, runs in given.items() for values in runs), *accepted]
    counts = Counter(number for number, _ in accepted)
    known = set(chords)
    return Audit(
        missing=[number for number in chords if not counts[number]],
        doubled={number: count for number, count in sorted(counts.items()) if count > 1},
        foreign={number: got for number, got in seen if got != values_of(number)},
        unknown=sorted({number for number, _ in seen} - known),
        unsuccessful={
            number: f"it ended as {ends[number]!r}" if number in ends else "its end is unknown"
            for number in chords
            if ends.get(number) != sum(values_of(number))
        },
        again=sum(len(runs) - 1 for runs in given.values()),
    )


def main(tree: str, url: str, path: str) -> None:
    run_node(TREES[tree], url, path)


if __name__ == "__main__":
    # Imported under its own name, so that a child process imports the same module.
    from tests.chaos import chords

    chords.main(*sys.argv[1:])
