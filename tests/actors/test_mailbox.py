"""Where messages wait: order, bounds, room, and what becomes of those who wait for it."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, strategies as st

from actorwork import (
    Actor,
    ActorStopped,
    MailboxFull,
    MailboxSettings,
    Priority,
    Settings,
    open_client,
    open_system,
    receive,
)
from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.mailbox.calls import LocalCall, RankedCall
from actorwork.actors.mailbox.mailbox import Mailbox
from actorwork.message import Delivery
from actorwork.policy.intake import URGENT
from actorwork.testing import MemoryBroker
from tests.doubles import FakeBroker


class Counter(Actor):
    settings = Settings(title="counter", mailbox=MailboxSettings(capacity=3))

    def __init__(self) -> None:
        self.got: list[int] = []

    @receive
    async def take(self, *, n: int, seconds: float = 1) -> int:
        await trio.sleep(seconds)
        self.got.append(n)
        return len(self.got)


HANDLER = handlers_of(Counter).for_message({"n": 1})


def call(n: int) -> LocalCall:
    return LocalCall(n, HANDLER, None)


def delivery(n: int) -> Delivery:
    return Delivery(str(n), "s", b"", None)


class Owner:
    """Whom a mailbox belongs to."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None

    def room_made(self) -> None:
        self.on_room()

    def crowded(self) -> None: ...

    def dropped(self, call: LocalCall) -> None: ...


def mailbox(capacity: int = 3, concurrency: int = 1, owner: Owner | None = None) -> Mailbox:
    settings = MailboxSettings(capacity=capacity)
    return Mailbox(name="it", settings=settings, concurrency=concurrency, on=owner or Owner())


def taken(box: Mailbox) -> list[object]:
    found: list[object] = []
    while (item := box.take_nowait()) is not None:
        found.append(item.message if isinstance(item, LocalCall) else item.id)
    return found


async def test_a_full_mailbox_refuses_who_will_not_wait():
    box = mailbox()
    for n in range(3):
        box.tell_nowait(call(n))
    with pytest.raises(MailboxFull, match=r"mailbox of it holds 3 of 3 local messages; use `await ref.tell\(…\)`"):
        box.tell_nowait(call(3))
    assert taken(box) == [0, 1, 2]


async def test_tell_waits_for_room_and_senders_are_served_in_their_order(mock_clock: trio.testing.MockClock):
    box = mailbox(capacity=1)
    box.tell_nowait(call(0))
    async with trio.open_nursery() as nursery:
        for n in (1, 2, 3):
            nursery.start_soon(box.tell, call(n))
            await trio.testing.wait_all_tasks_blocked()
        got: list[object] = []
        for _ in range(4):
            got += taken(box)
            await trio.testing.wait_all_tasks_blocked()
    assert got == [0, 1, 2, 3]


