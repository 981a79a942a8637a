"""What a declared value may be, and what the error says where it may not."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from actorwork.errors import SettingsError
from actorwork.policy import bounds


def refusal(validator: bounds.Validator, value: object) -> str | None:
    made: Any = attrs.make_class("Made", {"field": attrs.field(validator=validator)})
    try:
        made(value)
    except SettingsError as error:
        return str(error)
    return None


CASES: list[tuple[bounds.Validator, list[Any], list[Any], str]] = [
    (bounds.number(0), [0, 0.5, math.inf], [-1, True, "1", None, math.nan], "a number >= 0"),
    (bounds.number(0, above=True), [0.1], [0], "a number > 0"),
    (bounds.number(0, bounds.FINITE, "finite seconds"), [0, 1e300], [math.inf], "finite seconds >= 0"),
    (bounds.number(0, 1, "a part"), [0, 1], [1.01, -0.01], "a part from 0 to 1"),
    (bounds.seconds(0, 60, above=True), [60], [0, 61], "seconds above 0 to 60"),
    (bounds.seconds(0, optional=True), [None, 0], [-1], "seconds >= 0, or None"),
    (bounds.whole(1), [1, 10**12], [0, 1.0, True], "a whole number >= 1"),
    (bounds.whole(1, 5, optional=True), [None, 5], [6], "a whole number from 1 to 5, or None"),
    (bounds.text(1, 3), ["a", "abc"], ["", "abcd", b"a"], "a str of 1 to 3 characters"),
    (bounds.text(0, 3), [""], ["abcd"], "a str of at most 3 characters"),
    (bounds.one_of(("a", "b")), ["a"], ["c", None, []], "'a' or 'b'"),
    (bounds.one_of(("a", "b"), optional=True), [None, "b"], ["c"], "'a', 'b' or None"),
    (bounds.instance_of(bool, "True or False"), [True], [1], "True or False"),
    (
        bounds.callables("a", "b"),
        [(), (math.pow,)],
        [[math.pow], (math.sqrt,), 1],
        "a list of callables of (a, b)",
    ),
]


@pytest.mark.parametrize(("validator", "right", "wrong", "wanted"), CASES)
def test_a_bound_names_the_field_what_it_wants_and_what_it_got(
    validator: bounds.Validator, right: list[Any], wrong: list[Any], wanted: str
):
    assert [refusal(validator, value) for value in right] == [None] * len(right)
    assert [refusal(validator, value) for value in wrong] == [
        f"Made.field wants {wanted}, got {value!r}" for value in wrong
    ]


def test_what_has_an_order_becomes_a_tuple_and_all_else_stays_what_it_is():
    assert bounds.as_tuple([1, 2]) == bounds.as_tuple(iter([1, 2])) == (1, 2)
    others: list[Any] = [{1, 2}, {1: 2}, "ab", b"ab", 1, None]
    assert [bounds.as_tuple(value) for value in others] == others


def test_fields_that_are_arguments_are_named_alone():
    @attrs.frozen
    class Arguments:
        fields_are_arguments = True
        lease: float = attrs.field(validator=bounds.seconds(0.2))

    with pytest.raises(SettingsError, match=r"^lease wants seconds >= 0\.2, got 0$"):
        Arguments(0)


def test_a_long_value_is_shown_in_part():
    said = refusal(bounds.text(0, 3), "x" * 1000)
    assert said is not None
    assert said.endswith("… (1002 characters)")
    assert len(said) < 200
