"""What an actor is given: its logger, the parameters that the runtime fills in, targets to publish to."""

import asyncio
import io
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    BrokerError,
    Fail,
    MessageFailed,
    MessageRefused,
    NotRunning,
    Settings,
    SettingsError,
    events,
    open_client,
    open_system,
    receive,
)
from actorwork.actors.handlers.table import table_of
from actorwork.message import Delivery, Envelope
from actorwork.policy import settlement as policy
from actorwork.policy.settlement import Ack
from actorwork.telemetry.formatting import TextFormatter
from tests.doubles import FakeBroker, Kept
from tests.patience import PATIENCE


async def test_the_logger_names_the_actor_and_the_message_in_hand(caplog: pytest.LogCaptureFixture):
    class Talker(Actor):
        settings = Settings(title="talker")

        async def startup(self) -> None:
            self.context.log.info("up")

        @receive
        async def talk(self, *, n: int) -> None:
            self.context.log.info("number %d", n, extra={"mine": 7})

    broker = FakeBroker()
    with caplog.at_level(logging.INFO, "actorwork.actor"):
        async with open_system(Talker, broker=broker):
            broker.put(Talker, {"n": 4}, id="it")
            await broker.wait_settled()
    up, number = (vars(record) for record in caplog.records)
    assert (up["actor"], up["actor_id"]) == ("talker", Talker.settings.id)
    assert "message_id" not in up
    assert (number["message"], number["mine"]) == ("number 4", 7)
    assert (number["message_id"], number["attempt"], number["source"]) == ("it", 1, Talker.settings.default_source)


async def test_a_handler_is_given_the_nominal_time_only_where_a_trigger_sent_the_message():
    seen: list[Any] = []

    class Nightly(Actor):
        settings = Settings(title="nightly")

        @receive
        async def run(self, *, kind: str, time_point: str | None, trigger_id: str | None) -> None:
            seen.append((kind, time_point, trigger_id))

    broker = FakeBroker()
    headers = {"actorwork-time-point": "2025-11-20T03:00:00Z", "actorwork-trigger-id": "ab"}
    async with open_system(Nightly, broker=broker):
        broker.put(Nightly, {"kind": "by hand"})
        broker.put(Nightly, {"kind": "by time"}, headers=headers)
        await broker.wait_settled(2)
    assert seen == [("by hand", None, None), ("by time", "2025-11-20T03:00:00Z", "ab")]


async def test_a_thread_handler_passes_through_middleware():
    said: list[str] = []

    async def around(delivery: Delivery, proceed: Callable[[], Awaitable[object]]) -> object:
        said.append("before")
        result = await proceed()
        said.append("after")
        return result

    class Threaded(Actor):
        settings = Settings(title="threaded", middleware=[around])

        @receive
        def work(self, *, n: int) -> None:
            said.append("work")

    broker = FakeBroker()
    async with open_system(Threaded, broker=broker):
        broker.put(Threaded, {"n": 1}, id="it")
        await broker.wait_settled()
    assert said == ["before", "work", "after"]
    assert broker.settlement("it") == Ack()


async def test_a_durable_ref_can_be_published_to():
    class Target(Actor):
        settings = Settings(title="target")

        @receive
        async def take(self, *, n: int) -> None: ...

    class Source(Actor):
        settings = Settings(title="source")

        @receive
        async def work(self, *, n: int) -> None:
            for target in (refs[0], Target, "target"):
                self.context.publish(target, {"n": n})
            with pytest.raises(MessageRefused, match="Target takes a JSON object"):
                self.context.publish(Target, 5)

    refs: list[Any] = []
    broker = FakeBroker()
    async with open_client("sqlite://") as client:
        refs.append(client.ref(Target))
    async with open_system(Source, broker=broker):
        broker.put(Source, {"n": 1}, id="it")
        await broker.wait_settled()
    own = Target.settings.default_source
    assert [envelope.source for envelope in broker.published("it")] == [own, own, "target"]


async def test_a_handler_can_take_null_and_no_parameters_at_all():
    class Nothing(Actor):
        settings = Settings(title="nothing")

        @receive
        async def null(self, message: None) -> str:
            return "null"

        @receive
        async def empty(self) -> str:
            return "empty"

    async with open_system(Nothing, broker=FakeBroker()) as system:
        assert await system.ref(Nothing).ask(None) == "null"
        assert await system.ref(Nothing).ask({}) == "empty"


def test_a_parameter_that_no_json_can_be_is_refused():
    async def take(self: Any, *, when: trio.Event) -> None: ...

    with pytest.raises(SettingsError, match=r"handler Made.take: parameter 'when': Event cannot be read from JSON"):
        table_of(type("Made", (Actor,), {"take": receive(take)}))


async def test_a_broker_that_fails_while_deliveries_are_handed_back_does_not_break_the_stop(
    mock_clock: trio.testing.MockClock,
):
    class Slow(Actor):
        settings = Settings(title="slow")

        @receive
        async def take(self, *, n: int) -> None:
            await trio.sleep(1)

    broker, kept = FakeBroker(), Kept()
    async with open_system(Slow, broker=broker, emit=kept):
        assert broker.node is not None

        async def fail(*_: object, **__: object) -> None:
            raise BrokerError("the disk is full")

        broker.node.release_deliveries = fail  # type: ignore[method-assign]
        for n in range(3):
            broker.put(Slow, {"n": n})
        await trio.sleep(0.5)
    (trouble, *_) = kept.of(events.BrokerTrouble)
    assert (trouble.doing, trouble.error) == ("handing back", "the disk is full")
    assert len(kept.of(events.NodeStopped)) == 1


