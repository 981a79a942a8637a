"""The protocol of the brokers, against a model, in whatever order things can happen.

    ready ──fetch──▶ pending (owner, count) ──ack, reject──▶ gone        the effects of an ack appear with it
      ▲                │  │  └──fail, or its owner died too often──▶ dead
      │                │  └──release──▶ pending (no owner, count - 1)
      ├──due── delayed ◀─┴──retry
      └─── behind: the one before it of the same key has ended

Hypothesis sends, reads, settles, releases, kills, freezes, loses replies and leases, moves the clock, and repeats
earlier steps, in any order. After every step:

- conservation: each message is in exactly one place, or it has ended, and in the place where the model has it;
- keys: of the messages of one key all are behind but one, and they follow in their order;
- single settlement: a settlement is accepted if and only if the delivery is still its owner's, under its count; and
  what an accepted one publishes is there once.

At the end all nodes that hold something are declared dead, and one new node ends every message: none is stuck.

In CI the same steps are taken each time. `ACTORWORK_MODEL_EXAMPLES=20000 pytest tests/protocol` takes others, and more.
"""

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings, strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actorwork.embedded.key_queues import KeyQueues
from actorwork.embedded.leases import Leases
from actorwork.embedded.seen import SeenIds
from actorwork.embedded.settling import Settlements
from actorwork.message import RESULT_TTL, Delivery, Envelope, Failure, Priority
from actorwork.policy.crashes import alone_from, limit_of
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.streams import scripts
from actorwork.streams.transport.commands import Script
from actorwork.testing.redis_cluster import RedisCluster
from actorwork.testing.redis_server import RedisServer
from tests.forms import forms

from .models import (
    EFFECTS,
    MAX_CRASHES,
    RELEASED,
    SOURCE,
    Behind,
    ClusterWorld,
    Dead,
    Delayed,
    EmbeddedWorld,
    Ending,
    Hand,
    Loop,
    Pending,
    Place,
    Ready,
    RedisWorld,
    World,
)

MORE = int(os.environ.get("ACTORWORK_MODEL_EXAMPLES", "0"))
SEED = 14
ALONE_FROM = alone_from(MAX_CRASHES)
MINUTE = 60.0
"""Delays and steps of the clock are multiples of it: what real time passes meanwhile decides nothing."""
FAILURE = Failure("ValueError", "as the model says")

some = st.integers(min_value=0, max_value=11)
few = st.lists(some, min_size=1, max_size=4)
rarely = st.sampled_from([False, False, False, True])
hows = st.lists(
    st.sampled_from(["ack", "ack", "effect", "asked", "reject", "fail", "retry", "retry later"]), min_size=4, max_size=4
)


