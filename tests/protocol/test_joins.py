"""Joins of workflows, against a model, in whatever order things can happen to a protocol (`test_protocol.py`).

To what happens there this machine adds runs: steps that wait for each other's results or outcomes in any order, and
come to an end in every way (done, failed, rejected, expired, buried after crashes, cancelled), runs that are cancelled
and paused, and messages of steps that are delivered again after their end. Retries, releases, lost replies, lost
leases, zombies and take-overs come with the protocol. After each step:

- each step's message is in the one place where it should be, from the moment on at which its last need has ended;
- it was given the values of the ends that were accepted, each in its place and as the very JSON that was settled;
- each run and each step has the status, the end and the value that the model has, and no other end counts;
- a run that has failed has sent its message for failures once, and a run that is over has its result.

The model of a run is written as what must be true of its ends, not as what happens at each of them. In the end every
run must be over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from actorwork.embedded.cancellation import Cancellation
from actorwork.embedded.reading import Reading
from actorwork.embedded.run_book import RunBook, StepMessages
from actorwork.embedded.settling import Settlements
from actorwork.embedded.store import Store
from actorwork.message import Delivery, Envelope, Failure, Outcome
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import End, Failures, Gather, Need, Plan, StepPlan, Wants
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.streams import scripts
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.slots import key_slot
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import RedisServer
from tests.forms import forms

from .models import (
    MAX_CRASHES,
    SOURCE,
    ClusterWorld,
    Delayed,
    EmbeddedWorld,
    Hand,
    Loop,
    Pending,
    Ready,
    RedisWorld,
    RunSight,
    World,
)
from .test_protocol import (
    ENDINGS,
    FAILURE,
    ProtocolMachine,
    check_machine,
    check_mutant,
    cluster_loop,
    few,
    loop,
    rarely,
    some,
)

__all__ = ["cluster_loop", "loop"]

EXPIRED = Failure("Expired", "as the model says")
Needs: TypeAlias = "tuple[tuple[int, Wants], ...]"
"""What a step needs, in the order in which its message is given it."""


@attrs.frozen
class Shape:
    """Of a run: what each step needs, and its result."""

    steps: tuple[Needs, ...]
    result: Needs
    tells_errors: bool


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    wanted: list[Wants] = ["result", "result", "outcome"]

    def needs(before: int, least: int = 0) -> Needs:
        numbers = draw(st.lists(st.integers(0, before - 1), unique=True, min_size=least, max_size=4)) if before else []
        return tuple((number, draw(st.sampled_from(wanted))) for number in numbers)

    steps = tuple(needs(number) for number in range(draw(st.integers(1, 5))))
    return Shape(steps, needs(len(steps), 1), draw(st.booleans()))


def plan_of(shape: Shape, run: str, home: str) -> Plan:
    def gathered(needs: Needs) -> Gather:
        return Gather(0, tuple(Need(*need) for need in needs))

    def message(name: str, *template: Any) -> StepPlan:
        return StepPlan(name=name, source=SOURCE, template=('{"given":', *template, "}"))

    return Plan(
        id=run,
        home=home,
        steps=tuple(message(f"step {number}", gathered(needs)) for number, needs in enumerate(shape.steps)),
        result=(gathered(shape.result),),
        on_error=message("error", Failures()) if shape.tells_errors else None,
    )


class Run:
    """A run as it should be."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.name = name
        self.shape = shape
        self.status = "STARTED"
        self.ends: dict[int, tuple[str, str]] = {}
        """Of each step that has ended its kind, and its value if it is done."""
        self.caused: set[int] = set()
        """Those that another step's end has cancelled. The result is one more step here, after the last one."""
        self.sent: set[int] = set()

    @property
    def total(self) -> int:
        return len(self.shape.steps)

    @property
    def is_open(self) -> bool:
        return self.status in ("STARTED", "PAUSED")

    def needs(self, step: int) -> Needs:
        return (*self.shape.steps, self.shape.result)[step]

    def is_taken(self, step: int) -> bool:
        """Whether a step takes the outcome of this one, so that it may fail."""
        return any((step, "outcome") in self.needs(other) for other in range(self.total + 1))

    def follow(self) -> list[int]:
        """Make true what must be true of the ends there are; return the steps that are sent now."""
        for step in range(self.total + 1):  # In this order: a step needs only those before it.
            if step not in self.ends and any(
                need in self.ends and self.ends[need][0] != "done" and wants == "result"
                for need, wants in self.needs(step)
            ):
                self.ends[step] = ("cancelled", "")
                self.caused.add(step)
        if not self.is_open:
            return []
        steps = range(self.total)
        if all(step in self.ends for step in steps):
            failed = [step for step in steps if self.ends[step][0] != "done" and step not in self.caused]
            is_failure = self.total in self.caused or not all(map(self.is_taken, failed))
            self.status = "FAILURE" if is_failure else "SUCCESS"
            return []
        if self.status == "PAUSED":
            return []
        sent = [
            step
            for step in steps
            if step not in self.sent
            and step not in self.ends
            and all(need in self.ends for need, _ in self.needs(step))
        ]
        self.sent.update(sent)
        return sent

    def given(self, step: int) -> list[object]:
        """Return what a step is given: numbers as they are written, and of failures what a model knows."""
        return [
            read(value) if wants == "result" else {"value": read(value)} if kind == "done" else (f"step {need}", kind)
            for need, wants in self.needs(step)
            for kind, value in [self.ends[need]]
        ]

    def failures(self) -> list[tuple[str, str]]:
        return [
            (f"step {step}", kind)
            for step, (kind, _) in sorted(self.ends.items())
            if step < self.total and kind != "done" and step not in self.caused and not self.is_taken(step)
        ]


