"""Sentry: what is captured and what is not, in which scope, and what travels with a message."""

import subprocess
import sys
from collections.abc import Generator
from typing import Any, cast

import pytest
import sentry_sdk
import trio
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from actorwork import (
    Actor,
    Child,
    Fail,
    Reject,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    open_client,
    receive,
)
from actorwork.telemetry.sentry import Sentry, sending
from actorwork.testing import open_test_system
from actorwork.testing.memory import MemoryBroker
from actorwork.workflows import step


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [cast("dict[str, Any]", event) for one in self.envelopes if (event := one.get_event()) is not None]

    @property
    def transactions(self) -> list[dict[str, Any]]:
        found = (one.get_transaction_event() for one in self.envelopes)
        return [cast("dict[str, Any]", event) for event in found if event is not None]


def configure(kept: Kept, **options: Any) -> Sentry:
    def init() -> None:
        sentry_sdk.init(
            dsn="http://key@sentry.invalid/1",
            transport=kept,
            default_integrations=False,
            auto_enabling_integrations=False,
            auto_session_tracking=False,
            **options,
        )

    return Sentry(configure=init)


@pytest.fixture(autouse=True)
def _closed() -> Generator[None]:
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


class Trying(Actor):
    settings = Settings(title="trying", retry=RetryPolicy(attempts=3))

    @receive
    async def attempt(self, message: str) -> None:
        sentry_sdk.set_tag("own", message)
        sentry_sdk.add_breadcrumb(message=f"handling {message}")
        match message:
            case "reject":
                raise Reject("not wanted")
            case "fail":
                raise Fail("never")
            case "verdict" if self.context.delivery.attempt == 1:
                raise Retry(0, "later")
            case "error":
                raise ValueError("no luck")
            case "hang":
                await trio.sleep(1000)
            case _:
                pass


async def test_a_message_that_fails_is_captured_once_with_its_scope(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=configure(kept)) as system:
        await system.client.ref(Trying).tell("fine")
        await system.client.ref(Trying).tell("error", id="m1")
        await system.drain(scheduled=True)
    (event,) = kept.events
    (raised,) = event["exception"]["values"]
    assert (raised["type"], raised["value"]) == ("ValueError", "no luck")
    assert raised["mechanism"] == {"type": "actorwork", "handled": False}
    assert event["transaction"] == "trying"
    assert {name: event["tags"][name] for name in ("actorwork.actor", "actorwork.attempt", "own")} == {
        "actorwork.actor": "trying",
        "actorwork.attempt": 3,
        "own": "error",
    }
    assert event["contexts"]["message"]["id"] == "m1"
    assert "payload" not in event["contexts"]["message"]
    crumbs = [crumb["message"] for crumb in event["breadcrumbs"]["values"]]
    assert crumbs == [
        "handling error",
        "attempt 1 of message m1: ValueError",
        "attempt 2 of message m1: ValueError",
    ]


async def test_verdicts_and_a_shutdown_are_not_captured(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=configure(kept), grace=1) as system:
        for message in ("reject", "verdict"):
            await system.client.ref(Trying).tell(message)
        await system.drain(scheduled=True)
        await system.client.ref(Trying).tell("hang")
        await trio.testing.wait_all_tasks_blocked()
    assert not kept.events


async def test_a_failure_by_verdict_is_captured(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=configure(kept)) as system:
        await system.client.ref(Trying).tell("fail")
        await system.drain()
    (event,) = kept.events
    assert event["exception"]["values"][0]["type"] == "Fail"


async def test_a_message_that_cannot_be_read_is_captured(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Trying, telemetry=configure(kept)) as system:
        await system.client.publish(Trying.settings.default_source, 7, id="m2")
        await system.drain()
    (event,) = kept.events
    assert event["contexts"]["message"]["id"] == "m2"


@pytest.mark.filterwarnings("ignore:The send_default_pii option is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "options", [{"send_default_pii": True}, {"data_collection": {"queues": True}}], ids=["older", "newer"]
)
async def test_payloads_are_sent_where_that_is_allowed(mock_clock: trio.testing.MockClock, options: dict[str, Any]):
    kept = Kept()
    async with open_test_system(Trying, telemetry=configure(kept, **options)) as system:
        await system.client.ref(Trying).tell("fail")
        await system.drain()
    assert kept.events[0]["contexts"]["message"]["payload"] == "fail"


class Crashing(Actor):
    settings = Settings(title="crashing", on_failure="restart")

    @receive
    async def handle(self, message: str) -> None:
        raise OSError("no disk")

    @receive
    async def handle_locally(self, message: int) -> None:
        raise LookupError("no such thing")


