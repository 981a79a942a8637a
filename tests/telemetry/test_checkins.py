"""Check-ins of triggers at Sentry's monitors of crons."""

import json
import secrets
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import sentry_sdk
import trio.testing

from actorwork import (
    Actor,
    Cron,
    Interval,
    Reject,
    RetryPolicy,
    Settings,
    SettingsError,
    Trigger,
    receive,
)
from actorwork.message import RESULT_TTL, Envelope
from actorwork.telemetry.checkins import config_of, slug_of
from actorwork.telemetry.sentry import Sentry
from actorwork.testing import open_test_system
from actorwork.testing.system import TestSystem
from tests.telemetry.test_sentry import Kept, configure


def check_ins(kept: Kept) -> list[dict[str, Any]]:
    return [
        dict(item.payload.json)
        for envelope in kept.envelopes
        for item in envelope.items
        if item.headers.get("type") == "check_in" and item.payload.json is not None
    ]


@pytest.fixture(autouse=True)
def _closed() -> Generator[None]:
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


async def send_as(trigger: str, system: TestSystem, actor: type[Actor], message: object) -> None:
    """Send a message as a trigger does: under its id."""
    data = json.dumps(message).encode()
    source, headers = actor.settings.default_source, {"actorwork-trigger-id": trigger}
    await system.broker.publish([Envelope(source, secrets.token_hex(8), data, headers=headers)])


class Cleaning(Actor):
    settings = Settings(
        title="cleaning",
        execution_timeout=90,
        retry=RetryPolicy(attempts=2),
        triggers=[
            Trigger(title="Full clean", schedule=Interval(hours=6), kwargs={"how": "well"}),
            Trigger(title="often", schedule=Interval(seconds=90), kwargs={"how": "well"}),
        ],
    )

    @receive
    async def clean(self, *, how: str) -> None:
        match how:
            case "well":
                return
            case "badly":
                raise ValueError("no water")
            case "again" if self.context.delivery.attempt == 1:
                raise ValueError("no water yet")
            case "not":
                raise Reject("clean already")
            case _:
                pass


def reports(**options: Any) -> tuple[Kept, Sentry]:
    kept = Kept()
    return kept, Sentry(configure=configure(kept, **options).configure, crons=True)


async def test_a_message_of_a_trigger_checks_in_when_it_begins_and_when_it_has_ended(
    mock_clock: trio.testing.MockClock,
):
    kept, telemetry = reports()
    async with open_test_system(Cleaning, telemetry=telemetry) as system:
        await trio.sleep(6 * 3600 + 1)
        await system.drain()
    # The trigger that fires every 90 seconds has no monitor: Sentry counts minutes.
    begun, ended = check_ins(kept)
    assert [one["status"] for one in (begun, ended)] == ["in_progress", "ok"]
    assert begun["check_in_id"] == ended["check_in_id"]
    assert {one["monitor_slug"] for one in (begun, ended)} == {slug_of("cleaning", "Full clean")}
    assert begun["monitor_config"] == {
        "schedule": {"type": "interval", "value": 6, "unit": "hour"},
        "max_runtime": 2,
    }


@pytest.mark.parametrize(
    ("how", "stages"),
    [
        ("badly", ["in_progress", "in_progress", "error"]),
        ("again", ["in_progress", "in_progress", "ok"]),
        ("not", ["in_progress", "ok"]),
    ],
)
async def test_all_attempts_of_a_message_are_one_check_in(
    mock_clock: trio.testing.MockClock, how: str, stages: Sequence[str]
):
    kept, telemetry = reports()
    trigger = Cleaning.settings.triggers[0]
    async with open_test_system(Cleaning, telemetry=telemetry) as system:
        await send_as(trigger.id, system, Cleaning, {"how": how})
        await system.drain(scheduled=True)
    found = check_ins(kept)
    assert [one["status"] for one in found] == stages
    assert len({one["check_in_id"] for one in found}) == 1


class Waiting(Actor):
    settings = Settings(
        title="waiting", triggers=[Trigger(title="nightly", schedule=Cron("0 3 * * *"), kwargs={"how": "well"})]
    )

    @receive
    async def wait(self, *, how: str) -> None:
        await trio.sleep_forever()


