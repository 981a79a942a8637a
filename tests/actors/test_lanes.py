"""Mailbox lanes and bounds: what comes before what, and what becomes of what finds no room."""

from functools import partial
from typing import Any

import pytest
import trio

from actorwork import (
    Child,
    Intensity,
    MailboxFull,
    MailboxSettings,
    Settings,
    Terminated,
    events,
    open_system,
    receive,
)
from actorwork.actors.actor import Actor
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import Do, Note, Scripted, do, ref_of, scripted, sleeping, stop

MANY = Intensity(restarts=1000, period=1)


class Watcher(Scripted):
    @receive
    async def ended(self, message: Terminated) -> None:
        self.said.append("signal")


def bounded(capacity: int, overflow: Any = "block") -> dict[str, Any]:
    return {"mailbox": MailboxSettings(capacity=capacity, overflow=overflow)}


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_signals_come_before_its_own_messages_and_these_before_users(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    tree = [scripted("it", said, base=Watcher), scripted("other", restart="temporary")]
    async with open_system(tree, broker=FakeBroker()) as system:
        it, other = ref_of(system, "it"), ref_of(system, "other")

        async def fill_all_lanes(actor: Any) -> None:
            actor.context.watch(other)
            it.tell_nowait(Note("user"))
            actor.context.timers.start("t", 0, Note("own"))
            await trio.sleep(1)
            other.tell_nowait(Do(stop))
            await trio.sleep(1)

        await do(system, "it", fill_all_lanes)
        await settle()
    assert said == ["signal", "own", "user"]


async def test_a_full_mailbox_takes_what_the_system_and_the_actor_itself_say(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    tree = [scripted("it", said, base=Watcher, settings=bounded(1)), scripted("other", restart="temporary")]
    async with open_system(tree, broker=FakeBroker()) as system:
        it, other = ref_of(system, "it"), ref_of(system, "other")

        async def fill_all_lanes(actor: Any) -> None:
            actor.context.watch(other)
            it.tell_nowait(Note("user"))
            for n in range(3):
                actor.context.timers.start(n, 0, Note("own"))
            other.tell_nowait(Do(stop))
            await trio.sleep(1)

        await do(system, "it", fill_all_lanes)
        await settle()
    assert said == ["signal", "own", "own", "own", "user"]


async def test_with_block_a_sender_waits_for_room(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(scripted("it", said, settings=bounded(1)), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(2)))
        await settle()
        await ref.tell(Note("one"))
        with pytest.raises(MailboxFull, match="to wait for room"):
            ref.tell_nowait(Note("refused"))
        await ref.tell(Note("two"))
        assert trio.current_time() == 2
    assert said == ["one", "two"]


async def test_with_fail_nobody_waits(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(scripted("it", said, settings=bounded(1, "fail")), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(2)))
        await settle()
        await ref.tell(Note("one"))
        with pytest.raises(MailboxFull):
            await ref.tell(Note("two"))
        timeouts: list[dict[str, Any]] = [{}, {"timeout": 5}]
        for options in timeouts:
            with pytest.raises(MailboxFull):
                await ref.ask(Note("three"), **options)
        assert trio.current_time() == 0
    assert said == ["one"]


@pytest.mark.parametrize(
    ("overflow", "kept_text", "dropped"), [("drop_new", "one", "two"), ("drop_oldest", "two", "one")]
)
async def test_with_drop_one_message_is_dropped_and_reported(
    overflow: str, kept_text: str, dropped: str, mock_clock: trio.testing.MockClock
):
    said: list[Any] = []
    kept = Kept()
    child = scripted("it", said, settings=bounded(1, overflow))
    async with open_system(child, broker=FakeBroker(), emit=kept) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(2)))
        await settle()
        await ref.tell(Note("one"))
        await ref.tell(Note("two"))
        assert [event.message for event in kept.of(events.Undelivered)] == [Note(dropped)]
    assert said == [kept_text]


@pytest.mark.parametrize("options", [{}, {"timeout": 60}])
@pytest.mark.parametrize(("overflow", "dropped"), [("drop_new", "two"), ("drop_oldest", "one")])
async def test_the_asker_of_a_dropped_message_is_told(
    overflow: str, dropped: str, options: Any, mock_clock: trio.testing.MockClock
):
    ended: dict[str, Any] = {}
    async with open_system(scripted("it", settings=bounded(1, overflow)), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(2)))
        await settle()

        async def ask(text: str) -> None:
            try:
                ended[text] = await ref.ask(Note(text), **options)
            except MailboxFull as error:
                ended[text] = error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "one")
            await settle()
            nursery.start_soon(ask, "two")
            await settle()
            assert list(ended) == [dropped], "at once"
    assert isinstance(ended.pop(dropped), MailboxFull)
    assert len(ended) == 1


async def test_deliveries_are_not_dropped_for_local_messages(mock_clock: trio.testing.MockClock):
    class Fed(Scripted):
        settings = Settings(title="fed", mailbox=MailboxSettings(capacity=1, overflow="drop_oldest"))

        @receive
        async def take(self, *, n: int) -> None:
            self.said.append(n)

    broker, said = FakeBroker(), list[Any]()
    async with open_system(Child(partial(Fed, said)), broker=broker) as system:
        ref = system.ref(Fed)
        ref.tell_nowait(Do(sleeping(2)))
        await settle()
        broker.put(Fed, {"n": 1})
        await settle()
        for text in ("a", "b", "c"):
            ref.tell_nowait(Note(text))
        await broker.wait_settled(1)
        await settle()
    assert said == [1, "c"]


async def test_backpressure_reaches_the_reader(mock_clock: trio.testing.MockClock):
    class Slow(Actor):
        settings = Settings(title="slow", mailbox=MailboxSettings(capacity=4))

        @receive
        async def take(self, *, n: int) -> None:
            await trio.sleep(1)

    broker = FakeBroker()
    async with open_system(Slow, broker=broker) as system:
        for n in range(50):
            broker.put(Slow, {"n": n}, id=str(n))
        held: list[int] = []
        for _ in range(10):
            await trio.sleep(1)
            held.append(system.ref(Slow).cell.mailbox.held)
        assert max(held) <= 4
        assert min(held) >= 1, "and it is never idle"
        assert len(broker.waiting(Slow)) >= 50 - 10 - 4
        await broker.wait_settled(50)
    assert broker.order == [str(n) for n in range(50)]


async def test_a_full_mailbox_of_local_messages_does_not_keep_deliveries_out(mock_clock: trio.testing.MockClock):
    class Fed(Scripted):
        settings = Settings(title="fed", mailbox=MailboxSettings(capacity=2))

        @receive
        async def take(self, *, n: int) -> None: ...

    broker = FakeBroker()
    async with open_system(Fed, broker=broker) as system:
        ref = system.ref(Fed)
        ref.tell_nowait(Do(sleeping(2)))
        await settle()
        for _ in range(2):
            ref.tell_nowait(Note("full"))
        broker.put(Fed, {"n": 1})
        await broker.wait_settled(1)
        assert trio.current_time() == 2


async def test_senders_that_wait_are_taken_in_their_order(mock_clock: trio.testing.MockClock):
    said: list[Any] = []
    async with open_system(scripted("it", said, settings=bounded(1)), broker=FakeBroker()) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(sleeping(1)))
        await settle()
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(ref.tell, Note(str(n)))
                await settle()
    assert said == [str(n) for n in range(10)]
