"""Malformed messages: each ends as a dead letter with a clear error, and the node lives on."""

import itertools
import json
import signal
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from actorwork import BrokerError
from actorwork.message import Envelope
from actorwork.records import DeadLetter
from actorwork.testing.redis_server import open_redis_server
from tests.forms import forms
from tests.patience import PATIENCE

from .conftest import Drill, Line, Place, Redis, open_place, until
from .workers import Clerk

DESK = "desk"

LARGE = 5_000_000


class Office:
    """One node for all of them: what one message leaves behind, the next one would meet."""

    def __init__(self, drill: Drill, url: str) -> None:
        self.url = url
        self.drill = drill
        self.node = drill.start("clerk", url, lease=2)
        self._numbers = itertools.count(1000)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Place]:
        await self.node.wait_up()
        async with open_place(self.url) as place:
            yield place

    async def letter(self, place: Place) -> DeadLetter:
        """Check that the message became a dead letter, and that this was logged; return and delete the letter."""
        await place.wait_empty(DESK)
        (letter,) = await place.broker.dead_letters.list()
        assert (letter.source, letter.actor, letter.group) == (DESK, "clerk", Clerk.settings.id)

        def lines() -> list[Line]:
            return [line for line in self.node.lines("a dead letter of") if line.fields["message_id"] == letter.id]

        await until(lines, "the log of the dead letter")  # The node logs after it has settled.
        (line,) = lines()
        assert line.level == "ERROR"
        assert line.fields["error"].startswith(letter.failure.type)
        assert await place.broker.dead_letters.drop(DESK, [letter.entry]) == 1
        return letter

    async def see_that_it_lives(self, place: Place) -> None:
        """Check that both actors of the node handle a message, in the same process, without a restart."""
        numbers = {next(self._numbers), next(self._numbers)}
        for source, number in zip((DESK, "work"), numbers, strict=True):
            await place.send_numbers(source, [number])
        await place.wait_empty(DESK, "work")
        assert numbers <= {note.facts["number"] for note in self.drill.ledger.notes("ended", pid=self.node.pid)}
        assert not self.node.lines("crashed")

    def close(self) -> None:
        self.node.signal(signal.SIGTERM)
        self.node.process.wait(PATIENCE)
        self.drill.close()
        assert self.node.process.returncode == 0, self.node.output[-3000:]


@pytest.fixture(scope="module")
def server() -> Generator[Redis]:
    with open_redis_server() as server:
        yield Redis(server)


