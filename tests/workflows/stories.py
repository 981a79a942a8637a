"""Runs that are told to every broker alike: a plan, what happens to it, and what is seen after each of these events.

A test drives the steps itself, as a node would: it takes their messages, and settles them in the order of the story. It
goes on only when all that is due has been delivered, so that what it sees depends on the story alone.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from hypothesis import strategies as st

from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.message import FLOW, Delivery, Failure, Status
from actorwork.policy.runs.values import (
    RESULT,
    Expansion,
    Failures,
    Gather,
    Need,
    Piece,
    Plan,
    RunInfo,
    StepInfo,
    StepPlan,
    Wants,
    read_step_header,
)
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.streams.broker import RedisBroker
from actorwork.streams.keys import outbox, runs_of
from actorwork.streams.transport.slots import key_slot
from actorwork.testing.conformance.fake_consumer import FakeConsumer, open_consumer
from tests.patience import PATIENCE

GROUP = "story"
_numbers = itertools.count()


@attrs.frozen
class Story:
    """`steps`: what each needs, and whether it is a signal, and can be undone. `events`: what happens, to which.

    Every step is a member of a group of which another step needs the results or the outcomes; "grow" adds two more.
    """

    steps: tuple[tuple[tuple[tuple[int, Wants], ...], bool, bool], ...]
    result: tuple[tuple[int, Wants], ...]
    events: tuple[tuple[str, int], ...]
    holds: bool = False
    tells_errors: bool = False


@st.composite
def stories(draw: st.DrawFn) -> Story:
    wanted: list[Wants] = ["result", "result", "outcome"]
    wants = st.sampled_from(wanted)
    count = draw(st.integers(1, 6))
    steps: list[Any] = []
    for number in range(count):
        needs = draw(st.dictionaries(st.integers(0, number - 1), wants, max_size=3)) if number else {}
        steps.append((tuple(sorted(needs.items())), draw(st.integers(0, 7)) == 0, draw(st.booleans())))
    result = draw(st.dictionaries(st.integers(0, count - 1), wants, min_size=1, max_size=3))
    kinds = ["done"] * 5 + ["failed", "failed", "rejected", "again", "cancel", "pause", "resume", "retry", "retry"]
    kinds += ["retry some", "retry some", "signal", "replay", "twice", "grow", "grow"]
    events = draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5)), min_size=1, max_size=14))
    return Story(tuple(steps), tuple(sorted(result.items())), tuple(events), draw(st.booleans()), draw(st.booleans()))


def plan_of(story: Story, run: str, source: str, home: str) -> Plan:
    def pieces(number: int, needs: Sequence[tuple[int, Wants]]) -> tuple[Piece, ...]:
        """What a step needs are two groups: of one it takes the results, of the other one the outcomes."""

        def of(group: int, wanted: Wants) -> Gather:
            return Gather(group, tuple(Need(step, wants) for step, wants in needs if wants == wanted), wanted)

        return ("[", of(2 * number, "result"), ",", of(2 * number + 1, "outcome"), "]")

    every = (*((needs, number) for number, (needs, _, _) in enumerate(story.steps)), (story.result, len(story.steps)))
    steps: list[StepPlan] = []
    for number, (needs, is_signal, is_undone) in enumerate(story.steps):
        name = f"step {number}"
        groups = tuple(
            2 * group + (dict(others)[number] == "outcome") for others, group in every if number in dict(others)
        )
        if is_signal:
            after = tuple(Need(*need) for need in needs)
            steps.append(StepPlan(name=name, kind="signal", after=after, groups=groups))
        else:
            undo = told(source, f"undo {name}", '{"undo":', Need(number), "}") if is_undone else None
            step = told(source, name, '{"given":', *pieces(number, needs), "}", undo=undo)
            steps.append(attrs.evolve(step, groups=groups))
    on_error = told(source, "error", '{"failures":', Failures(), "}") if story.tells_errors else None
    result = pieces(len(steps), story.result)
    return Plan(id=run, home=home, steps=tuple(steps), result=result, holds=story.holds, on_error=on_error)


def told(source: str, name: str, *template: Piece, undo: StepPlan | None = None) -> StepPlan:
    return StepPlan(name=name, source=source, type="Told", template=template, undo=undo)


def growth(delivery: Delivery, source: str) -> Expansion | None:
    """Two steps for the group of a step: the first can be undone; the second needs a third, which is in no group."""
    home, run, number = read_step_header(delivery.headers[FLOW]) or ("", "", 0)
    if number >= RESULT:
        return None
    undo = told(source, "undo more", '{"undo":', Need(0), "}")
    more = told(source, f"more of {number}", '"more"', undo=undo)
    group = Gather(0, (Need(2, "outcome"),), "outcome")
    steps = (
        more,
        told(source, f"last of {number}", group),
        attrs.evolve(told(source, f"before {number}", "1"), groups=(0,)),
    )
    return Expansion(home=home, run=run, step=number, steps=steps, members=(0, 1))


COUNTS_LATE_ENDS = True
"""Whether it is the same everywhere how many ends came late: one that a cluster forwards twice comes late, too."""


class Teller:
    """Tells stories to one broker. On a cluster, the home of the runs is in another slot than their messages."""

    def __init__(self, broker: Broker, consumer: FakeConsumer, source: str, home: str) -> None:
        self._broker = broker
        self._consumer = consumer
        self._source = source
        self._home = home
        self._run = f"run-{os.getpid()}-{next(_numbers)}"

    async def tell(self, story: Story) -> list[object]:
        """Return what is seen after each event."""
        await self._broker.runs.start(plan_of(story, self._run, self._source, self._home))
        seen: list[object] = [("start", True, await self._look())]
        for what, number in story.events:
            seen.append((f"{what} {number}", await self._do(what, number), await self._look()))
        return seen

    async def _do(self, what: str, number: int) -> object:
        runs, run = self._broker.runs, self._run
        match what:
            case "cancel":
                return await runs.cancel(run, "by order")
            case "pause":
                return await runs.pause(run)
            case "resume":
                return await runs.resume(run)
            case "retry":
                return await runs.retry(run)
            case "retry some":
                return await runs.retry(run, [number])
            case "signal":
                return await runs.signal(run, f"step {number}", b'"value %d"' % number)
            case "replay":
                letters = sorted(await self._broker.dead_letters.list(self._source), key=lambda one: one.id)
                if letters:
                    entry = letters[number % len(letters)].entry
                    return await self._broker.dead_letters.replay(self._source, [entry])
                return 0
            case _:
                return await self._settle(what, number)

    async def _settle(self, what: str, number: int) -> object:
        hand = self._hand()
        if not hand:
            return None
        delivery = hand[number % len(hand)]
        self._consumer.waiting.remove(delivery)
        failure = Failure("ValueError", f"number {number}")
        settlements = {"failed": Fail(failure), "rejected": Reject(failure), "again": Retry(0, failure)}
        expands = growth(delivery, self._source) if what == "grow" else None
        settlement = settlements.get(what, Ack(b"%d.0" % number, expands=expands))
        await self._consumer.settle(delivery, settlement)
        if what == "twice":
            await self._consumer.settle(delivery, Ack(b"99"))
        return self._name(delivery)

    def _hand(self) -> list[Delivery]:
        return sorted(self._consumer.waiting, key=lambda one: (one.id, one.attempt))

    def _name(self, delivery: Delivery) -> str:
        return delivery.id.removeprefix(self._run).partition(".")[0]

    async def _look(self) -> object:
        with trio.fail_after(PATIENCE):
            while self._home != self._source and not await self._is_forwarded():  # noqa: ASYNC110
                await trio.sleep(0.001)
            while await is_more_left(self._broker, self._home, self._run):  # noqa: ASYNC110
                await trio.sleep(0.001)
            while self._home != self._source and not await self._is_forwarded():  # noqa: ASYNC110
                await trio.sleep(0.001)
            while await self._broker.backlog(self._source) != len(self._consumer.waiting):  # noqa: ASYNC110
                await trio.sleep(0.001)
        info, steps = await self._broker.runs.info(self._run), await self._broker.runs.steps(self._run)
        assert info is not None
        hand = [(self._name(one), one.attempt, _told_json(one.payload)) for one in self._hand()]
        return [_facts(info), *map(self._facts_of_step, steps), hand]

    async def _is_forwarded(self) -> bool:
        """Whether nothing is on its way between the two slots, not even on its way back."""
        assert isinstance(self._broker, RedisBroker)
        for source in (self._source, self._home) * 3:
            if await self._broker.client.call("XLEN", outbox(source)):
                return False
        return True

    def _facts_of_step(self, step: StepInfo) -> object:
        end = step.end and (step.end.kind, step.end.value, _told(step.end.failure), step.end.is_caused)
        # When a message is received, and so noted, depends on the broker.
        status = "open" if step.is_on_its_way and step.status is not Status.HELD else step.status
        return (step.name, status, step.needs, step.message.removeprefix(self._run), end)


async def is_more_left(broker: Any, home: str, run: str) -> bool:
    """Whether something of a run is left to later scripts, or transactions."""
    if isinstance(broker, RedisBroker):
        due: list[bytes] = await broker.client.call("ZRANGE", f"{runs_of(home)}:due", 0, -1)
        return any(b"%b/%b" % (run.encode(), what) in due for what in (b"more", b"close"))

    def look(store: Any) -> bool:
        return store.runs.has_more(run)

    return await broker.runs._writer.ask(look, writes=False)


def _facts(info: RunInfo) -> object:
    failures = [(name, end.kind, _told(end.failure)) for name, end in info.failures]
    return (
        info.status,
        info.reason,
        info.done,
        info.total,
        info.waits_for,
        _told_json(info.result or "null"),
        failures,
        info.late_ends if COUNTS_LATE_ENDS else 0,
    )


def _told_json(payload: Any) -> str:
    """Return JSON with its names in order: what says how a step failed is written by two libraries."""
    return json.dumps(json.loads(payload), sort_keys=True)


def _told(failure: Failure | None) -> object:
    return failure and (failure.type, failure.reason)


@asynccontextmanager
async def open_teller(url: Any) -> AsyncGenerator[Teller]:
    source = f"told-{os.getpid()}-{next(_numbers)}"
    home = source
    if isinstance(url, str) and url.startswith("redis+cluster:"):
        home = next(name for n in itertools.count() if key_slot(name := f"home-{n}") != key_slot(source))
    async with open_broker(url) as broker, open_consumer(broker, *{source, home}, group=GROUP) as consumer:
        yield Teller(broker, consumer, source, home)
