"""What a client promises, against actors that run at either broker."""

import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorwork import codec, errors
from actorwork.abc import Broker
from actorwork.actors.actor import Actor
from actorwork.actors.functions import actor
from actorwork.actors.handlers.table import receive
from actorwork.brokers import open_broker
from actorwork.clients import Client, open_client
from actorwork.clients.lazy_broker import LazyBroker
from actorwork.clients.on_trio import TrioDriver
from actorwork.clients.refs import declared_reply
from actorwork.clients.sender import Sender
from actorwork.errors import AskTimeout, BrokerError, CodecError, MessageFailed, MessageRefused, NotRunning
from actorwork.message import Message
from actorwork.runtime.system import open_system
from actorwork.settings import Settings
from actorwork.testing import MemoryBroker
from tests.patience import PATIENCE


@attrs.frozen
class Greet(Message["Greeter", str]):
    name: str


@attrs.frozen
class Point:
    x: int
    y: int


@attrs.frozen
class Mirror(Message["Greeter", Point]):
    point: Point


@attrs.frozen
class Foreign(Message["Somebody", str]):
    name: str


class Somebody(Actor):
    settings = Settings(title="somebody")


class Greeter(Actor):
    settings = Settings(title="greeter", sources={"greetings"}, concurrency=10)
    seen: list[str]
    headers: list[dict[str, Any]]

    @receive
    async def greet(self, message: Greet) -> str:
        self.seen.append(message.name)
        self.headers.append(dict(self.context.delivery.headers) if self.context.delivery else {})
        match message.name:
            case "nobody":
                raise ValueError("there is nobody")
            case "stranger":
                raise errors.Reject("not invited")
            case "sleeper":
                await trio.sleep_forever()
            case _:
                pass
        return f"Hello {message.name}"

    @receive
    async def mirror(self, message: Mirror) -> Point:
        return Point(message.point.y, message.point.x)

    @receive
    async def sloppy(self, *, times: int) -> int:
        text: Any = "no number" if times == 0 else times
        return text


@actor(title="turned")
async def turned(point: Point) -> Point:
    return Point(point.y, point.x)


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Greeter.seen = []
    Greeter.headers = []


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    return "sqlite://" if request.param == "embedded" else request.getfixturevalue("redis_url")


@asynccontextmanager
async def open_greeter(url: str, *, grace: float = 1.0) -> AsyncGenerator[Client]:
    async with (
        open_broker(url) as broker,
        open_system([Greeter], broker=broker, grace=grace),
        open_client(broker) as client,
    ):
        yield client


async def wait_seen(count: int) -> None:
    while len(Greeter.seen) < count:  # noqa: ASYNC110 - a message that is told tells nobody
        await trio.sleep(0.002)


async def test_what_is_told_is_handled(url: str):
    async with open_greeter(url) as client:
        await client.ref(Greeter).tell(Greet("Ann"))
        await wait_seen(1)
    assert Greeter.seen == ["Ann"]


async def test_a_closed_client_raises_what_those_on_asyncio_and_without_a_loop_raise(url: str):
    async with open_client(url) as client:
        greeter = client.ref(Greeter)
    with trio.fail_after(PATIENCE):
        for call in (greeter.tell(Greet("Ann")), greeter.ask(Greet("Ann"), timeout=1), client.run("one").result()):
            with pytest.raises(BrokerError, match="is closed"):
                await call


async def test_a_batch_is_handled_in_whole(url: str):
    async with open_greeter(url) as client:
        await client.ref(Greeter).tell_many(Greet(str(number)) for number in range(100))
        await wait_seen(100)
    assert sorted(Greeter.seen, key=int) == [str(number) for number in range(100)]


async def test_asking_returns_the_reply_of_the_handler(url: str):
    async with open_greeter(url) as client:
        assert await client.ref(Greeter).ask(Greet("Ann")) == "Hello Ann"


async def test_a_reply_is_structured_by_the_annotation_of_the_handler(url: str):
    async with open_greeter(url) as client:
        assert await client.ref(Greeter).ask(Mirror(Point(1, 2))) == Point(2, 1)


async def test_many_tasks_may_ask_at_once(url: str):
    replies: dict[str, str] = {}
    async with open_greeter(url) as client, trio.open_nursery() as nursery:
        greeter = client.ref(Greeter)

        async def ask(name: str) -> None:
            replies[name] = await greeter.ask(Greet(name))

        for number in range(50):
            nursery.start_soon(ask, str(number))
    assert replies == {str(number): f"Hello {number}" for number in range(50)}
    assert client.statistics() == {"sent": 50, "asked": 50}


