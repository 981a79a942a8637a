"""Between messages and bytes: what goes out comes in again, and everything else is told with its path."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, Self, TypedDict
from uuid import UUID

import attrs
import pytest
from hypothesis import given, strategies as st

from actorwork import CodecError
from actorwork.codec import (
    MessageDecoder,
    decode_value,
    dumps,
    encode,
    encode_value,
    encoder_of,
    fields_as_json,
    loads,
    structure,
    wire_name,
)
from actorwork.codec.text import dumps_object
from tests.doubles import fields


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Item:
    sku: str
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Order:
    id: UUID
    items: list[Item]
    at: datetime
    day: date
    clock: time
    wait: timedelta
    price: Decimal
    colour: Colour
    tags: frozenset[str]
    pair: tuple[int, str]
    by_name: dict[str, Item]
    note: str | None = None
    ratio: float = 0.0
    paid: bool = False


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ITEMS = st.builds(Item, sku=TEXT, count=st.integers())
ORDERS = st.builds(
    Order,
    id=st.uuids(),
    items=st.lists(ITEMS, max_size=3),
    at=st.datetimes(timezones=st.sampled_from([UTC, None])),
    day=st.dates(),
    clock=st.times(),
    wait=st.integers(-(10**6), 10**6).map(lambda n: timedelta(seconds=n / 8)),
    price=st.decimals(allow_nan=False, allow_infinity=False),
    colour=st.sampled_from(Colour),
    tags=st.frozensets(TEXT, max_size=3),
    pair=st.tuples(st.integers(), TEXT),
    by_name=st.dictionaries(TEXT, ITEMS, max_size=3),
    note=st.none() | TEXT,
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    paid=st.booleans(),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(ORDERS)
def test_a_record_comes_in_as_it_went_out(order: Order):
    data, wire = encode(order)
    assert wire == "Order"
    assert decode_value(data, Order) == order
    assert MessageDecoder(Order)(data) == order


class Stop(NamedTuple):
    # As below `from __future__ import annotations`, where every annotation is text.
    place: "str"
    at: "datetime"
    tags: "frozenset[str]" = frozenset()
    then: "Sequence[Stop]" = ()


@attrs.frozen
class Journey:
    stops: list[Stop]


def test_a_named_tuple_comes_in_as_it_went_out():
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    journey = Journey([Stop("Ulm", noon), Stop("Bonn", noon, frozenset({"late"}), (Stop("Köln", noon),))])
    data, _ = encode(journey)
    assert json.loads(data)["stops"][0] == ["Ulm", "2026-01-31T12:00:00+00:00", [], []]
    assert decode_value(data, Journey) == journey
    with pytest.raises(CodecError, match=r"at stops\[0\]\[1\]: wants a date and time \(ISO 8601\), got 'noon'"):
        decode_value(b'{"stops": [["Ulm", "noon", [], []]]}', Journey)


@given(JSON)
def test_a_json_value_comes_in_as_it_went_out(value: Any):
    data, wire = encode(value)
    assert wire is None
    assert loads(data) == value
    assert decode_value(data, Any) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_codec_error(data: bytes):
    try:
        value = loads(data)
    except CodecError:
        return
    assert json.loads(data) == value


@given(JSON)
def test_any_json_is_an_order_or_a_codec_error_that_says_what_is_wrong(value: Any):
    with pytest.raises(CodecError) as caught:
        structure(value, Order)
    assert caught.value.problems
    assert all(len(problem) < 500 for problem in caught.value.problems)


@pytest.mark.parametrize("space", [b" 1", b"1 ", b"\n{}\t", b" [1] "])
def test_white_space_around_json_is_taken(space: bytes):
    assert loads(space) == json.loads(space)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"1 2", "not JSON"),
        (b"NaN", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"-Infinity", "-Infinity is not JSON"),
        (b"'x'", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_told(data: bytes, text: str):
    with pytest.raises(CodecError, match=text) as caught:
        loads(data)
    assert len(str(caught.value)) < 300


def deep() -> object:
    value: object = None
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, object(), {1, object()}, {"a": b"bytes"}, "\ud800", {("a",): 1}, deep()],
    ids=["nan", "inf", "object", "set", "bytes", "half a character", "key", "deep"],
)
def test_what_json_does_not_have_cannot_be_sent(value: object):
    for write in (encode, encode_value):
        with pytest.raises(CodecError, match="cannot be written as JSON"):
            write(value)


@attrs.define
class Inner:
    number: int


@attrs.define
class Outer:
    inner: Inner


def test_a_message_whose_field_is_of_another_class_is_refused_and_no_error_of_the_converter_comes_out():
    wrong: Any = 5
    for write in (encode, encode_value, encoder_of(Outer)):
        with pytest.raises(CodecError, match="cannot be written as JSON"):
            write(Outer(wrong))


def test_text_is_written_as_it_is():
    assert dumps({"ü": "✓"}) == '{"ü":"✓"}'.encode()


def _repeated(text: str, times: int) -> str:
    return text * times


_LONG_TEXTS = st.builds(
    _repeated,
    st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n\x1f\x7f é😀'), min_size=1, max_size=5),
    st.sampled_from([1, 60, 300]),
)
_PARTS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _LONG_TEXTS
)


@given(st.dictionaries(_LONG_TEXTS | st.integers(), _PARTS | st.lists(_PARTS, max_size=3), max_size=10))
def test_an_object_with_long_texts_is_written_as_any_other(value: dict[Any, Any]):
    assert dumps_object(value) == dumps(value)


@given(st.lists(st.dictionaries(st.sampled_from("ab"), _LONG_TEXTS | st.integers()), min_size=1, max_size=5))
def test_so_is_one_whose_long_text_was_written_before(values: list[dict[Any, Any]]):
    keeps: Any = SimpleNamespace(text=None)
    for value in values:
        for _ in range(2):
            assert dumps_object(value, keeps) == dumps(value)
            assert keeps.text is None or any(keeps.text is part for part in value.values())


def test_a_long_text_that_is_known_is_kept_for_as_long_as_it_is_written():
    keeps: Any = SimpleNamespace(text=None)
    long = "x" * 1000
    parts: list[tuple[Any, str | None]] = [(long, long), (f'{long}"', None), (long, long), (1, None)]
    for part, kept in parts:
        dumps_object({"a": part}, keeps)
        assert keeps.text is kept


@pytest.mark.parametrize("part", [math.nan, object(), "\ud800"])
def test_an_object_with_a_long_text_and_what_is_no_json_is_refused(part: Any):
    with pytest.raises(CodecError, match="cannot be written as JSON"):
        dumps_object({"long": "x" * 1000, "part": part})
    with pytest.raises(CodecError, match="cannot be written as JSON"):
        dumps_object({"long": "x" * 1000 + str(part) if part == "\ud800" else part, "other": "y" * 1000})


def test_a_path_is_sent_as_its_text():
    assert encode_value({"at": Path("/a/b")}) == b'{"at":"/a/b"}'


@attrs.frozen
class Defaults:
    count: int = 1


class Table(TypedDict):
    rows: int


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (int, True, "wants a whole number, got True"),
        (int, 1.0, "wants a whole number, got 1.0"),
        (int, "1", "wants a whole number, got '1'"),
        (float, "1", "wants a number, got '1'"),
        (float, True, "wants a number, got True"),
        (bool, 1, "wants true or false, got 1"),
        (str, 1, "wants a string, got 1"),
        (datetime, "soon", "wants a date and time (ISO 8601), got 'soon'"),
        (date, 5, "wants a date (ISO 8601) as a string, got 5"),
        (UUID, "x", "wants a UUID, got 'x'"),
        (Decimal, "x", "wants a decimal number, got 'x'"),
        (Colour, "green", "wants one of 'red', 'blue', got 'green'"),
        (Colour, ["red"], "wants one of 'red', 'blue', got ['red']"),
        (list[str], "abc", "wants a list, got 'abc'"),
        (list[str], {"a": 1}, "wants a list, got {'a': 1}"),
        (set[int], "12", "wants a list, got '12'"),
        (tuple[int, ...], "12", "wants a list, got '12'"),
        (Sequence[str], "abc", "wants a list, got 'abc'"),
        (list[list[str]], ["ab"], "at [0]: wants a list, got 'ab'"),
        (list[Item], [{"sku": "a"}, {"sku": 1}], "at [1].sku: wants a string, got 1"),
        (dict[str, Item], {"k": {"sku": 1}}, "at ['k'].sku: wants a string, got 1"),
        (dict[str, int], [1], "wants a JSON object, got [1]"),
        (Item, [1], "wants a JSON object, got [1]"),
        (Item, "sku", "wants a JSON object, got 'sku'"),
        (list[Item], [5], "at [0]: wants a JSON object, got a number"),
        (Defaults, [1], "wants a JSON object, got [1]"),
        (Defaults, 5, "wants a JSON object, got a number"),
        (Defaults, None, "wants a JSON object, got null"),
        (Table, [1], "wants a JSON object, got a list"),
        (Item, {"sku": "a", "colour": 1}, "unknown field 'colour'; Item has 'sku', 'count'"),
        (Item, {}, "at sku: missing"),
        (None, 1, "wants null, got 1"),
        (int | None, "x", "wants a whole number or null, got 'x'"),
        (int | str, None, "wants a whole number or a string, got None"),
        (Literal["a", "b"], "c", "c not in literal"),
    ],
    ids=repr,
)
def test_a_value_of_another_type_is_refused(annotation: Any, value: Any, problem: str):
    with pytest.raises(CodecError) as caught:
        structure(value, annotation)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 1, 1.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (int | None, None, None),
        (int | str, "1", "1"),
        (int | str, 1, 1),
        (str | float | None, 1, 1.0),
        (bool | int, True, True),
        (list[int | str], [1, "a"], [1, "a"]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (set[int], [1, 1], {1}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (Sequence[int], [1], [1]),
        (list[Any], [1, "a", None], [1, "a", None]),
        (list, [1], [1]),
        (dict, {"a": 1}, {"a": 1}),
        (Item | None, {"sku": "a"}, Item("a")),
        (timedelta, 1.5, timedelta(seconds=1.5)),
        (Literal["a", "b"], "a", "a"),
        (object, {"a": [1]}, {"a": [1]}),
        (None, None, None),
    ],
    ids=repr,
)
def test_a_value_of_the_type_is_taken(annotation: Any, value: Any, expected: object):
    got = structure(value, annotation)
    if annotation == Sequence[int]:
        got = list(got)
    assert got == expected
    assert type(got) is type(expected)


def test_every_defect_is_told_at_once():
    with pytest.raises(CodecError) as caught:
        structure({"sku": 1, "count": "x"}, Item)
    assert list(caught.value.problems) == ["at sku: wants a string, got 1", "at count: wants a whole number, got 'x'"]


def test_the_name_on_the_wire_can_be_chosen():
    @attrs.frozen
    class Plain: ...

    @attrs.frozen
    class Versioned:
        __wire_name__ = "plain.v2"

    assert (wire_name(Plain), wire_name(Versioned)) == ("Plain", "plain.v2")


class Size(StrEnum):
    SMALL = "small"


class Kind(str, Enum):  # noqa: UP042 - what many programs still have
    FULL = "full"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Corner(Enum):
    TOP = (0, 1)


class Upper(str):
    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if value != value.upper():
            raise ValueError("it is not in capitals")
        return super().__new__(cls, value)


class Cents(int):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [Size.SMALL, Kind.FULL, Level.HIGH, Rights.READ | Rights.WRITE, Rights(0), Corner.TOP, Upper("AB"), Cents(3)],
)
def test_enums_and_other_subclasses_of_text_and_numbers_are_read_as_what_they_were(value: Any):
    read = decode_value(encode_value(value), type(value))
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("data", "annotation", "complaint"),
    [
        (b'"huge"', Size, "wants one of 'small', got 'huge'"),
        (b'"none"', Kind, "wants one of 'full', got 'none'"),
        (b"99", Level, "wants one of 1, 2, got 99"),
        (b"true", Level, "wants one of 1, 2, got True"),
        (b"7", Rights, "wants a combination of 1, 2, got 7"),
        (b"[1,0]", Corner, "got [1, 0]"),
        (b'"ab"', Upper, "it is not in capitals"),
        (b"3", Upper, "got 3"),
        (b'"3"', Cents, "got '3'"),
    ],
)
def test_what_an_enum_or_a_subclass_does_not_have_is_refused(data: bytes, annotation: Any, complaint: str):
    with pytest.raises(CodecError, match=re.escape(complaint)):
        decode_value(data, annotation)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ({1: "a", -2: "b"}, dict[int, str]),
        ({1.5: "a"}, dict[float, str]),
        ({Level.LOW: "a"}, dict[Level, str]),
        ({Size.SMALL: 1}, Mapping[Size, int]),
        ({True: 1}, dict[bool, int]),
        ({"1": 1}, dict[str, int]),
    ],
)
def test_keys_that_json_can_only_write_as_text_are_read_as_what_they_were(value: Any, annotation: Any):
    read = decode_value(encode_value(value), annotation)
    assert read == value
    assert [type(key) for key in read] == [type(key) for key in value]


def test_a_key_that_is_no_number_is_refused_where_numbers_are_wanted():
    with pytest.raises(CodecError, match="wants a whole number, got 'a'"):
        decode_value(b'{"a":"x"}', dict[int, str])


# ---- fields of foreign producers ----


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        (str, "1", "1"),
        (str, "null", "null"),
        (Any, "1", "1"),
        (int, "1", 1),
        (int, "-1", -1),
        (int, "1.5", "1.5"),
        (float, "1", 1.0),
        (float, "1e3", 1000.0),
        (bool, "true", True),
        (bool, "False", False),
        (bool, "1", True),
        (bool, "0", False),
        (bool, "2", "2"),
        (int | None, "", None),
        (int | None, "null", None),
        (int | None, "7", 7),
        (str | None, "", None),
        (int | str, "7", 7),
        (int | str, "x", "x"),
        (list[int], "[1,2]", [1, 2]),
        (list[str] | None, '["a"]', ["a"]),
        (dict[str, int], '{"a":1}', {"a": 1}),
        (Item, '{"sku":"a"}', {"sku": "a"}),
        (datetime, "2025-01-01T00:00:00", "2025-01-01T00:00:00"),
        (Colour, "red", "red"),
        (list[int], "oops", "oops"),
    ],
    ids=repr,
)
def test_text_is_read_as_what_is_wanted(annotation: Any, text: str, expected: object):
    got = fields_as_json(fields(x=text), {"x": annotation})["x"]
    assert got == expected
    assert type(got) is type(expected)


def test_fields_that_nobody_named_stay_text():
    assert fields_as_json(fields(x="1"), {}) == {"x": "1"}


@given(st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=5))
def test_any_fields_are_text_or_a_codec_error(raw: dict[bytes, bytes]):
    def is_text(part: bytes) -> bool:
        return part.decode(errors="replace").encode() == part

    if all(is_text(name) and is_text(value) for name, value in raw.items()):
        read = fields_as_json(raw, {"x": int, "y": list[int], "z": bool})
        assert set(read) == {name.decode() for name in raw}
    else:
        with pytest.raises(CodecError, match="not UTF-8"):
            fields_as_json(raw, {})


def test_numbers_as_names_are_read_in_a_record_whatever_was_read_before():
    # A type of its own, so that nothing else has read it before.
    class Money(float): ...

    @attrs.frozen
    class Prices:
        by_size: dict[int, Money]

    assert decode_value(b'{"1": 2.5}', dict[int, Money]) == {1: 2.5}
    assert decode_value(b'{"by_size": {"1": 2.5}}', Prices) == Prices({1: Money(2.5)})
    assert decode_value(b'{"1": 2.5}', dict[int, Money]) == {1: 2.5}
    with pytest.raises(CodecError, match="wants a whole number, got 'x'"):
        decode_value(b'{"by_size": {"x": 2.5}}', Prices)
