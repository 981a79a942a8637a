"""A primary that Sentinel knows: what its sentinels answer, and what follows when it moves."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from actorwork import Actor, Settings, Spool, aio, open_client, open_system, receive, sync
from actorwork.brokers import open_broker
from actorwork.cli.commands import actorwork
from actorwork.errors import BrokerError
from actorwork.streams.transport import client as transport
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.redis_py import ConnectionError  # noqa: A004
from actorwork.streams.transport.sentinel import SentinelPlace, Sentinels
from actorwork.testing.redis_sentinel import NAME, Member, RedisSentinels, open_redis_sentinels
from actorwork.testing.redis_server import open_redis_server
from tests.patience import PATIENCE

Reply = list[dict[bytes, bytes]] | Exception


def knows(port: int, *, epoch: int = 0, flags: str = "master", name: str = NAME, promoted: int | None = None) -> Reply:
    state = {"name": name, "ip": "10.0.0.1", "port": port, "flags": flags, "config-epoch": epoch}
    state |= {} if promoted is None else {"promoted": promoted}
    return [{key.encode(): str(value).encode() for key, value in state.items()}]


class Answering:
    """A connection to a sentinel that gives the same answer each time."""

    handshake_metadata: dict[Any, Any] = {}  # noqa: RUF012 - as the protocol has it
    _sock: Any = None

    def __init__(self, reply: Reply, asked: list[Reply]) -> None:
        self.reply = reply
        self.asked = asked

    def connect(self) -> None:
        self.asked.append(self.reply)
        if isinstance(self.reply, ConnectionError):
            raise self.reply

    def disconnect(self) -> None: ...

    def send_command(self, *args: Any) -> None:
        self.command = args

    def read_response(self) -> Any:
        if isinstance(self.reply, Exception):
            raise self.reply
        if self.command == ("SENTINEL", "MASTERS"):
            return self.reply
        assert self.command == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        (state,) = self.reply
        if state[b"name"] != NAME.encode():
            return None
        return [state[b"ip"], state.get(b"promoted", state[b"port"])]


def sentinels_that_say(*replies: Reply, asked: list[Reply] | None = None) -> Sentinels:
    book: list[Reply] = [] if asked is None else asked

    def making(reply: Reply) -> Callable[..., Answering]:
        def make(**_: object) -> Answering:
            return Answering(reply, book)

        return make

    return Sentinels(NAME, [SentinelPlace(f"s{n}", making(reply), {}) for n, reply in enumerate(replies)])


def test_the_answer_with_the_highest_epoch_counts():
    assert sentinels_that_say(knows(1, epoch=1), knows(2, epoch=3), knows(3, epoch=2)).find() == ("10.0.0.1", 2)


@pytest.mark.parametrize("flags", ["s_down,master", "master,s_down,o_down", "slave"])
def test_a_primary_that_is_down_is_not_named(flags: str):
    assert sentinels_that_say(knows(1, epoch=9, flags=flags), knows(2)).find() == ("10.0.0.1", 2)
    with pytest.raises(ConnectionError, match=r"no sentinel names a primary for 'mymaster' now .*down"):
        sentinels_that_say(knows(1, flags=flags)).find()


def test_a_new_primary_is_named_before_all_replicas_follow_it():
    leading = knows(1, epoch=2, flags="master,s_down,o_down,failover_in_progress", promoted=2)
    assert sentinels_that_say(knows(1, epoch=1), leading).find() == ("10.0.0.1", 2)


def test_a_sentinel_that_does_not_answer_is_asked_last_for_a_while():
    silent = ConnectionError("refused")
    asked: list[Reply] = []
    sentinels = sentinels_that_say(silent, knows(2), asked=asked)
    assert sentinels.find() == sentinels.find() == ("10.0.0.1", 2)
    assert asked.count(silent) == 1
    asked.clear()
    lonely = sentinels_that_say(silent, asked=asked)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="refused"):
            lonely.find()
    assert asked == [silent, silent]


def test_a_name_that_no_sentinel_knows_is_an_error_for_good():
    with pytest.raises(BrokerError, match="s0 knows no primary 'mymaster'; it knows 'other'"):
        sentinels_that_say(knows(1, name="other"), knows(1, name="other")).find()
    # One that was not reached may know it.
    with pytest.raises(ConnectionError, match="knows no primary"):
        sentinels_that_say(knows(1, name="other"), ConnectionError("refused")).find()


# ---- with real ones ----


@pytest.fixture(scope="module")
def fleet() -> Iterator[RedisSentinels]:
    # Long after what a busy machine may stand still for: here servers move only on purpose.
    with open_redis_sentinels(down_after=60) as started:
        yield started


class Echo(Actor):
    settings = Settings(title="echo")

    @receive
    async def handle(self, message: str) -> str:
        return message


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition that asks servers, which blocks for a moment."""
    while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 - servers set no events of ours
        await trio.sleep(0.02)