async def test_the_error_of_the_far_side_comes_back(url: str):
    async with open_greeter(url) as client:
        with pytest.raises(
            MessageFailed, match=r"^'greeter' failed message [0-9a-f]{16}-0 \(ValueError: there is nobody\)$"
        ) as raised:
            await client.ref(Greeter).ask(Greet("nobody"))
    assert raised.value.type == "ValueError"
    assert raised.value.reason == "there is nobody"
    assert "raise ValueError" in raised.value.traceback


async def test_a_rejection_comes_back_as_one(url: str):
    async with open_greeter(url) as client:
        with pytest.raises(MessageFailed, match=r"rejected message .* \(Reject: not invited\)"):
            await client.ref(Greeter).ask(Greet("stranger"))


async def test_asking_is_over_when_the_time_is(url: str):
    async with open_greeter(url, grace=0.1) as client:
        with pytest.raises(
            AskTimeout, match=r"'greeter' within 0\.05 s; .* Does a node run with the actor 'greeter'\?"
        ):
            await client.ref(Greeter).ask(Greet("sleeper"), timeout=0.05)
        assert await client.ref(Greeter).ask(Greet("Ann"), timeout=PATIENCE) == "Hello Ann"


async def test_a_foreign_message_is_refused_before_it_is_sent(url: str):
    async with open_greeter(url) as client:
        greeter = client.ref(Greeter)
        foreign: Any = Foreign("Ann")
        for send in (greeter.tell, greeter.ask, greeter.submit):
            with pytest.raises(
                MessageRefused, match=r"Greeter takes Greet, Mirror, a JSON object \(times\); got Foreign"
            ):
                await send(foreign)
        with pytest.raises(MessageRefused):
            await greeter.tell_many([Greet("Ann"), foreign])
        assert client.statistics()["sent"] == 0


async def test_a_reply_that_is_not_what_the_handler_declares_says_so(url: str):
    async with open_greeter(url) as client:
        with pytest.raises(CodecError, match=r"the reply of 'greeter' to message .* wants a whole number"):
            await client.ref(Greeter).ask({"times": 0})
        assert await client.ref(Greeter).ask({"times": 3}) == 3


async def test_a_receipt_knows_how_it_stands_and_what_came_of_it(url: str):
    async with open_greeter(url) as client:
        receipt = await client.ref(Greeter).submit(Greet("Ann"))
        assert await receipt.result() == "Hello Ann"
        assert await receipt.result() == "Hello Ann"
        assert await receipt.status() == "SUCCESS"


async def test_the_status_of_a_receipt_is_not_waited_for_longer_than_asked(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    async def is_away(*_: object) -> None:
        await trio.sleep_forever()

    broker = MemoryBroker()
    async with open_client(broker) as client:
        receipt = await client.ref(Greeter).submit(Greet("Ann"))
        assert await receipt.status() == "PENDING"
        monkeypatch.setattr(broker.states, "find", is_away)
        mock_clock.autojump_threshold = 0
        began = trio.current_time()
        with pytest.raises(
            AskTimeout, match=r"the broker did not return the state of message .* within 5 s: is it reachable"
        ):
            await receipt.status(timeout="5s")
        assert trio.current_time() - began == 5


async def test_a_receipt_is_found_again_by_its_id(url: str):
    async with open_greeter(url) as client:
        submitted = await client.ref(Greeter).submit({"times": 4}, id="order-17")
        assert submitted.id == "order-17"
        async with open_client(client.broker) as another:
            assert await another.ref(Greeter).receipt("order-17").result() == 4


async def test_a_receipt_by_id_has_the_type_that_the_message_or_the_function_declares(url: str):
    async with (
        open_broker(url) as broker,
        open_system([Greeter, turned], broker=broker, grace=1),
        open_client(broker) as client,
    ):
        mirrored = await client.ref(Greeter).submit(Mirror(Point(1, 2)))
        called = await client.submit(turned, Point(3, 4))
        async with open_client(broker) as another:
            assert await another.receipt(mirrored.id, Mirror).result() == Point(2, 1)
            assert await another.ref(Greeter).receipt(mirrored.id, Mirror).result() == Point(2, 1)
            assert await another.receipt(mirrored.id).result() == {"x": 2, "y": 1}
            assert await another.receipt(called.id, turned).result() == Point(4, 3)
            with pytest.raises(TypeError, match=r"of: wanted the class of the message, .* got <class '.*\.Point'>"):
                another.receipt(mirrored.id, Point)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]


async def test_a_failed_receipt_raises_what_was_raised_there(url: str):
    async with open_greeter(url) as client:
        receipt = await client.ref(Greeter).submit(Greet("nobody"))
        with pytest.raises(MessageFailed, match="there is nobody"):
            await receipt.result()
        assert await receipt.status() == "FAILURE"


