"""Triggers that users put, change, reset and delete at the broker, while nodes run and while none does."""

from datetime import datetime
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from actorwork import (
    Actor,
    Cron,
    Interval,
    Settings,
    SettingsError,
    Trigger,
    TriggerRecord,
    open_client,
    open_system,
    receive,
)
from actorwork.embedded import triggers as embedded
from actorwork.events import TriggerChanged, TriggerFired
from actorwork.testing import MemoryBroker, advance, open_test_system
from actorwork.testing.conformance import PATIENCE
from actorwork.testing.memory.broker import EPOCH

MINUTE = 60.0


def actor_with(*triggers: Trigger) -> Any:
    """Return an actor that records the kinds of its messages and their nominal times, in seconds since the start."""

    class Cleaner(Actor):
        settings = Settings(title="cleaner", triggers=list(triggers))
        seen: ClassVar[list[tuple[str, float]]] = []

        @receive
        async def clean(self, *, kind: str = "light", time_point: datetime) -> None:
            self.seen.append((kind, time_point.timestamp() - EPOCH))

    return Cleaner


def every(seconds: float, title: str = "regular", **more: Any) -> Trigger:
    return Trigger(title=title, schedule=Interval(seconds=seconds), **more)


async def record(client: Any) -> TriggerRecord:
    (found,) = await client.triggers()
    return found


async def test_a_trigger_that_is_put_fires_on_nodes_that_run_and_each_time_once(mock_clock: MockClock):
    actor = actor_with()
    broker = MemoryBroker()
    async with (
        open_test_system(actor, broker=broker) as one,
        open_test_system(actor, broker=broker) as two,
    ):
        await advance(1)
        put = await one.client.triggers.put("cleaner", every(MINUTE, kwargs={"kind": "full"}), reason="a test")
        assert (put.is_put, put.is_declared, put.is_on) == (True, False, True)
        await advance(3 * MINUTE)
        assert actor.seen == [("full", 1 + n * MINUTE) for n in (1, 2, 3)]
        assert len([*one.of(TriggerFired), *two.of(TriggerFired)]) == 3
        assert [event.action for event in (*one.of(TriggerChanged), *two.of(TriggerChanged))] == ["put", "put"]
        await two.client.triggers.delete(actor, "regular")
        await advance(3 * MINUTE)
        assert len(actor.seen) == 3
        assert [event.action for event in one.of(TriggerChanged)] == ["put", "deleted"]
        audit = await broker.audit.list()
    assert [(one.action, one.outcome, one.reason) for one in audit] == [
        ("delete_trigger", "done", ""),
        ("put_trigger", "done", "a test"),
    ]
    assert audit[1].what == (
        "cleaner/regular: schedule {\"every\": 60.0}, message, description '', catchup 'all', catchup_window 86400.0,"
        " overlap 'allow', jitter 0.0, lifetime None"
    )


@pytest.mark.parametrize("declared", [True, False])
async def test_a_trigger_that_is_put_outlasts_all_nodes_and_catches_up(mock_clock: MockClock, *, declared: bool):
    actor = actor_with(every(1e6, "rare")) if declared else actor_with()
    broker = MemoryBroker()
    async with open_test_system(actor, broker=broker) as system:
        await system.client.triggers.put(actor, every(MINUTE))
        await system.client.triggers.put(actor, every(MINUTE, "late", kwargs={"kind": "late"}, catchup="skip"))
        await system.client.triggers.put(actor, every(MINUTE, "brief", kwargs={"kind": "brief"}, lifetime=150))
    await advance(3.5 * MINUTE)
    async with open_test_system(actor, broker=broker):
        await advance(MINUTE)
    assert [nominal for kind, nominal in actor.seen if kind == "light"] == [60, 120, 180, 240]
    assert [nominal for kind, nominal in actor.seen if kind == "late"] == [240]
    assert [nominal for kind, nominal in actor.seen if kind == "brief"] == [60, 120]


