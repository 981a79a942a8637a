"""Middleware: around deliveries, and before what is published; of the system, of an actor, of a client."""

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from actorwork import Actor, Delivery, Envelope, Reject, Settings, SettingsError, open_client, open_system, receive
from actorwork.clients import Client
from actorwork.testing import MemoryBroker, open_test_system
from tests.doubles import FakeBroker, failed

Proceed = Callable[[], Awaitable[object]]


class Layer:
    """Notes when a delivery goes through it."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self.said = said

    async def __call__(self, delivery: Delivery, proceed: Proceed) -> object:
        self.said.append(f"> {self.name}")
        value = await proceed()
        self.said.append(f"< {self.name}")
        return value


class Echo(Actor):
    settings = Settings(title="echo")

    @receive
    async def echo(self, message: str) -> str:
        if message == "publish":
            self.context.publish("elsewhere", "done", headers={"own": 1})
        return message


def echo_with(**settings: Any) -> type[Echo]:
    return type("Echo", (Echo,), {"settings": Settings(title="echo", **settings)})


async def test_the_middleware_of_the_system_is_outside_of_the_actors(mock_clock: trio.testing.MockClock):
    said: list[str] = []
    actor = echo_with(middleware=[Layer("inner 1", said), Layer("inner 2", said)])
    async with open_test_system(actor, middleware=[Layer("outer 1", said), Layer("outer 2", said)]) as system:
        assert await system.client.ref(actor).ask("x") == "x"
        layers = ["outer 1", "outer 2", "inner 1", "inner 2"]
        assert said == [*(f"> {name}" for name in layers), *(f"< {name}" for name in reversed(layers))]
        said.clear()
        assert await system.ref(actor).ask("x") == "x"
        assert said == [], "a local message is no delivery"


async def test_middleware_may_end_a_delivery(mock_clock: trio.testing.MockClock):
    async def refuse(delivery: Delivery, proceed: Proceed) -> object:
        if delivery.payload == b'"bad"':
            raise Reject("not here")
        return await proceed()

    async with open_test_system(Echo, middleware=[refuse]) as system:
        for message in ("bad", "good"):
            await system.client.ref(Echo).tell(message)
        await system.drain()
        assert [type(entry.settlement).__name__ for entry in system.broker.settled] == ["Reject", "Ack"]


def stamped(by: str) -> Callable[[Envelope], Envelope]:
    def stamp(envelope: Envelope) -> Envelope:
        stamps: Any = envelope.headers.get("stamps", [])
        return attrs.evolve(envelope, headers={**envelope.headers, "stamps": [*stamps, by]})

    return stamp


async def test_what_actors_publish_goes_through_the_systems_and_the_actors(mock_clock: trio.testing.MockClock):
    actor = echo_with(publish_middleware=[stamped("actor")])
    async with open_test_system(actor, publish_middleware=[stamped("system 1"), stamped("system 2")]) as system:
        await system.client.ref(actor).tell("publish")
        await system.drain()
        sent = system.assert_sent("elsewhere").envelope
        assert sent.headers == {"own": 1, "stamps": ["system 1", "system 2", "actor"]}
        assert system.assert_sent(actor).envelope.headers == {}, "the client has middleware of its own"


async def test_what_a_client_sends_goes_through_its_middleware(mock_clock: trio.testing.MockClock):
    broker = MemoryBroker()
    async with open_system(Echo, broker=broker), open_client(broker, middleware=[stamped("a"), stamped("b")]) as client:
        ref = client.ref(Echo)
        await ref.tell("1")
        await ref.tell("2", headers={"own": 1})
        await ref.tell_many(["3"])
        assert await ref.ask("4") == "4", "what makes an ask an ask stays"
        receipt = await ref.submit("5")
        assert await receipt.result() == "5"
        await client.publish("elsewhere", "6")
        assert [envelope.headers["stamps"] for envelope in broker.sent] == [["a", "b"]] * 6
        assert broker.sent[1].headers["own"] == 1


async def refused(client: Client) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        await client.ref(Echo).tell("x")
    return str(caught.value)


async def test_publish_middleware_may_refuse_and_must_keep_the_id():
    def no(envelope: Envelope) -> Envelope:
        raise ValueError("not that")

    def nothing(envelope: Envelope) -> Any:
        return None

    def another(envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, id="mine")

    broker = MemoryBroker()
    for layer, said in ((no, "not that"), (nothing, "returned None"), (another, "another one with its id")):
        async with open_client(broker, middleware=[layer]) as client:
            assert said in await refused(client)
    assert broker.sent == []


@pytest.mark.parametrize(
    "changes",
    [
        {"key": 5},
        {"key": "\ud800"},
        {"source": "a b"},
        {"priority": 1},
        {"delay": -1},
        {"expires": "soon"},
        {"unique": "Ann\ud800"},
        {"headers": {"a": 1j}},
        {"data": "text"},
    ],
    ids=ascii,
)
async def test_publish_middleware_may_return_only_what_a_broker_can_keep(changes: dict[str, Any]):
    def shaping(envelope: Envelope) -> Envelope:
        return attrs.evolve(envelope, **changes)

    broker = MemoryBroker()
    async with open_client(broker, middleware=[shaping]) as client:
        await refused(client)
    assert broker.sent == []


async def test_middleware_of_a_client_is_something_to_call():
    no_layers: Any = [5]
    with pytest.raises(SettingsError, match=r"middleware wants a list of callables of \(envelope\), got \(5,\)"):
        async with open_client(MemoryBroker(), middleware=no_layers):
            pass


async def test_an_error_of_publish_middleware_is_raised_where_the_actor_publishes(mock_clock: trio.testing.MockClock):
    def no(envelope: Envelope) -> Envelope:
        raise ValueError("not that")

    async with open_test_system(Echo, publish_middleware=[no]) as system:
        await system.client.ref(Echo).tell("publish")
        await system.drain()
        (letter,) = system.dead_letters
        assert letter.failure.reason == "not that"


def of_none() -> None: ...


def of_three(one: object, two: object, three: object) -> None: ...


@pytest.mark.parametrize("layers", [3, ["x"], [None], stamped("a"), [Layer], [of_none], [of_three]])
@pytest.mark.parametrize("where", ["middleware", "publish_middleware"])
async def test_what_is_no_middleware_is_refused(where: str, layers: Any):
    options: dict[str, Any] = {where: layers}
    with pytest.raises(SettingsError, match=f"{where} wants a list of callables"):
        async with open_system(Echo, broker=MemoryBroker(), **options):
            raise AssertionError("it must not come to this")
    with pytest.raises(SettingsError, match=f"Settings.{where} wants a list of callables"):
        Settings(title="it", **options)


# ---- the end of a handler's time ----


class Slow(Actor):
    settings = Settings(title="slow")

    @receive
    async def do(self, *, how: str) -> str:
        try:
            await trio.sleep(9)
        except trio.Cancelled:
            if how == "swallow":
                return how
            if how == "turn":
                raise ValueError(how) from None
            raise
        return how


class Many(Actor):
    settings = Settings(title="slow")

    @receive(batch=2)
    async def do(self, messages: list[str]) -> None:
        await trio.sleep(9)


@pytest.mark.parametrize("message", [{"how": "wait"}, {"how": "swallow"}, {"how": "turn"}, "batch"])
async def test_middleware_can_tell_a_timeout_from_a_shutdown(message: Any, mock_clock: trio.testing.MockClock):
    seen: list[tuple[str, str]] = []

    def layer(name: str) -> Any:
        async def note(delivery: Delivery, proceed: Proceed) -> object:
            try:
                return await proceed()
            except BaseException as error:
                seen.append((name, type(error).__name__))
                raise

        return note

    settings = Settings(title="slow", execution_timeout=1, middleware=[layer("outer"), layer("inner")])
    base = Many if message == "batch" else Slow
    actor: type[Any] = type("Actor", (base,), {"settings": settings})
    broker = FakeBroker()
    async with open_system(actor, broker=broker):
        broker.put(actor, message, id="late")
        if message == "batch":
            broker.put(actor, message, id="other")
        await broker.wait_settled()
        assert failed(broker.settlement("late")) == (
            "ExecutionTimeout",
            "the handler ran past its execution_timeout of 1 s",
        )
        assert set(seen) == {("inner", "ExecutionTimeout"), ("outer", "ExecutionTimeout")}


async def test_at_a_shutdown_middleware_sees_the_cancellation(mock_clock: trio.testing.MockClock):
    seen: list[BaseException] = []

    async def note(delivery: Delivery, proceed: Proceed) -> object:
        try:
            return await proceed()
        except BaseException as error:
            seen.append(error)
            raise

    actor: type[Any] = type("Actor", (Slow,), {"settings": Settings(title="slow", middleware=[note])})
    broker = FakeBroker()
    async with open_system(actor, broker=broker, grace=2):
        broker.put(actor, {"how": "wait"}, id="cut off")
        await trio.testing.wait_all_tasks_blocked()
    assert [type(error) for error in seen] == [trio.Cancelled]
    assert broker.settled == []
