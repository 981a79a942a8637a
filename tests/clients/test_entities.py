"""Entities over the real brokers, from clients with and without an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
import trio

from actorwork import (
    AskTimeout,
    CodecError,
    Entities,
    Entity,
    EntityState,
    MessageRefused,
    Settings,
    StateConflict,
    SystemThread,
    aio,
    open_client,
    open_system,
    receive,
    sync,
)
from tests.clients.programs import run_asyncio
from tests.patience import PATIENCE


@attrs.define
class Total:
    sum: int = 0


@attrs.frozen
class Add:
    number: int


@attrs.frozen
class Note:
    say: str


@attrs.frozen
class Drop:
    name: str


class Counter(Entity[Total]):
    settings = Settings(title="counter", concurrency=8, entities=Entities(history=5))

    @receive
    async def add(self, message: Add) -> int:
        self.state.sum += message.number
        await self.commit()
        self.state.sum += 1
        return self.state.sum


@attrs.define
class Diary:
    lines: list[str] = attrs.field(factory=list[str])


class Clerk(Entity[Diary]):
    settings = Settings(title="clerk", entities=Entities(idle=5))

    @receive
    async def set(self, *, remind: str, say: str, after: float) -> None:
        self.remind(remind, Note(say), after=after)

    @receive
    async def drop(self, message: Drop) -> None:
        self.forget_reminder(message.name)

    @receive
    async def note(self, message: Note) -> None:
        self.state.lines.append(message.say)


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'messages.db'}"
    found: str = request.getfixturevalue("redis_url")
    return found


@pytest.fixture
def at_work(url: str) -> Iterator[str]:
    with SystemThread(Counter, broker=url):
        yield url


def test_a_client_without_an_event_loop_has_the_whole_face(at_work: str) -> None:
    with sync.open_client(at_work) as client:
        ann = client.ref(Counter, key="ann")
        assert isinstance(ann, sync.EntityRef)
        assert ann.state() == EntityState(value=Total(), version=0)
        assert ann.ask(Add(5), timeout=PATIENCE) == 6
        assert ann.submit(Add(1)).result(timeout=PATIENCE) == 8
        assert [(one.value.sum, one.version) for one in ann.history()] == [(8, 4), (7, 3), (6, 2), (5, 1)]
        with pytest.raises(StateConflict):
            ann.put(Total(1), version=1)
        assert ann.put(Total(1), version=4, reason="a test") == 5
        client.ref(Counter, key="ben").tell(Add(1))
        assert client.ref("counter", key="ann").state().value == {"sum": 1}
        assert ann.forget(timeout=PATIENCE)
        assert not ann.forget_now()
        assert client.ref(Counter, key="ben").ask(Add(1), timeout=PATIENCE) == 4
        assert [one.key for one in client.entities(Counter)] == ["ben"]
        with pytest.raises(MessageRefused):
            client.ref(Counter).tell(Add(1))


def test_a_client_on_asyncio_has_the_whole_face(at_work: str) -> None:
    async def use() -> None:
        async with aio.open_client(at_work) as client:
            ann = client.ref(Counter, key="ann")
            assert await ann.ask(Add(5), timeout=PATIENCE) == 6
            assert (await ann.state()).value == Total(6)
            assert await ann.put(Total(1), force=True) == 3
            assert [one.version for one in await ann.history()] == [3, 2, 1]
            assert [one.key async for one in client.entities("counter")] == ["ann"]
            assert await ann.forget(timeout=PATIENCE)
            assert [one.key async for one in client.entities(Counter)] == []

    run_asyncio(use)


async def test_many_keys_are_counted_exactly_and_listed_in_pages(at_work: str) -> None:
    async with open_client(at_work) as client:
        keys = [f"key {number}" for number in range(130)]

        async def count(key: str) -> None:
            assert await client.ref(Counter, key=key).ask(Add(1), timeout=PATIENCE) == 2

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(count, key)
        found = [one async for one in client.entities(Counter)]
        assert {one.key for one in found} == set(keys)
        since = found[-1].at
        assert all(one.at >= since for one in [one async for one in client.entities(Counter, changed_since=since)])
        yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
        assert len([one async for one in client.entities(Counter, changed_since=yesterday)]) == len(keys)
        assert [one async for one in client.entities(Counter, changed_since=tomorrow)] == []


async def test_a_state_is_there_without_a_node_but_it_is_forgotten_in_its_turn_only_by_one(url: str) -> None:
    async with open_client(url) as client:
        ann = client.ref(Counter, key="ann")
        assert await ann.put(Total(5), version=0) == 1
        assert (await ann.state()).value == Total(5)
        with pytest.raises(AskTimeout):
            await ann.forget(timeout=0.05)
        assert (await ann.state()).version == 1
        assert await ann.forget_now(reason="a test")
        assert (await ann.state()).version == 0


async def test_a_state_that_the_program_cannot_read_is_told_as_such_and_shown_as_json(url: str) -> None:
    async with open_client(url) as client:
        ann, raw = client.ref(Counter, key="ann"), client.ref("counter", key="ann")
        settings = Counter.settings
        states = client.broker.entities
        for data, schema, problem in (
            (b'{"sum": "many"}', 1, "at sum: wants a whole number"),
            (b'{"sum": 1}', 7, "it has the version 7 of its schema, and this program knows 1"),
            (b"{", 1, "not JSON"),
        ):
            await states.put(settings.default_source, settings.id, "ann", data, schema=schema, history=1)
            for look in (ann.state, ann.history):
                with pytest.raises(CodecError, match=f"state of 'ann' of 'counter' cannot be read: .*{problem}"):
                    await look()
        with pytest.raises(CodecError, match="not JSON"):
            await raw.state()
        await raw.put({"sum": 3})
        assert (await raw.state()).value == {"sum": 3}


async def test_bad_arguments_are_refused_with_what_was_wanted(url: str) -> None:
    async with open_client(url) as client:
        ann = client.ref(Counter, key="ann")
        with pytest.raises(
            CodecError, match=r"put into 'counter', key 'ann': .* at sum: wants a whole number, got 0\.5"
        ):
            await ann.put(Total(0.5))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(CodecError, match=r"put into 'counter', key 'ann': .* cannot be"):
            await ann.put(object())
        assert (await ann.state()).version == 0
        for limit in (0, -1, True, 1.5, "20"):
            with pytest.raises(ValueError, match="limit wants a whole number from 1 on, got"):
                await ann.history(limit=limit)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        for since in ("yesterday", float("nan"), float("inf")):
            with pytest.raises(ValueError, match="changed_since wants a datetime, or seconds since the epoch, got"):
                await anext(client.entities(Counter, changed_since=since))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def test_reminders_outlive_the_node_that_has_set_them_and_come_once(url: str) -> None:
    async with open_client(url) as client:
        clerk = client.ref(Clerk, key="ann")
        source = Clerk.settings.default_source
        async with open_system(Clerk, broker=url):
            for remind, say, after in (("a", "first", 0.5), ("b", "no", 0.5), ("a", "again", 0.6), ("c", "last", 0.7)):
                await clerk.ask({"remind": remind, "say": say, "after": after}, timeout=PATIENCE)
            await clerk.ask(Drop("b"), timeout=PATIENCE)
        async with open_system(Clerk, broker=url):
            with trio.fail_after(PATIENCE):
                while await client.broker.delayed.list(source) or await client.broker.backlog(source):  # noqa: ASYNC110 - what it looks at is at a broker
                    await trio.sleep(0.02)
        lines = (await clerk.state()).value.lines
        # A busy machine may have been slower than the first reminders: then they came before they were replaced.
        assert sorted(set(lines) - {"first", "no"}) == ["again", "last"]
        assert len(lines) == len(set(lines)), "each came once"