def read(text: bytes | str) -> Any:
    """Return JSON with its numbers as they are written, and of failures what a model knows."""

    def known(found: dict[str, Any]) -> object:
        return (found["step"], found["kind"]) if "kind" in found else found

    return json.loads(text, parse_float=str, parse_int=str, object_hook=known)


class JoinMachine(ProtocolMachine):
    """What every world has to agree with. There are few other messages beside those of runs."""

    is_plain = True

    def prepare(self) -> None:
        self.runs: dict[str, Run] = {}
        self.steps: dict[str, tuple[Run, int]] = {}
        """Of each message that a run has sent, its step; -1 is the message for failures."""
        self.given: dict[str, object] = {}
        self.over: list[str] = []
        """The messages of steps that are in no place any more."""
        self.cancelled: set[str] = set()
        """Those in flight whose run was cancelled: the next one to handle them ends them, unless they end before."""

    def may_send(self) -> bool:
        return len(self.sent) < 4

    def may_settle(self) -> bool:
        return True

    # ---- what happens ----

    @precondition(lambda self: len(self.runs) < 5)
    @rule(shape=shapes())
    def start_run(self, shape: Shape) -> None:
        run = Run(f"run-{len(self.runs)}", shape)
        self.runs[run.name] = run
        assert self.world.start_run(plan_of(shape, run.name, self.world.home))
        assert not self.world.start_run(plan_of(shape, run.name, self.world.home))
        self.follow(run)

    @precondition(lambda self: self.runs)
    @rule(which=some)
    def pause_or_resume(self, which: int) -> None:
        for run in self.open_run(which):
            how, other = ("resume", "pause") if run.status == "PAUSED" else ("pause", "resume")
            assert not self.world.steer(other, run.name)
            assert self.world.steer(how, run.name)
            run.status = "PAUSED" if how == "pause" else "STARTED"
            self.follow(run)

    @precondition(lambda self: self.runs)
    @rule(which=some)
    def cancel_run(self, which: int) -> None:
        for run in self.open_run(which):
            assert self.world.steer("cancel", run.name)
            assert not self.world.steer("cancel", run.name)
            self.closes(run)

    @precondition(lambda self: self.runs)
    @rule()
    def cancel_one(self) -> None:
        delayed = [name for name in self.steps if isinstance(self.places.get(name), Delayed)]
        for name in delayed[:1]:
            assert self.world.cancel(name)
            self.drop(name)
            self.step_ends(name, "cancelled")

    @precondition(lambda self: self.runs)
    @rule(which=some)
    def deliver_again(self, which: int) -> None:
        """The message of a step that has ended comes a second time: it is handled, and its end counts no more."""
        if self.over:
            name = self.over.pop(which % len(self.over))
            self.world.deliver_again(name)
            self.comes_again(name)
            self.ended.discard(name)
            self.places[name] = Ready()

    @rule(who=some, which=few, how=st.sampled_from(["ack", "ack", "ack", "retry later"]))
    def work(self, who: int, which: list[int], how: str) -> None:
        """Fetch and settle, with little that goes wrong: else few runs come to their end."""
        self.fetch(who, 50, tends=True, reads=True, loses=False)
        self.settle(who, which, [how] * 4, False, True)

    @precondition(lambda self: self.runs)
    @rule(is_so=rarely)
    def take_down(self, is_so: bool) -> None:
        """What is in flight takes one node down after another, until it is buried."""
        for _ in range(MAX_CRASHES + 2 if is_so else 0):
            while self.leased:
                self.end_lease(0)
            self.hands.clear()
            self.start()
            for _ in range(2):  # The node closes for a suspect in one turn, and takes it in the next.
                self.fetch(0, 50, tends=True, reads=True, loses=False)

    # ---- what must be so ----

    @invariant()
    def each_run_is_as_it_should_be(self) -> None:
        if not hasattr(self, "world"):
            return
        for run in self.runs.values():
            result = None
            if run.status == "SUCCESS":
                result = run.given(run.total)
            sight = self.world.look_at(run.name)
            ends = [run.ends.get(step) for step in range(run.total)]
            assert attrs.evolve(sight, result=None) == RunSight(run.status, None, ends)
            assert (None if sight.result is None else read(sight.result)) == result

    # ---- what the model makes of it ----

    def open_run(self, which: int) -> list[Run]:
        """Return one of the runs that are not over, if there is any."""
        found = [run for run in self.runs.values() if run.is_open]
        return [found[which % len(found)]] if found else []

    def closes(self, run: Run) -> None:
        """Nothing that was not begun is left; what is running stays there, what was, and is free now, may be gone."""
        run.status = "CANCELLED"
        seen = self.world.look().places
        for name, (its, step) in self.steps.items():
            place = self.places.get(name)
            if its is not run or step in run.ends or place is None:
                continue
            if name in seen:
                assert isinstance(place, Pending), f"{name} was not begun, and is still there"
                self.cancelled.add(name)
            else:
                assert not isinstance(place, Pending) or self.is_free(place), f"{name} was in flight, and is gone"
                self.drop(name)
        for step in range(run.total):
            run.ends.setdefault(step, ("cancelled", ""))

    def follow(self, run: Run) -> None:
        was_open = run.is_open
        for step in run.follow():
            self.sends(f"{run.name}/{step}", run, step, run.given(step))
        if run.status == "FAILURE" and was_open and run.shape.tells_errors:
            self.sends(f"{run.name}/error", run, -1, run.failures())

    def sends(self, name: str, run: Run, step: int, given: object) -> None:
        self.places[name] = Ready()
        self.steps[name] = run, step
        self.given[name] = given

    def drop(self, name: str) -> None:
        del self.places[name]
        self.end(name)

    def step_ends(self, name: str, kind: str, value: str = "") -> None:
        run, step = self.steps[name]
        if step >= 0 and run.is_open and step not in run.ends:
            run.ends[step] = (kind, value)
            self.follow(run)

    def ending(self, kind: str) -> Settlement:
        """Return every value once, and as JSON that no library would write like that."""
        if kind in ("ack", "effect"):
            self.made += 1
            return Ack(b"%d.50" % self.made)
        if kind == "reject" and self.made % 2:
            return Reject(EXPIRED)
        return ENDINGS[kind]

    def end(self, name: str) -> None:
        super().end(name)
        self.cancelled.discard(name)

    def take_note(self, hand: Hand, got: list[Delivery], *, room: int, loses: bool) -> None:
        now = self.world.look().places
        for name in [name for name in self.cancelled if name not in now]:
            assert self.is_free(self.places[name]), f"{name} was in flight, and is gone"
            self.drop(name)
            self.over.append(name)
        super().take_note(hand, got, room=room, loses=loses)

    def apply(self, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope]) -> None:
        if delivery.id in self.cancelled and isinstance(settlement, Retry):
            settlement = Reject(FAILURE)
        super().apply(delivery, settlement, published)
        if delivery.id not in self.steps or isinstance(settlement, Retry):
            return
        match settlement:
            case Ack(result=result):
                self.step_ends(delivery.id, "done", "null" if result is None else result.decode())
            case Reject(failure=failure):
                self.step_ends(delivery.id, "expired" if failure == EXPIRED else "rejected")
            case Fail():
                self.step_ends(delivery.id, "failed")
        if delivery.id not in self.places:
            self.over.append(delivery.id)

    def bury(self, name: str) -> None:
        super().bury(name)
        if name in self.steps:
            self.step_ends(name, "failed")

    def hold(self, hand: Hand, got: Sequence[Delivery]) -> None:
        super().hold(hand, got)
        for delivery in got:
            if delivery.id in self.given:
                payload: Any = delivery.payload
                assert read(payload)["given"] == self.given[delivery.id]

    def bring_to_an_end(self) -> None:
        for run in self.runs.values():
            if run.status == "PAUSED":
                assert self.world.steer("resume", run.name)
                run.status = "STARTED"
                self.follow(run)
        super().bring_to_an_end()
        self.each_run_is_as_it_should_be()
        assert not [run.name for run in self.runs.values() if run.is_open]