async def test_a_declared_trigger_is_changed_and_reset(mock_clock: MockClock):
    actor = actor_with(every(MINUTE, kwargs={"kind": "full"}))
    async with open_test_system(actor) as system:
        triggers = system.client.triggers
        await advance(1.5 * MINUTE)
        await triggers.change("cleaner", "regular", kwargs={"kind": "odd"})
        await advance(MINUTE)
        await triggers.change(actor, "regular", schedule=Interval(seconds=20), reason="faster")
        await advance(30)
        assert actor.seen == [("full", 60), ("odd", 120), ("odd", 160), ("odd", 180)]
        changed = await record(system.client)
        assert changed.changes is not None
        assert (changed.is_declared, changed.is_put, changed.changes.parts) == (True, False, ("schedule", "message"))
        assert (changed.changes.reason, changed.changes.at) == ("faster", pytest.approx(EPOCH + 150, abs=0.1))
        assert "@" in changed.changes.by
        assert changed.code is not None
        assert (changed.code.data, changed.definition.data) == (b'{"kind":"full"}', b'{"kind":"odd"}')
        await triggers.change(actor, "regular", is_on=False)
        await advance(10 * MINUTE)
        assert len(actor.seen) == 4
        await triggers.change(actor, "regular", is_on=True)
        await advance(21)
        assert [kind for kind, _ in actor.seen[4:]] == ["odd"], "times that passed while it was off do not fire"
        assert await triggers.reset(actor, "regular") == await record(system.client)
        await advance(MINUTE)
        assert [kind for kind, _ in actor.seen[5:]] == ["full"]
        assert (await record(system.client)).changes is None
        assert [event.action for event in system.of(TriggerChanged)] == [*["changed"] * 4, "reset"]


async def test_new_code_changes_what_users_have_not_changed(mock_clock: MockClock):
    broker = MemoryBroker()
    async with open_test_system(actor_with(every(MINUTE, kwargs={"kind": "old"})), broker=broker) as system:
        await advance(0.1)
        await system.client.triggers.change("cleaner", "regular", schedule=Interval(seconds=20))
    newer = actor_with(every(3600, kwargs={"kind": "new"}, description="every hour"))
    async with open_test_system(newer, broker=broker) as system:
        await advance(60.1)
        assert newer.seen == [("new", 20), ("new", 40), ("new", 60)]
        (told,) = system.of(TriggerChanged)
        assert (told.action, told.parts) == ("changed", ("schedule",))
        found = await record(system.client)
        assert found.code is not None
        assert (found.definition.schedule, found.code.schedule) == ('{"every": 20}', '{"every": 3600}')
        assert found.definition.details["description"] == "every hour"
        await system.client.triggers.reset("cleaner", "regular")
        await advance(3600)
        assert newer.seen[3:] == [("new", 3600)]


async def test_times_that_a_changed_schedule_has_missed_fire_although_the_code_is_new(mock_clock: MockClock):
    broker = MemoryBroker()
    async with open_test_system(actor_with(every(3600)), broker=broker) as system:
        await advance(0.1)
        await system.client.triggers.change("cleaner", "regular", schedule=Interval(seconds=60))
    await advance(150)
    newer = actor_with(every(7200))
    async with open_test_system(newer, broker=broker):
        await advance(1)
    assert newer.seen == [("light", 60), ("light", 120)]


async def test_a_trigger_that_is_put_stays_when_code_declares_it_and_goes_on_when_code_drops_it(mock_clock: MockClock):
    broker = MemoryBroker()
    async with open_test_system(actor_with(), broker=broker) as system:
        await advance(0)
        await system.client.triggers.put("cleaner", every(60, kwargs={"kind": "put"}))
    declaring = actor_with(every(20, kwargs={"kind": "declared"}))
    async with open_test_system(declaring, broker=broker) as system:
        await advance(61)
        assert declaring.seen == [("put", 60)]
        with pytest.raises(ValueError, match="is declared by the code of its actor, and would come back"):
            await system.client.triggers.delete("cleaner", "regular")
    dropping = actor_with()
    async with open_test_system(dropping, broker=broker) as system:
        await advance(60)
        assert dropping.seen == [("put", 120)]
        with pytest.raises(ValueError, match="no code declares it: delete it instead"):
            await system.client.triggers.reset("cleaner", "regular")
    async with open_test_system(declaring, broker=broker) as system:
        await advance(0.1)
        await system.client.triggers.reset("cleaner", "regular")
        await advance(19)
        assert declaring.seen[1:] == [("declared", 140)]
        with pytest.raises(ValueError, match="as its code declares it: there is nothing to reset"):
            await system.client.triggers.reset("cleaner", "regular")


async def test_a_node_that_is_not_told_fires_nothing_that_a_user_does_not_want(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
):
    def nothing(_: object) -> None: ...

    monkeypatch.setattr(embedded, "_tell", nothing)
    monkeypatch.setattr(embedded, "_note_change", nothing)
    actor = actor_with(every(MINUTE, kwargs={"kind": "code"}))
    async with open_test_system(actor) as system:
        await advance(1)
        await system.client.triggers.change(actor, "regular", kwargs={"kind": "changed"})
        assert system.of(TriggerChanged) == []
        await advance(MINUTE)
        assert actor.seen == [("changed", 60)]