class ProtocolMachine(RuleBasedStateMachine):
    """What every world has to agree with."""

    is_plain = False
    """Whether there are neither keys nor priorities: what goes wrong without them is found sooner."""
    has_levels = True
    """Whether there are priorities."""

    def open_world(self) -> World:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.world = self.open_world()
        self.places: dict[str, Place] = {}
        self.ended: set[str] = set()
        self.effects: list[str] = []
        self.hands: list[Hand] = []
        self.leased: dict[str, None] = {}
        self.sent: list[Envelope] = []
        self.keys: dict[str, str] = {}
        self.heads: dict[str, str] = {}
        """Of each key, the message that is not behind any other and has not ended."""
        self.lines: dict[str, list[str]] = {}
        """Of each key, those behind it."""
        self.made = 0
        self.has_buried = False
        """Whether the last fetch has made dead letters: what follows from these, it may have come too late to take."""
        self.generations: dict[str, int] = {}
        """Of messages that came again: how often. A delivery of an earlier time is none of the message as it is now."""
        self.deliveries: dict[int, tuple[Delivery, int]] = {}
        self.prepare()
        self.start()

    def prepare(self) -> None:
        """Begin what else a machine has."""

    # Whether a rule may be chosen must not depend on which of several messages a node was given first: at Redis it may
    # be another one each time, and Hypothesis takes the same choices to have the same consequences.

    def may_send(self) -> bool:
        return len(self.places) < 12

    def may_settle(self) -> bool:
        return any(hand.held for hand in self.hands)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.bring_to_an_end()
        finally:
            self.world.close()

    # ---- what happens ----

    def new_id(self, *, is_numbered: bool = True) -> str:
        self.made += 1
        return f"00000000000000aa-{self.made:x}" if is_numbered else f"name {self.made}"

    @precondition(lambda self: self.may_send())
    @rule(
        count=st.integers(1, 3),
        minutes=st.sampled_from([0, 0, 0, 1, 10]),
        is_numbered=st.booleans(),
        key=st.sampled_from([None, None, "a", "b"]),
        priority=st.sampled_from([Priority.NORMAL, Priority.NORMAL, Priority.HIGH]),
    )
    def send(self, count: int, minutes: int, is_numbered: bool, key: str | None, priority: Priority) -> None:
        if self.is_plain:
            key, priority = None, Priority.NORMAL
        if not self.has_levels:
            priority = Priority.NORMAL
        headers = {RESULT_TTL: 600} if count == 2 else {}
        envelopes = [
            Envelope(
                SOURCE,
                self.new_id(is_numbered=is_numbered),
                b"{}",
                None,
                headers,
                delay=minutes * MINUTE,
                key=key,
                priority=priority,
            )
            for _ in range(count)
        ]
        assert self.world.publish(envelopes) == count
        self.sent += envelopes
        for envelope in envelopes:
            if key is not None:
                self.keys[envelope.id] = key
            if minutes:
                self.places[envelope.id] = Delayed(minutes * MINUTE)
            else:
                self.enter(envelope.id)

    @precondition(lambda self: self.sent)
    @rule(which=few)
    def send_again(self, which: list[int]) -> None:
        """The reply to a publish was lost."""
        assert self.world.publish([self.sent[-1 - one % len(self.sent)] for one in which]) == 0

    @precondition(lambda self: len(self.hands) < 3)
    @rule()
    def start(self) -> None:
        hand = self.world.start()
        self.hands.append(hand)
        self.leased[hand.owner] = None

    @rule(who=some, room=st.sampled_from([1, 3, 50]), tends=st.booleans(), reads=st.booleans(), loses=rarely)
    def fetch(self, who: int, room: int, tends: bool, reads: bool, loses: bool) -> None:
        hand = self.hands[who % len(self.hands)]
        self.has_buried = False
        got = self.world.fetch(hand, room, tends=tends, reads=reads, loses=loses)
        self.take_note(hand, got, room=room, loses=loses)
        if loses:
            hand.is_short = True
        elif tends and reads and room == 50 and not (hand.is_short or self.has_buried) and hand.owner in self.leased:
            left = [(name, place) for name, place in self.places.items() if self.is_free(place)]
            suspects = [one for one in left if isinstance(one[1], Pending) and one[1].count >= ALONE_FROM]
            # A node that closes for a suspect takes nothing more while something else is in flight there, and leaves
            # everything else to others while it has one.
            is_closing = bool(suspects) and not got
            is_alone = any(delivery.crashes >= ALONE_FROM for delivery in got)
            assert is_closing or is_alone or left == suspects, left

    @precondition(lambda self: any(hand.is_short for hand in self.hands))
    @rule()
    def recover(self) -> None:
        """A node looks for what a lost reply held, and finds all of it."""
        hand = next(hand for hand in self.hands if hand.is_short)
        hand.is_short = False
        self.hold(hand, self.world.recover(hand))
        ours = {name for name, place in self.places.items() if isinstance(place, Pending) and place.owner == hand.owner}
        assert ours <= {delivery.id for delivery in hand.held}

    @precondition(lambda self: self.may_settle())
    @rule(who=some, which=few, how=hows, loses=rarely, forgets=st.booleans())
    def settle(self, who: int, which: list[int], how: list[str], loses: bool, forgets: bool) -> None:
        """Also what was settled, released or lost before: a zombie does not know that."""
        if not any(hand.held for hand in self.hands):
            return
        hand = self.holder(who)
        endings: list[Ending] = []
        for delivery, kind in zip(self.some_of(hand, which), how, strict=False):
            effects: list[Envelope] = []
            if kind == "effect":
                effects = [Envelope(EFFECTS, f"{delivery.id}/{self.new_id()}", b"{}")]
            endings.append((delivery, self.ending(kind), effects))
        expected = [self.is_owned(delivery) for delivery, _, _ in endings]
        assert self.world.settle(hand, endings, loses=loses) == expected
        for (delivery, settlement, published), is_accepted in zip(endings, expected, strict=True):
            if is_accepted:
                self.apply(delivery, settlement, published)
        if forgets:
            gone = [id(delivery) for delivery, _, _ in endings]
            hand.held = [delivery for delivery in hand.held if id(delivery) not in gone]

    @precondition(lambda self: self.may_settle())
    @rule(who=some, which=few, forgets=st.booleans())
    def release_deliveries(self, who: int, which: list[int], forgets: bool) -> None:
        if not any(hand.held for hand in self.hands):
            return
        hand = self.holder(who)
        deliveries = self.some_of(hand, which)
        self.world.release_deliveries(hand, deliveries)
        for delivery in deliveries:
            if self.is_owned(delivery):
                place = self.places[delivery.id]
                assert isinstance(place, Pending)
                self.places[delivery.id] = Pending(RELEASED, place.count - 1)
        if forgets:
            gone = [id(delivery) for delivery in deliveries]
            hand.held = [delivery for delivery in hand.held if id(delivery) not in gone]

    @precondition(lambda self: self.leased)
    @rule(who=some)
    def end_lease(self, who: int) -> None:
        """It ran out, its node was frozen or cut off, or a parent released it. Nobody tells the node."""
        owner = list(self.leased)[who % len(self.leased)]
        del self.leased[owner]
        name = self.world.end_lease(owner)
        for message_id, place in self.places.items():
            if isinstance(place, Pending) and place.owner == owner:
                self.places[message_id] = Pending(name, place.count)

    @precondition(lambda self: any(hand.owner not in self.leased for hand in self.hands))
    @rule()
    def notice(self) -> None:
        """A node finds its lease lost, and goes on under a new name. What it held then, it may still try to settle."""
        hand = next(hand for hand in self.hands if hand.owner not in self.leased)
        self.world.succeed(hand)
        self.leased[hand.owner] = None
        hand.is_short = False

    @precondition(lambda self: len(self.hands) > 1)
    @rule(who=some)
    def die(self, who: int) -> None:
        """The process is gone with all that it knew. Its lease ends later, if at all."""
        del self.hands[who % len(self.hands)]

    @rule(minutes=st.sampled_from([1, 10]))
    def advance(self, minutes: int) -> None:
        self.world.advance(minutes * MINUTE)
        for name, place in self.places.items():
            if isinstance(place, Delayed):
                self.places[name] = Delayed(place.left - minutes * MINUTE)

    # ---- what must be so ----

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        if hasattr(self, "world"):
            sight = self.world.look()
            assert dict(sight.places) == self.places
            # A level of priority has a stream of its own, and the settlements of two streams take no turns.
            assert self.by_level(sight.effects) == self.by_level(self.effects)

    # ---- what the model makes of it ----

    def by_level(self, effects: Iterable[str]) -> dict[Priority, list[str]]:
        """Return what messages of each priority have published, in its order."""
        levels = {envelope.id: envelope.priority for envelope in self.sent}
        found: dict[Priority, list[str]] = {}
        for effect in effects:
            # What has another beginning was published for a run, not for a message.
            found.setdefault(levels.get(effect.partition("/")[0], Priority.NORMAL), []).append(effect)
        return found

    def holder(self, who: int) -> Hand:
        holding = [hand for hand in self.hands if hand.held]
        return holding[who % len(holding)]

    def some_of(self, hand: Hand, which: Sequence[int]) -> list[Delivery]:
        """Return some of what a node holds, each message once: a node has one delivery of a running message."""
        chosen = {delivery.id: delivery for one in which for delivery in [hand.held[one % len(hand.held)]]}
        return list(chosen.values())

    def ending(self, kind: str) -> Settlement:
        return ENDINGS[kind]

    def hold(self, hand: Hand, got: Sequence[Delivery]) -> None:
        hand.held += got
        for delivery in got:
            self.deliveries[id(delivery)] = delivery, self.generations.get(delivery.id, 0)

    def comes_again(self, name: str) -> None:
        self.generations[name] = self.generations.get(name, 0) + 1

    def is_owned(self, delivery: Delivery) -> bool:
        claim = self.world.claim(delivery)
        is_latest = self.deliveries[id(delivery)][1] == self.generations.get(delivery.id, 0)
        return is_latest and claim is not None and self.places.get(delivery.id) == claim

    def is_dead(self, place: Place) -> bool:
        return isinstance(place, Pending) and place.owner != RELEASED and place.owner not in self.leased

    def is_free(self, place: Place) -> bool:
        match place:
            case Ready():
                return True
            case Delayed(left=left):
                return left <= 0
            case Pending(owner=owner):
                return owner == RELEASED or self.is_dead(place)
            case Behind() | Dead():
                return False

    def take_note(self, hand: Hand, got: list[Delivery], *, room: int, loses: bool) -> None:
        """See that whatever has changed was allowed to, and believe it."""
        now = self.world.look().places
        self.promote(now)
        for name, was in list(self.places.items()):
            if isinstance(was, Pending) and isinstance(now.get(name), Dead):
                assert self.is_dead(was)
                assert was.count >= limit_of(MAX_CRASHES)
                self.bury(name)
        given: set[str] = set()
        for name, was in self.places.items():
            place = now.get(name)
            if place == was:
                continue
            match was, place:
                case Ready(), Pending(count=1):
                    pass
                case Pending(count=count), Pending(count=more):
                    assert self.is_free(was)
                    assert more == count + 1
                    assert hand.owner in self.leased
                case _:
                    raise AssertionError(f"{name} was {was}, and is {place}")
            assert place.owner == hand.owner
            given.add(name)
            self.places[name] = place
        assert len(given) <= (2 * room if loses else room)
        told = {delivery.id for delivery in got}
        assert told <= given if loses else told == given
        for delivery in got:
            place = self.places[delivery.id]
            assert isinstance(place, Pending)
            assert delivery.crashes == place.count - 1
        self.hold(hand, got)

    def bury(self, name: str) -> None:
        self.places[name] = Dead()
        self.has_buried = True
        self.end(name)

    def promote(self, now: Mapping[str, Place]) -> None:
        """Let those enter that were held back and are no longer: each was due, the first one first."""
        held = [(place.left, name) for name, place in self.places.items() if isinstance(place, Delayed)]
        order = {envelope.id: number for number, envelope in enumerate(self.sent)}
        for left, name in sorted(held, key=lambda one: (one[0], order.get(one[1], 0))):
            if not isinstance(now.get(name), Delayed):
                assert left <= 0, f"{name} is to wait for {left} s, and does not"
                self.enter(name)

    def enter(self, name: str) -> None:
        """Put a message into the source, or behind others of its key. A retry has not left its place."""
        key = self.keys.get(name)
        if key is None or self.heads.setdefault(key, name) == name:
            self.places[name] = Ready()
        else:
            self.places[name] = Behind()
            self.lines.setdefault(key, []).append(name)

    def end(self, name: str) -> None:
        """Let the next one of its key enter."""
        self.ended.add(name)
        key = self.keys.get(name)
        if key is not None:
            assert self.heads.pop(key) == name
            if line := self.lines.get(key):
                self.enter(line.pop(0))

    def apply(self, delivery: Delivery, settlement: Settlement, published: Sequence[Envelope]) -> None:
        assert delivery.id not in self.ended
        match settlement:
            case Retry(delay=delay):
                self.places[delivery.id] = Delayed(delay) if delay else Ready()
                self.comes_again(delivery.id)
            case Fail():
                self.places[delivery.id] = Dead()
                self.end(delivery.id)
            case Ack() | Reject():
                del self.places[delivery.id]
                self.end(delivery.id)
        self.effects += [envelope.id for envelope in published]

    def bring_to_an_end(self) -> None:
        while self.leased:
            self.end_lease(0)
        self.hands.clear()
        self.start()
        (hand,) = self.hands
        self.advance(10)
        for _ in range(200):
            for _ in range(2):  # The node closes for a suspect in one turn, and takes it in the next.
                if not hand.held:
                    self.fetch(0, 50, tends=True, reads=True, loses=False)
            if not hand.held:
                break
            while hand.held:
                self.settle(0, [0, 1, 2, 3], ["ack"] * 4, loses=False, forgets=True)
        left = {name: place for name, place in self.places.items() if place != Dead()}
        assert not left, f"no node is given these: {left}"
        self.everything_is_where_it_should_be()