def machine_of(open_world: Callable[[], World]) -> type[JoinMachine]:
    class Machine(JoinMachine):
        def open_world(self) -> World:
            return open_world()

    return Machine


EXAMPLES = [12, pytest.param(100, marks=pytest.mark.long)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_the_embedded_broker_joins_as_the_model_does(examples: int) -> None:
    check_machine(machine_of(EmbeddedWorld), examples=examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_redis_joins_as_the_model_does(redis_server: RedisServer, loop: Loop, examples: int) -> None:
    check_machine(machine_of(lambda: RedisWorld(redis_server, loop)), examples=examples)


@pytest.mark.parametrize("examples", forms(3, more=[8]))
def test_a_cluster_joins_from_slot_to_slot_as_the_model_does(
    redis_cluster: RedisCluster, cluster_loop: Loop, examples: int
) -> None:
    """The home of the runs is in another slot than their messages."""
    assert key_slot(ClusterWorld.home) != key_slot(SOURCE)
    check_machine(machine_of(lambda: ClusterWorld(redis_cluster, cluster_loop)), examples=examples)


# ------------------------------------------------------------------------------------- a model that can fail, and does

SEED = 8
RARE: Final = {"a pause that holds nothing back": 10}
"""What is wrong in a script and found late from that seed, with another one."""
QUICK = (
    "a join that is not in the settling",
    "needs that are lost",
    "values that were read",
    "a body that is sent twice",
)


def mutants(all_of_them: Mapping[str, object]) -> list[Any]:
    """Return what is wrong in each, those that take long to find with their mark."""
    return [name if name.startswith(QUICK) else pytest.param(name, marks=pytest.mark.long) for name in all_of_them]


Change: TypeAlias = "tuple[str, str]"
"""A piece of the text of scripts, and what is put in its place: in every script that has it."""
OF_A_STEP = """(state == '1' or state == '3')
          and (not attempt and page.lives[i] or id_of(r, steps[i], attempt) == ids[i])"""
REFUSED = "fenced[#fenced + 1] = which"
SENT = "local place = send_message(r, plan,"
RELEASED = "'RETRYCOUNT', ARGV[i + 1] - 1, 'JUSTID')"
BURIED = "'failed', 'Crashed', reason)"
BY_ARRIVAL = """
      table.sort(piece[3], function(a, b) return (tonumber(values[a[1]]) or 0) < (tonumber(values[b[1]]) or 0) end)"""
END_OF_STEP = """
    for _, text in ipairs(redis.call('XRANGE', stream, id, id)[1][2]) do
      local home, run, step = string.match(text, '"actorwork%-flow": ?"([^"/]+)/([^"/]+)/(%d+)"')
      if home then
        redis.call('HSET', 'actorwork:{' .. home .. '}:flow:' .. run .. ':state', 's' .. step, 2)
      end
    end"""
LUA: dict[str, Sequence[Change]] = {
    "ends that are counted, and have no names": [(OF_A_STEP, "state")],
    "a join that is not in the settling script": [("conclude(room, join_all)", "conclude(room)")],
    "a retry that counts": [("outcome = '' -- Only of a message that is lost.", "")],
    "a cancelled member that does not count": [("join_all()\nreturn count > 0", "return count > 0")],
    "a zombie whose end counts": [
        (REFUSED, f"{REFUSED} store_outcome(prefix, message_id, outcome, '', claim, '')"),
    ],
    "a body that is sent twice": [(SENT, f"send_message(r, plan, id_of(r, step)) {SENT}")],
    "inputs in the order of their arrival": [("text[#text + 1] = '['", f"{BY_ARRIVAL} text[#text + 1] = '['")],
    "a release that counts": [(RELEASED, f"{RELEASED} {END_OF_STEP}")],
    "needs that are lost": [("'n' .. step, -counts[step])", "'n' .. step, 0)")],
    "a burial that ends no step": [(BURIED, f"{BURIED} ended_steps[#ended_steps] = nil")],
    "values that were read": [("= step, returned[i]", "= step, cjson.encode(cjson.decode(returned[i]))")],
    "needs of several that end together, counted as one": [("+ count", "+ 1")],
    "a pause that holds nothing back": [("return r.status == 'STARTED' or r.status == 'HELD'", "return true")],
}


@pytest.mark.parametrize("mutant", mutants(LUA))
def test_the_model_sees_what_is_wrong_with_the_join_of_a_script(
    redis_server: RedisServer, loop: Loop, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    for right, wrong in LUA[mutant]:
        found = [(name, one) for name, one in vars(scripts).items() if isinstance(one, Script) and right in one.source]
        assert found, f"no script says {right!r} any more"
        for name, one in found:
            monkeypatch.setattr(scripts, name, Script(one.name, one.source.replace(right, wrong)))
    check_mutant(machine_of(lambda: RedisWorld(redis_server, loop)), begins_with=RARE.get(mutant, SEED))


def after(method: Callable[..., Any], more: Callable[..., object]) -> Callable[..., Any]:
    """Return a method that does more: `more` is given what the method has returned, and then its arguments."""

    def do(self: Any, *args: Any, **options: Any) -> Any:
        done = method(self, *args, **options)
        more(done, self, *args)
        return done

    return do


def join_late(store: Store) -> None:
    """Draw the conclusions of a transaction in the next one."""
    ends = store.transaction.step_ends
    late: list[Any] = store.__dict__.setdefault("late", [])
    late[:], ends[:] = list(ends), list(late)
    if ends or store.transaction.starts:
        store.runs.join()


def forget_ends(_: object, part: Any, *__: object) -> None:
    part._outcomes._transaction.step_ends.clear()


def forget_burial(_: object, reading: Any, *__: object) -> None:
    forget_ends(_, reading._settlements)


class Counting:
    """A run that does not know that a step has ended before."""

    def __init__(self, book: RunBook, step: int) -> None:
        self._book = book
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._book, name)

    def has_ended(self, step: int) -> bool:
        return step != self._step and self._book.has_ended(step)


def count_ends(book: Any, step: int, end: End) -> bool:
    try:
        counting: Any = Counting(book, step)
        return _end_step(counting, step, end)
    except TypeError as error:
        raise AssertionError("the value of a step is gone") from error


def end_retried(_: object, settlements: Settlements, delivery: Delivery, *__: object) -> None:
    settlements.answer(delivery, Outcome("rejected", failure=EXPIRED))


def end_released(done: bool, settlements: Settlements, delivery: Delivery) -> None:
    if done:
        end_retried(done, settlements, delivery)


def end_of_zombie(done: bool, settlements: Settlements, order: Any) -> None:
    if not done:
        settlements.answer(order.delivery, Outcome("done", b"99"))


def send_twice(_: object, messages: StepMessages, plan: StepPlan, number: int, id: str) -> None:
    _publish(messages, plan, number, f"{id}.again")


def write_by_arrival(messages: StepMessages, template: Sequence[Any]) -> str:
    """Fill a template in with its needs in the order in which they have ended."""

    def place(need: Any) -> int:
        return messages._rows.row("place", need.step)[0]

    pieces = [Gather(0, tuple(sorted(one.parts, key=place))) if isinstance(one, Gather) else one for one in template]
    return _text(messages, tuple(pieces))


def record_anew(book: RunBook, step: int, end: End, *, is_failure: bool) -> None:
    _record(book, step, attrs.evolve(end, value=json.dumps(json.loads(end.value))), is_failure=is_failure)


def any_message(book: RunBook, step: int) -> str:
    return f"{book._run}/{step}"


def meet_none(book: RunBook, step: int) -> int:
    return book._rows.row("needs", step)[0]


def send_all_ready(book: RunBook) -> None:
    for step in book.ready(100):
        book.send(step)


_publish, _text, _record, _end_step = StepMessages.publish, StepMessages.text, RunBook.record, rules.end_step
STORE: dict[str, Sequence[tuple[object, str, object]]] = {
    "ends that are counted, and have no names": [
        (rules, "end_step", count_ends),
        (RunBook, "message_of", any_message),
    ],
    "a join that is not in the settling transaction": [(Store, "join", join_late)],
    "a retry that counts": [(Settlements, "_try_again", after(Settlements._try_again, end_retried))],
    "a cancelled member that does not count": [(Cancellation, "_take", after(Cancellation._take, forget_ends))],
    "a zombie whose end counts": [(Settlements, "settle", after(Settlements.settle, end_of_zombie))],
    "a body that is sent twice": [(StepMessages, "publish", after(_publish, send_twice))],
    "inputs in the order of their arrival": [(StepMessages, "text", write_by_arrival)],
    "a release that counts": [(Settlements, "release", after(Settlements.release, end_released))],
    "needs that are lost": [(RunBook, "meet", meet_none)],
    "a burial that ends no step": [(Reading, "_dead_letter", after(Reading._dead_letter, forget_burial))],
    "values that were read": [(RunBook, "record", record_anew)],
    "a pause that holds nothing back": [(rules, "_send_ready", send_all_ready)],
}


@pytest.mark.parametrize("mutant", mutants(STORE))
def test_the_model_sees_what_is_wrong_with_the_join_of_the_store(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    for owner, name, wrong in STORE[mutant]:
        monkeypatch.setattr(owner, name, wrong)
    check_mutant(machine_of(EmbeddedWorld), begins_with=SEED)
