"""A read of few messages tells which states they meet, so that nothing has to be asked before their handlers begin."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from actorwork import Entities, Entity, Settings, open_client, open_system, receive
from actorwork.actors.entities import ahead
from actorwork.clients import Client
from actorwork.policy.entities import FoundState
from actorwork.streams import scripts
from actorwork.streams.entities import RedisEntities
from actorwork.streams.stamps import StampsOfReads
from actorwork.streams.transport.client import RedisClient, open_client as open_commands
from actorwork.streams.transport.redis_py import NoScriptError
from tests.patience import PATIENCE


@attrs.define
class Balance:
    amount: int = 0


class Account(Entity[Balance]):
    settings = Settings(title="account", concurrency=8, entities=Entities(idle=300))

    @receive
    async def deposit(self, amount: int) -> int:
        self.state.amount += amount
        return self.state.amount


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys whose states were asked for by themselves."""
    keys: list[str] = []
    right = RedisEntities.load

    async def load(
        self: RedisEntities, source: str, group: str, known: Sequence[tuple[str, str]]
    ) -> Sequence[FoundState]:
        keys.extend(key for key, _ in known)
        return await right(self, source, group, known)

    monkeypatch.setattr(RedisEntities, "load", load)
    monkeypatch.setattr(ahead, "FRESH", PATIENCE)  # On a busy machine a handler may begin late.
    return keys


@asynccontextmanager
async def open_account(url: str) -> AsyncGenerator[Client]:
    """A system whose server knows the script."""
    async with open_commands(url) as commands:
        await commands.call("SCRIPT", "LOAD", scripts.STAMPS.source)
    async with open_system(Account, broker=url), open_client(url) as client:
        yield client


async def deposit(client: Client, key: str, amount: int = 1) -> int:
    found: int = await client.ref(Account, key=key).ask(amount, timeout=PATIENCE)
    return found


async def test_for_a_message_that_comes_alone_no_state_is_asked_for_that_this_node_has_committed(
    redis_url: str, asked: list[str]
) -> None:
    async with open_account(redis_url) as client:
        assert [await deposit(client, key) for key in ("ann", "ann", "ben", "ann")] == [1, 2, 1, 3]
    assert asked == []


async def test_a_state_that_this_node_does_not_know_is_loaded(redis_url: str, asked: list[str]) -> None:
    async with open_account(redis_url) as client:
        ann = client.ref(Account, key="ann")
        await ann.put(Balance(10))
        assert await deposit(client, "ann") == 11
        assert asked == ["ann"], "it has not been here before"
        await ann.put(Balance(20))
        assert await deposit(client, "ann") == 21
        assert asked == ["ann", "ann"], "a user has put another one"
        await ann.forget()
        assert await deposit(client, "ann") == 1


async def test_a_server_that_has_forgotten_the_script_learns_it_again(redis_url: str, asked: list[str]) -> None:
    async with open_account(redis_url) as client, open_commands(redis_url) as commands:
        await deposit(client, "ann")
        await commands.call("SCRIPT", "FLUSH")
        amount = 1
        with trio.fail_after(PATIENCE):
            while (await commands.call("SCRIPT", "EXISTS", scripts.STAMPS.sha)) == [0]:
                amount += 1
                assert await deposit(client, "ann") == amount
        assert set(asked) == {"ann"}, "meanwhile the state is asked for by itself"


PREFIX = "actorwork:{source}:"


async def stamps_after(commands: RedisClient, last: Any, most: int = 16) -> list[bytes]:
    args = (PREFIX, "group", "node", last, most)
    found: list[bytes] = await commands.run_script(scripts.STAMPS, ("source",), args)
    return found


async def add(commands: RedisClient, *fields: str) -> bytes:
    entry: bytes = await commands.call("XADD", "source", "*", *fields)
    return entry


async def read(commands: RedisClient, consumer: str, count: int = 10) -> None:
    await commands.call("XREADGROUP", "GROUP", "group", consumer, "COUNT", count, "STREAMS", "source", ">")


async def test_the_script_tells_the_stamps_of_what_this_node_has_read_since(redis_url: str) -> None:
    async with open_commands(redis_url) as commands:
        assert await stamps_after(commands, "0-0") == [], "there is no group"
        await commands.call("XGROUP", "CREATE", "source", "group", "0", "MKSTREAM")
        await commands.call("HSET", f"{PREFIX}entity:group:ann", "n", "stamp")
        await commands.call("SET", f"{PREFIX}entity:group:spoilt", "no hash")
        before = await add(commands, "id", "0", "data", "{}", "key", "ann")
        await read(commands, "node")
        ann = await add(commands, "id", "1", "data", "{}", "key", "ann")
        ben = await add(commands, "id", "2", "data", "{}", "key", "ben")
        await add(commands, "id", "3", "data", "{}")
        await add(commands, "key", "ann", "of", "a foreign producer")
        await add(commands, "id", "4", "data", "{}", "key", "spoilt")
        await read(commands, "node")
        await add(commands, "id", "5", "data", "{}", "key", "ann")
        await read(commands, "another")
        assert await stamps_after(commands, before) == [ann, b"stamp", ben, b""]
        assert await stamps_after(commands, before, most=4) == [], "those of many are loaded together"


def test_on_a_server_that_learns_no_script_it_is_not_tried_for_ever() -> None:
    sources: Any = None
    stamps = StampsOfReads(sources, sources)
    tries = 0
    for _ in range(100):
        assert stamps.told(NoScriptError("NOSCRIPT")) == {}
        tries += stamps.is_unknown
        stamps.is_unknown = False
    assert 0 < tries < 10


@pytest.mark.parametrize("reply", [None, RuntimeError("what a proxy says"), b"OK", [1, 2], [b"1-1", None], {}])
def test_a_reply_of_another_kind_tells_nothing(reply: object) -> None:
    sources: Any = None
    assert StampsOfReads(sources, sources).told(reply) == {}
