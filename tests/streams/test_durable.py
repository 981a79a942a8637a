"""Messages that count as sent once replicas, or disks, have them."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio

from actorwork import Durability, Unconfirmed, aio, open_client, sync
from actorwork.brokers import open_broker
from actorwork.embedded.broker import open_broker as open_embedded
from actorwork.errors import BrokerError, SettingsError
from actorwork.message import Envelope, Unique
from actorwork.testing.redis_sentinel import Member, wait_for
from actorwork.testing.redis_server import RedisServer, open_redis_server
from tests.patience import confirmed

T = TypeVar("T")

QUICK = 0.05
"""Seconds to wait where there is nothing to wait for."""


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A primary with one replica in sync."""
    place = tmp_path_factory.mktemp("durable")
    common = {"save": '""', "repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}
    primary = Member(place / "primary", common)
    primary.start()
    replica = Member(place / "replica", {**common, "replicaof": f"127.0.0.1 {primary.port}"})
    replica.start()
    wait_for(lambda: replica.info("replication").get("master_link_status") == "up", "the replica")
    yield primary
    replica.kill()
    primary.kill()


def url_of(member: Member) -> str:
    return f"redis://127.0.0.1:{member.port}/0"


def message(id: str, durability: Any, **terms: Any) -> Envelope:
    return Envelope("orders", id, b"{}", durability=durability, **terms)


ONE = Durability("replicated", within=5)
TWO = Durability("replicated", 2, within=QUICK)


def client_of(broker: Any) -> Any:
    """Return the connection of a broker at Redis."""
    return broker.client


async def test_a_replica_has_the_message_when_the_send_returns(primary: Member):
    async with open_client(url_of(primary), durability=ONE) as client:
        await confirmed(lambda: client.publish("orders", {"n": 1}, id="first"))
        assert await client.broker.backlog("orders") >= 1


async def test_what_was_confirmed_is_there_when_the_primary_is_killed_and_the_replica_takes_over(tmp_path: Path):
    common = {"save": '""', "repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}
    first = Member(tmp_path / "first", common)
    first.start()
    second = Member(tmp_path / "second", {**common, "replicaof": f"127.0.0.1 {first.port}"})
    try:
        second.start()
        wait_for(lambda: second.info("replication").get("master_link_status") == "up", "the replica")
        async with open_client(url_of(first), durability=ONE) as client:
            for number in range(20):
                await confirmed(partial(client.publish, "orders", {"n": number}, id=f"{number}"))
            first.kill()
        assert second.call("REPLICAOF", "NO", "ONE") == b"+OK\r\n"
        async with open_client(url_of(second)) as client:
            assert await client.broker.backlog("orders") == 20
    finally:
        first.kill()
        second.kill()


async def test_too_few_replicas_leave_the_message_unconfirmed_and_it_is_there(primary: Member):
    async with open_client(url_of(primary)) as client:
        with pytest.raises(Unconfirmed, match=r"only [01] of 2 servers have received it within 0.05 s") as caught:
            await client.publish("few", {"n": 1}, id="once", durability=TWO)
        assert (caught.value.wanted, list(caught.value.ids), caught.value.may_pass) == (2, ["once"], True)
        assert await client.broker.backlog("few") == 1
        # Once more, with what can be had: it is stored once.
        await confirmed(lambda: client.publish("few", {"n": 1}, id="once", durability=ONE))
        assert await client.broker.backlog("few") == 1


async def test_a_message_that_was_stored_before_is_confirmed_by_what_replicas_have_now(primary: Member):
    async with open_broker(url_of(primary)) as broker:
        await broker.publish([message("dup", None)])
        # A connection that has written nothing would be told at once that all is well.
        with pytest.raises(Unconfirmed):
            await broker.publish([message("dup", TWO)])
        assert await confirmed(lambda: broker.publish([message("dup", ONE)])) == 0


async def test_many_tasks_share_one_wait(primary: Member):
    async with open_broker(url_of(primary)) as broker:
        await confirmed(lambda: broker.publish([message("warm", ONE)]))
        before = calls_of(primary, "wait")
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(unless_unconfirmed, broker, message(f"shared-{number}", ONE))
        # The first has one of its own; those that came meanwhile share the next.
        assert 1 <= calls_of(primary, "wait") - before <= 3


async def unless_unconfirmed(broker: Any, envelope: Envelope) -> None:
    with suppress(Unconfirmed):
        await broker.publish([envelope])


def calls_of(member: Member, command: str) -> int:
    line = member.info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(line.partition("calls=")[2].partition(",")[0])


async def test_messages_keep_their_order_whatever_their_durability(primary: Member):
    async with open_broker(url_of(primary)) as broker:
        run = [message(f"mixed-{n}", ONE if n % 3 else None) for n in range(7)]
        await confirmed(lambda: broker.publish([*run, run[0]]))
        entries = await client_of(broker).call("XRANGE", "orders", "-", "+")
        found = [fields[fields.index(b"id") + 1].decode() for _, fields in entries]
        assert [one for one in found if one.startswith("mixed-")] == [f"mixed-{n}" for n in range(7)]


async def test_a_unique_key_and_one_that_is_taken(primary: Member):
    async with open_broker(url_of(primary)) as broker:
        for name in ("holder", "second"):
            taken = message(name, ONE, unique=Unique("k", on_conflict="first"))
            assert await confirmed(partial(broker.publish_unique, taken)) == "holder"


async def test_one_that_is_refused_does_not_fail_the_others(primary: Member):
    async with open_broker(url_of(primary)) as broker:
        await client_of(broker).call("SET", "occupied", "x")
        refused: list[BrokerError] = []

        async def refuse() -> None:
            try:
                await broker.publish([Envelope("occupied", "x", b"{}", durability=ONE)])
            except BrokerError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unless_unconfirmed, broker, message("first of three", ONE))
            nursery.start_soon(refuse)
            nursery.start_soon(unless_unconfirmed, broker, message("third of three", ONE))
        assert len(refused) == 1
        assert not isinstance(refused[0], Unconfirmed)


async def test_if_the_connection_was_another_one_all_is_sent_again(primary: Member, monkeypatch: pytest.MonkeyPatch):
    async with open_broker(url_of(primary)) as broker:
        await confirmed(lambda: broker.publish([message("before", ONE)]))
        own: Any = cast("Any", broker).durable()._client
        sent: list[int] = []
        plain = own.call_many

        async def cut_once(commands: Any, *, idempotent: bool = False) -> Any:
            sent.append(own.generation)
            if len(sent) == 1:
                await client_of(broker).call("CLIENT", "KILL", "ID", own._link.connection.client_id)
            return await plain(commands, idempotent=idempotent)

        monkeypatch.setattr(own, "call_many", cut_once)
        await confirmed(lambda: broker.publish([message("across", ONE)]))
        # Lost, then in vain since the publish had met the new connection, or at once: never confirmed by halves.
        assert len(sent) >= 2
        assert sent[-1] == own.generation
        assert calls_of(primary, "wait") > 0


async def test_a_send_that_is_cancelled_lets_the_others_be_confirmed(primary: Member):
    slow = Durability("replicated", 9, within=5)
    async with open_broker(url_of(primary)) as broker, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(partial(_cancel_soon, scope))
            await broker.publish([message("given up", slow)])
        assert scope.cancelled_caught
        with pytest.raises(Unconfirmed):
            await broker.publish([message("another", TWO)])


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await trio.sleep(QUICK)
    scope.cancel()


def test_a_program_without_a_loop_waits_for_replicas(primary: Member):
    with sync.open_client(url_of(primary), durability=ONE) as client:
        with suppress(Unconfirmed):  # The machine is busy.
            client.publish("orders", {"n": 1})
        with pytest.raises(Unconfirmed):
            client.publish("orders", {"n": 1}, durability=TWO)


def test_a_program_on_asyncio_waits_for_replicas(primary: Member):
    async def send() -> None:
        async with aio.open_client(url_of(primary), durability=ONE) as client:
            sent = await asyncio.gather(*(client.publish("orders", {"n": n}) for n in range(5)), return_exceptions=True)
            assert all(isinstance(one, str | Unconfirmed) for one in sent)
            with pytest.raises(Unconfirmed):
                await client.publish("orders", {"n": 1}, durability=TWO)

    asyncio.run(send())


# ---- disks ----


def has_waitaof(server: RedisServer) -> bool:
    return b"waitaof" in server._ask("COMMAND INFO WAITAOF").lower()


async def test_the_primary_has_it_on_disk_or_its_server_cannot_say():
    with open_redis_server(append_only=True) as server:
        async with open_client(server.url) as client:
            if has_waitaof(server):
                await confirmed(lambda: client.publish("orders", {"n": 1}, id="1", durability="fsynced"))
                with pytest.raises(Unconfirmed, match=r"only [01] of 2 servers have written it to disk"):
                    await client.publish("orders", {"n": 1}, durability=Durability("fsynced", 1, within=QUICK))
            else:
                with pytest.raises(BrokerError, match="needs WAITAOF, which this server does not have"):
                    await client.publish("orders", {"n": 1}, durability="fsynced")


async def test_a_file_is_on_disk_if_it_was_opened_so_and_has_no_replicas(tmp_path: Path):
    path = tmp_path / "messages.db"
    async with open_embedded(f"sqlite:///{path}?synchronous=full", emit=lambda _: None) as broker:
        assert await broker.publish([message("one", Durability("fsynced"))]) == 1
        with pytest.raises(BrokerError, match=r"wants replicas, and .* has none: use Redis"):
            await broker.publish([message("two", ONE)])
    async with open_embedded(f"sqlite:///{path}", emit=lambda _: None) as broker:
        with pytest.raises(BrokerError, match=r"opened with \?synchronous=full"):
            await broker.publish_unique(message("three", Durability("fsynced"), unique=Unique("k")))


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("durability", "complaint"),
    [
        ("eventually", "durability wants 'replicated', 'fsynced' or a Durability"),
        (3, "durability wants 'replicated', 'fsynced' or a Durability"),
        (("replicated", 0), "Durability.replicas wants a whole number from 1 to 100, got 0"),
        (("fsynced", -1), "Durability.replicas wants a whole number from 0"),
        (("fsynced", True), "Durability.replicas wants a whole number"),
    ],
)
async def test_what_means_nothing_is_refused_before_anything_is_sent(durability: Any, complaint: str):
    async with open_client("sqlite://") as client:
        with pytest.raises(ValueError, match=complaint):
            await client.publish(
                "orders",
                {},
                durability=Durability(*cast("Any", durability)) if isinstance(durability, tuple) else durability,
            )
        assert await client.broker.backlog("orders") == 0


@pytest.mark.parametrize("within", [0, 6, "1m", None])
def test_a_wait_is_short(within: Any):
    with pytest.raises(ValueError, match=r"Durability.within wants seconds from 0.001 to 5"):
        Durability("replicated", within=within)


async def test_a_spool_and_a_durability_exclude_each_other(tmp_path: Path):
    with pytest.raises(SettingsError, match="durability and spool exclude each other"):
        async with open_client("sqlite://", spool="when_down", durability="fsynced"):
            pass  # pragma: no cover - it is refused
