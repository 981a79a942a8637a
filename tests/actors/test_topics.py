"""Topics: one message to every actor of a system that subscribes; publishing never waits."""

from functools import partial
from typing import Any

import pytest
import trio

from actorwork import ActorCrashed, Child, Intensity, MailboxSettings, MessageRefused, events, open_system
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import Do, Note, Scripted, do, fail, ref_of, scripted, sleeping, stop

MANY = Intensity(restarts=100, period=1)


def subscribe(actor: Any, topic: str = "news") -> None:
    actor.context.subscribe(topic)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_every_subscriber_is_told_once():
    said: dict[str, list[Any]] = {name: [] for name in "abc"}
    tree = [scripted(name, said[name]) for name in "abc"]
    async with open_system(tree, broker=FakeBroker()) as system:
        for name in "aab":  # however often it asks
            await do(system, name, subscribe)
        assert system.broadcast("news", Note("hello")) == 2
        await settle()
    assert said == {"a": ["hello"], "b": ["hello"], "c": []}


async def test_an_actor_broadcasts_also_to_itself():
    said: list[Any] = []
    async with open_system([scripted("a", said), scripted("b", said)], broker=FakeBroker()) as system:
        for name in "ab":
            await do(system, name, subscribe)
        assert await do(system, "a", lambda actor: actor.context.broadcast("news", Note("hello"))) == 2
        await settle()
    assert said == ["hello", "hello"]


async def test_a_topic_without_subscribers_is_told_to_nobody():
    async with open_system(scripted("a"), broker=FakeBroker()) as system:
        await do(system, "a", subscribe)
        assert system.broadcast("other news", Note("hello")) == 0


async def test_who_unsubscribes_is_not_told():
    said: list[Any] = []
    async with open_system(scripted("a", said), broker=FakeBroker()) as system:
        await do(system, "a", subscribe)
        await do(system, "a", lambda actor: actor.context.unsubscribe("news"))
        await do(system, "a", lambda actor: actor.context.unsubscribe("never asked for"))
        assert system.broadcast("news", Note("hello")) == 0
        assert repr(system._services.topics) == "<topics: >"


async def test_a_subscription_ends_with_the_incarnation():
    async with open_system(scripted("a"), broker=FakeBroker(), intensity=MANY) as system:
        await do(system, "a", subscribe)
        with pytest.raises(ActorCrashed):
            await do(system, "a", fail)
        await settle()
        assert system.broadcast("news", Note("hello")) == 0


async def test_an_incarnation_that_subscribes_in_its_startup_has_it_again():
    said: list[Any] = []
    async with open_system(scripted("a", said, up=subscribe), broker=FakeBroker(), intensity=MANY) as system:
        with pytest.raises(ActorCrashed):
            await do(system, "a", fail)
        await do(system, "a", lambda _: None)
        assert system.broadcast("news", Note("hello")) == 1
        await settle()
    assert said == ["hello"]


async def test_an_actor_that_has_ended_is_forgotten():
    async with open_system(scripted("a", restart="temporary"), broker=FakeBroker()) as system:
        await do(system, "a", subscribe)
        ref_of(system, "a").tell_nowait(Do(stop))
        await settle()
        assert system.broadcast("news", Note("hello")) == 0


async def test_a_full_mailbox_misses_the_message_and_nobody_waits(mock_clock: trio.testing.MockClock):
    kept, said = Kept(), list[Any]()
    tree = [
        scripted("slow", said, up=subscribe, settings={"mailbox": MailboxSettings(capacity=1)}),
        scripted("quick", said, up=subscribe),
    ]
    async with open_system(tree, broker=FakeBroker(), emit=kept) as system:
        slow = ref_of(system, "slow")
        slow.tell_nowait(Do(sleeping(5)))
        await settle()
        assert system.broadcast("news", Note("one")) == 2
        assert system.broadcast("news", Note("two")) == 1
        assert trio.current_time() == 0
        (missed,) = kept.of(events.Undelivered)
        assert (missed.title, missed.message) == ("slow", Note("two"))
    assert sorted(said) == ["one", "one", "two"]


@pytest.mark.parametrize(("overflow", "got"), [("drop_new", ["one"]), ("drop_oldest", ["two"])])
async def test_a_mailbox_that_drops_does_so_here_too(overflow: Any, got: list[str]):
    kept, said = Kept(), list[Any]()
    settings = {"mailbox": MailboxSettings(capacity=1, overflow=overflow)}
    child = scripted("a", said, up=subscribe, settings=settings)
    async with open_system(child, broker=FakeBroker(), emit=kept) as system:
        for text in ("one", "two"):
            system.broadcast("news", Note(text))
    assert said == got
    assert len(kept.of(events.Undelivered)) == 1


async def test_a_subscriber_that_does_not_take_it_is_the_senders_error_after_the_others_were_told():
    said: list[Any] = []

    class Deaf(Scripted):
        async def other(self, message: str) -> None: ...

    tree = [scripted("a", said, up=subscribe), scripted("deaf", up=subscribe), scripted("b", said, up=subscribe)]
    async with open_system(tree, broker=FakeBroker()) as system:
        await do(system, "deaf", partial(_only, Deaf.other))
        with pytest.raises(MessageRefused, match="got set"):
            system.broadcast("news", {1})
        assert system.broadcast("news", Note("hello")) == 3
        await settle()
    assert said == ["hello", "hello"]


def _only(handler: Any, actor: Any) -> None:
    actor.context.become(handler)


async def test_thousands_of_subscribers_are_told_in_one_go():
    said: list[Any] = []
    async with open_system(scripted("parent"), broker=FakeBroker()) as system:

        async def spawn_many(actor: Any) -> None:
            for _ in range(2000):
                await actor.context.spawn(Child(partial(Scripted, said, subscribe)))

        await do(system, "parent", spawn_many)
        assert system.broadcast("news", Note("hello")) == 2000
        await settle()
        assert len(said) == 2000
        with pytest.raises(ActorCrashed):
            await do(system, "parent", fail)
        await settle()
        assert system.broadcast("news", Note("hello")) == 0
        assert repr(system._services.topics) == "<topics: >"