async def test_a_result_that_does_not_come_is_waited_for_no_longer_than_asked():
    async with open_broker("sqlite://") as broker, open_client(broker) as client:
        receipt = await client.ref(Greeter).submit(Greet("Ann"))
        assert await receipt.status() == "PENDING"
        with pytest.raises(
            AskTimeout,
            match=r"no outcome of message [0-9a-f]{16}-0 from 'greeter' within 0\.02 s.* with the actor 'greeter'\?",
        ):
            await receipt.result(timeout=0.02)


async def test_an_id_that_was_sent_before_is_kept_once(url: str):
    async with open_greeter(url) as client:
        greeter = client.ref(Greeter)
        await greeter.tell(Greet("Ann"), id="once")
        await greeter.tell(Greet("Ann"), id="once")
        await greeter.ask(Greet("Ben"))
        assert sorted(Greeter.seen) == ["Ann", "Ben"]


async def test_headers_travel_along(url: str):
    async with open_greeter(url) as client:
        await client.ref(Greeter).tell(Greet("Ann"), headers={"lang": "en", "depth": [1, {"of": None}]})
        await wait_seen(1)
    assert Greeter.headers == [{"lang": "en", "depth": [1, {"of": None}]}]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_message_may_be_held_back(url: str, at_once: bool):
    sent = time.monotonic()
    async with open_greeter(url) as client:
        greeter = client.ref(Greeter)
        if at_once:
            await greeter.tell(Greet("later"), delay=0.2)
        else:
            await greeter.tell(Greet("later"), at=datetime.now(UTC) + timedelta(seconds=0.2))
        await greeter.tell(Greet("now"))
        await wait_seen(2)
        assert time.monotonic() - sent > 0.19
    assert sorted(Greeter.seen) == ["later", "now"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"delay": -1}, "delay wants seconds from 0 to 3153600000 (a century), got -1"),
        ({"delay": 1, "at": 5.0}, "delay or at, not both"),
        ({"at": datetime(2026, 1, 1)}, "at wants a time with a timezone"),
        ({"at": float("nan")}, "at wants seconds since the epoch"),
        ({"headers": {"actorwork-attempt": 7}}, "belong to the runtime, got 'actorwork-attempt'"),
        ({"id": ""}, "id wants 1 to 300 characters, got 0"),
    ],
)
async def test_options_out_of_bounds_are_refused(options: dict[str, Any], complaint: str):
    async with open_broker("sqlite://") as broker, open_client(broker) as client:
        with pytest.raises(ValueError, match=re.escape(complaint)):
            await client.ref(Greeter).tell(Greet("Ann"), **options)
        assert client.statistics()["sent"] == 0


async def test_options_of_a_batch_hold_for_each_of_its_messages(url: str):
    async with open_broker(url) as broker, open_client(broker) as client:
        greeter = client.ref(Greeter)
        await greeter.tell_many([Greet("Ann"), Greet("Ben")], delay=60)
        assert [b"Ann" in held.payload for held in await broker.delayed.list(greeter.source)] == [True, False]
        with pytest.raises(ValueError, match="tell_many takes no id="):
            await greeter.tell_many([Greet("Ann"), Greet("Ben")], id="both")


async def test_an_actor_of_another_program_is_found_by_its_title(url: str):
    async with open_greeter(url) as client:
        greeter = client.ref("greeter")
        assert greeter.source == Greeter.settings.default_source
        assert await greeter.ask({"times": 2}) == 2
        assert await greeter.ask(Greet("Ann")) == "Hello Ann"
        assert await greeter.ask(Mirror(Point(1, 2))) == Point(2, 1)


def test_a_reply_is_declared_by_the_base_of_the_message():
    @attrs.frozen
    class Louder(Mirror):
        pass

    assert declared_reply(Greet) is str
    assert declared_reply(Louder) is Point
    assert declared_reply(Point) is Any
    assert declared_reply(dict) is Any


async def test_any_source_can_be_published_to(url: str):
    async with open_greeter(url) as client:
        message_id = await client.publish("greetings", Greet("Ann"))
        assert re.fullmatch(r"[0-9a-f]{16}-0", message_id)
        await wait_seen(1)
        with pytest.raises(ValueError, match="a source wants 1 to 300 characters"):
            await client.publish("greetings!", Greet("Ann"))


async def test_what_json_cannot_hold_is_refused_before_it_is_sent(url: str):
    async with open_greeter(url) as client:
        with pytest.raises(CodecError):
            await client.publish("greetings", {"set": {1, 2}, "nan": float("nan")})