@pytest.fixture(scope="module")
def redis_office(server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Generator[Office]:
    office = Office(Drill(tmp_path_factory.mktemp("office")), server.url)
    try:
        yield office
    finally:
        office.close()


@pytest.fixture(scope="module")
def embedded_office(tmp_path_factory: pytest.TempPathFactory) -> Generator[Office]:
    folder = tmp_path_factory.mktemp("office")
    office = Office(Drill(folder), f"sqlite:///{folder}/messages.db")
    try:
        yield office
    finally:
        office.close()


@pytest.fixture(params=forms("redis", more=["embedded"]))
def office(request: pytest.FixtureRequest) -> Office:
    found: Office = request.getfixturevalue(f"{request.param}_office")
    return found


BAD: dict[str, tuple[bytes, str | None, str, str]] = {
    "no text": (b"\xff\xfe{", None, "CodecError", "UTF-8"),
    "no JSON": (b"<order/>", None, "CodecError", "JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"number": 1}', None, "CodecError", "JSON"),
    "half of a JSON": (b'{"number": 1', None, "CodecError", "JSON"),
    "nothing": (b"", None, "CodecError", "JSON"),
    "null": (b"null", None, "CodecError", ""),
    "a list": (b"[1, 2]", None, "CodecError", ""),
    "a number": (b"7", None, "CodecError", ""),
    "deeper than anybody needs": (b"[" * 100_000 + b"]" * 100_000, None, "CodecError", ""),
    "an unknown type": (b'{"number": 1}', "Bill", "CodecError", "Bill"),
    "a missing field": (b'{"number": 1}', "Invoice", "CodecError", "customer"),
    "an extra field": (b'{"number": 1, "customer": "Ann", "amount": 2}', "Invoice", "CodecError", "amount"),
    "ten thousand extra keywords": (
        json.dumps({"number": 1, **{f"key{one}": one for one in range(10_000)}}).encode(),
        None,
        "CodecError",
        "and 9980 more",
    ),
    "an extra keyword": (b'{"number": 1, "amount": 2}', None, "CodecError", "amount"),
    "a missing keyword": (b'{"how": "fail"}', None, "CodecError", "number"),
    "a wrong value": (b'{"number": "seven", "customer": "Ann"}', "Invoice", "CodecError", "number"),
    "a wrong keyword": (b'{"number": [1]}', None, "CodecError", "number"),
    "not a number": (b'{"number": NaN}', None, "CodecError", "number"),
    "no end of digits": (b'{"number": ' + b"9" * 10_000 + b"}", None, "CodecError", ""),
    "a field called source": (b'{"number": 1, "source": "work"}', None, "CodecError", "source"),
    "five megabytes of nothing": (b"\x00" * LARGE, None, "CodecError", ""),
    "an error with five megabytes": (
        json.dumps({"number": 1, "how": "fail", "text": "x" * LARGE}).encode(),
        None,
        "ValueError",
        "xxx",
    ),
    "an error that is no text": (b'{"number": 1, "how": "fail", "text": "\\ud800\\u0000"}', None, "ValueError", ""),
    "a message of its own that is no text": (
        b'{"number": 1, "how": "echo", "text": "\\ud800"}',
        None,
        "CodecError",
        "",
    ),
    "SystemExit": (b'{"number": 1, "how": "exit"}', None, "SystemExit", "7"),
    "SystemExit in a nursery": (b'{"number": 1, "how": "exit in a nursery"}', None, "SystemExit", "7"),
    "a BaseException of its own": (b'{"number": 1, "how": "own"}', None, "_OwnError", ""),
    "a swallowed Cancelled": (b'{"number": 1, "how": "swallow"}', None, "ExecutionTimeout", "5 s"),
    "a Cancelled swallowed twice": (b'{"number": 1, "how": "swallow twice"}', None, "ExecutionTimeout", "5 s"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_handled_becomes_a_dead_letter(office: Office, name: str):
    data, kind, error, reason = BAD[name]
    async with office.open() as place:
        await place.broker.publish([Envelope(DESK, name, data, kind)])
        letter = await office.letter(place)
        assert letter.id == name
        assert letter.payload == data
        assert letter.failure.type == error
        assert reason in letter.failure.reason
        await office.see_that_it_lives(place)


GOOD: dict[str, tuple[bytes, str | None]] = {
    "five megabytes": (json.dumps({"number": 1, "text": "x" * LARGE}).encode(), None),
    "twice the same key": (b'{"number": 2, "number": 1}', None),
}


@pytest.mark.parametrize("name", GOOD)
async def test_what_only_looks_strange_is_handled(office: Office, name: str):
    data, kind = GOOD[name]
    async with office.open() as place:
        await place.broker.publish([Envelope(DESK, name, data, kind)])
        await place.wait_empty(DESK)
        assert await place.broker.dead_letters.list() == []
        assert [note.facts["number"] for note in office.drill.ledger.notes("ended") if note.id == name] == [1]
        await office.see_that_it_lives(place)


# ------------------------------------------------------------------------------------- entries as they should not be

MANY = [part for number in range(20_000) for part in (f"field{number}", "x")]

ENTRIES: dict[str, tuple[list[Any], str, str]] = {
    "headers that are no JSON": (["data", '{"number": 1}', "headers", "{"], "CodecError", "headers"),
    "headers that are no object": (["data", '{"number": 1}', "headers", "[1]"], "CodecError", "headers"),
    "headers that are no text": (["data", '{"number": 1}', "headers", b"\xff\xfe"], "CodecError", "headers"),
    "an attempt that is no number": (
        ["data", '{"number": 1}', "headers", '{"actorwork-attempt": "x"}'],
        "CodecError",
        "actorwork-attempt",
    ),
    "an address that is no text": (
        ["data", '{"number": 1}', "headers", '{"actorwork-reply-to": 7}'],
        "CodecError",
        "actorwork-reply-to",
    ),
    "a time to live that never ends": (
        ["data", '{"number": 1}', "headers", '{"actorwork-result-ttl": 1e300}'],
        "CodecError",
        "actorwork-result-ttl",
    ),
    "headers deeper than anybody needs": (
        ["data", '{"number": 1}', "headers", '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"],
        "CodecError",
        "headers",
    ),
    "an id that is no text": (["id", b"\xff\xfe", "data", "{"], "CodecError", ""),
    "an id that is empty": (["id", "", "data", "{"], "CodecError", ""),
    "a type that is no text": (["data", '{"number": 1}', "type", b"\xff"], "CodecError", ""),
    "names and values that are no text": ([b"\xff\xfe", b"\x00\xff"], "CodecError", ""),
    "no name and no value": (["", ""], "CodecError", ""),
    "no field of use": (["colour", "red"], "CodecError", "colour"),
    "a field called source": (["number", "1", "source", "work"], "CodecError", "source"),
    "the same name again and again": (["colour", "red", "colour", "blue"], "CodecError", "colour"),
    "some thousand fields": (MANY[:6000], "CodecError", "field"),
    "a huge number of fields": (MANY, "CodecError", "field"),
}


@pytest.mark.parametrize("name", ENTRIES)
async def test_an_entry_that_says_nothing_of_use_becomes_a_dead_letter(server: Redis, redis_office: Office, name: str):
    fields, error, reason = ENTRIES[name]
    async with redis_office.open() as place:
        entry: bytes = server("XADD", DESK, "*", *fields)
        letter = await redis_office.letter(place)
        assert letter.failure.type == error
        assert reason in letter.failure.reason
        assert letter.id in (entry.decode(), "\ufffd\ufffd")
        if isinstance(letter.payload, Mapping):
            # Of two fields with the same name the last one counts, as in a JSON object.
            assert dict(letter.payload) == {as_bytes(name): as_bytes(value) for name, value in pairs(fields)}
        assert server.pending(DESK) == 0
        await redis_office.see_that_it_lives(place)


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def pairs(fields: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(fields[::2], fields[1::2], strict=True))


async def test_a_dead_letter_can_be_replayed_unless_it_is_too_large(server: Redis, redis_office: Office):
    async with redis_office.open() as place:
        for fields in (["colour", "red"], MANY):
            server("XADD", DESK, "*", *fields)
        await place.wait_empty(DESK)
        small, large = await place.broker.dead_letters.list()
        assert await place.broker.dead_letters.replay(DESK, [small.entry]) == 1
        with pytest.raises(BrokerError, match="20000 fields"):
            await place.broker.dead_letters.replay(DESK, [large.entry])
        await place.wait_empty(DESK)
        letters = await place.broker.dead_letters.list()
        assert {(letter.id, letter.failure.type) for letter in letters} == {
            (small.id, "CodecError"),
            (large.id, "CodecError"),
        }
        await place.broker.dead_letters.drop(DESK, [letter.entry for letter in letters])
        await redis_office.see_that_it_lives(place)


async def test_an_entry_meant_for_another_group_is_left_to_it(server: Redis, redis_office: Office):
    async with redis_office.open() as place:
        entry: bytes = server("XADD", DESK, "*", "data", '{"number": 1}', "group", "another")
        await place.wait_empty(DESK)
        assert entry.decode() not in {note.id for note in redis_office.drill.ledger.notes()}
        assert await place.broker.dead_letters.list() == []
        await redis_office.see_that_it_lives(place)


async def test_a_source_that_is_no_stream_is_waited_for(server: Redis, redis_office: Office):
    """A list has the key of the source: the node reports it, and goes on when the list is deleted."""
    async with redis_office.open() as place:
        server("RPUSH", "a list", "not a stream")
        server("RENAME", "a list", DESK)
        await redis_office.node.wait_line("WRONGTYPE")
        # The other actor of this node is not affected.
        await place.send_numbers("work", [1])
        await place.wait_empty("work")
        server("DEL", DESK)
        await redis_office.see_that_it_lives(place)
