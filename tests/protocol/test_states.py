"""The states of keys, against the model of the protocol: a state changes with an accepted settlement, and only then.

To the steps of the protocol come settlements that change the state of their message's key, from what their node knew
or has loaded when it was given the message, and users who put states, also while a message is in flight. Each message
appends its id. After every step:

- the versions of a key form one chain, and its state lists exactly the messages whose settlements were accepted, in
  their order, since a user has put it last;
- a settlement on another version than the state has is neither accepted nor refused: the message is released,
  uncounted, and nothing of it is done.

Some settlements set a reminder of their key: a delayed message with a unique key, which replaces the one before.

- A reminder that was set by an accepted settlement comes, and is accepted once, unless another one has replaced it,
  wherever it was then: delayed, behind others of its key, or in its stream.

Each node keeps the states that it has loaded and those that it has settled, whether or not the settlement was
accepted, and asks the broker for what it does not know. So, when a message comes to it:

- the state on which its handler would begin is the committed one.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from actorwork.embedded.cancellation import Cancellation
from actorwork.embedded.entities import EmbeddedEntities
from actorwork.embedded.entity_table import EntityTable
from actorwork.errors import StateConflict
from actorwork.message import Delivery, Envelope, Priority, Unique
from actorwork.policy.entities import FoundState, StateChange
from actorwork.policy.settlement import Ack
from actorwork.streams import scripts
from actorwork.streams.entities import RedisEntities
from actorwork.streams.in_flight import Item
from actorwork.streams.settle_calls import SettleCalls
from actorwork.streams.transport.commands import Script
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import RedisServer
from tests.forms import forms

from .models import (
    EFFECTS,
    GROUP,
    RELEASED,
    SOURCE,
    ClusterWorld,
    Delayed,
    EmbeddedWorld,
    Ending,
    Hand,
    Loop,
    Pending,
    Ready,
    RedisWorld,
)
from .test_protocol import MINUTE, ProtocolMachine, check_machine, check_mutant, cluster_loop, few, loop, rarely, some

__all__ = ["cluster_loop", "loop"]  # Fixtures.

KEYS = ("a", "b")
MOST_SENT = 24


class StateMachine(ProtocolMachine):
    """The protocol with a state for each key. Where there are priorities settlements bring nothing more."""

    world: RedisWorld | EmbeddedWorld

    @initialize(has_levels=st.booleans())
    def begin(self, has_levels: bool = True) -> None:
        self.has_levels = has_levels
        super().begin()

    def prepare(self) -> None:
        self.versions: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.states: dict[str, list[str]] = {key: [] for key in KEYS}
        self.loaded: dict[int, tuple[int, list[str]]] = {}
        """Of each delivery of a key, the version and the state that its node was given."""
        self.known: dict[tuple[str, str], tuple[str, int, list[str]]] = {}
        """Of each node and key, the state that the node keeps, with its stamp and version."""
        self.reminders: dict[str, str] = {}
        """Of each key, its reminder that was set, and has neither ended nor been replaced."""
        self.reminded = 0

    # Of messages that are due at the same minute either may come first, as the milliseconds have it, and how one of
    # them ends depends on its key here. What follows must not depend on it: see `ProtocolMachine.may_send`.

    def may_send(self) -> bool:
        return len(self.sent) - self.reminded < MOST_SENT

    def hold(self, hand: Hand, got: Any) -> None:
        order = {envelope.id: number for number, envelope in enumerate(self.sent)}
        super().hold(hand, sorted(got, key=lambda delivery: order[delivery.id]))
        for delivery in got:
            if delivery.key is not None:
                version, state = self.loaded[id(delivery)] = self.load(hand, delivery, delivery.key)
                seen = (self.versions[delivery.key], self.states[delivery.key])
                assert (version, state) == seen, "its handler would begin on another state than the committed one"

    def load(self, hand: Hand, delivery: Delivery, key: str) -> tuple[int, list[str]]:
        """Return the version and the state that a node begins with, as an activation does."""
        nothing: tuple[str, int, list[str]] = ("", 0, [])
        kept = self.known.get((hand.owner, key), nothing)
        found = self.world.load(hand, delivery, kept[0])
        if found is None:
            kept = nothing
        elif found is not True:
            kept = (found.stamp, found.version, json.loads(found.data))
        self.known[hand.owner, key] = kept
        return kept[1:]

    @precondition(lambda self: self.may_settle())
    @rule(
        who=some,
        which=few,
        room=st.sampled_from([0, 1, 3]),
        loses=rarely,
        forgets=st.booleans(),
        publishes=st.booleans(),
        reminds=st.booleans(),
    )
    def settle_with_states(
        self, who: int, which: list[int], room: int, loses: bool, forgets: bool, publishes: bool, reminds: bool = False
    ) -> None:
        """A settlement may bring what its node would read next, if there is room for it."""
        if not any(hand.held for hand in self.hands):
            return
        hand = self.holder(who)
        endings: list[Ending] = []
        expected: list[str] = []
        for delivery in self.some_of(hand, which):
            settlement = Ack()
            is_fresh = True
            if delivery.key is not None:
                version, before = self.loaded[id(delivery)]
                state, stamp = [*before, delivery.id], self.new_id()
                data = json.dumps(state).encode()
                settlement = Ack(state=StateChange(version=version, data=data, stamp=stamp, history=3))
                self.known[hand.owner, delivery.key] = (stamp, version + 1, state)
                is_fresh = version == self.versions[delivery.key]
            effects = [Envelope(EFFECTS, f"{delivery.id}/{self.new_id()}", b"{}")] if publishes else []
            if reminds and delivery.key is not None:
                effects.append(self.reminder(delivery.key))
            endings.append((delivery, settlement, effects))
            expected.append("fenced" if not self.is_owned(delivery) else "done" if is_fresh else "stale")
        hows, got = self.world.settle_states(hand, endings, room=room, loses=loses)
        assert hows == expected
        for (delivery, settlement, effects), how in zip(endings, expected, strict=True):
            if how == "done":
                self.apply(delivery, settlement, [one for one in effects if one.source == EFFECTS])
                self.commit(delivery)
                for one in effects:
                    if one.source == SOURCE:
                        self.set_reminder(one)
            elif how == "stale":
                place = self.places[delivery.id]
                assert isinstance(place, Pending)
                self.places[delivery.id] = Pending(RELEASED, place.count - 1)
        if forgets:
            gone = [id(delivery) for delivery, _, _ in endings]
            hand.held = [delivery for delivery in hand.held if id(delivery) not in gone]
        given = self.run_ahead(hand, got, room=room, loses=loses)
        assert len(given) <= len(endings)

    def reminder(self, key: str) -> Envelope:
        unique = Unique(f"reminder:{key}", ttl=86_400, on_conflict="replace")
        return Envelope(SOURCE, self.new_id(), b"{}", None, {}, delay=MINUTE, key=key, unique=unique)

    def set_reminder(self, reminder: Envelope) -> None:
        """Note a reminder that an accepted settlement has set. What has set it has left before."""
        key = str(reminder.key)
        if former := self.reminders.pop(key, None):
            if self.places.pop(former) == Ready():
                self.end(former)
            else:
                self.ended.add(former)
                if former in self.lines.get(key, ()):
                    self.lines[key].remove(former)
        self.sent.append(reminder)
        self.reminded += 1
        self.keys[reminder.id] = key
        self.reminders[key] = reminder.id
        self.places[reminder.id] = Delayed(MINUTE)

    def end(self, name: str) -> None:
        key = self.keys.get(name)
        if key is not None and self.reminders.get(key) == name:
            del self.reminders[key]
        super().end(name)

    def run_ahead(self, hand: Hand, got: Sequence[Delivery], *, room: int, loses: bool) -> list[str]:
        """See that what a settlement has brought was ready, belongs to the node, and was read by no other one."""
        if loses:
            hand.is_short = True  # What came is not known, and is found when the node looks for it.
        now = self.world.look().places
        given: list[str] = []
        for name, was in self.places.items():
            if was != (place := now.get(name)):
                assert was == Ready(), f"{name} was {was}, and is {place}"
                assert place == Pending(hand.owner, 1), f"{name} came with a settlement, and is {place}"
                given.append(name)
        if not self.has_levels:
            line = [name for name, place in now.items() if place == Ready() or name in given]
            assert set(line[: len(given)]) == set(given), "a younger message was given before an older one"
        for name in given:
            self.places[name] = now[name]
        assert len(given) <= room
        told = {delivery.id for delivery in got}
        if loses:
            assert told <= set(given)  # It may have been another reply: a note of a delivery goes beside.
        else:
            assert told == set(given)
        self.hold(hand, got)
        return given

    # This one brings about, far more often than chance would, that a message of a key waits for the one before it.

    @precondition(lambda self: self.may_send())
    @rule(who=some, key=st.sampled_from(KEYS), room=st.sampled_from([1, 3]), loses=rarely, forgets=st.booleans())
    def settle_with_others_behind(self, who: int, key: str, room: int, loses: bool, forgets: bool) -> None:
        self.send(count=3, minutes=0, is_numbered=True, key=key, priority=Priority.NORMAL)
        self.fetch(who, 3, tends=False, reads=True, loses=False)
        hand = self.hands[who % len(self.hands)]
        if hand.held:
            holder = [one for one in self.hands if one.held].index(hand)
            last = range(max(0, len(hand.held) - 4), len(hand.held))
            self.settle_with_states(holder, list(last), room, loses=loses, forgets=forgets, publishes=False)

    # This one brings about, far more often than chance would, that a reminder is set while another one waits.

    @precondition(lambda self: self.may_send())
    @rule(who=some, key=st.sampled_from(KEYS), is_due=st.booleans(), loses=rarely)
    def remind_again(self, who: int, key: str, is_due: bool, loses: bool) -> None:
        if not any(hand.held for hand in self.hands):
            self.send(count=1, minutes=0, is_numbered=True, key=key, priority=Priority.NORMAL)
            self.fetch(who, 3, tends=is_due, reads=True, loses=False)
        elif is_due:
            self.advance(1)
            self.fetch(who, 3, tends=True, reads=True, loses=False)
        if any(hand.held for hand in self.hands):
            self.settle_with_states(who, [0, 1, 2], 3, loses=loses, forgets=True, publishes=False, reminds=True)

    # These two bring about, far more often than chance would, that a settlement comes too late.

    @precondition(lambda self: self.may_settle())
    @rule(who=some, which=few, loses=rarely)
    def put_before_it_is_settled(self, who: int, which: list[int], loses: bool) -> None:
        if not any(hand.held for hand in self.hands):
            return
        for delivery in self.some_of(self.holder(who), which):
            if delivery.key is not None:
                self.put(delivery.key, force=True)
        self.settle_with_states(who, which, room=0, loses=loses, forgets=True, publishes=True)

    @precondition(lambda self: self.may_settle())
    @rule(who=some, which=few, loses=rarely)
    def release_before_it_is_settled(self, who: int, which: list[int], loses: bool) -> None:
        if not any(hand.held for hand in self.hands):
            return
        self.release_deliveries(who, which, forgets=False)
        self.settle_with_states(who, which, room=0, loses=loses, forgets=True, publishes=False)

    def commit(self, delivery: Delivery) -> None:
        if delivery.key is not None:
            self.versions[delivery.key] += 1
            self.states[delivery.key].append(delivery.id)

    @rule(key=st.sampled_from(KEYS), force=st.booleans())
    def put(self, key: str, force: bool) -> None:
        name = self.new_id()
        head = self.heads.get(key)
        place = None if head is None else self.places.get(head)
        is_in_hand = isinstance(place, Pending) and place.owner != RELEASED
        try:
            version = self.world.put(key, json.dumps([name]).encode(), force=force)
        except StateConflict:
            assert is_in_hand
            assert not force
            return
        assert force or not is_in_hand
        self.versions[key] += 1
        self.states[key] = [name]
        assert version == self.versions[key]

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        """Of messages that are settled together, those with a state may take effect before or after the others."""
        if hasattr(self, "world"):
            sight = self.world.look()
            assert dict(sight.places) == self.places
            assert sorted(sight.effects) == sorted(self.effects)

    @invariant()
    def states_are_those_of_accepted_settlements(self) -> None:
        if not hasattr(self, "world"):
            return
        for key in KEYS:
            found = self.world.state(key)
            seen: tuple[int, list[str]] = (0, []) if found is None else (found[0], json.loads(found[1]))
            assert seen == (self.versions[key], self.states[key])


def machine_of(open_world: Callable[[], RedisWorld | EmbeddedWorld]) -> type[StateMachine]:
    class Machine(StateMachine):
        def open_world(self) -> RedisWorld | EmbeddedWorld:
            return open_world()

    return Machine


EXAMPLES: list[Any] = [6, pytest.param(200, marks=pytest.mark.long)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_the_embedded_broker_commits_states_as_the_model_does(examples: int) -> None:
    check_machine(machine_of(EmbeddedWorld), examples=examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_redis_commits_states_as_the_model_does(redis_server: RedisServer, loop: Loop, examples: int) -> None:
    check_machine(machine_of(lambda: RedisWorld(redis_server, loop)), examples=examples)


@pytest.mark.parametrize("examples", forms(2, more=[8]))
def test_a_cluster_commits_states_as_the_model_does(
    redis_cluster: RedisCluster, cluster_loop: Loop, examples: int
) -> None:
    check_machine(machine_of(lambda: ClusterWorld(redis_cluster, cluster_loop)), examples=examples)


def test_a_node_that_releases_a_delivery_twice_still_knows_what_it_has_in_flight(
    redis_server: RedisServer, loop: Loop
) -> None:
    """The older of two objects stands for the same delivery: the entry came again under the same count."""
    model = machine_of(lambda: RedisWorld(redis_server, loop))()
    normal = Priority.NORMAL

    def fetch(*, reads: bool) -> None:
        model.fetch(0, 1, tends=True, reads=reads, loses=False)
        model.everything_is_where_it_should_be()

    model.begin()
    try:
        model.send(count=1, minutes=0, is_numbered=True, key=None, priority=normal)
        fetch(reads=True)
        model.send(count=1, minutes=0, is_numbered=True, key=None, priority=normal)
        model.release_deliveries(0, [0], forgets=False)
        fetch(reads=False)
        model.release_deliveries(0, [0], forgets=False)
        fetch(reads=True)  # What was released comes before what is new, and takes all the room.
    finally:
        model.teardown()


# ------------------------------------------------------------------------------------- a model that can fail, and does


def always_as_it_was(found: Sequence[FoundState], known: Sequence[tuple[str, str]]) -> Sequence[FoundState]:
    """Return that every state which a node keeps is still the committed one."""
    return [True if stamp else one for one, (_, stamp) in zip(found, known, strict=True)]


@pytest.mark.long
@pytest.mark.parametrize("store", [RedisEntities, EmbeddedEntities])
def test_the_model_sees_that_a_node_goes_on_with_an_old_state(
    redis_server: RedisServer, loop: Loop, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    right = store.load

    async def load(self: Any, source: str, group: str, known: Sequence[tuple[str, str]]) -> Sequence[FoundState]:
        return always_as_it_was(await right(self, source, group, known), known)

    monkeypatch.setattr(store, "load", load)
    check_mutant(machine_of(EmbeddedWorld if store is EmbeddedEntities else lambda: RedisWorld(redis_server, loop)))


MUTANTS = {
    "a version that is not looked at": ("return version ~= expected and 'STALE ' .. version or nil", "return nil"),
    "a state that is changed before the fence": (
        "if settled[id] or not mine(id, count) then\n    fenced[#fenced + 1] = which\n  elseif lacking or trouble",
        "if change and not trouble and not mine(id, count) then\n"  # noqa: ISC004 - one text
        "entities.change(prefix, group, key, '', '', unpack(ARGV, change, change + 6)) end\n"
        "  if settled[id] or not mine(id, count) then\n    fenced[#fenced + 1] = which\n  elseif lacking or trouble",
    ),
    "a settlement without its state": ("if change and not trouble then", "if false then"),
    "an ack of a key without its state": (
        "if change then\n      entities.change",
        "if false then\n      entities.change",
    ),
    "an ack of a key before the fence": (
        "if settled[id] or not mine(id, count) then\n    fenced[#fenced + 1] = which\n  elseif problem",
        "if change and not problem and not mine(id, count) then\n"  # noqa: ISC004 - one text
        "entities.change(prefix, group, key, '', '', ARGV[change], '', '', '', '0', '', ARGV[change + 3]) end\n"
        "  if settled[id] or not mine(id, count) then\n    fenced[#fenced + 1] = which\n  elseif problem",
    ),
    "an ack of a key that keeps it": ("holds(id, has_key and key,", "holds(id, false,"),
    "a state that is committed twice": ("whole(before + 1)", "whole(before + 2)"),
    "a reminder beside the one that it replaces": (
        "wanted.replace and record.place ~= '' and drop(prefix, record.place, 'Cancelled', reason)",
        "wanted.replace",
    ),
    "a reminder that does not replace": (
        "wanted.replace and record.place ~= '' and drop(prefix, record.place, 'Cancelled', reason)",
        "false",
    ),
    "a reminder that waits for the one that sets it": (
        "local leaves_first = (key or unique) and published > 0",
        "local leaves_first = false and published > 0",
    ),
    "a reminder before the fence": (
        "if settled[id] or not mine(id, count) then\n    fenced[#fenced + 1] = which\n  elseif lacking or trouble",
        "if change and published > 0 and not mine(id, count) then send(prefix, messages, touched) end\n"  # noqa: ISC004
        "  if settled[id] or not mine(id, count) then\n    fenced[#fenced + 1] = which\n  elseif lacking or trouble",
    ),
    "a run entry read by another node": (
        "'XREADGROUP', 'GROUP', group, consumer,",
        "'XREADGROUP', 'GROUP', group, 'another',",
    ),
    "a run entry that is given and not read": (
        "redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')",
        "{ { stream, redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1) } }",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_sees_what_is_wrong_with_the_states_of_a_script(
    redis_server: RedisServer, loop: Loop, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    right, wrong = MUTANTS[mutant]
    of = [name for name in ("SETTLE", "SETTLE_KEYED") if right in getattr(scripts, name).source]
    assert of, f"no script says {right!r} any more"
    for name in of:
        script = getattr(scripts, name)
        assert script.source.count(right) == 1
        monkeypatch.setattr(scripts, name, Script(script.name, script.source.replace(right, wrong)))
    check_mutant(machine_of(lambda: RedisWorld(redis_server, loop)))


@pytest.mark.long
def test_the_model_sees_a_state_that_is_written_beside_the_script(
    redis_server: RedisServer, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SettleCalls.settle

    async def settle(
        self: Any, in_flight: Any, plain: list[Delivery], others: list[Item], *, ahead: int = 0
    ) -> list[Any]:
        bare: list[Item] = []
        states: list[tuple[str, bytes]] = []
        for delivery, settlement, published in others:
            if isinstance(settlement, Ack) and settlement.state is not None:
                states.append((delivery.key or "", settlement.state.data or b""))
                bare.append((delivery, attrs.evolve(settlement, state=None), published))
            else:
                bare.append((delivery, settlement, published))
        answer = await right(self, in_flight, plain, bare, ahead=ahead)
        for key, data in states:
            await RedisEntities(loop.client).put(SOURCE, GROUP, key, data, force=True)
        return answer

    monkeypatch.setattr(SettleCalls, "settle", settle)
    check_mutant(machine_of(lambda: RedisWorld(redis_server, loop)))


def without_a_look_at_the_version(table: Any, delivery: Delivery, group: str, change: StateChange) -> bool:
    if not table._settlements.owns(delivery.token):
        return False
    table.change(table._sources.number(delivery.source), group, delivery.key, change, by="", node="")
    return True


def before_the_fence(table: Any, delivery: Delivery, group: str, change: StateChange) -> bool:
    source = table._sources.number(delivery.source)
    if table.version(source, group, delivery.key) == change.version:
        table.change(source, group, delivery.key, change, by="", node="")
    return bool(table._settlements.owns(delivery.token))


def without_a_state(table: Any, delivery: Delivery, *_: object) -> bool:
    return bool(table._settlements.owns(delivery.token))


def beside_the_one_before(*_: object) -> bool:
    return True


def without_replacing(*_: object) -> bool:
    return False


@pytest.mark.long
@pytest.mark.parametrize("mutant", [beside_the_one_before, without_replacing])
def test_the_model_sees_what_is_wrong_with_the_reminders_of_the_store(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., bool]
) -> None:
    monkeypatch.setattr(Cancellation, "replace", mutant)
    check_mutant(machine_of(EmbeddedWorld))


STORE_MUTANTS: dict[str, Callable[..., bool]] = {
    "a version that is not looked at": without_a_look_at_the_version,
    "a state that is changed before the fence": before_the_fence,
    "a settlement without its state": without_a_state,
}


@pytest.mark.long
@pytest.mark.parametrize("mutant", STORE_MUTANTS)
def test_the_model_sees_what_is_wrong_with_the_states_of_the_store(
    monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    monkeypatch.setattr(EntityTable, "settle", STORE_MUTANTS[mutant])
    check_mutant(machine_of(EmbeddedWorld))
