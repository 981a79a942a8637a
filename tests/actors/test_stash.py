"""Stash: messages that an actor sets aside and takes up later, neither answered nor settled meanwhile."""

import attrs
import pytest
import trio

from actorwork import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    Intensity,
    MailboxFull,
    MailboxSettings,
    NotRunning,
    Reject,
    Settings,
    events,
    open_system,
    receive,
)
from actorwork.actors.actor import Actor
from actorwork.policy import settlement as policy
from tests.doubles import FakeBroker, Kept

MANY = Intensity(restarts=1000, period=1)


@attrs.frozen
class Open:
    pass


class Gate(Actor):
    """Sets numbers aside until it is opened."""

    settings = Settings(title="gate", mailbox=MailboxSettings(stash=5))

    def __init__(self) -> None:
        self.is_open = False

    @receive
    async def number(self, *, n: int, crash: bool = False) -> int:
        if crash:
            raise ValueError("boom")
        if not self.is_open:
            self.context.stash()
            return -1
        said.append(n)
        return n

    @receive
    async def open(self, message: Open) -> None:
        self.is_open = True
        self.context.unstash()


said: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    said.clear()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_what_was_set_aside_comes_in_its_order_before_what_waits():
    async with open_system(Gate, broker=FakeBroker()) as system:
        ref = system.ref(Gate)
        for n in (1, 2, 3):
            ref.tell_nowait({"n": n})
        await settle()
        ref.tell_nowait(Open())
        ref.tell_nowait({"n": 4})
        await settle()
        assert said == [1, 2, 3, 4]


async def test_what_is_set_aside_twice_keeps_its_order():
    class Picky(Gate):
        settings = Settings(title="picky")

        @receive
        async def number(self, *, n: int, crash: bool = False) -> int:
            if not self.is_open or n % 2:
                self.context.stash()
            else:
                said.append(n)
            return n

    async with open_system(Picky, broker=FakeBroker()) as system:
        ref = system.ref(Picky)
        for n in range(1, 7):
            ref.tell_nowait({"n": n})
        ref.tell_nowait(Open())
        await settle()
        assert said == [2, 4, 6]
        ref.cell.unstash()
        await settle()
        ref.cell.unstash()
        assert [item.message for item in ref.cell.mailbox.remove_local()] == [{"n": n} for n in (1, 3, 5)]


