"""Clients pause, resume, and run triggers."""

from datetime import UTC, datetime
from typing import Any

import pytest
from trio.testing import MockClock

from actorwork import Actor, Interval, Pause, Settings, Trigger, receive
from actorwork.testing import advance, open_test_system


class Clock(Actor):
    settings = Settings(
        title="clock",
        sources={"ticks"},
        triggers=[Trigger(title="regular", schedule=Interval(hours=1), kwargs={"kind": "timed"})],
    )
    seen: list[Any]

    @receive
    async def tick(self, *, kind: str, time_point: datetime | None = None, trigger_id: str = "") -> None:
        self.seen.append((kind, time_point, trigger_id))


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Clock.seen = []


async def test_a_client_pauses_and_resumes(mock_clock: MockClock):
    async with open_test_system(Clock) as system:
        client = system.client
        await client.pause(actor=Clock, reason="stock-taking")
        await advance(0.1)
        await client.pause(source="ticks")
        await advance(0.1)
        await client.pause()
        await advance(0.1)
        await client.pause(actor="clock", trigger="regular")
        await advance(0.1)
        await client.pause(actor="clock", triggers=True)
        await advance(0.1)
        await client.pause(node="box-7")
        await advance(0.1)
        await client.pause(process="thumbnails")
        found = await client.paused()
        assert [(one.kind, one.name) for one in found] == [
            ("actor", "clock"),
            ("source", "ticks"),
            ("everything", ""),
            ("trigger", "clock/regular"),
            ("triggers", "clock"),
            ("node", "box-7"),
            ("process", "thumbnails"),
        ]
        assert isinstance(found[0], Pause)
        assert found[0].reason == "stock-taking"
        assert "@" in found[0].by
        await client.ref(Clock).tell({"kind": "sent"})
        await advance(7200)
        assert Clock.seen == []
        assert await client.resume(actor="clock", triggers=True)
        assert await client.resume(actor=Clock, trigger="regular")
        assert await client.resume()
        assert await client.resume(source="ticks")
        assert await client.resume(actor="clock")
        assert not await client.resume(actor=Clock)
        assert await client.resume(node="box-7")
        assert await client.resume(process="thumbnails")
        await system.drain()
    assert Clock.seen == [("sent", None, "")]


async def test_a_client_runs_a_trigger_now(mock_clock: MockClock):
    async with open_test_system(Clock) as system:
        await advance(1)
        (record,) = await system.client.triggers()
        assert (record.definition.actor, record.definition.title) == ("clock", "regular")
        before = datetime.now(UTC)
        message_id = await system.client.run_trigger(Clock, "regular")
        await system.drain()
        (sent,) = system.broker.sent
        assert sent.id == message_id
        ((kind, time_point, trigger_id),) = Clock.seen
        assert (kind, trigger_id) == ("timed", record.definition.id)
        assert abs((time_point - before).total_seconds()) < 60
        with pytest.raises(
            LookupError, match="no trigger 'x' of 'clock' at the broker; those of 'clock' are 'regular'"
        ):
            await system.client.run_trigger("clock", "x")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ({"source": "a", "actor": "b"}, "not both"),
        ({"trigger": "nightly"}, "needs the actor too"),
        ({"triggers": True}, "needs the actor too"),
        ({"source": "a b"}, "a source wants"),
        ({"actor": ""}, "an actor is named by its class or its title, got ''"),
        ({"actor": 5}, "an actor is named by its class or its title, got 5"),
        ({"node": ""}, "a pause of a node wants its name"),
        ({"node": "box", "process": "far"}, "one of them"),
        ({"process": "far", "triggers": True}, "one of them"),
        ({"node": "box", "source": "orders"}, "one of them"),
        ({"actor": Clock.settings, "triggers": True}, "an actor is named by its class or its title"),
    ],
)
async def test_what_cannot_be_paused_is_refused(what: dict[str, Any], text: str):
    async with open_test_system(Clock) as system:
        with pytest.raises((TypeError, ValueError), match=text):
            await system.client.pause(**what)