ENDINGS: dict[str, Settlement] = {
    "ack": Ack(),
    "effect": Ack(),
    "asked": Ack(b"1"),
    "reject": Reject(FAILURE),
    "fail": Fail(FAILURE),
    "retry": Retry(0.0, FAILURE),
    "retry later": Retry(MINUTE, FAILURE),
}


def machine_of(open_world: Callable[[], World], *, has_keys: bool) -> type[ProtocolMachine]:
    class Machine(ProtocolMachine):
        is_plain = not has_keys

        def open_world(self) -> World:
            return open_world()

    return Machine


def check(open_world: Callable[[], World], *, examples: int) -> None:
    check_machine(machine_of(open_world, has_keys=True), examples=examples)


def check_machine(machine: type[ProtocolMachine], *, examples: int) -> None:
    run(machine, examples=examples, phases=tuple(Phase))


def check_mutant(machine: type[ProtocolMachine], *, begins_with: int = SEED, examples: int = 30_000) -> None:
    """See that the model finds what is wrong. From `SEED` it does so within a second.

    Which examples a seed stands for depends on the version of Hypothesis and on the source: there may be many.
    """
    with pytest.raises((AssertionError, FlakyFailure)):  # The latter: it was found, and not a second time.
        run(seed(begins_with)(machine), examples=examples, phases=[Phase.generate])


