"""What a sender may say of a message, and what it becomes."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from actorwork import Actor, Settings, receive
from actorwork.actors.context.publishing import PublishBuffer
from actorwork.message import Envelope, MessageIds, Priority, Unique
from actorwork.policy.sending import Sending, SendOptions
from actorwork.settings import EventSettings

MOMENT = datetime(2030, 1, 1, tzinfo=UTC)


class Urgent(Actor):
    settings = Settings(title="urgent", priority=Priority.HIGH)

    @receive
    async def any(self, *, n: int) -> None: ...


def enveloped(**options: Any) -> Envelope:
    return Sending(**options).envelope("orders", "id", b"1", None)


def test_nothing_said_is_a_plain_envelope():
    assert enveloped() == Envelope("orders", "id", b"1")


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"delay": 2}, {"delay": 2.0}),
        ({"at": MOMENT}, {"at": MOMENT.timestamp()}),
        ({"at": 5}, {"at": 5.0}),
        ({"expires": 60}, {"lifetime": 60.0}),
        ({"expires": MOMENT}, {"expires": MOMENT.timestamp()}),
        ({"priority": Priority.CRITICAL}, {"priority": Priority.CRITICAL}),
        ({"key": "Ann"}, {"key": "Ann"}),
        ({"unique": "Ann"}, {"unique": Unique("Ann")}),
        ({"unique": Unique("Ann", ttl=5, on_conflict="first")}, {"unique": Unique("Ann", 5, "first")}),
        ({"id": "mine"}, {"id": "mine"}),
        ({"headers": {"lang": "en"}}, {"headers": {"lang": "en"}}),
    ],
)
def test_what_is_said_stands_in_the_envelope(options: dict[str, Any], fields: dict[str, Any]):
    assert enveloped(**options) == attrs.evolve(Envelope("orders", "id", b"1"), **fields)


def test_the_priority_of_the_actor_counts_where_the_sender_says_nothing():
    assert Sending().envelope("s", "id", b"1", None, priority=Priority.LOW).priority is Priority.LOW
    said = Sending(priority=Priority.HIGH)
    assert said.envelope("s", "id", b"1", None, priority=Priority.LOW).priority is Priority.HIGH


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"delay": -1}, ValueError, "delay wants seconds from 0 to 3153600000 (a century), got -1"),
        ({"delay": float("nan")}, ValueError, "got nan"),
        ({"delay": float("inf")}, ValueError, "got inf"),
        ({"delay": 1e12}, ValueError, "a century"),
        ({"delay": "5"}, ValueError, "got '5'"),
        ({"delay": True}, ValueError, "got True"),
        ({"delay": 1, "at": 5.0}, ValueError, "delay or at, not both"),
        ({"at": datetime(2026, 1, 1)}, ValueError, "at wants a time with a timezone"),
        ({"at": -5}, ValueError, "at wants seconds since the epoch, or a datetime, got -5"),
        ({"expires": 0}, ValueError, "expires wants more than 0 seconds"),
        ({"expires": -1}, ValueError, "expires wants seconds from now, or a datetime, got -1"),
        ({"expires": datetime(2026, 1, 1)}, ValueError, "expires wants a time with a timezone"),
        ({"priority": 1}, TypeError, "priority wants a Priority, such as Priority.HIGH, got 1"),
        ({"key": ""}, ValueError, "key wants 1 to 300 characters, got 0"),
        ({"key": 17}, TypeError, "key wants a str, got 17"),
        ({"unique": 17}, TypeError, "unique wants a str, got 17"),
        ({"unique": Unique("x" * 301)}, ValueError, "unique wants 1 to 300 characters, got 301"),
        ({"id": 17}, TypeError, "id wants a str, got 17"),
        *[
            ({name: "half \ud800"}, ValueError, f"{name} wants a str that can be written as UTF-8, got 'half \\ud800'")
            for name in ("key", "unique", "id")
        ],
        ({"headers": [1]}, TypeError, "headers wants a mapping"),
        ({"headers": {1: 2}}, TypeError, "headers wants names that are str, got 1"),
        ({"headers": {"actorwork-x": 2}}, ValueError, "belong to the runtime"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], error: type[Exception], complaint: str):
    with pytest.raises(error, match=re.escape(complaint)):
        Sending(**options)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"ttl": 0}, "Unique.ttl wants seconds"),
        ({"ttl": True}, "got True"),
        ({"on_conflict": "maybe"}, "wants 'reject', 'replace' or 'first'"),
    ],
)
def test_uniqueness_out_of_bounds_is_refused(fields: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        Unique("Ann", **fields)


def test_a_unique_key_is_a_text():
    no_key: Any = None
    with pytest.raises(TypeError, match=r"Unique.key wants a str, got None"):
        Unique(no_key)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"prio": 1}, "a message has no prio=…, but delay, at, expires, priority, key, unique, headers, id"),
        ({"unique": "Ann", "ttl": 5}, "a message has no ttl=…, but unique=Unique(…, ttl=…)"),
    ],
)
def test_an_option_that_nobody_knows_is_refused_with_those_there_are(options: Any, complaint: str):
    with pytest.raises(TypeError, match=re.escape(complaint)):
        Sending.of(options)


def test_what_a_delivery_publishes_keeps_all_that_was_said_also_in_the_file():
    options: SendOptions = {
        "delay": 2,
        "expires": 60,
        "priority": Priority.LOW,
        "key": "Ann",
        "unique": Unique("Ann", on_conflict="first"),
        "headers": {"lang": "en"},
        "id": "mine",
    }
    outgoing = PublishBuffer(EventSettings(max_events_in_memory=1))
    for _ in range(2):
        outgoing.add("orders", {"n": 1}, options)
    outgoing.add(Urgent, {"n": 1}, {})
    first, spilled, urgent = outgoing.batch(MessageIds("0" * 16))
    outgoing.close()
    assert first == spilled
    assert json.loads(first.data) == {"n": 1}
    assert (first.id, first.delay, first.lifetime, first.key) == ("mine", 2.0, 60.0, "Ann")
    assert (first.priority, first.unique) == (Priority.LOW, Unique("Ann", on_conflict="first"))
    assert (urgent.priority, urgent.id) == (Priority.HIGH, "0" * 16 + "-0")
