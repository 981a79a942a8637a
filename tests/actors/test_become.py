"""Become: an actor handles with other methods, until it is itself again or starts anew."""

from typing import Any

import attrs
import pytest
import trio

from actorwork import (
    ActorCrashed,
    Intensity,
    MessageFailed,
    MessageRefused,
    Reject,
    Settings,
    SettingsError,
    events,
    open_system,
    receive,
)
from actorwork.actors.actor import Actor
from actorwork.policy import settlement as policy
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import Do, do, ref_of, scripted

MANY = Intensity(restarts=1000, period=1)


@attrs.frozen
class Login:
    name: str


@attrs.frozen
class Command:
    text: str


@attrs.frozen
class Logout:
    pass


class Session(Actor):
    """The example of every book: logged out, logged in."""

    settings = Settings(title="session")
    name = ""

    @receive
    async def login(self, message: Login) -> str:
        self.name = message.name
        self.context.become(self.command, self.logout)
        return f"Hello {message.name}"

    async def command(self, message: Command) -> str:
        if message.text == "crash":
            raise ValueError("boom")
        if message.text == "reject":
            raise Reject("no")
        if message.text == "tell wrong":
            self.context.ref.tell_nowait({1})  # pyright: ignore[reportArgumentType]
        return f"{self.name}: {message.text}"

    async def logout(self, message: Logout) -> None:
        self.context.unbecome()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_become_puts_other_handlers_in_the_place_of_all():
    async with open_system(Session, broker=FakeBroker()) as system:
        ref = system.ref(Session)
        with pytest.raises(MessageRefused, match="Session takes Login; got Command"):
            await ref.ask(Command("x"))
        assert await ref.ask(Login("Ann")) == "Hello Ann"
        assert await ref.ask(Command("x")) == "Ann: x"
        with pytest.raises(MessageRefused, match="session as command, logout takes Command, Logout; got Login"):
            await ref.ask(Login("Bob"))
        await ref.ask(Logout())
        with pytest.raises(MessageRefused):
            await ref.ask(Command("x"))
        assert await ref.ask(Login("Bob")) == "Hello Bob"


async def test_a_message_that_came_too_late_is_refused_at_its_turn():
    kept = Kept()
    async with open_system(Session, broker=FakeBroker(), emit=kept) as system:
        ref = system.ref(Session)
        await ref.ask(Login("Ann"))
        ref.tell_nowait(Logout())
        ref.tell_nowait(Command("told too late"))
        with pytest.raises(MessageRefused, match="Session takes Login; got Command"):
            await ref.ask(Command("asked too late"))
        assert [event.message for event in kept.of(events.Undelivered)] == [Command("told too late")]
        assert ref.cell.incarnation == 1


async def test_a_crash_makes_it_itself_again():
    async with open_system(Session, broker=FakeBroker(), intensity=MANY) as system:
        ref = system.ref(Session)
        await ref.ask(Login("Ann"))
        with pytest.raises(ActorCrashed):
            await ref.ask(Command("crash"))
        assert await ref.ask(Login("Bob")) == "Hello Bob"


async def test_what_waits_for_a_behaviour_that_crashed_is_refused_by_the_next_incarnation():
    kept = Kept()
    async with open_system(Session, broker=FakeBroker(), intensity=MANY, emit=kept) as system:
        ref = system.ref(Session)
        await ref.ask(Login("Ann"))
        ref.tell_nowait(Command("crash"))
        ref.tell_nowait(Command("left over"))
        await settle()
        assert ref.cell.incarnation == 2
        assert Command("left over") in [event.message for event in kept.of(events.Undelivered)]


async def test_a_verdict_is_a_verdict():
    async with open_system(Session, broker=FakeBroker()) as system:
        await system.ref(Session).ask(Login("Ann"))
        with pytest.raises(MessageFailed, match="Reject: no"):
            await system.ref(Session).ask(Command("reject"))
        assert system.ref(Session).cell.incarnation == 1


