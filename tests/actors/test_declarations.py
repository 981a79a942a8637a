"""What the class of an actor declares: its handlers, its messages and their replies, and whether a broker knows it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NewType, Protocol, TypedDict, TypeVar

import attrs
import pytest

from actorwork import (
    Actor,
    Child,
    DynamicSupervisor,
    Interval,
    Message,
    Pool,
    Settings,
    SettingsError,
    StartError,
    Supervisor,
    Trigger,
    open_client,
    open_system,
    receive,
)
from actorwork.actors.handlers.declared import may_be
from actorwork.events import NodeStarted
from tests.doubles import FakeBroker, Kept
from tests.scripted_actor import do, scripted, titled

# ---- handlers ----


class Forgetful(Actor):
    settings = Settings(title="forgetful")

    async def take(self, *, x: int) -> None: ...


async def test_an_actor_that_a_broker_feeds_and_that_handles_nothing_is_refused_at_the_start():
    with pytest.raises(SettingsError, match=r"Forgetful \('forgetful'\) reads messages .* handles none: mark its"):
        async with open_system(Forgetful, broker=FakeBroker()):
            raise AssertionError("it must not come to this")
    async with open_system(Child(Forgetful, reads=False), broker=FakeBroker()) as system:
        assert system.ref(Forgetful).title == "forgetful"


class Greeting:
    """A mixin that is no actor."""

    @receive
    async def greet(self, name: str) -> str:
        return f"hello {name}"


class Before(Greeting, Actor):
    settings = Settings(title="before")


class After(Actor, Greeting):
    settings = Settings(title="after")


async def test_handlers_of_a_mixin_are_handlers_of_the_actor():
    async with open_system([Before, After], broker=FakeBroker()) as system:
        assert await system.ref(Before).ask("Ann") == await system.ref(After).ask("Ann") == "hello Ann"


# ---- actors without settings ----


class Ping(Actor):
    @receive
    async def ping(self, n: int) -> int:
        return n + 1


async def test_an_actor_without_settings_is_local_under_the_name_of_its_class():
    kept = Kept()
    async with open_system([Ping, titled("other")], broker=FakeBroker(), emit=kept) as system:
        assert system.ref(Ping).title == "Ping"
        assert await system.ref(Ping).ask(1) == 2
    assert [event.actors for event in kept.of(NodeStarted)] == [("other",)]


async def test_an_actor_needs_a_title_only_where_a_broker_is_concerned():
    no_title = "Ping has no settings, so it is a local actor, which no broker knows; declare settings = Settings"
    with pytest.raises(SettingsError, match=no_title):
        Child(Ping, reads=True)
    async with (
        open_system([Ping, scripted("helper")], broker=FakeBroker()) as system,
        open_client(system.broker) as client,
    ):
        with pytest.raises(TypeError, match=no_title):
            client.ref(Ping)
        with pytest.raises(TypeError, match=no_title):
            await client.pause(actor=Ping)


def test_two_local_actors_of_a_class_are_told_apart_by_an_id():
    with pytest.raises(SettingsError, match=r"two children have the id 'Ping'; .* give one of them an id=…"):
        Supervisor([Ping, Ping])


async def test_of_several_local_actors_of_a_class_a_name_tells_one():
    children = [Child(Ping, id=1, name="one"), Child(Ping, id=2, name="two")]
    async with open_system(children, broker=FakeBroker()) as system:
        with pytest.raises(LookupError, match="2 local actors of this system are a 'Ping': give each a name"):
            system.ref(Ping)
        one = system.whereis("one")
        assert one is not None
        assert await one.ask(1) == 2


# ---- classes that only a function knows ----


async def test_messages_and_actors_of_a_function_are_found():
    @attrs.frozen
    class Item:
        name: str

    @attrs.frozen
    class Order(Message["Shop", int]):
        items: list[Item]

    @dataclasses.dataclass(frozen=True)
    class Refund:
        item: Item

    @dataclasses.dataclass(frozen=True)
    class Chain:
        next: Chain | None = None

    class Shop(Actor):
        settings = Settings(title="shop")

        @attrs.frozen
        class Closing:
            reason: str

        @receive
        async def order(self, message: Order | Refund) -> int:
            return len(message.items) if isinstance(message, Order) else 0

        @receive
        async def close(self, message: Closing) -> str:
            return message.reason

        @receive
        async def chain(self, message: Chain) -> bool:
            return message.next is not None

    class Branch(Shop):
        settings = Settings(title="branch")

    async with (
        open_system([Shop, Branch], broker=FakeBroker()) as system,
        open_client(system.broker) as client,
    ):
        for actor in (Shop, Branch):
            assert await client.ref(actor).ask(Order([Item("a"), Item("b")])) == 2
            assert await client.ref(actor).ask(Refund(Item("a"))) == 0
            assert await client.ref(actor).ask(Shop.Closing("night")) == "night"
            assert await client.ref(actor).ask(Chain(Chain())) is True


async def test_messages_of_an_enclosing_function_are_found():
    @attrs.frozen
    class Order:
        n: int

    def make() -> type[Actor]:
        @attrs.define(eq=False, init=False)  # which makes the class a second time
        class Shop(Actor):
            settings = Settings(title="shop")

            @receive
            async def order(self, message: Order) -> int:
                return message.n

        return Shop

    shop = make()
    async with open_system(shop, broker=FakeBroker()) as system:
        assert await system.ref(shop).ask(Order(3)) == 3


def test_nothing_else_of_the_function_is_kept():
    class Known: ...

    large = [0] * 1000

    class Shop(Actor):
        settings = Settings(title="shop")

        @receive
        async def order(self, message: Known) -> None: ...

    assert Shop.__dict__["__actorwork_names__"] == {"Known": Known}
    assert large


# ---- what a message declares ----


class Account(Actor):
    settings = Settings(title="account")

    @receive
    async def take(self, message: str) -> None: ...


class Teller(Actor): ...


class Stranger(Actor): ...


class Speaks(Protocol):
    def speak(self) -> None: ...


T = TypeVar("T")


@attrs.frozen
class Ask(Message["Account", str]): ...


@attrs.frozen
class AskNobody(Message["Stranger", str]): ...


@attrs.frozen
class AskEither(Message["Teller | Stranger", float]): ...


@attrs.frozen
class AskAnybody(Message[Actor, object]): ...


@attrs.frozen
class AskAny(Message[Any, str]): ...


@attrs.frozen
class AskSpeakers(Message[Speaks, list[int]]): ...


def handler(message: Any, reply: Any, **marks: Any) -> Any:
    async def answer(self: Any, message: Any) -> Any: ...

    answer.__annotations__ = {"message": message, "return": reply}
    return receive(**marks)(answer) if marks else receive(answer)


def made(name: str, bases: tuple[type, ...], message: Any, reply: Any, **marks: Any) -> type:
    return type(name, bases, {"answer": handler(message, reply, **marks)})


@pytest.mark.parametrize(
    ("name", "bases", "message", "reply"),
    [
        ("Account", (Actor,), Ask, str),
        ("Account", (Actor,), "Ask", "str"),
        ("Account", (Actor,), Ask, Any),
        ("Savings", (Account,), Ask, str),
        ("Teller", (Actor,), AskEither, int),
        ("Stranger", (Actor,), AskNobody | AskEither, Any),
        ("Teller", (Actor,), AskAnybody, int),
        ("Teller", (Actor,), AskAny, str),
        ("Teller", (Actor,), "attrs.Order", str),
        ("Teller", (Actor,), AskSpeakers, list[int]),
    ],
)
def test_a_message_is_handled_and_answered_as_it_declares(name: str, bases: tuple[type, ...], message: Any, reply: Any):
    assert made(name, bases, message, reply)


@pytest.mark.parametrize(
    ("name", "message", "reply", "text"),
    [
        ("Account", Ask, int, r"Account.answer returns int, but its message Ask declares the reply str"),
        ("Account", "Ask", "int", r"returns int, but its message Ask declares the reply str"),
        ("Account", Ask | AskAnybody, int, r"returns int, but its message Ask declares"),
        ("Account", Ask, None, r"returns NoneType, but its message Ask declares"),
        ("Teller", AskEither, str, r"returns str, but its message AskEither declares the reply float"),
        ("Teller", AskSpeakers, list[str], r"returns list\[str\], but .* declares the reply list\[int\]"),
        ("Teller", Ask, str, r"takes Ask, which is declared for another actor: it is a Message\['Account', str\]"),
        ("Teller", Ask | AskEither, Any, r"takes Ask, which is declared for another actor"),
    ],
)
def test_an_actor_that_handles_or_answers_a_message_otherwise_cannot_be_made(
    name: str, message: Any, reply: Any, text: str
):
    with pytest.raises(SettingsError, match=text):
        made(name, (Actor,), message, reply)


def test_an_actor_that_is_defined_later_is_another_one_as_well():
    first = made("First", (Actor,), AskLater, Any)  # it is not known yet who `DefinedLater` is
    later = type("DefinedLater", (Actor,), {})
    with pytest.raises(SettingsError, match="declared for another actor: it is a Message\\['DefinedLater', int\\]"):
        made("Second", (Actor,), AskLater, Any)
    assert first
    assert later


@attrs.frozen
class AskLater(Message["DefinedLater", int]):  # type: ignore[name-defined] # pyright: ignore  # noqa: PGH003
    ...


def test_a_batch_answers_each_message_as_it_declares():
    assert made("Account", (Actor,), list[Ask], list[str | ValueError], batch=2)
    assert made("Account", (Actor,), list[Ask], None, batch=2)
    with pytest.raises(SettingsError, match=r"returns list\[int\], but its message Ask declares the reply str"):
        made("Account", (Actor,), list[Ask], list[int], batch=2)


class Base: ...


class Derived(Base): ...


class Fields(TypedDict):
    x: int


UserId = NewType("UserId", int)


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (int, int, True),
        (int, float, True),
        (float, int, False),
        (bool, int, True),
        (Derived, Base, True),
        (Base, Derived, False),
        (UserId, int, True),
        (UserId, str, False),
        (int | None, int | None, True),
        (int | None, int, False),
        (int, int | None, True),
        (None, int, False),
        (Literal["a"], str, True),
        (Literal["a"], int, False),
        (dict[str, int], dict[str, int], True),
        (dict[str, int], dict[str, str], False),
        (dict, dict[str, str], True),
        (T, int, True),
        (dict[str, int], Fields, True),
        (Fields, Fields, True),
        (int, Speaks, True),
    ],
)
def test_what_a_handler_returns_may_be_what_a_message_declares(value: Any, wanted: Any, expected: bool):
    assert may_be(value, wanted) is expected


# ---- triggers ----

TICKING: Any = titled("ticking", triggers=[Trigger(title="tick", schedule=Interval(seconds=1), message="tick")])


@pytest.mark.parametrize(
    "tree",
    [Pool(TICKING), Child(TICKING, reads=False), DynamicSupervisor(TICKING)],
    ids=["pool", "reads=False", "dynamic"],
)
async def test_a_trigger_of_an_actor_that_no_broker_feeds_is_refused_at_the_start(tree: object):
    with pytest.raises(SettingsError, match="the trigger 'tick' of 'ticking' would never fire"):
        async with open_system(tree, broker=FakeBroker()):
            raise AssertionError("it must not come to this")


async def spawn_ticking(actor: Any) -> str:
    with pytest.raises((SettingsError, StartError)) as caught:
        await actor.context.spawn(TICKING)
    return str(caught.value)


async def test_a_trigger_of_an_actor_that_is_started_later_is_refused():
    async with open_system([scripted("helper"), DynamicSupervisor(id="d")], broker=FakeBroker()) as system:
        assert "the trigger 'tick' of 'ticking' would never fire" in await do(system, "helper", spawn_ticking)
        with pytest.raises((SettingsError, StartError), match="the trigger 'tick' of 'ticking' would never fire"):
            await system.supervisor("d").start_child(TICKING)


async def test_local_actors_beside_one_that_the_broker_feeds_may_have_its_triggers():
    noting: Any = type("Ticking", (Actor,), {"settings": TICKING.settings, "take": receive(take)})
    async with open_system([noting, Pool(noting, size=2)], broker=FakeBroker()) as system:
        assert len(system.pool(noting).members) == 2


async def take(self: Actor, message: str) -> None: ...
