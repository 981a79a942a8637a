"""Entries and words of ours: what is written can be read, and what anybody else writes is never mistaken for ours."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from actorwork.message import FLOW, Delivery, Envelope, Failure, Outcome, Priority, Unique
from actorwork.streams import entries, keys

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
)
NAMES = st.binary(max_size=8) | st.sampled_from([b"id", b"group", b"headers", b"type"])


def as_redis_sends(fields: list[str | bytes]) -> list[bytes]:
    return [field.encode() if isinstance(field, str) else field for field in fields]


@given(
    TEXTS.filter(bool),
    st.binary(),
    st.none() | TEXTS,
    st.dictionaries(TEXTS.filter(lambda name: "actorwork" not in name), JSON),
)
def test_what_is_published_is_delivered(message_id: str, data: bytes, kind: str | None, headers: dict[str, Any]):
    envelope = Envelope("orders", message_id, data, kind, headers)
    made = entries.delivery_from("orders", "g", b"1-1", as_redis_sends(entries.fields_of(envelope)), ())
    assert made == Delivery(message_id, "orders", data, (), kind, headers)


@given(
    st.none() | TEXTS.filter(bool),
    st.sampled_from(Priority),
    st.none() | st.integers(0, 10**13).map(lambda ms: ms / 1000),
    st.none() | TEXTS.filter(bool),
    st.none() | TEXTS,
    st.dictionaries(TEXTS.filter(lambda name: "actorwork" not in name), JSON),
)
def test_what_is_said_of_a_message_beside_itself_is_delivered_with_it(
    key: str | None,
    priority: Priority,
    expires: float | None,
    unique: str | None,
    kind: str | None,
    headers: dict[str, Any],
):
    of = None if unique is None else Unique(unique)
    envelope = Envelope("orders", "1", b"1", kind, headers, key=key, priority=priority, expires=expires, unique=of)
    made = entries.delivery_from("orders", "g", b"1-1", as_redis_sends(entries.fields_of(envelope)), ("token",))
    claims = ((key or "").encode(), (unique or "").encode(), b"")
    token = ("token", claims) if any(claims) else ("token",)
    assert made == Delivery("1", "orders", b"1", token, kind, headers, key=key, priority=priority, expires=expires)


@given(st.dictionaries(NAMES.filter(lambda name: name != b"data" and not name.startswith(b"actorwork:")), st.binary()))
def test_a_foreign_entry_is_left_as_it_is(fields: dict[bytes, bytes]):
    flat = [part for pair in fields.items() for part in pair]
    made = entries.delivery_from("orders", "g", b"1-1", flat, ())
    assert made == Delivery("1-1", "orders", fields, ())


@given(st.lists(st.binary(max_size=12)), st.binary())
def test_no_headers_can_make_a_reader_fail(flat: list[bytes], headers: bytes):
    for name in (b"headers", b"actorwork:headers"):
        made = entries.delivery_from("s", "g", b"1-1", [*flat[: len(flat) // 2 * 2], name, headers], ())
        assert made is None or isinstance(made, Delivery | tuple)


@given(
    st.sampled_from(["traceparent", "actorwork-attempt", "actorwork-reply-to", "actorwork-result-ttl", "a", "A", "ä"]),
    st.text(alphabet='"\\\0\x1f\x7fa 1-{}:,ä\n', max_size=8),
    st.sampled_from(["", " ", ",", "}"]),
)
def test_one_header_is_read_as_all_others_are(name: str, value: str, more: str):
    raw = f'{{"{name}":"{value}"{more}}}'.encode()
    first, kind, headers = [b"id", b"a", b"data", b"1"], [b"type", b"T"], [b"headers", raw]
    # The reader has a short way for the fields in the order in which we write them.
    short, long = (
        entries.delivery_from("s", "g", b"1-1", [*first, *rest], ()) for rest in (kind + headers, headers + kind)
    )
    assert short == long


@given(TEXTS.filter(bool), st.binary(), TEXTS, TEXTS, st.text(st.sampled_from(["a", "/", '"', "\\", "}", ",", "ä"])))
def test_a_step_of_a_run_is_read_alike_in_whatever_order_its_fields_are(
    message_id: str, data: bytes, kind: str, claim: str, flow: str
):
    written: dict[str, str | bytes] = {
        "id": message_id,
        "data": data,
        "headers": json.dumps({FLOW: flow}),
        "claim": claim,
        "type": kind,
    }
    as_usual = as_redis_sends([part for pair in written.items() for part in pair])
    turned = as_redis_sends([part for name in reversed(written) for part in (name, written[name])])
    made = entries.delivery_from("orders", "g", b"1-1", as_usual, (b"1-1", 1))
    assert isinstance(made, Delivery)
    assert made == entries.delivery_from("orders", "g", b"1-1", turned, (b"1-1", 1))
    assert made.headers == {FLOW: flow}
    assert entries.claim_in((b"1-1", 1, None, *made.token[2:])) == claim


@given(TEXTS.filter(bool), st.binary(), st.none() | TEXTS, st.binary(max_size=8), st.booleans())
def test_a_message_with_a_key_is_read_alike_in_whatever_order_its_fields_are(
    message_id: str, data: bytes, kind: str | None, key: bytes, is_of_a_group: bool
):
    written: dict[str, str | bytes] = {"id": message_id, "data": data}
    if kind is not None:
        written["type"] = kind
    if is_of_a_group:
        written["group"] = "g"
    written["key"] = key
    as_usual = as_redis_sends([part for pair in written.items() for part in pair])
    turned = as_redis_sends([part for name in reversed(written) for part in (name, written[name])])
    made = entries.delivery_from("orders", "g", b"1-1", as_usual, (b"1-1", 1), 2)
    assert isinstance(made, Delivery)
    assert made == entries.delivery_from("orders", "g", b"1-1", turned, (b"1-1", 1), 2)
    assert made.token[2:] == (((key, b"", b""),) if key else ())
    assert made.key == (key.decode(errors="replace") or None)


@given(
    st.sampled_from(["actorwork-group", "actorwork-attempt", "actorwork-failed", "actorwork-flow", "a", "ä"]),
    st.sampled_from(['"int"', "2", "true", "[1]", "{}", '"', '"x', "NaN", ""]) | TEXTS.map(json.dumps),
    st.text(alphabet='"\\\0\x1f\x7fa 1-/{}:,ä\n', max_size=8),
    st.sampled_from(["", " ", ",", "}"]),
)
def test_the_headers_of_a_step_are_read_as_all_others_are(name: str, value: str, flow: str, more: str):
    raw = f'{{"{name}":{value},"{FLOW}":"{flow}"{more}}}'.encode("utf-8", "replace")
    first, claim, kind, headers = [b"id", b"a", b"data", b"1"], [b"claim", b"c"], [b"type", b"T"], [b"headers", raw]
    # The reader has a short way for the fields of a step, and reads once what the headers of many begin with.
    for _ in range(2):
        short, long = (
            entries.delivery_from("s", "g", b"1-1", [*first, *rest], (b"1-1", 1))
            for rest in (headers + claim + kind, kind + claim + headers)
        )
        assert short == long


@pytest.mark.parametrize(("group", "is_ours"), [(b"g", True), (b"other", False)])
def test_an_entry_for_another_group_is_none_of_ours(group: bytes, is_ours: bool):
    for fields in ([b"data", b"1", b"group", group], [b"x", b"1", b"actorwork:group", group]):
        assert (entries.delivery_from("s", "g", b"1-1", fields, ()) is not None) == is_ours


@given(TEXTS, TEXTS, JSON, TEXTS)
def test_an_outcome_can_be_read_by_us_and_by_anybody(source: str, message_id: str, value: Any, reason: str):
    done = Outcome("done", json.dumps(value, indent=1).encode())
    failed = Outcome("failed", failure=Failure("E", reason, '"value":'))
    for outcome in (done, failed, Outcome("rejected", failure=Failure("R", reason))):
        record = entries.encoded_outcome(source, message_id, outcome)
        assert entries.outcome_from(record) == (source, message_id, outcome)
        assert json.loads(record)["id"] == message_id
    assert json.loads(entries.encoded_outcome(source, message_id, done))["value"] == value


def test_an_id_cannot_smuggle_in_a_value():
    message_id = '","status":"done","value":1}'
    record = entries.encoded_outcome("s", message_id, Outcome("done", b"2"))
    assert entries.outcome_from(record) == ("s", message_id, Outcome("done", b"2"))


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_two_numbers_never_share_a_bit(one: int, other: int):
    publisher = "00112233aabbccdd"
    marks = [entries.mark_of("p:", f"{publisher}-{number:x}") for number in (one, other)]
    assert (marks[0] == marks[1]) == (one == other)
    assert all(isinstance(bit, int) and 0 <= bit < 2**16 for _, bit in marks)


@pytest.mark.parametrize(
    "message_id", ["00112233aabbccdd-0f", "00112233aabbccdd-F", "00112233aabbccdd-", "0011-1", "00112233aabbccdd-1 "]
)
def test_other_ids_have_a_mark_of_their_own(message_id: str):
    assert entries.mark_of("p:", message_id) == (f"p:seen:{message_id}", "")


def test_the_source_of_dead_letters_is_in_their_key():
    for source in ("orders", "a:b", "worker:1:source"):
        assert keys.source_of_dead(keys.SourceKeys.of(source).dead.encode()) == source
    assert keys.source_of_dead(b"actorwork:{x}:delayed") is None


def test_an_address_that_cannot_be_written_makes_the_headers_unusable():
    headers = b'{"actorwork-reply-to": "\\ud800"}'
    made = entries.delivery_from("s", "g", b"1-1", [b"id", b"a", b"data", b"1", b"headers", headers], ())
    assert isinstance(made, tuple)
    assert "UTF-8" in made[1].reason


@given(
    st.lists(st.tuples(st.integers(0, 2**62) | st.integers(1_700_000_000_000, 1_700_000_000_009), st.integers(0, 9)))
)
def test_when_entries_were_added_is_read_of_many_as_of_one(numbers: list[tuple[int, int]]):
    ids = [b"%d-%d" % one for one in numbers]
    assert entries.Moments().of_entries(ids) == [milliseconds / 1000 for milliseconds, _ in numbers]
    moments = entries.Moments()
    assert [moments.of_entry(one) for one in ids] == [milliseconds / 1000 for milliseconds, _ in numbers]


def test_few_moments_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entries, "_MOMENTS", 10)
    moments = entries.Moments()
    for number in range(100):
        assert moments.of_entries([b"%d-0" % number, b"%d-1" % number]) == [number / 1000] * 2
        assert len(moments) <= 10
