"""What a hook makes of a foreign entry, and how the entry ends if it cannot."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from actorwork import Delivery, errors
from actorwork.message import FAILED
from actorwork.policy.decoding import decoded
from actorwork.policy.settlement import Fail, Reject
from actorwork.streams.entries import encoded_headers

FOREIGN = Delivery("1-1", "orders", {b"payload": b'{"x": 1}'}, ("token",))


@attrs.frozen
class Order:
    number: int


READ: list[tuple[Any, str | None, bytes, Mapping[str, Any]]] = [
    (("Order", b'{"number": 1}', {"trace": "t"}), "Order", b'{"number": 1}', {"trace": "t"}),
    ((None, {"number": 1}, None), None, b'{"number":1}', {}),
    (("Order", Order(1), {}), "Order", b'{"number":1}', {}),
    ({"number": 1}, None, b'{"number":1}', {}),
    (Order(1), "Order", b'{"number":1}', {}),
    ("text", None, b'"text"', {}),
]
UNREAD: list[tuple[Any, str]] = [
    (None, "it returned None"),
    (("Order", b"{}"), "got a tuple of 2"),
    ((7, b"{}", {}), "wants a str or None as type, got 7"),
    ((None, b"{}", "x"), "wants a mapping of headers, got 'x'"),
    ((None, b"{}", {"actorwork-reply-to": "x"}), "do not begin with 'actorwork-', got 'actorwork-reply-to'"),
    ((None, b"{}", {"x": object()}), "cannot be written as JSON"),
    ((None, object(), {}), "cannot be written as JSON"),
    (object(), "JSON"),
    (b"{}", "JSON"),
]


@pytest.mark.parametrize(("found", "kind", "data", "headers"), READ)
def test_a_hook_returns_a_message_or_its_parts(found: Any, kind: str | None, data: bytes, headers: Mapping[str, Any]):
    assert decoded(FOREIGN, lambda _: found) == attrs.evolve(FOREIGN, type=kind, payload=data, headers=headers)


def test_a_hook_gets_the_fields_and_a_retry_keeps_the_headers_of_the_runtime():
    retried = attrs.evolve(FOREIGN, attempt=2, headers={"actorwork-attempt": 2, "trace": "first"})
    read = decoded(retried, lambda fields: (None, fields[b"payload"], {"trace": "again", "by": "hook"}))
    assert isinstance(read, Delivery)
    assert (read.payload, read.attempt) == (b'{"x": 1}', 2)
    assert read.headers == {"actorwork-attempt": 2, "trace": "first", "by": "hook"}


@pytest.mark.parametrize(("found", "text"), UNREAD)
def test_what_is_no_message_is_a_dead_letter(found: Any, text: str):
    end = decoded(FOREIGN, lambda _: found)
    assert isinstance(end, Fail)
    assert text in end.failure.reason


def test_headers_are_what_a_retry_can_store_and_the_next_attempt_reads_again():
    made = {"at": datetime(2026, 1, 2, tzinfo=UTC), "order": Order(1), "tags": ("a",)}
    read = decoded(FOREIGN, lambda _: (None, 7, made))
    assert isinstance(read, Delivery)
    assert read.headers == {"at": "2026-01-02T00:00:00+00:00", "order": {"number": 1}, "tags": ["a"]}
    assert encoded_headers(read.headers).startswith('{"at":"2026')


def test_an_error_of_a_hook_is_a_dead_letter_and_a_rejection_is_one_of_the_entry():
    def no_data(fields: Mapping[bytes, bytes]) -> object:
        return fields[b"data"]

    end = decoded(FOREIGN, no_data)
    assert isinstance(end, Fail)
    assert end.failure.type == "KeyError"
    assert end.failure.reason == "the decode hook no_data cannot read the entry: b'data'"
    assert "in no_data" in end.failure.traceback

    def reject(_: object) -> object:
        raise errors.Reject("not for us")

    end = decoded(FOREIGN, reject)
    assert isinstance(end, Reject)
    assert end.failure.reason == "not for us"

    def fail(_: object) -> object:
        raise errors.Fail("too old a version")

    end = decoded(FOREIGN, fail)
    assert isinstance(end, Fail)
    assert end.failure.reason == "too old a version"


def test_a_hook_that_wants_to_end_the_process_ends_only_the_entry_but_an_interrupt_passes():
    def leave(_: object) -> object:
        raise SystemExit(3)

    end = decoded(FOREIGN, leave)
    assert isinstance(end, Fail)
    assert (end.failure.type, end.failure.reason) == ("SystemExit", "the decode hook leave cannot read the entry: 3")

    def interrupt(_: object) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded(FOREIGN, interrupt)


@pytest.mark.filterwarnings("error")
def test_an_awaitable_is_no_message():
    async def read() -> object:
        return {}

    end = decoded(FOREIGN, lambda _: read())
    assert isinstance(end, Fail)
    assert "a decode hook is not async" in end.failure.reason


def test_what_tells_of_a_dead_letter_comes_with_the_fields_if_they_cannot_be_read():
    told = attrs.evolve(FOREIGN, headers={FAILED: {"type": "KeyError"}})
    assert decoded(told, lambda fields: fields[b"data"]) is told
    assert decoded(told, lambda fields: (None, fields[b"payload"], None)) == attrs.evolve(told, payload=b'{"x": 1}')