async def test_a_pause_holds_up_a_trigger_that_is_put(mock_clock: MockClock):
    actor = actor_with()
    async with open_test_system(actor) as system:
        await system.client.triggers.put(actor, every(10))
        await system.client.pause(actor="cleaner", trigger="regular")
        await advance(35)
        await system.client.resume(actor="cleaner", trigger="regular")
        await advance(6)
        assert actor.seen == [("light", 40)]
        await system.client.run_trigger(actor, "regular")
        await advance(0.1)
    assert len(actor.seen) == 2


async def test_what_cannot_fire_is_refused(mock_clock: MockClock):
    actor = actor_with(every(MINUTE))
    async with open_test_system(actor) as system:
        await advance(0.1)
        triggers = system.client.triggers
        with pytest.raises(LookupError, match="no actor 'claener' has run at this broker; did you mean 'cleaner'"):
            await triggers.put("claener", every(MINUTE))
        assert (await triggers.put("later", every(MINUTE), force=True)).definition.actor == "later"
        with pytest.raises(SettingsError, match="would send a message that the actor does not take"):
            await triggers.put(actor, every(MINUTE, kwargs={"colour": "red"}))
        with pytest.raises(SettingsError, match="custom cron expression is read by the program that declares it alone"):
            await triggers.put(actor, Trigger(title="moon", schedule=Cron("full moon", custom=True)))
        with pytest.raises(SettingsError, match=r"Trigger\.catchup wants"):
            await triggers.change(actor, "regular", catchup="sometimes")  # pyright: ignore[reportArgumentType]
        with pytest.raises(SettingsError, match="is_on wants True or False, got 1"):
            await triggers.change(actor, "regular", is_on=1)  # type: ignore[arg-type]
        with pytest.raises(SettingsError, match="wants kwargs or a message, not both"):
            await triggers.change(actor, "regular", kwargs={}, message=1)
        with pytest.raises(TypeError, match=r"change wants parts of a trigger: schedule, .*; got cron"):
            await triggers.change(actor, "regular", cron="* * * * *")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
        with pytest.raises(
            LookupError, match="no trigger 'nightly' of 'cleaner' at the broker; those of 'cleaner' are"
        ):
            await triggers.change(actor, "nightly", is_on=False)
        assert [one.definition.actor for one in await triggers() if one.revision] == ["later"]
        assert [one.action for one in await system.broker.audit.list()] == ["put_trigger"]


async def test_two_users_change_different_parts_at_once(mock_clock: MockClock):
    actor = actor_with(every(MINUTE))
    async with open_test_system(actor) as system:
        await advance(0.1)
        async with trio.open_nursery() as nursery:

            async def change(part: Any) -> None:
                await system.client.triggers.change(actor, "regular", **part)

            for part in ({"jitter": 5}, {"catchup": "one"}, {"kwargs": {"kind": "odd"}}, {"lifetime": None}):
                nursery.start_soon(change, part)
        found = await record(system.client)
        assert found.changes is not None
        assert set(found.changes.parts) == {"jitter", "catchup", "message", "lifetime"}
        assert found.changes.details["jitter"] == 5.0


async def test_a_node_on_redis_obeys_what_is_put_and_changed(redis_url: str):
    kinds: list[str] = []
    heard = trio.Event()

    class Cleaner(Actor):
        settings = Settings(title="cleaner")

        @receive
        async def clean(self, *, kind: str) -> None:
            kinds.append(kind)
            heard.set()

    async with open_system(Cleaner, broker=redis_url), open_client(redis_url) as client:
        for kind in ("put", "changed"):
            heard = trio.Event()
            parts: dict[str, Any] = {"schedule": Interval(seconds=0.05), "kwargs": {"kind": kind}}
            if kind == "put":
                await client.triggers.put("cleaner", Trigger(title="quick", **parts), force=True)
            else:
                await client.triggers.change("cleaner", "quick", **parts)
            with trio.fail_after(PATIENCE):
                while kinds[-1:] != [kind]:
                    heard = trio.Event()
                    await heard.wait()
        await client.triggers.delete("cleaner", "quick")
        assert await client.triggers() == []
        assert kinds == sorted(kinds, reverse=True), "nothing fires as it was before it was changed"