async def test_an_asker_waits_and_is_answered_when_its_message_is_handled(mock_clock: trio.testing.MockClock):
    got: list[int] = []
    async with open_system(Gate, broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref = system.ref(Gate)

        async def ask(n: int) -> None:
            got.append(await ref.ask({"n": n}))

        nursery.start_soon(ask, 7)
        await trio.sleep(1)
        assert got == []
        await ref.ask(Open())
        await trio.sleep(1)
        assert got == [7]


async def test_an_asker_whose_time_is_up_does_not_wait_for_the_stash(mock_clock: trio.testing.MockClock):
    async with open_system(Gate, broker=FakeBroker()) as system:
        ref = system.ref(Gate)
        with pytest.raises(AskTimeout):
            await ref.ask({"n": 7}, timeout=2)
        await ref.ask(Open())
        await settle()
        assert said == [7]


async def test_the_stash_is_bounded():
    kept = Kept()
    async with open_system(Gate, broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        ref = system.ref(Gate)
        for n in range(5):
            ref.tell_nowait({"n": n})
        with pytest.raises(ActorCrashed) as caught:
            await ref.ask({"n": 5})
        assert isinstance(caught.value.__cause__, MailboxFull)
        assert "'gate' has stashed 5 of 5 messages" in str(caught.value.__cause__)
        await settle()
        ref.tell_nowait(Open())
        await settle()
        assert said == list(range(5)), "in the mailbox of the next incarnation"


async def test_a_crash_puts_it_back_into_the_mailbox():
    async with open_system(Gate, broker=FakeBroker(), intensity=MANY) as system:
        ref = system.ref(Gate)
        for n in (1, 2):
            ref.tell_nowait({"n": n})
        ref.tell_nowait({"n": 3, "crash": True})
        await settle()
        assert ref.cell.incarnation == 2
        assert said == []
        ref.tell_nowait(Open())
        await settle()
        assert said == [1, 2]


async def test_askers_of_what_is_aside_are_told_when_the_actor_ends(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with trio.open_nursery() as nursery:
        async with open_system(Gate, broker=FakeBroker(), emit=kept) as system:
            ref = system.ref(Gate)

            async def ask() -> None:
                with pytest.raises(ActorStopped):
                    await ref.ask({"n": 7})

            nursery.start_soon(ask)
            await trio.sleep(1)
            ref.tell_nowait({"n": 8})
        assert [event.message for event in kept.of(events.Undelivered)] == [{"n": 8}]


async def test_a_message_may_be_set_aside_by_a_handler_that_ends_the_actor():
    class Ending(Actor):
        settings = Settings(title="ending")

        @receive
        async def number(self, *, n: int) -> int:
            if self.context.ref.cell.incarnation == 1:
                self.context.stash()
                self.context.stop()
            return n

    async with open_system(Ending, broker=FakeBroker()) as system:
        assert await system.ref(Ending).ask({"n": 7}) == 7
        assert system.ref(Ending).cell.incarnation == 2


async def test_stash_outside_of_a_message_says_so():
    class Early(Actor):
        async def startup(self) -> None:
            with pytest.raises(NotRunning, match="there is none in flight"):
                self.context.stash()
            self.context.unstash()

    async with open_system(Early, broker=FakeBroker()):
        pass


async def test_unstash_without_anything_aside_does_nothing():
    async with open_system(Gate, broker=FakeBroker()) as system:
        await system.ref(Gate).ask(Open())
        assert len(system.ref(Gate).cell.mailbox) == 0


# ---- deliveries ----


async def test_a_delivery_that_is_aside_is_not_settled_until_it_is_handled():
    broker = FakeBroker()
    async with open_system(Gate, broker=broker) as system:
        for n in range(3):
            broker.put(Gate, {"n": n}, id=str(n))
        await settle()
        assert broker.settled == []
        await system.ref(Gate).ask(Open())
        await broker.wait_settled(3)
        assert broker.order == ["0", "1", "2"]
        assert all(entry.settlement == policy.Ack() for entry in broker.settled)
        assert system.ref(Gate).cell.mailbox.held == 0


async def test_what_is_aside_does_not_keep_the_reader_from_what_opens_the_gate():
    broker = FakeBroker()
    async with open_system(Gate, broker=broker):
        for n in range(5):
            broker.put(Gate, {"n": n}, id=str(n))
        broker.put(Gate, {}, type="Open", id="open")
        await broker.wait_settled(6)
    assert broker.order == ["open", "0", "1", "2", "3", "4"]


async def test_a_delivery_beyond_the_bound_fails_alone():
    broker = FakeBroker()
    async with open_system(Gate, broker=broker) as system:
        for n in range(6):
            broker.put(Gate, {"n": n}, id=str(n))
        await broker.wait_settled(1)
        settlement = broker.settlement("5")
        assert isinstance(settlement, policy.Fail)
        assert settlement.failure.type == "MailboxFull"
        assert system.ref(Gate).cell.incarnation == 1
        await system.ref(Gate).ask(Open())
        await broker.wait_settled(6)


async def test_a_shutdown_hands_back_what_is_aside_in_its_order(mock_clock: trio.testing.MockClock):
    broker = FakeBroker()
    async with open_system(Gate, broker=broker) as system:
        for n in range(3):
            broker.put(Gate, {"n": n}, id=str(n))
        await trio.sleep(1)
        assert len(system.ref(Gate).cell.stash) == 3
    assert broker.settled == []
    assert [delivery.id for delivery in broker.released] == ["0", "1", "2"]
    assert broker.waiting(Gate) == ["0", "1", "2"]


async def test_what_is_set_aside_during_the_drain_is_handed_back_too(mock_clock: trio.testing.MockClock):
    class Slow(Actor):
        settings = Settings(title="slow")

        @receive
        async def number(self, *, n: int) -> None:
            await trio.sleep(5)
            self.context.stash()

    broker = FakeBroker()
    async with open_system(Slow, broker=broker):
        broker.put(Slow, {"n": 1}, id="it")
        await trio.sleep(1)
    assert broker.settled == []
    assert broker.waiting(Slow) == ["it"]


async def test_a_delivery_that_is_aside_is_handled_after_a_crash():
    broker = FakeBroker()
    async with open_system(Gate, broker=broker, intensity=MANY) as system:
        broker.put(Gate, {"n": 1}, id="1")
        await settle()
        with pytest.raises(ActorCrashed):
            await system.ref(Gate).ask({"n": 3, "crash": True})
        await system.ref(Gate).ask(Open())
        await broker.wait_settled(1)
        assert said == [1]
        assert system.ref(Gate).cell.mailbox.held == 0


async def test_a_lost_lease_drops_what_is_aside():
    broker = FakeBroker()
    async with open_system(Gate, broker=broker) as system:
        broker.put(Gate, {"n": 1}, id="1")
        system.ref(Gate).tell_nowait({"n": 2})
        await settle()
        broker.revoke()
        await system.ref(Gate).ask(Open())
        await settle()
        assert said == [2], "the local message is still ours"
        assert broker.settled == []


async def test_a_delivery_may_be_set_aside_by_a_handler_that_ends_the_actor():
    class Ending(Actor):
        settings = Settings(title="ending")

        @receive
        async def number(self, *, n: int) -> None:
            if self.context.ref.cell.incarnation == 1:
                self.context.stash()
                self.context.stop()
            said.append(n)

    broker = FakeBroker()
    async with open_system(Ending, broker=broker) as system:
        broker.put(Ending, {"n": 1}, id="1")
        await broker.wait_settled(1)
        assert said == [1]
        assert system.ref(Ending).cell.incarnation == 2


async def test_a_stashed_delivery_has_nothing_published():
    class Publishing(Actor):
        settings = Settings(title="publishing")

        @receive
        async def number(self, *, n: int) -> None:
            self.context.publish("others", {"n": n})
            if self.context.ref.cell.incarnation == 1:
                self.context.stash()
                self.context.stop()

    broker = FakeBroker()
    async with open_system(Publishing, broker=broker):
        broker.put(Publishing, {"n": 1}, id="1")
        await broker.wait_settled(1)
    assert len(broker.published("1")) == 1


async def test_the_stash_shows_neither_as_waiting_nor_as_in_hand():
    async with open_system(Gate, broker=FakeBroker()) as system:
        system.ref(Gate).tell_nowait({"n": 1})
        await settle()
        (branch,) = system.tree().children
        assert (branch.waiting, branch.in_hand) == (0, ())


class Slow(Actor):
    """Stashes each message, and goes on for a while."""

    settings = Settings(title="slow", mailbox=MailboxSettings(stash=1), concurrency=4)

    @receive
    async def number(self, *, n: int, fails: bool = False) -> None:
        try:
            self.context.stash()
        except MailboxFull:
            said.append(n)
            return
        await trio.sleep(1)
        if fails:
            raise Reject("after all")


@pytest.mark.parametrize("is_delivery", [False, True])
async def test_the_bound_holds_for_handlers_side_by_side(is_delivery: bool, mock_clock: trio.testing.MockClock):
    broker = FakeBroker()
    async with open_system(Slow, broker=broker) as system:
        for n in range(4):
            if is_delivery:
                broker.put(Slow, {"n": n})
            else:
                system.ref(Slow).tell_nowait({"n": n})
        await trio.sleep(2)
        assert len(said) == 3
        assert len(system.ref(Slow).cell.stash) == 1


@pytest.mark.parametrize("is_delivery", [False, True])
async def test_a_handler_that_fails_after_it_has_stashed_frees_the_place(
    is_delivery: bool, mock_clock: trio.testing.MockClock
):
    broker = FakeBroker()
    async with open_system(Slow, broker=broker) as system:
        for n, fails in enumerate((True, True, False)):
            if is_delivery:
                broker.put(Slow, {"n": n, "fails": fails})
            else:
                system.ref(Slow).tell_nowait({"n": n, "fails": fails})
            await trio.sleep(2)
        assert said == []
        assert len(system.ref(Slow).cell.stash) == 1