def run(machine: type[ProtocolMachine], *, examples: int, phases: Sequence[Phase]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=MORE or examples,
            stateful_step_count=40,
            derandomize=not MORE,
            database=None,
            deadline=None,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
            phases=phases,
        ),
    )


@pytest.fixture
def loop(redis_server: RedisServer, redis_url: str) -> Generator[Loop]:
    loop = Loop(redis_url)
    try:
        yield loop
    finally:
        loop.close()


@pytest.fixture
def cluster_loop(redis_cluster: RedisCluster) -> Generator[Loop]:
    loop = Loop(redis_cluster.url)
    try:
        yield loop
    finally:
        loop.close()


EXAMPLES = [20, pytest.param(200, marks=pytest.mark.long)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_the_embedded_broker_keeps_to_the_protocol(examples: int):
    check(EmbeddedWorld, examples=examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_redis_keeps_to_the_protocol(redis_server: RedisServer, loop: Loop, examples: int):
    check(lambda: RedisWorld(redis_server, loop), examples=examples)


class MovingMachine(ProtocolMachine):
    """The protocol at a cluster whose slots move."""

    world: ClusterWorld

    @rule(is_so=rarely)
    def move(self, is_so: bool) -> None:
        """A slot moves with all that is in it. The nodes learn it from the answer to what they send next."""
        if is_so:
            self.world.move()


def moving(cluster: RedisCluster, loop: Loop) -> type[MovingMachine]:
    class Machine(MovingMachine):
        def open_world(self) -> World:
            return ClusterWorld(cluster, loop)

    return Machine


@pytest.mark.parametrize("examples", forms(4, more=[12]))
def test_a_cluster_keeps_to_the_protocol_while_slots_move(
    redis_cluster: RedisCluster, cluster_loop: Loop, examples: int
):
    check_machine(moving(redis_cluster, cluster_loop), examples=examples)


# ------------------------------------------------------------------------------------- a model that can fail, and does


MUTANTS = {
    "a fence that lets everybody through": ("SETTLE", "return found == tonumber(wanted)", "return true"),
    "an answer that is not repeated": ("SETTLE", "if answer[1] == number then", "if false then"),
    "a settlement that settles nothing": ("SETTLE", "ack_and_delete(stream, group, acked)", "{}"),
    "a delivery released, and counted": ("RELEASE", "ARGV[i + 1] - 1", "ARGV[i + 1]"),
    "a hand-back that forgets": (
        "RELEASE",
        "'XCLAIM', stream, group, released",
        "'XACK', stream, group, id, released",
    ),
    "work taken over from the living": ("MAINTAIN", "redis.call('EXISTS', leases .. name) == 0", "true"),
    "work never taken over": ("MAINTAIN", "redis.call('EXISTS', leases .. name) == 0", "false"),
    "a take-over that does not count": ("MAINTAIN", "'RETRYCOUNT', count + 1", "'RETRYCOUNT', count"),
    "a lost reply that is not recovered": ("RECOVER", "if not in_hand[id] then", "if false then"),
    "a key whose next message never comes": ("SETTLE_KEYED", "if is_anything_left then", "if false then"),
    "a message kept twice": ("PUBLISH_NOW", "if not (seen and seen[which]) then", "if true then"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_model_sees_what_is_wrong_with_a_script(
    redis_server: RedisServer, loop: Loop, monkeypatch: pytest.MonkeyPatch, mutant: str
):
    name, right, wrong = MUTANTS[mutant]
    script: Script = getattr(scripts, name)
    assert script.source.count(right) == 1, f"the script {name} does not say {right!r} any more"
    monkeypatch.setattr(scripts, name, Script(script.name, script.source.replace(right, wrong)))
    check_mutant(machine_of(lambda: RedisWorld(redis_server, loop), has_keys="key" in mutant))


FORWARDED = {
    "what is forwarded twice is kept twice": (
        "local function set_mark(mark, offset, touched)\n",
        "local function set_mark(mark, offset, touched)\n  do return true end\n",
    ),
    "what goes to another slot goes nowhere": ("if not forwarded.is_done(from, entry) then", "if false then"),
}


@pytest.mark.parametrize("mutant", FORWARDED)
def test_the_model_sees_what_is_wrong_between_two_slots(
    redis_cluster: RedisCluster, cluster_loop: Loop, monkeypatch: pytest.MonkeyPatch, mutant: str
):
    right, wrong = FORWARDED[mutant]
    assert scripts.FORWARD.source.count(right) == 1, f"the script does not say {right!r} any more"
    monkeypatch.setattr(scripts, "FORWARD", Script("forward", scripts.FORWARD.source.replace(right, wrong)))
    model = moving(redis_cluster, cluster_loop)()
    model.begin()
    try:
        model.send(count=1, minutes=0, is_numbered=True, key=None, priority=Priority.NORMAL)
        model.fetch(0, 1, tends=True, reads=True, loses=False)
        model.settle(0, [0], ["effect"], loses=True, forgets=True)
        with pytest.raises(AssertionError):
            model.everything_is_where_it_should_be()
    finally:
        model.world.close()


def disown_by_entry_alone(store: Any, token: Any) -> bool:
    done = store._execute("delete from pending where seq = ? and grp = ?", token[:2])
    return done.rowcount == 1


def end_lease_alone(leases: Any, node: int, **_: object) -> bool:
    leases._execute("update nodes set ended = 1 where node = ?", (node,))
    return True


def forget_ids(*_: object) -> bool:
    return True


def forget_the_next(*_: object) -> None:
    pass


STORE_MUTANTS: dict[str, tuple[type, str, Callable[..., object]]] = {
    "a fence that lets everybody through": (Settlements, "_disown", disown_by_entry_alone),
    "work never taken over": (Leases, "end", end_lease_alone),
    "a message kept twice": (SeenIds, "is_new", forget_ids),
    "a key whose next message never comes": (KeyQueues, "advance", forget_the_next),
}


@pytest.mark.parametrize("mutant", STORE_MUTANTS)
def test_the_model_sees_what_is_wrong_with_the_store(monkeypatch: pytest.MonkeyPatch, mutant: str):
    monkeypatch.setattr(*STORE_MUTANTS[mutant])
    check_mutant(machine_of(EmbeddedWorld, has_keys="key" in mutant))