async def test_a_refusal_by_another_actor_is_the_handlers_own_crash():
    async with open_system(Session, broker=FakeBroker(), intensity=MANY) as system:
        await system.ref(Session).ask(Login("Ann"))
        with pytest.raises(ActorCrashed) as caught:
            await system.ref(Session).ask(Command("tell wrong"))
        assert isinstance(caught.value.__cause__, MessageRefused)
        await settle()
        assert system.ref(Session).cell.incarnation == 2


async def test_deliveries_are_handled_by_what_it_has_become():
    broker = FakeBroker()
    async with open_system(Session, broker=broker):
        broker.put(Session, {"text": "early"}, type="Command", id="early")
        broker.put(Session, {"name": "Ann"}, type="Login", id="login")
        broker.put(Session, {"text": "x"}, type="Command", id="x")
        broker.put(Session, {"name": "Bob"}, type="Login", id="again")
        broker.put(Session, {}, type="Logout", id="logout")
        broker.put(Session, {"text": "late"}, type="Command", id="late")
        await broker.wait_settled(6)
    for accepted in ("login", "x", "logout"):
        assert broker.settlement(accepted) == policy.Ack()
    for refused, takes in (("early", "Login"), ("again", "Command, Logout"), ("late", "Login")):
        settlement = broker.settlement(refused)
        assert isinstance(settlement, policy.Fail)
        assert settlement.failure.type == "CodecError"
        assert f"takes {takes}" in settlement.failure.reason


async def test_keyword_handlers_and_threads_can_be_become():
    class Machine(Actor):
        settings = Settings(title="machine")

        @receive
        async def start(self, *, what: str) -> str:
            self.context.become(self.sum_up)
            return what

        def sum_up(self, *, n: int, m: int = 1) -> int:
            return n + m

    async with open_system(Machine, broker=FakeBroker()) as system:
        ref = system.ref(Machine)
        await ref.ask({"what": "go"})
        assert await ref.ask({"n": 2}) == 3
        assert await ref.ask({"n": 2, "m": 5}) == 7
        for wrong in ({"what": "go"}, {"m": 5}):
            with pytest.raises(MessageRefused):
                await ref.ask(wrong)


async def test_what_cannot_be_a_handler_is_refused():
    async with open_system(scripted("it"), broker=FakeBroker()) as system:

        def become(actor: Any) -> None:
            with pytest.raises(SettingsError, match="at least one method"):
                actor.context.become()

            async def bare(self: Any, message):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
                ...

            with pytest.raises(SettingsError, match="'message' needs an annotation"):
                actor.context.become(bare)
            assert not actor.context.ref.cell.behaviour.is_changed

        await do(system, "it", become)


async def test_unbecome_without_become_does_nothing():
    async with open_system(scripted("it"), broker=FakeBroker()) as system:
        await do(system, "it", lambda actor: actor.context.unbecome())
        assert await ref_of(system, "it").ask(Do(lambda _: "same")) == "same"


async def test_become_in_startup_holds_from_the_first_message():
    class Early(Session):
        settings = Settings(title="early")

        async def startup(self) -> None:
            self.name = "Eve"
            self.context.become(self.command)

    async with open_system(Early, broker=FakeBroker()) as system:
        assert await system.ref(Early).ask(Command("x")) == "Eve: x"


async def test_stash_and_become_together_make_a_start_in_steps():
    class Connecting(Actor):
        settings = Settings(title="connecting")

        @receive
        async def wait(self, message: Command) -> None:
            self.context.stash()

        @receive
        async def connected(self, message: Login) -> None:
            self.context.become(self.serve)
            self.context.unstash()

        async def serve(self, message: Command) -> str:
            return message.text.upper()

    answers: list[str] = []
    async with open_system(Connecting, broker=FakeBroker()) as system, trio.open_nursery() as nursery:
        ref = system.ref(Connecting)

        async def ask(text: str) -> None:
            answers.append(await ref.ask(Command(text)))

        for text in "abc":
            nursery.start_soon(ask, text)
        await settle()
        await ref.ask(Login("server"))
        await settle()
        assert sorted(answers) == ["A", "B", "C"]
