"""Pools: which member has a message, by each routing, while members come, go and start again."""

import random
from collections import Counter
from operator import attrgetter
from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    Child,
    Intensity,
    MailboxFull,
    MailboxSettings,
    MaxRestartsExceeded,
    MessageRefused,
    Pool,
    Priority,
    Settings,
    SettingsError,
    System,
    open_system,
    receive,
)
from actorwork.actors.refs.pool import _weight
from tests.doubles import FakeBroker

MANY = Intensity(restarts=1000, period=1)


@attrs.frozen
class Work:
    key: int = 0
    seconds: float = 0
    what: str = ""


class Member(Actor):
    """Answers with its place."""

    settings = Settings(title="member", mailbox=MailboxSettings(capacity=10))

    @receive
    async def work(self, message: Work) -> int:
        place = places[self.context.ref]
        if message.what in ("crash", f"crash {place}"):
            raise ValueError(f"boom {place}")
        if message.what == "stop":
            self.context.stop()
        if message.what == f"slow {place}":
            await trio.sleep(5)
        await trio.sleep(message.seconds)
        done.append(place)
        return place


places: dict[Any, int] = {}
done: list[int] = []


def pool(size: int = 4, **options: Any) -> Pool:
    every: dict[str, Any] = {"intensity": MANY, **options}
    return Pool(Member, size, **every)


def by_key(size: int = 4, **options: Any) -> Pool:
    return pool(size, routing="consistent_hash", key=attrgetter("key"), **options)


