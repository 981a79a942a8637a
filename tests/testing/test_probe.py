"""A probe is an actor of the tree whose messages the test reads, and answers."""

import attrs
import pytest
import trio.testing

from actorwork import Actor, AskTimeout, Child, MessageRefused, NotRunning, Settings, Terminated, receive
from actorwork.testing import TestProbe, open_test_system


@attrs.frozen
class Letter:
    to: str


@attrs.frozen
class Order:
    what: str


class Mailer(Actor):
    settings = Settings(title="mailer", sources={"letters"})

    @receive
    async def send(self, message: Letter) -> str:
        raise AssertionError("the real one sends mail")

    @receive
    def remind(self, *, who: str, times: int = 1) -> None:
        raise AssertionError("the real one rings")


class Shop(Actor):
    settings = Settings(title="shop")

    @receive
    async def sell(self, message: Order) -> object:
        mailer = self.context.whereis("mailer")
        if mailer is not None:
            return await mailer.ask(Letter(message.what))
        self.context.publish(Mailer, Letter(message.what))
        return None


async def test_it_is_told_and_expects_by_type_or_by_value(mock_clock: trio.testing.MockClock):
    probe = TestProbe()
    async with open_test_system(probe.actor):
        await probe.ref.tell(Letter("ann"))
        await probe.ref.tell(Letter("ben"))
        assert (await probe.expect(Letter)).to == "ann"
        assert await probe.expect(Letter("ben")) == Letter("ben")
        await probe.expect_none(within=5)
        assert probe.messages == [Letter("ann"), Letter("ben")]


async def test_it_says_what_came_instead_and_what_was_expected(mock_clock: trio.testing.MockClock):
    probe = TestProbe(name="post")
    async with open_test_system(probe.actor):
        await probe.ref.tell(Order("tea"))
        with pytest.raises(AssertionError, match=r"post: expected Letter, got Order\(what='tea'\)"):
            await probe.expect(Letter)
        with pytest.raises(
            AssertionError, match=r"nothing came within 3 s, expected 7; before came Order\(what='tea'\)"
        ):
            await probe.expect(7)
        await probe.ref.tell(Order("milk"))
        with pytest.raises(AssertionError, match=r"expected nothing, got Order\(what='milk'\)"):
            await probe.expect_none()


async def test_it_waits_as_long_as_it_is_told(mock_clock: trio.testing.MockClock):
    probe = TestProbe()
    async with open_test_system(probe.actor), trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(20)
            await probe.ref.tell(1)

        nursery.start_soon(later)
        with pytest.raises(AssertionError, match="within 3 s"):
            await probe.expect(int)
        assert trio.current_time() == pytest.approx(3, abs=0.01)
        assert await probe.expect(int, within=30) == 1
        assert trio.current_time() == pytest.approx(20, abs=0.01)


async def test_a_block_bounds_what_is_expected_in_it_all_together(mock_clock: trio.testing.MockClock):
    probe = TestProbe()
    async with open_test_system(probe.actor):
        async with probe.within(10):
            await probe.ref.tell(1)
            await probe.expect(1)
        began = trio.current_time()
        with pytest.raises(AssertionError, match="nothing came within 6 s"):
            async with probe.within(10):
                await trio.sleep(4)
                await probe.expect(2)
        assert trio.current_time() == pytest.approx(began + 10, abs=0.01)
        with pytest.raises(AssertionError, match="the block took 11 s, expected at most 10 s"):
            async with probe.within(10):
                await trio.sleep(11)


async def test_it_answers_who_asked(mock_clock: trio.testing.MockClock):
    probe = TestProbe(Mailer)
    answers: list[object] = []

    async with open_test_system([Shop, Child(probe.actor, name="mailer")]) as system, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await system.ref(Shop).ask(Order("tea")))

        nursery.start_soon(ask)
        assert await probe.expect(Letter) == Letter("tea")
        probe.reply("sent")
    assert answers == ["sent"]


async def test_it_answers_who_asked_from_behind_the_broker(mock_clock: trio.testing.MockClock):
    probe = TestProbe(Mailer)
    answers: list[object] = []
    async with open_test_system(probe.actor) as system, trio.open_nursery() as nursery:

        async def ask(name: str) -> None:
            answers.append(await system.client.ref(Mailer).ask(Letter(name)))

        nursery.start_soon(ask, "ann")
        await probe.expect(Letter("ann"))
        nursery.start_soon(ask, "ben")
        await probe.expect(Letter("ben"))
        probe.reply("to ben")
        with pytest.raises(AskTimeout):
            await system.client.ref(Mailer).ask(Letter("nobody answers"), timeout=5)
        nursery.cancel_scope.cancel()
    assert answers == ["to ben"]


async def test_who_told_gets_no_reply(mock_clock: trio.testing.MockClock):
    probe = TestProbe()
    async with open_test_system(probe.actor) as system:
        with pytest.raises(AssertionError, match="expect a message first"):
            probe.reply(1)
        await probe.ref.tell(7)
        await probe.expect(7)
        with pytest.raises(AssertionError, match="7 was told or published; no caller waits for a reply"):
            probe.reply(1)
        await system.drain()


async def test_it_stands_in_for_an_actor_with_its_sources_and_its_handlers(mock_clock: trio.testing.MockClock):
    probe = TestProbe(Mailer)
    async with open_test_system([Shop, probe.actor]) as system:
        await system.client.ref(Shop).tell(Order("tea"))
        assert await probe.expect(Letter) == Letter("tea")
        await system.client.publish("letters", {"who": "ann"})
        assert await probe.expect(dict) == {"who": "ann"}
        assert system.ref(Mailer) == probe.ref
        with pytest.raises(MessageRefused):
            await probe.ref.tell(Order("tea"))


async def test_it_watches_and_is_watched(mock_clock: trio.testing.MockClock):
    ended: list[Terminated] = []

    class Watcher(Actor):
        settings = Settings(title="watcher")

        async def startup(self) -> None:
            self.context.watch(probe.ref)

        @receive
        async def end(self, message: Terminated) -> None:
            ended.append(message)

    class Brief(Actor):
        settings = Settings(title="brief")

        @receive
        async def stop(self, *, now: bool) -> None:
            self.context.stop()

    probe = TestProbe()
    async with open_test_system([probe.actor, Watcher, Child(Brief, restart="temporary")]) as system:
        brief = system.ref(Brief)
        probe.watch(brief)
        await brief.tell({"now": True})
        assert (await probe.expect(Terminated)).ref == brief
        await system.system.supervisor().terminate_child("probe")
        await system.drain()
    assert [event.ref for event in ended] == [probe.ref]


async def test_outside_of_a_system_it_says_where_it_belongs():
    with pytest.raises(NotRunning, match=r"put probe.actor into the tree"):
        assert TestProbe().ref
