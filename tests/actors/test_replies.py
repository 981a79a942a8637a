"""Replies that come later, from elsewhere, or not at all: nobody who asks waits for ever."""

from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    ActorCrashed,
    ActorRef,
    ActorStopped,
    AskTimeout,
    Backoff,
    Intensity,
    MailboxFull,
    MailboxSettings,
    MessageFailed,
    MessageRefused,
    NotRunning,
    Reject,
    Settings,
    Shutdown,
    Supervisor,
    events,
    open_system,
    receive,
)
from actorwork.actors.actor import Actor
from actorwork.policy import settlement as policy
from actorwork.policy.exits import Kind
from tests.doubles import FakeBroker, Kept, failed
from tests.scripted_actor import Do, Note, Scripted, do, fail, ref_of, scripted, sleeping, stop

MANY = Intensity(restarts=1000, period=1)


@attrs.frozen
class Question:
    text: str


class Later(Scripted):
    """Answers questions when it is told to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.replies: list[Any] = []

    @receive
    async def question(self, message: Question) -> str:
        self.replies.append(self.context.defer())
        if message.text == "crash":
            raise ValueError("boom")
        if message.text == "reject":
            raise Reject("no")
        if message.text == "stop":
            self.context.stop()
        return "dropped"


def later(**options: Any) -> Any:
    return scripted("later", base=Later, **options)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


class Asked:
    """An ask that runs in the background, and how it ended."""

    def __init__(self, nursery: trio.Nursery, ref: ActorRef[Any], message: object, **options: Any) -> None:
        self.value: Any = None
        self.error: BaseException | None = None

        async def ask() -> None:
            try:
                self.value = await ref.ask(message, **options)  # pyright: ignore[reportArgumentType]
            except Exception as error:  # noqa: BLE001 - looked at by the test
                self.error = error

        nursery.start_soon(ask)


# ---- defer ----


async def test_a_reply_can_be_given_later():
    async with open_system(later(), broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        asked = [Asked(nursery, ref_of(system, "later"), Question(text)) for text in "ab"]
        await settle()
        assert [one.value for one in asked] == [None, None]
        await do(system, "later", lambda actor: actor.replies[1].give("second"))
        await do(system, "later", lambda actor: actor.replies[0].fail(KeyError("first")))
        await settle()
        values = {str(one.value) for one in asked}
        assert values == {"second", "None"}
        assert {type(one.error) for one in asked} == {KeyError, type(None)}
        assert "0 deferred" in repr(ref_of(system, "later").cell.current.replies)


async def test_only_the_first_answer_counts():
    def answer(actor: Any) -> None:
        actor.replies[0].give("first")
        actor.replies[0].give("second")
        actor.replies[0].fail(ValueError())

    async with open_system(later(), broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        asked = Asked(nursery, ref_of(system, "later"), Question("?"))
        await settle()
        await do(system, "later", answer)
        await settle()
        assert asked.value == "first"


async def test_a_helper_task_may_give_it(mock_clock: trio.testing.MockClock):
    class Busy(Actor):
        settings = Settings(title="busy")

        @receive
        async def question(self, message: Question) -> None:
            self.context.nursery.start_soon(self.work, self.context.defer(), message.text)

        async def work(self, reply: Any, text: str) -> None:
            await trio.sleep(5)
            reply.give(text.upper())

    async with open_system(Busy, broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        asked = [Asked(nursery, system.ref(Busy), Question(text)) for text in ("a", "b", "c")]
        await trio.sleep(5.1)
        assert [one.value for one in asked] == ["A", "B", "C"], "side by side"


@pytest.mark.parametrize("end", [fail, stop])
async def test_an_incarnation_that_ends_without_the_reply_tells_the_asker(end: Any):
    async with open_system(later(), broker=FakeBroker(), intensity=MANY) as system, trio.open_nursery() as nursery:
        asked = Asked(nursery, ref_of(system, "later"), Question("?"))
        await settle()
        ref_of(system, "later").tell_nowait(Do(end))
        await settle()
        assert "'later' ended before it gave the reply" in str(asked.error)
        if end is fail:
            assert isinstance(asked.error, ActorCrashed)
            assert isinstance(asked.error.__cause__, ValueError)
        else:
            assert isinstance(asked.error, ActorStopped)


async def test_the_end_of_the_system_tells_who_waits_for_a_deferred_reply():
    async with trio.open_nursery() as nursery:
        async with open_system(later(), broker=FakeBroker()) as system:
            asked = Asked(nursery, ref_of(system, "later"), Question("?"))
            await settle()
        await settle()
        assert isinstance(asked.error, ActorStopped)


@pytest.mark.parametrize(
    ("text", "error"), [("crash", ActorCrashed), ("reject", MessageFailed), ("stop", ActorStopped)]
)
async def test_a_handler_that_defers_and_does_not_return(text: str, error: type[Exception]):
    async with open_system(later(), broker=FakeBroker(), intensity=MANY) as system, trio.open_nursery() as nursery:
        asked = Asked(nursery, ref_of(system, "later"), Question(text))
        await settle()
        assert isinstance(asked.error, error)
        assert "0 deferred" in repr(ref_of(system, "later").cell.current.replies)


async def test_an_asker_whose_time_is_up_is_not_owed_any_more(mock_clock: trio.testing.MockClock):
    async with open_system(later(), broker=FakeBroker()) as system:
        with pytest.raises(AskTimeout):
            await ref_of(system, "later").ask(Question("?"), timeout=1)
        assert "0 deferred" in repr(ref_of(system, "later").cell.current.replies)
        await do(system, "later", lambda actor: actor.replies[0].give("too late"))


async def test_who_did_not_ask_is_owed_nothing():
    kept = Kept()
    async with open_system(later(), broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        ref_of(system, "later").tell_nowait(Question("?"))
        await settle()
        (ended,) = [event.exit for event in kept.of(events.ChildExited)]
        assert isinstance(ended.error, NotRunning)
        assert "no sender in this process waits" in str(ended.error)


async def test_a_delivery_cannot_be_deferred_or_forwarded():
    class Fed(Actor):
        settings = Settings(title="fed")

        @receive
        async def take(self, *, what: str) -> None:
            if what == "defer":
                self.context.defer()
            self.context.forward(self.context.ref)

    broker = FakeBroker()
    async with open_system(Fed, broker=broker):
        for what in ("defer", "forward"):
            broker.put(Fed, {"what": what}, id=what)
        await broker.wait_settled(2)
    assert failed(broker.settlement("defer"))[0] == "NotRunning"
    assert failed(broker.settlement("forward"))[0] == "NotRunning"


# ---- forward ----


class Front(Scripted):
    """Passes questions on."""

    @receive
    async def question(self, message: Question) -> str:
        back = self.context.whereis("back")
        assert back is not None
        self.context.forward(back)
        return "dropped"


class Back(Scripted):
    @receive
    async def question(self, message: Question) -> str:
        if message.text == "crash":
            raise ValueError("boom")
        return f"back: {message.text}"


def front_and_back(**options: Any) -> list[Any]:
    return [scripted("front", base=Front), scripted("back", base=Back, **options)]


async def test_the_other_actor_answers_the_asker():
    async with open_system(front_and_back(), broker=FakeBroker()) as system:
        assert await ref_of(system, "front").ask(Question("?")) == "back: ?"
        assert await ref_of(system, "front").ask(Question("?"), timeout=5) == "back: ?"
        ref_of(system, "front").tell_nowait(Question("told"))


async def test_the_first_actor_goes_on_while_the_other_is_busy(mock_clock: trio.testing.MockClock):
    async with open_system(front_and_back(), broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref_of(system, "back").tell_nowait(Do(sleeping(10)))
        asked = Asked(nursery, ref_of(system, "front"), Question("?"))
        await trio.sleep(1)
        assert await do(system, "front", lambda _: "free") == "free"
        with pytest.raises(ActorCrashed):
            await do(system, "front", fail)
        await trio.sleep(10)
        assert asked.value == "back: ?", "the front's crash is not the asker's business any more"


async def test_the_asker_is_told_of_the_other_ones_crash_and_end():
    async with open_system(front_and_back(), broker=FakeBroker(), intensity=MANY) as system:
        with pytest.raises(ActorCrashed, match="'back' crashed"):
            await ref_of(system, "front").ask(Question("crash"))
        ref_of(system, "back").tell_nowait(Do(stop))
        assert await ref_of(system, "front").ask(Question("?")) == "back: ?"


async def test_what_cannot_be_forwarded_is_the_handlers_crash_and_the_asker_is_told():
    tree = front_and_back(settings={"mailbox": MailboxSettings(capacity=1)})
    async with open_system(tree, broker=FakeBroker(), intensity=MANY) as system, trio.open_nursery() as nursery:
        ref_of(system, "back").tell_nowait(Do(sleeping(0.05)))
        await settle()
        ref_of(system, "back").tell_nowait(Note("fills it"))
        asked = Asked(nursery, ref_of(system, "front"), Question("?"))
        await settle()
        assert isinstance(asked.error, ActorCrashed)
        assert isinstance(asked.error.__cause__, MailboxFull)


async def test_only_what_the_other_takes_can_be_forwarded():
    def forward(actor: Any) -> None:
        with pytest.raises(MessageRefused):
            actor.context.forward(actor.context.whereis("back"))

    class Deaf(Actor):
        async def startup(self) -> None:
            self.context.register("back")

    async with open_system([scripted("front"), Deaf], broker=FakeBroker()) as system:
        assert await do(system, "front", forward) is None


# ---- pipe ----


async def test_what_comes_out_of_a_piped_function_is_told_to_the_actor(mock_clock: trio.testing.MockClock):
    said: list[Any] = []

    async def fetch(text: str) -> str:
        await trio.sleep(5)
        return text

    def pipe(actor: Any) -> None:
        actor.context.pipe(fetch, "made", to=Note)
        actor.context.pipe(fetch, "again", to=lambda text: Note(str(text).upper()))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]

    async with open_system(scripted("it", said), broker=FakeBroker()) as system:
        await do(system, "it", pipe)
        assert await do(system, "it", lambda _: "goes on") == "goes on"
        assert trio.current_time() == 0
        await trio.sleep(6)
    assert sorted(said) == ["AGAIN", "made"]


async def test_an_error_in_a_piped_function_is_the_actors_crash():
    kept = Kept()

    async def break_down() -> None:
        raise OSError("no route")

    async with open_system(scripted("it"), broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        await do(system, "it", lambda actor: actor.context.pipe(break_down))
        await settle()
        assert ref_of(system, "it").cell.incarnation == 2
    assert isinstance(kept.of(events.ChildExited)[0].exit.error, OSError)


async def test_a_result_that_the_actor_does_not_take_is_its_crash():
    kept = Kept()

    async def odd() -> set[int]:
        return {1}

    async with open_system(scripted("it"), broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        await do(system, "it", lambda actor: actor.context.pipe(odd))
        await settle()
    assert isinstance(kept.of(events.ChildExited)[0].exit.error, MessageRefused)


@pytest.mark.parametrize("end", [fail, stop])
async def test_the_end_of_the_incarnation_cancels_what_is_piped(end: Any, mock_clock: trio.testing.MockClock):
    said: list[Any] = []

    async def fetch() -> str:
        try:
            await trio.sleep(5)
        finally:
            said.append("cancelled")
        return "made"

    async with open_system(scripted("it", said), broker=FakeBroker(), intensity=MANY) as system:
        await do(system, "it", lambda actor: actor.context.pipe(fetch, to=Note))
        ref_of(system, "it").tell_nowait(Do(end))
        await trio.sleep(10)
    assert said == ["cancelled"]


async def test_what_a_piped_function_raises_when_it_is_cancelled_is_reported(mock_clock: trio.testing.MockClock):
    kept = Kept()

    async def fetch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("while it closed")

    async with open_system(scripted("it"), broker=FakeBroker(), emit=kept, intensity=MANY) as system:
        await do(system, "it", lambda actor: actor.context.pipe(fetch))
        await do(system, "it", stop)
        await trio.sleep(1)
        assert ref_of(system, "it").cell.incarnation == 2
    (trouble,) = kept.of(events.ActorTrouble)
    assert isinstance(trouble.error, OSError)
    assert kept.of(events.ChildExited)[0].exit.kind is Kind.NORMAL


# ---- the end of who was asked ----


async def test_what_waits_when_the_actor_ends_is_not_answered_but_told(mock_clock: trio.testing.MockClock):
    kept, given = Kept(), list[Any]()

    class Caring(Scripted):
        def on_undelivered(self, messages: Any) -> None:
            given.extend(messages)

    async with open_system(
        [scripted("it", base=Caring, restart="temporary"), scripted("other")], broker=FakeBroker(), emit=kept
    ) as system:
        ref = ref_of(system, "it")
        async with trio.open_nursery() as nursery:
            ref.tell_nowait(Do(sleeping(2)))
            await settle()
            asked = Asked(nursery, ref, Note("asked"))
            await settle()
            ref.tell_nowait(Note("told"))
            ref.cell.stop(0)
        assert isinstance(asked.error, ActorStopped)
        with pytest.raises(ActorStopped, match="'it' has ended: normal"):
            await ref.ask(Note("after"))
        with pytest.raises(ActorStopped):
            ref.tell_nowait(Note("after"))
    assert given == [Note("told")]
    assert [event.message for event in kept.of(events.Undelivered)] == [Note("told")]


async def test_an_ask_survives_a_restart_that_comes_first():
    async with open_system(scripted("it"), broker=FakeBroker(), intensity=MANY) as system:
        ref_of(system, "it").tell_nowait(Do(fail))
        assert await ref_of(system, "it").ask(Do(lambda actor: actor.context.ref.cell.incarnation)) == 2


async def test_an_ask_survives_a_restart_that_waits(mock_clock: trio.testing.MockClock):
    from actorwork import Backoff

    child = scripted("it", backoff=Backoff(min=5, max=5, jitter=0))
    async with open_system(child, broker=FakeBroker(), intensity=MANY) as system:
        ref = ref_of(system, "it")
        ref.tell_nowait(Do(fail))
        assert await ref.ask(Do(lambda actor: actor.context.ref.cell.incarnation)) == 2
        assert trio.current_time() == pytest.approx(5, abs=5)


# ---- ending by itself ----


async def test_stop_ends_a_local_message_as_if_it_had_returned():
    kept = Kept()
    async with open_system(scripted("it"), broker=FakeBroker(), emit=kept) as system:
        assert await do(system, "it", stop) is None
        await settle()
        assert ref_of(system, "it").cell.incarnation == 2, "a permanent child is started again"
    assert kept.of(events.ChildExited)[0].exit.kind is Kind.NORMAL


async def test_stop_in_a_delivery_settles_it_with_what_it_published():
    class Ending(Actor):
        settings = Settings(title="ending")

        @receive
        async def take(self, *, n: int) -> None:
            self.context.publish("others", {"n": n})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.checkpoint)
                self.context.stop()

    broker = FakeBroker()
    async with open_system(Ending, broker=broker) as system:
        broker.put(Ending, {"n": 1}, id="1")
        await broker.wait_settled(1)
        await settle()
        assert system.ref(Ending).cell.incarnation == 2
    assert broker.settlement("1") == policy.Ack()
    assert len(broker.published("1")) == 1


async def test_stop_in_a_helper_task_lets_the_message_in_hand_end(mock_clock: trio.testing.MockClock):
    kept = Kept()

    async def work(actor: Any) -> str:
        async def end() -> None:
            await trio.sleep(1)
            actor.context.stop()

        actor.context.nursery.start_soon(end)
        await trio.sleep(5)
        return "done"

    async with open_system(scripted("it"), broker=FakeBroker(), emit=kept) as system:
        assert await do(system, "it", work) == "done"
        await trio.sleep(1)
        assert ref_of(system, "it").cell.incarnation == 2
    assert kept.of(events.ChildExited)[0].exit.kind is Kind.NORMAL


async def test_stop_in_startup_is_an_end_in_order():
    said: list[Any] = []
    child = scripted("it", said, up=stop, restart="transient")
    kept = Kept()
    async with open_system([child, scripted("other")], broker=FakeBroker(), emit=kept):
        await settle()
        assert [event.exit.kind for event in kept.of(events.ChildExited)] == [Kind.NORMAL]


async def test_shutdown_raised_in_a_local_message_ends_the_actor_and_tells_the_asker():
    kept = Kept()

    def end(_: Any) -> None:
        raise Shutdown("enough")

    async with open_system(scripted("it"), broker=FakeBroker(), emit=kept) as system:
        with pytest.raises(ActorStopped, match="'it' ended while it handled Do"):
            await do(system, "it", end)
    ended = kept.of(events.ChildExited)[0].exit
    assert (ended.kind, ended.reason) == (Kind.SHUTDOWN, "enough")


async def test_shutdown_raised_in_a_delivery_fails_it_and_ends_the_actor():
    class Ending(Actor):
        settings = Settings(title="ending")

        @receive
        async def take(self, *, n: int) -> None:
            raise Shutdown("enough")

    broker, kept = FakeBroker(), Kept()
    async with open_system(Ending, broker=broker, emit=kept):
        broker.put(Ending, {"n": 1}, id="1")
        await broker.wait_settled(1)
        await settle()
        ended = kept.of(events.ChildExited)[0].exit
        assert (ended.kind, ended.reason) == (Kind.SHUTDOWN, "enough")
    assert failed(broker.settlement("1")) == ("Shutdown", "enough")


async def test_nobody_waits_for_an_actor_that_had_nothing_to_run(mock_clock: trio.testing.MockClock):
    from actorwork import Ignore

    def ignore(_: Any) -> None:
        raise Ignore

    async with open_system([scripted("it", up=ignore, name="it"), scripted("other")], broker=FakeBroker()) as system:
        cells = [child for child in system.tree().children if child.title == "it"]
        assert [branch.state for branch in cells] == ["empty"]
        ref = system._by_title["it"].ref
        with pytest.raises(ActorStopped):
            await ref.ask(Note("?"))
        assert system.whereis("it") is None


# ---- asks that are cut off ----


async def test_an_ask_beside_another_message_that_crashes_the_actor_gets_its_crash(
    mock_clock: trio.testing.MockClock,
):
    child = scripted("it", settings={"concurrency": 3})
    async with open_system(child, broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref = ref_of(system, "it")
        asked = [Asked(nursery, ref, Do(sleeping(9))) for _ in range(2)]
        await trio.sleep(1)
        ref.tell_nowait(Do(fail))
        await settle()
        for ask in asked:
            assert isinstance(ask.error, ActorCrashed)
            assert "'it' crashed while it handled Do, in another of its tasks: ValueError" in str(ask.error)
            assert isinstance(ask.error.__cause__, ValueError)
        assert await ref.ask(Note("after")) == "after"
        assert trio.current_time() == 1


@pytest.mark.parametrize("is_deferred", [False, True])
@pytest.mark.parametrize("is_nested", [False, True])
async def test_an_ask_that_the_restart_of_a_sibling_cuts_off_is_a_crash_of_an_actor_that_lives_on(
    is_deferred: bool, is_nested: bool, mock_clock: trio.testing.MockClock
):
    backoff = Backoff(min=60, max=60, jitter=0)
    culprit, base = scripted("culprit", backoff=None if is_nested else backoff), Later if is_deferred else Scripted
    it = scripted("it", base=base, shutdown=2)
    tree = Supervisor([culprit, Supervisor([it]) if is_nested else it], strategy="one_for_all")
    async with open_system(tree, broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref = ref_of(system, "it")
        asked = Asked(nursery, ref, Question("?") if is_deferred else Do(sleeping(99)))
        await settle()
        ref_of(system, "culprit").tell_nowait(Do(fail))
        await trio.sleep(2)
        await settle()
        assert isinstance(asked.error, ActorCrashed), "at once, and not after the delay of the restart"
        assert "it is started again" in str(asked.error)
        assert await ref.ask(Note("after")) == "after"


async def test_an_ask_that_the_last_end_cuts_off_is_that_of_a_stopped_actor(mock_clock: trio.testing.MockClock):
    child = scripted("it", shutdown=2)
    async with open_system(Supervisor([child]), broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref = ref_of(system, "it")
        asked = Asked(nursery, ref, Do(sleeping(99)))
        await settle()
        await system.supervisor().terminate_child(ref)
        await settle()
        assert isinstance(asked.error, ActorStopped)
        assert str(asked.error) == "'it' was stopped while it handled Do"
        assert trio.current_time() == 2