async def test_a_message_that_is_cancelled_closes_its_check_in(mock_clock: trio.testing.MockClock):
    kept, telemetry = reports()
    (trigger,) = Waiting.settings.triggers
    source = Waiting.settings.default_source
    headers = {"actorwork-trigger-id": trigger.id, RESULT_TTL: 60.0}
    async with open_test_system(Waiting, telemetry=telemetry) as system:
        for name in ("in hand", "in the mailbox"):
            await system.broker.publish([Envelope(source, name, b'{"how": "well"}', headers=headers)])
        await trio.sleep(1)
        assert [one["status"] for one in check_ins(kept)] == ["in_progress"]
        for name in ("in the mailbox", "in hand"):
            assert await system.broker.cancel_message(source, name, force=True)
            await trio.sleep(1)
    statuses: dict[str, list[str]] = {}
    for one in check_ins(kept):
        statuses.setdefault(one["check_in_id"], []).append(one["status"])
    assert sorted(statuses.values()) == [["error"], ["in_progress", "error"]]


class Together(Actor):
    settings = Settings(
        title="together",
        triggers=[Trigger(title="nightly", schedule=Cron("0 3 * * *", "Europe/Berlin"), message="all")],
    )

    @receive(batch=2, within=1)
    async def take(self, messages: list[str]) -> list[Any]:
        return [ValueError(one) if one == "bad" else None for one in messages]


async def test_each_message_of_a_batch_checks_in_for_itself(mock_clock: trio.testing.MockClock):
    kept, telemetry = reports()
    (trigger,) = Together.settings.triggers
    async with open_test_system(Together, telemetry=telemetry) as system:
        for one in ("good", "bad"):
            await send_as(trigger.id, system, Together, one)
        await system.drain(scheduled=True)
    ends = [one["status"] for one in check_ins(kept) if one["status"] != "in_progress"]
    assert sorted(ends) == ["error", "ok"]


async def test_no_other_message_checks_in_and_none_without_crons(mock_clock: trio.testing.MockClock):
    kept, telemetry = reports()
    trigger = Cleaning.settings.triggers[0]
    async with open_test_system(Cleaning, telemetry=telemetry) as system:
        await system.client.ref(Cleaning).tell({"how": "well"})
        await send_as("another", system, Cleaning, {"how": "well"})
        await system.drain()
    assert check_ins(kept) == []
    kept = Kept()
    async with open_test_system(Cleaning, telemetry=configure(kept)) as system:
        await send_as(trigger.id, system, Cleaning, {"how": "well"})
        await system.drain()
    assert check_ins(kept) == []


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Interval(minutes=5), {"type": "interval", "value": 5, "unit": "minute"}),
        (Interval(days=14), {"type": "interval", "value": 2, "unit": "week"}),
        (Interval(hours=36), {"type": "interval", "value": 36, "unit": "hour"}),
        (Interval(seconds=61), None),
        (Cron("*/5 * * * *"), {"type": "crontab", "value": "*/5 * * * *"}),
        (Cron("every full moon", custom=True), None),
    ],
)
def test_a_schedule_is_told_in_the_words_of_sentry(schedule: Interval | Cron, expected: dict[str, Any] | None):
    found = config_of(Trigger(title="t", schedule=schedule), 180)
    assert (None if found is None else found["schedule"]) == expected
    if isinstance(schedule, Cron) and found is not None:
        assert found["timezone"] == "UTC"


def test_the_names_of_monitors_differ_and_are_names_to_sentry():
    names = [("cleaner", "nightly"), ("cleaner", "Nightly"), ("Ä", "ö"), ("a" * 300, "b" * 300), ("a" * 300, "c" * 300)]
    slugs = [slug_of(*name) for name in names]
    assert slugs[0] == "cleaner-nightly"
    assert len(set(slugs)) == len(names)
    assert all(len(one) <= 50 and one.replace("-", "").isalnum() and one.isascii() and one[0] != "-" for one in slugs)


def test_crons_is_a_yes_or_a_no():
    with pytest.raises(SettingsError, match=r"Sentry\.crons wants True or False, got 'all'"):
        Sentry(crons="all")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
