"""The work of the act with entities: numbers that are appended to the states of keys, and nodes that do so.

    append, append, … ──▶ the entity of a key: its state lists them ──▶ entities:receipts

    python -m tests.chaos.entities TREE URL LEDGER        a node; TREE is one of `TREES`

The list in a state tells in which order its messages were accepted, and whether each was accepted once. Some handlers
fail after they have changed the state, and some commit it on the way. At the end `audit` compares the states with what
was sent.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import attrs
import trio

from actorwork import Entities, Entity, Intensity, Message, Process, Retry, Settings, Supervisor, receive

from .workers import REPLICAS, ledger, run_node, some

T = TypeVar("T")

RECEIPTS: Final = "entities:receipts"
UNBURIED: Final = 1_000_000
"""The limit of crashes here: no message is given up because it has seen processes die."""


@attrs.frozen
class Append(Message["Listing", None]):
    number: int


@attrs.define
class Listed:
    numbers: list[int] = attrs.field(factory=list[int])
    half: int = 0
    """The message that has committed on the way and has not ended."""
    commits: int = 0


class Listing(Entity[Listed]):
    """Appends the numbers of its messages to its state."""

    # Instances are passivated all the time, so that many messages begin with a state that is loaded.
    settings = Settings(
        title="chaos listing", concurrency=8, max_crashes=UNBURIED, entities=Entities(idle=1, most=60, history=3)
    )

    @receive
    async def append(self, message: Append) -> None:
        number, state, kind = message.number, self.state, kind_of(message.number)
        ledger().note("begun", self.context.delivery.id, number=number)
        if kind == "half" and state.half != number:
            state.half = number
            state.commits += 1
            await self.commit()
            await trio.sleep(0.02)
        state.numbers.append(number)
        state.half = 0
        state.commits += 1
        if kind == "flaky" and self.context.delivery.attempt == 1:
            raise Retry(delay=0.1)
        await trio.sleep(0.3 if kind == "slow" else 0.001)
        ledger().note("ended", self.context.delivery.id, number=number)
        if kind == "bad":
            raise ValueError(f"{number} is bad")
        self.context.publish(RECEIPTS, {"number": number})


SOURCE: Final = Listing.settings.default_source

# The supervisors never give up here: their intensity is tested elsewhere.
_PATIENT: Final = Intensity(restarts=1000, period=1)
TREES: Final = {
    "single": Supervisor([Listing], intensity=_PATIENT),
    "processes": Supervisor(
        [Process([Listing], replicas=REPLICAS, intensity=_PATIENT, hang_timeout=30, name="parts")], intensity=_PATIENT
    ),
}


def kind_of(number: int) -> str:
    """Return what a message does besides: nothing, most of them."""
    kinds = {29: "bad", 17: "flaky", 23: "slow", 13: "half"}
    return next((kind for each, kind in kinds.items() if number % each == 0), "plain")


# ------------------------------------------------------------------------------------------------------------ the audit


@attrs.frozen(kw_only=True)
class Audit:
    """What is wrong with the states of keys; all must be empty."""

    lost: Mapping[str, Sequence[int]]
    """Sent to a key and good, and not in its state."""
    doubled: Mapping[str, Sequence[int]]
    reordered: Mapping[str, tuple[Sequence[int], Sequence[int]]]
    """What the state lists, and in which order that was sent."""
    foreign: Mapping[str, Sequence[int]]
    """In the state, and not sent to its key, or bad."""
    uncounted: Mapping[str, tuple[int, int]]
    """The version of a state, and how many commits it has counted, where these differ."""
    apart: Sequence[int]
    """In a state or among the receipts, and not in the other, or not once."""

    def complaints(self) -> list[str]:
        """Return a sentence for each promise that was broken, with the first of the keys in question."""
        found: list[str] = []
        for what, of in (("lost", self.lost), ("more than once", self.doubled), ("that are not its own", self.foreign)):
            found += [f"the state of {key} has numbers {what}: {some(numbers, 10)}" for key, numbers in _first(of)]
        for key, (listed, sent) in _first(self.reordered):
            found.append(
                f"the state of {key} has another order than its messages: {some(listed, 10)} for {some(sent, 10)}"
            )
        for key, (version, commits) in _first(self.uncounted):
            found.append(f"the state of {key} has the version {version} after {commits} commits")
        if self.apart:
            found.append(f"states and receipts that were not settled together: {some(self.apart, 10)}")
        return found


def audit(
    sent: Mapping[str, Sequence[int]], states: Mapping[str, tuple[int, Listed]], receipts: Iterable[int]
) -> Audit:
    """Compare states with what was sent to their keys, in that order; `states` have a version and a value."""
    good = {key: [number for number in numbers if kind_of(number) != "bad"] for key, numbers in sent.items()}
    lists = {key: states[key][1].numbers if key in states else [] for key in good.keys() | states.keys()}
    accepted, listed = Counter(receipts), Counter(number for numbers in lists.values() for number in numbers)
    lost: dict[str, list[int]] = {}
    doubled: dict[str, list[int]] = {}
    reordered: dict[str, tuple[list[int], list[int]]] = {}
    foreign: dict[str, list[int]] = {}
    for key, numbers in lists.items():
        own = good.get(key, [])
        lost[key] = sorted(set(own) - set(numbers))
        doubled[key] = sorted(number for number, count in Counter(numbers).items() if count > 1)
        foreign[key] = sorted(set(numbers) - set(own))
        once = list(dict.fromkeys(number for number in numbers if number in set(own)))
        in_order = [number for number in own if number in set(once)]
        if once != in_order:
            reordered[key] = once, in_order
    return Audit(
        lost=_wrong(lost),
        doubled=_wrong(doubled),
        reordered=reordered,
        foreign=_wrong(foreign),
        uncounted={
            key: (version, state.commits) for key, (version, state) in states.items() if version != state.commits
        },
        apart=sorted(number for number in accepted | listed if (accepted[number], listed[number]) != (1, 1)),
    )


def _wrong(found: Mapping[str, T]) -> dict[str, T]:
    return {key: one for key, one in found.items() if one}


def _first(found: Mapping[str, T], most: int = 3) -> list[tuple[str, T]]:
    return list(found.items())[:most]


def main(tree: str, url: str, path: str) -> None:
    run_node(TREES[tree], url, path)


if __name__ == "__main__":
    # Imported under its own name, so that a child process imports the same module.
    from tests.chaos import entities

    entities.main(*sys.argv[1:])