async def until(look: Callable[[], Awaitable[int]], wanted: int) -> None:
    while await look() != wanted:  # noqa: ASYNC110 - as above
        await trio.sleep(0.01)


def clients_of(server: Member) -> bytes:
    return server.call("CLIENT", "LIST", "TYPE", "normal") + server.call("CLIENT", "LIST", "TYPE", "pubsub")


async def test_a_write_waits_while_the_primary_lacks_replicas(fleet: RedisSentinels):
    primary = fleet.primary()
    events: list[Any] = []
    async with transport.open_client(fleet.url, on_event=events.append) as client:
        primary.call("CONFIG", "SET", "min-replicas-to-write", "3")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.call("SET", "waits", "1", idempotent=True))
            while not any(isinstance(event, transport.ConnectionLost) for event in events):  # noqa: ASYNC110 - as above
                await trio.sleep(0.01)
            assert await client.call("EXISTS", "waits") == 0
            primary.call("CONFIG", "SET", "min-replicas-to-write", "0")
        assert await client.call("GET", "waits") == b"1"
        lost, back = events[1:]
        assert "takes no writes now" in str(lost.error)
        assert isinstance(back, transport.Connected)
        assert client.generation == 1


def refusals_of(server: Member) -> int:
    """Return how often a server has refused a write for want of replicas, which 6.2 counts as ERR within scripts."""
    counted = server.info("errorstats")
    kinds = ("errorstat_NOREPLICAS", "errorstat_ERR")
    return sum(int(counted.get(kind, "count=0").removeprefix("count=")) for kind in kinds)


def send_in_a_thread(url: str) -> None:
    with sync.open_client(url) as client:
        client.publish("elsewhere", "sync")


def send_on_asyncio(url: str) -> None:
    async def main() -> None:
        async with aio.open_client(url) as client:
            await client.publish("elsewhere", "asyncio")

    asyncio.run(main())


@pytest.mark.parametrize("send", [send_in_a_thread, send_on_asyncio])
async def test_other_clients_wait_as_well_while_the_primary_lacks_replicas(
    fleet: RedisSentinels, send: Callable[[str], None]
):
    primary = fleet.primary()
    async with open_broker(fleet.url) as broker, trio.open_nursery() as nursery:
        before, refused = await broker.backlog("elsewhere"), refusals_of(primary)
        primary.call("CONFIG", "SET", "min-replicas-to-write", "3")
        try:
            nursery.start_soon(trio.to_thread.run_sync, send, fleet.url)
            # Twice: so it was sent again after it was refused.
            await wait_until(lambda: refusals_of(primary) >= refused + 2)
            assert await broker.backlog("elsewhere") == before
        finally:
            primary.call("CONFIG", "SET", "min-replicas-to-write", "0")
        await until(lambda: broker.backlog("elsewhere"), before + 1)


async def test_a_spool_keeps_what_a_primary_without_replicas_refuses(fleet: RedisSentinels, tmp_path: Path):
    primary = fleet.primary()
    spool = Spool(path=tmp_path / "spool", patience=0.05)
    async with open_broker(fleet.url) as broker, open_client(fleet.url, spool=spool) as client:
        await client.publish("spooled", "before")
        await client.wait_replayed()  # On a slow machine this one was spooled as well. Now there is a connection.
        spooled = client.statistics()["spooled"]
        primary.call("CONFIG", "SET", "min-replicas-to-write", "3")
        try:
            await client.publish("spooled", "meanwhile")
            assert client.statistics()["spooled"] == spooled + 1
            assert await broker.backlog("spooled") == 1
        finally:
            primary.call("CONFIG", "SET", "min-replicas-to-write", "0")
        await client.wait_replayed()
        assert await broker.backlog("spooled") == 2


async def test_the_doctor_warns_of_a_primary_that_would_write_alone(fleet: RedisSentinels):
    primary = fleet.primary()
    await wait_until(lambda: primary.info("replication")["connected_slaves"] == "1")
    async with open_broker(fleet.url) as broker, transport.open_client(fleet.url) as another:
        levels = {one.subject: (one.level, one.text) for one in await broker.diagnose()}
        assert levels["failover"][0] == "warning"
        assert "min-replicas-to-write is 0" in levels["failover"][1]
        assert levels["replicas"] == ("ok", "replicas of the primary: 1")
        await another.call("PING", idempotent=True)
        assert another.generation == 1, "the doctor has closed the connection of another client"
        primary.call("CONFIG", "SET", "min-replicas-to-write", "1")
        try:
            assert {one.subject: one.level for one in await broker.diagnose()}["failover"] == "ok"
        finally:
            primary.call("CONFIG", "SET", "min-replicas-to-write", "0")