async def test_what_is_no_actor_has_no_ref():
    async with open_client("sqlite://") as client:
        nothing: Any
        for nothing in (5, "", None):
            with pytest.raises(TypeError, match="an actor is named by its class or its title, got "):
                client.ref(nothing)


async def test_every_client_makes_ids_of_its_own():
    async with open_broker("sqlite://") as broker, open_client(broker) as one, open_client(broker) as two:
        assert await one.publish("a", 1) != await two.publish("a", 1)
        assert await broker.backlog("a") == 2


async def test_the_callers_own_error_comes_out_as_it_is(url: str):
    error = LookupError("mine")
    with pytest.raises(LookupError) as raised:
        async with open_greeter(url) as client:
            await client.ref(Greeter).ask(Greet("Ann"))
            raise error
    assert raised.value is error


async def test_a_cancellation_goes_through_a_client(url: str):
    with trio.move_on_after(0.05) as scope:
        async with open_greeter(url, grace=0.1) as client:
            await client.ref(Greeter).ask(Greet("sleeper"))
    assert scope.cancelled_caught


async def test_a_client_of_an_open_broker_leaves_it_open():
    async with open_broker("sqlite://") as broker:
        async with open_client(broker):
            pass
        assert await broker.backlog("a") == 0


async def test_a_client_opens_a_broker_by_its_url(tmp_path: Any):
    url = f"sqlite:///{tmp_path}/messages.db"
    async with open_client(url) as client:
        await client.publish("a", {"x": 1})
        assert repr(client).endswith(f" of {client.broker.url}>")
    async with open_broker(url) as broker:
        assert await broker.backlog("a") == 1


async def test_replies_are_opened_for_those_who_ask_alone():
    opened: list[int] = []

    async with open_broker("sqlite://") as inner:

        class Counting:
            url = inner.url

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def open_replies(self) -> Any:
                opened.append(1)
                return inner.open_replies()

        counting: Any = Counting()
        broker: Broker = counting
        async with open_system([Greeter], broker=broker, grace=1), open_client(broker) as client:
            await client.ref(Greeter).tell(Greet("Ann"))
            assert not opened
            await client.ref(Greeter).ask(Greet("Ann"))
            await client.ref(Greeter).ask(Greet("Ann"))
        assert len(opened) == 1


async def test_a_first_ask_that_is_cancelled_while_it_connects_does_not_spoil_the_second():
    async with open_broker("sqlite://") as inner:
        slow = [True]

        class Hesitating:
            url = inner.url

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            @asynccontextmanager
            async def open_replies(self) -> AsyncGenerator[Any]:
                if slow:
                    slow.pop()
                    await trio.sleep_forever()
                async with inner.open_replies() as replies:
                    yield replies

        hesitating: Any = Hesitating()
        async with open_system([Greeter], broker=inner, grace=1), open_client(hesitating) as client:
            with pytest.raises(AskTimeout):
                await client.ref(Greeter).ask(Greet("Ann"), timeout=0.02)
            assert await client.ref(Greeter).ask(Greet("Ann"), timeout=PATIENCE) == "Hello Ann"
    assert Greeter.seen == ["Ann"]


async def test_an_envelope_that_is_sent_again_is_kept_once(url: str):
    async with open_broker(url) as broker, trio.open_nursery() as nursery:
        lazy = LazyBroker("")
        lazy.arrived(broker)
        sender = Sender(lazy, TrioDriver(lazy, nursery))
        for _ in range(3):
            first, second = sender.envelope("orders", "one"), sender.envelope("orders", "other")
            for envelope in (first, second, second, first):
                await sender.send_one(envelope)
        assert await broker.backlog("orders") == 6


async def test_a_message_is_json_on_the_wire_with_its_types_name():
    kept: list[Sequence[Any]] = []

    class Keeping:
        url = "nowhere"

        async def publish(self, envelopes: Sequence[Any]) -> int:
            kept.append(envelopes)
            return len(envelopes)

    keeping: Any = Keeping()
    async with open_client(keeping) as client:
        await client.ref(Greeter).tell_many([Greet("Ann"), {"times": 1}])
    assert [[(sent.type, codec.loads(sent.data)) for sent in batch] for batch in kept] == [
        [("Greet", {"name": "Ann"}), (None, {"times": 1})]
    ]


async def test_a_client_is_refused_in_another_run_than_its_own(url: str):
    async with open_client(url) as client:

        async def tell() -> None:
            with trio.fail_after(PATIENCE):
                await client.publish("orders", {"x": 1})

        with pytest.raises(NotRunning, match=r"was opened in another trio\.run: open a client in each"):
            await trio.to_thread.run_sync(trio.run, tell)
        await tell()
        assert (await client.purge("orders")).dropped == 1