async def test_a_cancelled_tell_was_not_taken():
    box = mailbox(capacity=1)
    box.tell_nowait(call(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.tell, call(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert taken(box) == [0]
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.tell(call(2))
    assert scope.cancelled_caught
    assert taken(box) == []


async def test_room_that_a_cancelled_sender_would_have_had_goes_to_the_next_one():
    box = mailbox(capacity=1)
    box.tell_nowait(call(0))
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def tell_first() -> None:
            with first:
                await box.tell(call(1))

        nursery.start_soon(tell_first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(box.tell, call(2))
        await trio.testing.wait_all_tasks_blocked()
        got = taken(box)  # this makes room for the first, which is cancelled in the same moment
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        got += taken(box)
        await trio.testing.wait_all_tasks_blocked()
        got += taken(box)
    assert got[0] == 0
    assert got[-1] == 2


async def test_senders_that_wait_are_refused_when_it_closes():
    box = mailbox(capacity=1)
    box.tell_nowait(call(0))
    told: list[str] = []

    async def tell(n: int) -> None:
        with pytest.raises(ActorStopped, match="it has ended"):
            await box.tell(call(n))
        told.append(str(n))

    async with trio.open_nursery() as nursery:
        for n in (1, 2):
            nursery.start_soon(tell, n)
        await trio.testing.wait_all_tasks_blocked()
        box.close("it has ended")
    assert sorted(told) == ["1", "2"]
    with pytest.raises(ActorStopped):
        box.tell_nowait(call(3))


@given(st.lists(st.booleans(), max_size=60))
def test_items_come_out_as_they_went_in_whichever_kind(kinds: Sequence[bool]):
    box = mailbox(capacity=100)
    expected: list[object] = []
    for n, local in enumerate(kinds):
        if local:
            box.tell_nowait(call(n))
        else:
            box.offer([delivery(n)])
        expected.append(n if local else str(n))
    assert len(box) == len(kinds)
    assert (box.local, box.held) == (sum(kinds), len(kinds) - sum(kinds))
    assert taken(box) == expected


@given(st.lists(st.booleans(), max_size=60), st.booleans())
def test_one_kind_can_be_taken_out_and_the_other_stays_in_its_order(kinds: Sequence[bool], local_ones: bool):
    box = mailbox(capacity=100)
    for n, local in enumerate(kinds):
        if local:
            box.tell_nowait(call(n))
        else:
            box.offer([delivery(n)])
    locals_ = [n for n, local in enumerate(kinds) if local]
    deliveries = [str(n) for n, local in enumerate(kinds) if not local]
    if local_ones:
        assert [item.message for item in box.remove_local()] == locals_
        assert taken(box) == deliveries
        assert box.local == 0
    else:
        assert [item.id for item in box.take_deliveries()] == deliveries
        assert taken(box) == locals_
        assert box.held == 0


def test_an_item_put_back_is_the_next_one():
    box = mailbox()
    box.offer([delivery(1), delivery(2)])
    item = box.take_nowait()
    assert item is not None
    box.put_back(item)
    assert box.held == 2
    assert taken(box) == ["1", "2"]


# ---- the reader's side ----


def test_before_the_first_delivery_has_shown_its_length_only_a_few_are_read():
    assert 1 <= mailbox(capacity=1000).credit() <= 5
    assert mailbox(capacity=1000, concurrency=500).credit() >= 500


def test_a_reader_that_found_no_room_is_told_when_there_is_some_again():
    owner = Owner()
    box = mailbox(capacity=10, owner=owner)
    told: list[int] = []
    owner.on_room = lambda: told.append(box.held)
    room = box.credit()
    box.offer([delivery(n) for n in range(room)])
    assert box.credit() == 0
    for _ in range(room):
        box.take_nowait()
        box.delivery_ended(0.05)
    assert len(told) == 1, "once for each time it found none"
    assert told[0] < room
    assert box.credit() > 0


def test_a_reader_that_found_no_room_is_told_when_what_waited_is_taken_away():
    """A lost lease takes all of it at once: nothing is handled that could make room."""
    owner = Owner()
    box = mailbox(capacity=10, owner=owner)
    told: list[int] = []
    owner.on_room = lambda: told.append(box.held)
    box.offer([delivery(n) for n in range(box.credit())])
    assert box.credit() == 0
    box.take_deliveries()
    assert told == [0]


def test_quick_handlers_earn_a_full_mailbox_and_slow_ones_lose_it_at_once():
    box = mailbox(capacity=200)
    for _ in range(300):
        box.offer([delivery(0)])
        box.delivery_ended(0.00001)
    assert box.credit() == 200
    box.offer([delivery(0)])
    box.delivery_ended(5.0)
    assert box.credit() == 1


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_a_slow_actor_holds_no_more_than_it_works_on(concurrency: int, mock_clock: trio.testing.MockClock):
    class Slow(Actor):
        settings = Settings(title="slow", concurrency=concurrency)

        @receive
        async def take(self, *, n: int) -> None:
            await trio.sleep(5)

    broker = FakeBroker()
    async with open_system(Slow, broker=broker) as system:
        for n in range(100):
            broker.put(Slow, {"n": n})
        await trio.sleep(22.5)
        assert len(broker.settled) == 4 * concurrency
        assert 100 - len(broker.settled) - len(broker.waiting(Slow)) == concurrency
        system.stop()
        system.stop()


# ---- through a ref ----


async def test_a_ref_tells_that_the_mailbox_is_full_or_waits(mock_clock: trio.testing.MockClock):
    async with open_system(Counter, broker=FakeBroker()) as system:
        ref = system.ref(Counter)
        ref.tell_nowait({"n": 0})
        await trio.sleep(0.5)
        for n in (1, 2, 3):
            ref.tell_nowait({"n": n})
        with pytest.raises(MailboxFull, match="counter"):
            ref.tell_nowait({"n": 4})
        await ref.tell({"n": 5})
        assert trio.current_time() == 1
        assert await ref.ask({"n": 6}) == 6


async def test_an_ask_that_cannot_even_be_sent_times_out(mock_clock: trio.testing.MockClock):
    async with open_system(Counter, broker=FakeBroker()) as system:
        ref = system.ref(Counter)
        ref.tell_nowait({"n": 0, "seconds": 60})
        await trio.sleep(0.1)
        for n in (1, 2, 3):
            ref.tell_nowait({"n": n})
        with pytest.raises(TimeoutError):
            await ref.ask({"n": 9}, timeout=2)
        system.stop()
        system.stop()


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.5, 3.5, 4.5])
async def test_an_ask_may_be_cancelled_at_any_time_and_the_actor_goes_on(
    moment: float, mock_clock: trio.testing.MockClock
):
    # The mailbox is full until 1; the message is taken then, and running from 4 to 5.
    async with open_system(Counter, broker=FakeBroker()) as system:
        ref = system.ref(Counter)
        ref.tell_nowait({"n": 0})
        await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        for n in (1, 2, 3):
            ref.tell_nowait({"n": n})
        with trio.move_on_after(moment) as scope:
            await ref.ask({"n": 9})
        assert scope.cancelled_caught
        handled = await ref.ask({"n": 10})
        assert handled == (5 if moment < 1 else 6)


async def test_a_flood_of_local_messages_does_not_starve_the_broker(mock_clock: trio.testing.MockClock):
    order: list[str] = []

    class Both(Actor):
        settings = Settings(title="both", mailbox=MailboxSettings(capacity=10))

        @receive
        async def take(self, *, kind: str) -> None:
            await trio.sleep(0.001)
            order.append(kind)

    async def flood(ref: Any) -> None:
        while True:
            await ref.tell({"kind": "local"})

    broker = FakeBroker()
    async with open_system(Both, broker=broker) as system, trio.open_nursery() as nursery:
        nursery.start_soon(flood, system.ref(Both))
        await trio.sleep(0.1)
        for _ in range(20):
            broker.put(Both, {"kind": "broker"})
        await broker.wait_settled(20)
        nursery.cancel_scope.cancel()
    assert order.count("local") < 20 * 11 + 150


async def test_a_flood_from_the_broker_does_not_starve_local_messages(mock_clock: trio.testing.MockClock):
    class Both(Actor):
        settings = Settings(title="both")

        @receive
        async def take(self, *, kind: str) -> str:
            await trio.sleep(0.001)
            return kind

    broker = FakeBroker()
    async with open_system(Both, broker=broker) as system:
        for _ in range(2000):
            broker.put(Both, {"kind": "broker"})
        await trio.sleep(0.5)
        before = len(broker.settled)
        assert await system.ref(Both).ask({"kind": "local"}) == "local"
        assert len(broker.settled) - before < 250, "it waited for what was read before, no more"
        system.stop()


async def test_handlers_that_never_wait_let_others_have_a_turn():
    class Busy(Actor):
        settings = Settings(title="busy")

        @receive
        async def take(self, *, n: int) -> None:
            pass

    turns: list[int] = []
    broker = FakeBroker()

    async def other() -> None:
        while True:
            turns.append(len(broker.settled))
            await trio.lowlevel.checkpoint()

    async with open_system(Busy, broker=broker), trio.open_nursery() as nursery:
        for n in range(2000):
            broker.put(Busy, {"n": n})
        nursery.start_soon(other)
        await broker.wait_settled(2000)
        nursery.cancel_scope.cancel()
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 128


# ---- priorities ----


def ranked(n: int, priority: Priority) -> LocalCall:
    return RankedCall(n, HANDLER, None, priority=priority)


def urgent(n: int, priority: Priority = Priority.CRITICAL) -> Delivery:
    return attrs.evolve(delivery(n), priority=priority)


def numbers(it: Mailbox) -> list[object]:
    """Take out everything; return it as its numbers."""
    found: list[object] = []
    while (item := it.take_nowait()) is not None:
        found.append(int(item.id) if isinstance(item, Delivery) else item.message)
    return found


def test_an_urgent_delivery_overtakes_what_is_prefetched():
    it = mailbox()
    it.offer([delivery(1), delivery(2)])
    it.offer([urgent(3), urgent(4, Priority.LOW), urgent(5, Priority.HIGH), urgent(6)])
    assert numbers(it) == [3, 6, 5, 1, 2, 4]


def test_an_urgent_local_message_overtakes_what_waits():
    it = mailbox()
    it.tell_nowait(call(1))
    it.rank()
    it.tell_nowait(ranked(2, Priority.HIGH))
    it.offer([delivery(3)])
    assert numbers(it) == [2, 1, 3]


def test_what_names_no_priority_has_that_of_the_actor():
    it = Mailbox(name="it", settings=MailboxSettings(), concurrency=1, on=Owner(), usual=Priority.HIGH)
    it.tell_nowait(call(1))
    it.offer([delivery(2), urgent(3, Priority.HIGH)])
    assert numbers(it) == [1, 3, 2]


def test_an_urgent_delivery_that_is_put_back_is_the_next_one():
    it = mailbox()
    it.offer([delivery(1), urgent(2), urgent(3)])
    item = it.take_nowait()
    assert item is not None
    it.put_back(item)
    assert numbers(it) == [2, 3, 1]


def test_deliveries_of_all_levels_can_be_taken_away_and_leave_the_messages():
    it = mailbox()
    it.offer([delivery(1), urgent(2)])
    it.tell_nowait(ranked(3, Priority.LOW))
    assert [one.id for one in it.take_deliveries()] == ["2", "1"]
    assert (it.held, it.local, len(it)) == (0, 1, 1)
    assert numbers(it) == [3]


def test_the_least_urgent_is_dropped_first():
    dropped: list[object] = []
    owner = Owner()
    owner.dropped = lambda call: dropped.append(call.message)  # type: ignore[method-assign]
    settings = MailboxSettings(capacity=2, overflow="drop_oldest")
    it = Mailbox(name="it", settings=settings, concurrency=1, on=owner)
    it.rank()
    it.tell_nowait(ranked(1, Priority.HIGH))
    it.tell_nowait(ranked(2, Priority.LOW))
    it.tell_nowait(ranked(3, Priority.NORMAL))
    assert dropped == [2]
    assert numbers(it) == [1, 3]


def test_there_is_room_for_urgent_deliveries_where_there_is_none_for_others():
    owner = Owner()
    resumed: list[int] = []
    owner.on_room = lambda: resumed.append(it.held)
    it = mailbox(owner=owner)
    for n in range(it.credit()):
        it.offer([delivery(n)])
    assert it.credit() == 0
    for n in range(it.credit(urgent=True)):
        it.offer([urgent(n)])
    full = it.held
    assert (it.credit(), it.credit(urgent=True)) == (0, 0)
    while not resumed:
        assert it.take_nowait() is not None
        it.delivery_ended(10.0)
    assert resumed[0] >= full - URGENT, "urgent ones come before all the others have been handled"


async def test_a_message_that_waited_for_room_keeps_its_priority(mock_clock: trio.testing.MockClock):
    actor = type("Ranked", (Counter,), {"settings": Settings(title="ranked", mailbox=MailboxSettings(capacity=1))})
    async with open_system(actor, broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref = system.ref(actor)
        await ref.tell({"n": 0})
        await trio.sleep(0.5)
        await ref.tell({"n": 1})
        nursery.start_soon(partial(ref.tell, {"n": 2}, priority=Priority.CRITICAL))
        await trio.sleep(5)
        assert await ref.ask({"n": 3}, priority=Priority.LOW) == 4


async def test_a_critical_message_starts_within_one_handlers_time(mock_clock: trio.testing.MockClock):
    started: dict[object, float] = {}

    class Busy(Actor):
        settings = Settings(title="busy")

        @receive
        async def take(self, *, n: int) -> None:
            started[n] = trio.current_time()
            await trio.sleep(0.01)

    broker = MemoryBroker()
    async with open_system(Busy, broker=broker) as system, open_client(broker) as client:
        ref = client.ref(Busy)
        for n in range(200):
            await ref.tell({"n": n}, priority=Priority.LOW)
        for n in range(1000, 1003):
            await trio.sleep(0.3)
            sent = trio.current_time()
            await system.ref(Busy).tell({"n": n}, priority=Priority.CRITICAL)
            await trio.sleep(0.2)
            assert started[n] - sent <= 0.011


@pytest.mark.parametrize("priority", [0, "high", True])
async def test_a_priority_that_is_none_is_refused(priority: Any):
    async with open_system(Counter, broker=FakeBroker()) as system:
        with pytest.raises(TypeError, match="wants a Priority, such as"):
            await system.ref(Counter).tell({"n": 1}, priority=priority)