def opened(system: System) -> Any:
    """Return the pool's ref; number the members for this test."""
    ref = system.pool(Member)
    done.clear()
    places.clear()
    places.update({member: number for number, member in enumerate(ref.members)})
    return ref


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_round_robin_takes_them_in_turn():
    async with open_system(pool(3), broker=FakeBroker()) as system:
        ref = opened(system)
        assert [await ref.ask(Work()) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
        ref.tell_nowait(Work())
        await ref.tell(Work())
        assert await ref.ask(Work()) == 0
        assert sorted(done[-3:]) == [0, 1, 2]


async def test_every_caller_of_the_same_pool_shares_the_turn():
    async with open_system(pool(3), broker=FakeBroker()) as system:
        opened(system)
        assert [await system.pool("member pool").ask(Work()) for _ in range(3)] == [0, 1, 2]


async def test_random_takes_any():
    async with open_system(pool(4, routing="random"), broker=FakeBroker()) as system:
        ref = opened(system)
        system._services.random.seed(5)
        counted = Counter([await ref.ask(Work()) for _ in range(400)])
    assert set(counted) == {0, 1, 2, 3}
    assert min(counted.values()) > 60


async def test_the_smallest_mailbox_is_that_of_the_member_with_the_least_to_do(mock_clock: trio.testing.MockClock):
    async with open_system(pool(3, routing="smallest_mailbox"), broker=FakeBroker()) as system:
        ref = opened(system)
        for seconds in (10, 1, 10):
            ref.tell_nowait(Work(seconds=seconds))
        await settle()
        assert [member.cell.load for member in ref.members] == [1, 1, 1]
        await trio.sleep(2)
        assert await ref.ask(Work()) == 1, "what it has in flight counts"
        for _ in range(2):
            ref.tell_nowait(Work(seconds=1))
        assert sorted(member.cell.load for member in ref.members) == [1, 1, 2] or await ref.ask(Work()) == 1


async def test_an_idle_pool_takes_them_in_turn_also_by_mailbox():
    async with open_system(pool(3, routing="smallest_mailbox"), broker=FakeBroker()) as system:
        ref = opened(system)
        assert [await ref.ask(Work()) for _ in range(4)] == [0, 1, 2, 0]


async def test_broadcast_tells_all_and_gathers_their_replies_in_order():
    async with open_system(pool(3, routing="broadcast"), broker=FakeBroker()) as system:
        ref = opened(system)
        assert await ref.ask(Work()) == [0, 1, 2]
        await ref.tell(Work())
        ref.tell_nowait(Work())
        await settle()
        assert Counter(done) == {0: 3, 1: 3, 2: 3}


async def test_a_broadcast_ask_raises_the_error_as_it_is(mock_clock: trio.testing.MockClock):
    async with open_system(pool(3, routing="broadcast"), broker=FakeBroker()) as system:
        ref = opened(system)
        with pytest.raises(ActorCrashed, match="boom 1"):
            await ref.ask(Work(what="crash 1"))
        with pytest.raises(ActorCrashed, match="boom"):
            await ref.ask(Work(what="crash"))
        with pytest.raises(AskTimeout):
            await ref.ask(Work(what="slow 2"), timeout=1)
        assert await ref.ask(Work()) == [0, 1, 2]


async def test_a_cancelled_broadcast_ask_is_cancelled(mock_clock: trio.testing.MockClock):
    async with open_system(pool(3, routing="broadcast"), broker=FakeBroker()) as system:
        ref = opened(system)
        with trio.move_on_after(1) as scope:
            await ref.ask(Work(seconds=5))
        assert scope.cancelled_caught
        assert trio.current_time() == 1


async def test_a_broadcast_reaches_all_that_have_room():
    async with open_system(pool(3, routing="broadcast"), broker=FakeBroker()) as system:
        ref = opened(system)
        for _ in range(10):
            ref.members[1].tell_nowait(Work())
        with pytest.raises(MailboxFull):
            ref.tell_nowait(Work())
        await settle()
        assert Counter(done) == {0: 1, 1: 10, 2: 1}


async def test_the_same_key_goes_to_the_same_member():
    async with open_system(by_key(5), broker=FakeBroker()) as system:
        ref = opened(system)
        first = {key: await ref.ask(Work(key)) for key in range(500)}
        assert {key: await ref.ask(Work(key)) for key in range(500)} == first
    shares = Counter(first.values())
    assert set(shares) == set(range(5))
    assert min(shares.values()) > 70
    assert max(shares.values()) < 130


async def test_a_member_that_starts_again_keeps_its_keys():
    async with open_system(by_key(5), broker=FakeBroker()) as system:
        ref = opened(system)
        first = {key: await ref.ask(Work(key)) for key in range(100)}
        with pytest.raises(ActorCrashed):
            await ref.ask(Work(7, what="crash"))
        assert {key: await ref.ask(Work(key)) for key in range(100)} == first
        assert sum(member.cell.incarnation for member in ref.members) == 6


async def test_only_the_keys_of_a_member_that_has_ended_move():
    child = Child(Member, restart="temporary")
    tree = Pool(child, 5, routing="consistent_hash", key=attrgetter("key"))
    async with open_system(tree, broker=FakeBroker()) as system:
        ref = opened(system)
        before = {key: await ref.ask(Work(key)) for key in range(300)}
        gone = before[7]
        await ref.ask(Work(7, what="stop"))
        await settle()
        after = {key: await ref.ask(Work(key)) for key in range(300)}
        moved = {key for key in before if before[key] != after[key]}
        assert moved == {key for key in before if before[key] == gone}
        assert len({after[key] for key in moved}) == 4, "they spread over all others"


async def test_equal_keys_are_one_key():
    async with open_system(pool(8, routing="consistent_hash", key=attrgetter("what")), broker=FakeBroker()) as system:
        ref = opened(system)
        for text in ("ann", "bob", "cid"):
            assert len({await ref.ask(Work(n, what="".join(list(text)))) for n in range(5)}) == 1


@pytest.mark.parametrize("routing", ["round_robin", "random", "smallest_mailbox"])
async def test_a_member_that_has_ended_is_passed_over(routing: Any):
    async with open_system(Pool(Child(Member, restart="temporary"), 3, routing=routing), broker=FakeBroker()) as system:
        ref = opened(system)
        ended = ref.members[1]
        await ended.ask(Work(what="stop"))
        await settle()
        assert len(ref.members) == 2
        assert {await ref.ask(Work()) for _ in range(20)} == {0, 2}


async def test_a_pool_whose_members_have_all_ended_says_so():
    child = Child(Member, restart="temporary")
    async with open_system(Pool(child, 2, routing="broadcast"), broker=FakeBroker()) as system:
        ref = opened(system)
        await ref.tell(Work(what="stop"))
        await settle()
        for send in (ref.tell, ref.ask):
            with pytest.raises(ActorStopped, match="the pool 'member pool' has ended"):
                await send(Work())


async def test_what_members_do_not_take_is_refused_at_the_sender():
    async with open_system(pool(2), broker=FakeBroker()) as system:
        with pytest.raises(MessageRefused, match="Member takes Work"):
            system.pool(Member).tell_nowait({1})  # pyright: ignore[reportArgumentType]


async def test_members_work_side_by_side(mock_clock: trio.testing.MockClock):
    async with open_system(pool(4), broker=FakeBroker()) as system:
        ref = opened(system)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ref.ask, Work(seconds=1))
        assert trio.current_time() == 2