# ---- sending at once ----


def stamped(envelope: Envelope) -> Envelope:
    return attrs.evolve(envelope, headers={**envelope.headers, "tenant": "acme"})


class Adder(Actor):
    settings = Settings(title="adder")

    @receive
    async def add(self, *, a: int, b: int) -> int:
        return a + b


class Asker(Actor):
    """Asks another actor through the broker, in hooks and in a handler that fails."""

    settings = Settings(title="asker", publish_middleware=[stamped])
    said: ClassVar[list[object]] = []

    async def startup(self) -> None:
        await self.context.client.publish("log", {"what": "up"})

    async def shutdown(self) -> None:
        await self.context.client.publish("log", {"what": "down"})

    @receive
    async def do(self, *, what: str) -> None:
        client = self.context.client
        assert client is self.context.client
        self.said.append(await client.ref(Adder).ask({"a": 1, "b": 2}, timeout=5))
        receipt = await client.ref(Adder).submit({"a": 3, "b": 4})
        self.said.append(await receipt.result(timeout=5))
        await client.publish("log", {"what": what})
        self.context.publish("log", {"what": "only with the settlement"})
        raise Fail(what)


@pytest.mark.parametrize("kind", ["memory", "embedded", "redis"])
async def test_an_actor_sends_at_once_by_the_client_of_its_context(kind: str, redis_url: str, tmp_path: Path) -> None:
    Asker.said.clear()
    broker = {"memory": FakeBroker(), "embedded": f"sqlite:///{tmp_path}/db.sqlite3", "redis": redis_url}[kind]
    kept = Kept()
    seen: list[tuple[Any, Any]] = []
    last, down = trio.Event(), trio.Event()

    class Log(Actor):
        settings = Settings(title="log", sources={"log"})

        @receive
        async def note(self, *, what: str) -> None:
            seen.append((what, self.context.delivery.headers.get("tenant")))
            last.set() if what == "it" else down.set() if what == "down" else None

    with trio.fail_after(PATIENCE):
        async with open_system([Log, Adder, Asker], broker=broker, emit=kept) as system:
            async with open_client(system.broker) as client:
                with pytest.raises(MessageFailed, match="Fail: it"):
                    await client.ref(Asker).ask({"what": "it"})
            await last.wait()
        assert Asker.said == [3, 7]
        async with open_system([Log], broker=broker):
            await down.wait()
    assert seen == [("up", "acme"), ("it", "acme"), ("down", "acme")]


# ---- what people try first ----


async def use_client() -> None:
    async with open_client("sqlite://") as client:
        await client.publish("log", {})


async def use_system() -> None:
    async with open_system(Adder, broker="sqlite://"):
        pass


@pytest.mark.parametrize(
    ("use", "instead"), [(use_client, r"actorwork\.aio\.open_client"), (use_system, r"actorwork\.SystemThread")]
)
def test_under_asyncio_the_error_says_what_to_do(use: Callable[[], Coroutine[Any, Any, None]], instead: str):
    with pytest.raises(NotRunning, match=f"open_(client|system) runs on Trio: .*{instead}"):
        asyncio.run(use())


async def test_a_handler_that_calls_asyncio_is_told_what_to_do_instead():
    class Stranger(Actor):
        settings = Settings(title="stranger")

        @receive
        async def do(self, *, is_group: bool) -> None:
            if not is_group:
                await asyncio.sleep(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asyncio.sleep, 1)

    broker = FakeBroker()
    async with open_system(Stranger, broker=broker) as system:
        for is_group in (False, True):
            broker.put(Stranger, {"is_group": is_group}, id=f"{is_group}")
            await broker.wait_settled(1 + is_group)
            settlement = broker.settlement(f"{is_group}")
            assert isinstance(settlement, policy.Fail)
            assert "Handlers run on Trio, where asyncio's functions do not work" in settlement.failure.traceback
            with pytest.raises(ActorCrashed) as caught:
                await system.ref(Stranger).ask({"is_group": is_group})
            assert "Use Trio's (trio.sleep" in "".join(traceback.format_exception(caught.value))


async def test_in_text_a_line_of_the_actor_names_the_actor_and_the_message():
    class Talker(Actor):
        settings = Settings(title="telegram")

        async def startup(self) -> None:
            self.context.log.info("up")

        @receive
        async def talk(self, message: str) -> None:
            self.context.log.info("sending %s", message)

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    logger = logging.getLogger("actorwork.actor")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        broker = FakeBroker()
        async with open_system(Talker, broker=broker) as system:
            broker.put(Talker, "a", id="it")
            await broker.wait_settled()
            await system.ref(Talker).ask("b\nc")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    lines = [line.partition(": ")[2] for line in stream.getvalue().splitlines() if not line.startswith(" ")]
    assert lines == [
        "up [actor=telegram]",
        "sending a [actor=telegram message=it attempt=1]",
        "sending b",
    ]
    assert stream.getvalue().endswith("\n  c [actor=telegram message=str]\n")