async def test_a_failure_that_is_a_crash_too_is_captured_once(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Crashing, telemetry=configure(kept)) as system:
        await system.client.ref(Crashing).tell("x")
        await system.drain()
    assert [event["exception"]["values"][0]["type"] for event in kept.events] == ["OSError"]


async def test_the_crash_of_an_actor_by_a_local_message_is_captured(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Crashing, telemetry=configure(kept)) as system:
        await system.ref(Crashing).tell(1)
        await system.drain()
    (event,) = kept.events
    assert event["exception"]["values"][-1]["type"] == "LookupError"
    assert event["tags"] == {"actorwork.actor": "crashing"}


class Batching(Actor):
    settings = Settings(title="batching")

    @receive(batch=2, within=1)
    async def handle(self, messages: list[str]) -> list[Any]:
        return [ValueError(message) if message == "bad" else None for message in messages]


async def test_the_failed_message_of_a_batch_is_captured(mock_clock: trio.testing.MockClock):
    kept = Kept()
    async with open_test_system(Batching, telemetry=configure(kept)) as system:
        for message in ("good", "bad"):
            await system.client.ref(Batching).tell(message)
        await system.drain()
    (event,) = kept.events
    assert event["exception"]["values"][0]["value"] == "bad"
    assert event["contexts"]["batch"]["size"] == 2


class Passing(Actor):
    settings = Settings(title="passing")

    @receive
    async def passed(self, message: str) -> None:
        self.context.publish("published", message)


@pytest.mark.parametrize("flag", ["1", "0"])
async def test_a_trace_leads_from_the_sender_to_what_a_handler_sends(mock_clock: trio.testing.MockClock, flag: str):
    kept, trace = Kept(), "771a43a4192642f0b136d5159a501700"
    headers = {"sentry-trace": f"{trace}-8dc83f0b09a64a34-{flag}"}
    async with open_test_system(Passing, telemetry=configure(kept, traces_sample_rate=1.0)) as system:
        await system.client.ref(Passing).tell("x", id="m3", headers=headers)
        await system.drain()
        (sent,) = system.sent("published")
    assert str(sent.envelope.headers["sentry-trace"]).startswith(f"{trace}-")
    found = [(one["transaction"], one["contexts"]["trace"]["trace_id"]) for one in kept.transactions]
    assert found == ([("passing", trace)] if flag == "1" else [])
    if flag == "1":
        context = kept.transactions[0]["contexts"]["trace"]
        assert (context["op"], context["status"]) == ("queue.process", "ok")
        assert context["data"]["messaging.message.id"] == "m3"


async def test_without_tracing_the_trace_of_a_message_goes_on(mock_clock: trio.testing.MockClock):
    kept, trace = Kept(), "771a43a4192642f0b136d5159a501700"
    async with open_test_system([Passing, Trying], telemetry=configure(kept)) as system:
        headers = {"sentry-trace": f"{trace}-8dc83f0b09a64a34-1"}
        await system.client.ref(Passing).tell("x", headers=headers)
        await system.client.ref(Trying).tell("fail", headers=headers)
        await system.drain()
        (sent,) = system.sent("published")
    assert str(sent.envelope.headers["sentry-trace"]).startswith(f"{trace}-")
    assert kept.events[0]["contexts"]["trace"]["trace_id"] == trace


async def test_a_client_sends_its_trace_and_overwrites_none(mock_clock: trio.testing.MockClock):
    configure(Kept()).open("")
    broker = MemoryBroker()
    async with open_client(broker, middleware=[sending()]) as client:
        with sentry_sdk.continue_trace({"sentry-trace": "771a43a4192642f0b136d5159a501700-8dc83f0b09a64a34-1"}):
            pass
        await client.publish("orders", "first")
        await client.publish("orders", "second", headers={"sentry-trace": "own"})
        await client.start(step("orders", "third"))
    first, second, third = (one.headers for one in broker.sent)
    assert sentry_sdk.get_traceparent() == first["sentry-trace"]
    assert "sentry-trace_id=" in str(first["baggage"])
    assert dict(second) == {"sentry-trace": "own"}
    assert third["sentry-trace"] == first["sentry-trace"]


async def test_without_a_client_of_sentry_nothing_happens(mock_clock: trio.testing.MockClock):
    async with open_test_system(Child(Trying), telemetry=Sentry()) as system:
        await system.client.ref(Trying).tell("fail")
        await system.drain()
        assert len(system.dead_letters) == 1


def test_the_options_are_checked():
    with pytest.raises(SettingsError, match=r"wants a function that calls sentry_sdk.init"):
        Sentry(configure=cast("Any", "init"))


def test_without_the_package_the_extra_is_named():
    code = "import sys; sys.modules['sentry_sdk'] = None; import actorwork.telemetry.sentry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "actorwork[sentry]"' in done.stderr
