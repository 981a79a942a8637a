"""What a type wants as JSON (codec/shapes.py): nothing is refused that the codec accepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import Any, Literal
from uuid import UUID

import attrs
import pytest

from actorwork import codec
from actorwork.codec.shapes import misfit, shape_of
from actorwork.errors import CodecError


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Mood(Flag):
    CALM = 1
    GLAD = 2


@attrs.frozen
class Point:
    x: int
    y: float = 0.0
    made: bool = attrs.field(default=False, init=False)


@dataclass
class Order:
    id: UUID
    points: list[Point]
    notes: dict[str, str] = field(default_factory=dict[str, str])
    color: Color | None = None


@attrs.frozen
class Tree:
    children: "list[Tree]"


VALUES: list[Any] = [
    None,
    True,
    0,
    2**70,
    1.5,
    "",
    "red",
    "2026-01-02",
    "2026-01-02T03:04:05+00:00",
    "03:04:05",
    "1.50",
    str(UUID(int=5)),
    [],
    [1],
    ["a", None],
    [{"x": 1}],
    {},
    {"a": 1},
    {"1": "b"},
    {"x": 1},
    {"x": 1, "y": 2},
    {"x": "1", "z": 2},
    {"id": str(UUID(int=5)), "points": [{"x": 1}], "color": "blue"},
    {"id": 5, "points": [{"y": 1}], "notes": {"a": 1}, "color": "green"},
    {"children": [{"children": []}]},
]
TYPES: list[Any] = [
    *(None, bool, int, float, str, Any, object, datetime, date, time, timedelta, UUID, Decimal, Color, Mood),
    *(Point, Order, Tree, list, dict, tuple, list[int], Sequence[str], set[str], tuple[int, ...], tuple[int, str]),
    *(dict[str, int], dict[int, str], Mapping[str, Any], int | None, str | bool, Point | None, date | None),
    *(Literal["red", 0], Literal[True, "no"], list[Point], dict[str, list[Color]]),
]


def accepts(value: Any, annotation: Any) -> bool:
    try:
        codec.structure(value, annotation)
    except CodecError:
        return False
    return True


@pytest.mark.parametrize("annotation", TYPES, ids=str)
def test_no_value_is_refused_that_the_codec_accepts(annotation: Any) -> None:
    shape = shape_of(annotation)
    wants = None if shape is None else codec.loads(shape)
    accepted = [value for value in VALUES if accepts(value, annotation)]
    assert [value for value in accepted if misfit(value, wants)] == []


@pytest.mark.parametrize(
    "annotation",
    [bool, int, float, str, None, datetime, date, UUID, Color, Point, Order, list[int], dict[str, int], int | None],
    ids=str,
)
def test_whatever_the_codec_refuses_of_a_plain_type_is_refused(annotation: Any) -> None:
    shape = shape_of(annotation)
    assert shape is not None
    refused = [value for value in VALUES if not accepts(value, annotation)]
    assert refused
    assert [value for value in refused if not misfit(value, codec.loads(shape))] == []


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (bool, "yes", "wants true or false, got 'yes'"),
        (float | None, "1", "wants a number or null, got '1'"),
        (Color, "green", "wants one of 'red', 'blue', got 'green'"),
        (datetime, "soon", "wants a date and time (ISO 8601) as a string, got 'soon'"),
        (list[Point], [{"x": 1}, {"x": None}], "at [1].x: wants a whole number, got None"),
        (Point, {"y": 1, "z": 2}, "unknown field 'z'; Point has x, y; missing field 'x'"),
        (Point, 3, "wants an object with the fields of Point, got 3"),
        (dict[str, int], {"a": "b"}, "at ['a']: wants a whole number, got 'b'"),
        (list[int] | Point, 3, "wants a list or an object with the fields of Point, got 3"),
    ],
    ids=str,
)
def test_a_problem_names_what_was_wanted_what_was_given_and_where(annotation: Any, value: Any, problem: str) -> None:
    shape = shape_of(annotation)
    assert shape is not None
    assert misfit(value, codec.loads(shape)) == problem


def test_a_type_that_leads_back_to_itself_has_a_shape_of_some_levels() -> None:
    shape = shape_of(Tree)
    assert shape is not None
    assert misfit({"children": [{"children": 3}]}, codec.loads(shape)) == "at children[0].children: wants a list, got 3"
    assert codec.structure({"children": []}, Tree) == Tree([])


def test_a_shape_that_this_version_does_not_know_refuses_nothing() -> None:
    assert misfit(datetime.now(UTC).isoformat(), ["moment", 3]) == ""
    assert misfit(3, "moment") == ""
