"""Every metric of the table is there after a run that provokes it: in memory, in processes, at Redis, with a spool.

What only the failure of a broker or a loop provokes comes from an event; test_metrics.py has a row for each of these.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import trio.testing

from actorwork import (
    Actor,
    Child,
    CircuitBreaker,
    Entities,
    Entity,
    Interval,
    MailboxSettings,
    RateLimit,
    RetryPolicy,
    Settings,
    Spool,
    Supervisor,
    System,
    Trigger,
    Unique,
    open_client,
    open_system,
    receive,
)
from actorwork.policy.restart import Intensity
from actorwork.telemetry.metrics import Registry
from actorwork.telemetry.metrics.table import TABLE
from actorwork.testing import open_test_system
from tests.patience import PATIENCE

BY_EVENTS = {
    "actorwork_broker_disruptions_total",
    "actorwork_crashed_messages_total",
    "actorwork_fenced_total",
    "actorwork_leases_lost_total",
    "actorwork_loop_stalled_seconds_total",
    "actorwork_loop_stalls_total",
    "actorwork_reclaimed_total",
}
IN_PROCESSES = {"actorwork_processes", "actorwork_process_exits_total"}
"""Seen in tests/processes/test_metrics.py."""
AT_A_BROKER = {
    "actorwork_broker_command_duration_seconds",
    "actorwork_broker_commands_total",
    "actorwork_lease_margin_seconds",
    "actorwork_settle_batch_messages",
    "actorwork_settle_duration_seconds",
}
WITH_A_SPOOL = {"actorwork_spool_bytes", "actorwork_spool_messages", "actorwork_spool_oldest_seconds"}


def names(registry: Registry | None) -> set[str]:
    """Return the metrics that have a series with something in it."""
    assert registry is not None
    return {one.name for one in registry.read() if one.kind != "histogram" or one.count}


class Busy(Actor):
    """Does what provokes a metric."""

    settings = Settings(
        title="busy",
        sources={"orders"},
        concurrency=2,
        mailbox=MailboxSettings(capacity=2, overflow="drop_new"),
        retry=RetryPolicy(attempts=2),
        execution_timeout=5,
        limits=[RateLimit(2, 1.0, burst=1, name="slow"), CircuitBreaker("mail", failures=1, share=0.0, on=(OSError,))],
        triggers=[Trigger(title="tick", schedule=Interval(seconds=10), kwargs={})],
    )

    @receive
    async def do(self, *, what: str = "") -> None:
        match what:
            case "fail":
                raise ValueError(what)
            case "break":
                raise OSError(what)
            case "shield":
                with trio.CancelScope(shield=True):
                    await trio.sleep(30)
            case "send":
                await self.context.client.publish("others", {})
            case _:
                await trio.sleep(0.1)


class Account(Entity[int]):
    """Is as its messages are: committed, refused, conflicting with a state that a user has put."""

    settings = Settings(title="account", entities=Entities(limit=10))

    @receive
    async def add(self, *, n: int) -> None:
        self.state += n
        await trio.sleep(2 if n == 1 else 0)


class Later(Entity[int]):
    """Cannot read a state that a later program has written."""

    settings = Settings(title="later")

    @receive
    async def add(self, *, n: int) -> None: ...


class Broken(Actor):
    """Does not start a second time."""

    def __init__(self, begun: list[int]) -> None:
        self._begun = begun

    async def startup(self) -> None:
        self._begun.append(1)
        if len(self._begun) > 1:
            raise OSError("gone")
        self.context.nursery.start_soon(self.crash)

    async def crash(self) -> None:
        raise ValueError("crashed")


async def provoked_in_memory() -> set[str]:
    small = Supervisor(
        [Child(partial(Broken, []))], name="small", intensity=Intensity(restarts=1, period=5), restart="temporary"
    )
    found: set[str] = set()
    async with open_test_system([Busy, small, Account, Later], metrics=True) as test:
        metrics = test.system.metrics
        async with open_client(test.broker, metrics=metrics) as client:
            await client.pause(source="none")
            await test.broker.entities.put(Later.settings.default_source, Later.settings.id, "ann", b"1", schema=9)
            await client.ref(Later, key="ann").tell({"n": 1})
            await client.ref(Account, key="ann").tell({"n": 1})
            await client.ref(Account, key="ben").tell({"n": 10**20})
            await trio.sleep(1)
            await client.ref(Account, key="ann").put(5, force=True)
            for what in ("shield", "fail", "send", "", ""):
                await client.publish("orders", {"what": what})
            for _ in range(4):
                test.ref(Busy).tell_nowait({})
            # Past the timeout of the one that is shielded, and before it returns.
            for _ in range(8):
                await trio.sleep(4)
                found |= names(metrics)
            await client.publish("orders", {"what": "break"})
            await trio.sleep(4)
            found |= names(metrics)
    return found


async def test_a_run_in_memory_provokes_the_metrics_of_actors(mock_clock: trio.testing.MockClock):
    found = await provoked_in_memory()
    expected = {metric.name for metric in TABLE} - BY_EVENTS - IN_PROCESSES - AT_A_BROKER - WITH_A_SPOOL
    assert expected <= found, f"missing: {sorted(expected - found)}"


class Quiet(Actor):
    settings = Settings(title="quiet", sources={"orders"})

    @receive
    async def do(self) -> None: ...


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return request.getfixturevalue("redis_url")
    return f"sqlite:///{tmp_path / 'messages.sqlite3'}"


async def until_there(system: System, expected: set[str]) -> None:
    limit = trio.current_time() + PATIENCE
    missing = expected
    while missing := expected - names(system.metrics):
        assert trio.current_time() < limit, f"missing: {sorted(missing)}"
        await trio.sleep(0.01)


async def test_a_broker_is_measured(url: str):
    expected = AT_A_BROKER | {
        "actorwork_info",
        "actorwork_wait_duration_seconds",
    }
    async with open_system(Quiet, broker=url, lease=3, metrics=True) as system:
        async with open_client(url) as client:
            await client.publish("orders", {})
        await until_there(system, expected)
        readings: list[Any] = list(system.metrics.read()) if system.metrics is not None else []
        commands = {one.labels["command"] for one in readings if one.name == "actorwork_broker_commands_total"}
        assert commands == {"transaction"} if url.startswith("sqlite") else "settle_plain" in commands
        (info,) = [one.labels for one in readings if one.name == "actorwork_info"]
        assert info["broker"] in ("embedded", "redis", "valkey")
        assert info["server_version"][0].isdigit()
        (margin,) = [one.value for one in readings if one.name == "actorwork_lease_margin_seconds"]
        assert 0 <= margin <= 3


async def test_a_connection_that_is_cut_and_back_at_once_is_a_disruption(redis_url: str):
    async with open_system(Quiet, broker=redis_url, metrics=True) as system:
        assert disruptions(system) == 0, "seen before anything has happened"
        with redis.Redis.from_url(redis_url) as admin:  # pyright: ignore[reportUnknownMemberType]
            for name in ("actorwork-reader", "actorwork"):
                before = disruptions(system)
                with trio.fail_after(PATIENCE):
                    # Again and again: what is cut within a second of the one before is the same disruption.
                    while disruptions(system) == before:
                        cut(admin, name)
                        await trio.sleep(0.2)


def cut(admin: "redis.Redis", name: str) -> None:
    clients: Any = admin.client_list()  # pyright: ignore[reportUnknownMemberType]
    for one in clients:
        if one["name"] == name:
            admin.client_kill_filter(_id=one["id"])  # pyright: ignore[reportUnknownMemberType]


def disruptions(system: System) -> float:
    assert system.metrics is not None
    (found,) = [one.value for one in system.metrics.read() if one.name == "actorwork_broker_disruptions_total"]
    return found


async def test_a_spool_is_measured_while_its_client_is_open(tmp_path: Path):
    metrics = Registry()
    spool = Spool(path=tmp_path / "spool.sqlite3", patience=0.01)
    async with open_client("redis://127.0.0.1:1/0", spool=spool, metrics=metrics) as client:
        for _ in range(2):
            await client.publish("orders", {})
        readings = {(one.name, *one.labels.values()): one for one in metrics.read()}
        assert readings["actorwork_sent_total", "orders", "spooled"].value == 2
        assert readings["actorwork_send_duration_seconds", "spooled"].count == 2
        assert readings["actorwork_spool_messages",].value == 2
        assert readings["actorwork_spool_bytes",].value > 0
        assert readings["actorwork_spool_oldest_seconds",].value >= 0
    assert metrics.collectors == [metrics.meter.collect]


async def test_what_a_client_sends_is_told_apart(redis_url: str):
    metrics = Registry()
    async with open_client(redis_url, metrics=metrics) as client:
        await client.publish("orders", {})
        await client.publish("orders", {}, id="twice")
        await client.publish("orders", {}, id="twice")
        await client.publish("orders", {}, unique=Unique("one", on_conflict="first"))
        await client.publish("orders", {}, unique=Unique("one", on_conflict="first"))
    sent = {tuple(one.labels.values()): one.value for one in metrics.read() if one.name == "actorwork_sent_total"}
    assert sent == {("orders", "sent"): 3, ("orders", "duplicate"): 2}