def test_commands_take_a_url_of_sentinels(fleet: RedisSentinels):
    runner = CliRunner(env={"ACTORWORK_BROKER": fleet.url})
    checked = runner.invoke(actorwork, ["doctor"])
    assert "min-replicas-to-write is 0" in checked.output
    assert checked.exit_code == 0
    sent = runner.invoke(actorwork, ["send", "nobody", '"x"', "--force"])
    assert sent.exit_code == 0, sent.output
    unknown = runner.invoke(actorwork, ["doctor", "--broker", fleet.url.replace(NAME, "another")])
    assert unknown.exit_code == 1
    assert "knows no primary 'another'; it knows 'mymaster'" in unknown.output


async def test_all_connections_go_along_when_the_primary_moves(fleet: RedisSentinels):
    """The old primary lives, and takes itself for one for ten seconds more: its connections show nothing."""
    moved = threading.Event()
    ready: list[str] = []
    answers: list[str] = []

    def in_a_thread() -> None:
        with sync.open_client(fleet.url) as client:
            ready.append(client.ref(Echo).ask("sync, before", timeout=PATIENCE))
            moved.wait(60)
            answers.append(client.ref(Echo).ask("sync", timeout=PATIENCE))

    async def on_asyncio() -> None:
        async with aio.open_client(fleet.url) as client:
            ready.append(await client.ref(Echo).ask("asyncio, before", timeout=PATIENCE))
            await asyncio.to_thread(moved.wait, 60)
            answers.append(await client.ref(Echo).ask("asyncio", timeout=PATIENCE))

    async with open_system([Echo], broker=fleet.url), open_client(fleet.url) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, in_a_thread)
            nursery.start_soon(trio.to_thread.run_sync, asyncio.run, on_asyncio())
            await wait_until(lambda: len(ready) == 2)
            old = await trio.to_thread.run_sync(fleet.fail_over)
            await wait_until(lambda: b"name=actorwork" not in clients_of(old))
            new = await trio.to_thread.run_sync(fleet.primary)
            for name in (b"name=actorwork ", b"name=actorwork-reader ", b"name=actorwork-lease "):
                await wait_until(lambda name=name: name in clients_of(new))
            moved.set()
        assert await client.ref(Echo).ask("after", timeout=PATIENCE) == "after"
    assert sorted(answers) == ["asyncio", "sync"]


async def test_a_server_is_no_sentinel(fleet: RedisSentinels):
    with pytest.raises(BrokerError, match=r"is no sentinel .* redis:// names a single server"):
        async with open_broker(f"redis+sentinel://127.0.0.1:{fleet.primary().port}/{NAME}"):
            pass


async def test_sentinels_have_credentials_of_their_own(fleet: RedisSentinels):
    with open_redis_server(tcp=True, users=["default off", "ann on >secret ~* &* +@all"]) as guarded:
        place = f"127.0.0.1:{guarded.port}"
        with pytest.raises(BrokerError, match=r"refuses these credentials .*sentinel_password=") as caught:
            async with open_broker(f"redis+sentinel://ann:secret@{place}/{NAME}"):
                pass
        assert "secret" not in str(caught.value)
        # With them it is a server, and no sentinel.
        url = f"redis+sentinel://{place}/{NAME}?sentinel_username=ann&sentinel_password=secret"
        with pytest.raises(BrokerError, match="is no sentinel"):
            async with open_broker(url):
                pass


def test_a_url_of_sentinels_is_taken_apart():
    url = "redis+sentinel://ann:x%2Fy@h1:1,[::1]/my%20name/3?sentinel_username=bob&sentinel_password=p%40q&socket_timeout=9"
    address = Address.parse(url)
    assert address.sentinels is not None
    assert address.sentinels.name == "my name"
    assert {key: address.options[key] for key in ("username", "password", "db", "socket_timeout")} == {
        "username": "ann",
        "password": "x/y",
        "db": 3,
        "socket_timeout": 9.0,
    }
    assert [(place.name, place.options["host"], place.options["port"]) for place in address.sentinels.places] == [
        ("h1:1", "h1", 1),
        ("[::1]:26379", "::1", 26379),
    ]
    for place in address.sentinels.places:
        assert (place.options["username"], place.options["password"]) == ("bob", "p@q")
        assert place.options["socket_timeout"] == 1.0
        assert "db" not in place.options


def test_tls_is_that_of_the_sentinels_too():
    address = Address.parse("rediss+sentinel://h/m?ssl_ca_certs=/run/ca.pem&sentinel_ssl_ca_certs=/run/other.pem")
    assert address.sentinels is not None
    assert address.options["ssl_ca_certs"] == "/run/ca.pem"
    assert [place.options["ssl_ca_certs"] for place in address.sentinels.places] == ["/run/other.pem"]