async def test_members_are_not_fed_by_the_broker_and_a_reader_may_have_their_title():
    broker = FakeBroker()
    async with open_system([Member, pool(2)], broker=broker) as system:
        ref = opened(system)
        places[system.ref(Member)] = 7
        broker.put(Member, {"key": 1}, type="Work", id="it")
        await broker.wait_settled(1)
        assert done == [7]
        assert await ref.ask(Work()) == 0


async def test_a_tree_of_a_pool_alone_runs():
    async with open_system(pool(2), broker=FakeBroker()) as system:
        assert await opened(system).ask(Work()) == 0
        with pytest.raises(LookupError):
            system.ref(Member)


async def test_a_pool_is_found_by_its_name_or_its_members_class():
    async with open_system([pool(2, name="a"), pool(3, name="b")], broker=FakeBroker()) as system:
        assert len(system.pool("b").members) == 3
        assert repr(system.pool("a")) == "<ref of the pool 'a': 2 members, round_robin>"
        assert system.pool("a").title == "a"
        with pytest.raises(LookupError, match=r"2 pools are called .*Member.* which has 'a', 'b'"):
            system.pool(Member)
        with pytest.raises(LookupError, match="0 pools are called 'c'"):
            system.pool("c")


async def test_the_tree_shows_a_pool_with_its_members():
    async with open_system([pool(2)], broker=FakeBroker(), intensity=MANY) as system:
        (branch,) = system.tree().children
        assert branch.title == "member pool"
        assert [child.title for child in branch.children] == ["member", "member"]


async def test_too_many_restarts_end_the_pool():
    with pytest.raises(MaxRestartsExceeded):
        async with open_system(
            [pool(2, intensity=Intensity(restarts=1))], broker=FakeBroker(), intensity=Intensity(restarts=0)
        ) as system:
            for _ in range(2):
                system.pool(Member).tell_nowait(Work(what="crash"))
            await trio.sleep_forever()


async def test_an_urgent_message_overtakes_the_others_of_its_member():
    noted: list[str] = []
    gate = trio.Event()

    class Noting(Actor):
        @receive
        async def note(self, message: str) -> None:
            await gate.wait()
            noted.append(message)

    async with open_system(Pool(Noting, size=1), broker=FakeBroker()) as system:
        ref = system.pool(Noting)
        ref.tell_nowait("first")
        await settle()
        await ref.tell("low", priority=Priority.LOW)
        ref.tell_nowait("usual")
        ref.tell_nowait("critical", priority=Priority.CRITICAL)
        ref.tell_nowait("high", priority=Priority.HIGH)
        gate.set()
        await ref.ask("last", priority=Priority.LOW)
    assert noted == ["first", "critical", "high", "usual", "low", "last"]


async def test_a_pool_that_its_supervisor_starts_again_is_as_good_as_before():
    tree = pool(2, intensity=Intensity(restarts=0))
    async with open_system(tree, broker=FakeBroker(), intensity=MANY) as system:
        ref = opened(system)
        with pytest.raises(ActorCrashed):
            await ref.ask(Work(what="crash"))
        await settle()
        assert sorted([await ref.ask(Work()), await ref.ask(Work())]) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((3,), {}, "Pool wants an actor class or a Child of one, got 3"),
        ((Pool(Member),), {}, "Pool wants an actor class"),
        ((Member, 0), {}, "Pool.size wants a whole number >= 1, got 0"),
        ((Member, True), {}, "Pool.size wants a whole number >= 1, got True"),
        ((Member,), {"routing": "nearest"}, "Pool.routing wants one of round_robin, random, .*, got 'nearest'"),
        ((Member,), {"routing": "consistent_hash"}, "Pool.key is for consistent_hash, and that wants one"),
        ((Member,), {"key": len}, "Pool.key is for consistent_hash"),
        ((Child(Member, name="one"),), {}, "neither name nor id"),
    ],
)
def test_a_wrong_pool_is_refused(arguments: Any, options: Any, text: str):
    with pytest.raises(SettingsError, match=text):
        Pool(*arguments, **options)


def test_weights_spread_any_keys_evenly():
    dice = random.Random(1)
    for keys in (range(4000), [hash(f"{dice.random()}") for _ in range(4000)], range(0, 4000 << 20, 1 << 20)):
        shares = Counter(max(range(8), key=lambda place, key=key: _weight(key, place)) for key in keys)
        assert min(shares.values()) > 400
        assert max(shares.values()) < 600
