"""Validators for declared values; their errors name the field, the value and the bound.

    number, seconds    from `low` to `high` inclusive; `above`: excluding `low`
    whole              a whole number, from `low` to `high`, or at least `low`
    text               a str of `low` to `high` characters
    one_of             one of a few words
    instance_of        an instance of a class
    callables          a list of callables that take the named arguments
    check_name         a name that a user chooses at the broker: of a key, an id, a lock
    check_count        how many of something a user wants to see
    takes              whether an object can be called with that many arguments
    wrong              the error that all of them raise, for checks made elsewhere
    bounds_of          the lowest and the highest number that a validator accepts

True and False are not numbers, NaN is within no bounds, and infinity only within bounds without an upper limit.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set as AbstractSet
from typing import Any, Final, TypeAlias, TypeGuard, cast

import attrs

from actorwork.errors import SettingsError

Validator: TypeAlias = "Callable[[object, attrs.Attribute[Any], object], None]"

FINITE: Final = sys.float_info.max
"""The upper bound of a value that must be finite but has no other limit."""
LONGEST_NAME: Final = 300
LONGEST_SHOWN: Final = 100
"""Characters of a value that an error shows in full."""


def wrong(instance: object, field: str, wanted: str, value: object) -> SettingsError:
    """Make the error that says what a field wants and what it got.

    A class whose fields are the arguments of a function sets `fields_are_arguments`: the field's name is then enough.
    """
    shown = repr(value)
    if len(shown) > LONGEST_SHOWN:
        shown = f"{shown[:60]}… ({len(shown)} characters)"
    owner = "" if getattr(instance, "fields_are_arguments", False) else f"{type(instance).__name__}."
    return SettingsError(f"{owner}{field} wants {wanted}, got {shown}")


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def number(
    low: float, high: float = math.inf, unit: str = "a number", *, above: bool = False, optional: bool = False
) -> Validator:
    """Accept a number; `unit` names it in the error."""
    if high >= FINITE:
        wanted = f"{unit} {'>' if above else '>='} {low:g}"
    else:
        wanted = f"{unit} {'above' if above else 'from'} {low:g} to {high:.10g}"
    check = _checked(
        lambda value: is_number(value) and low <= value <= high and not (above and value == low),
        wanted,
        optional=optional,
    )
    return _bounded(_told_units(check) if "seconds" in unit else check, low, high)


def seconds(low: float, high: float = math.inf, *, above: bool = False, optional: bool = False) -> Validator:
    return number(low, high, "seconds", above=above, optional=optional)


def whole(low: int, high: int | None = None, *, optional: bool = False) -> Validator:
    wanted = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
    check = _checked(
        lambda value: is_whole(value) and low <= value and (high is None or value <= high), wanted, optional=optional
    )
    return _bounded(check, low, math.inf if high is None else high)


def bounds_of(validator: Validator) -> tuple[float, float] | None:
    """Return the lowest and the highest number that `number`, `seconds` or `whole` accepts; None for other validators.

    For those who describe a field to others, such as in a JSON Schema.
    """
    return vars(validator).get("bounds")


def _bounded(check: Validator, low: float, high: float) -> Validator:
    vars(check)["bounds"] = (low, high)
    return check


def text(low: int, high: int, *, optional: bool = False) -> Validator:
    wanted = f"a str of {low} to {high} characters" if low else f"a str of at most {high} characters"
    has_length = _checked(lambda value: isinstance(value, str) and low <= len(value) <= high, wanted, optional=optional)

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        has_length(instance, attribute, value)
        if isinstance(value, str) and not is_utf8(value):
            raise wrong(instance, attribute.name, "a str that can be written as UTF-8", value)

    return check


def is_utf8(text: str) -> bool:
    """Whether a str can be encoded: no broker stores lone surrogates, as file names may contain."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_name(what: str, value: object, *, optional: bool = False) -> None:
    """Raise TypeError or ValueError if `value` is not a valid name; `what` says what it names."""
    if value is None and optional:
        return
    if not isinstance(value, str):
        raise TypeError(f"{what} wants a str, got {value!r}")
    if not 1 <= len(value) <= LONGEST_NAME:
        raise ValueError(f"{what} wants 1 to {LONGEST_NAME} characters, got {len(value)}")
    if not is_utf8(value):
        raise ValueError(f"{what} wants a str that can be written as UTF-8, got {value!r}")


def check_count(what: str, value: object) -> None:
    """Raise ValueError if `value` does not say how many of something there may be; `what` says what it counts."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{what} wants a whole number from 1 on, got {value!r}")


def one_of(known: Sequence[str], *, optional: bool = False) -> Validator:
    allowed = (*known, None) if optional else tuple(known)
    *first, last = map(repr, allowed)
    return _checked(lambda value: value in allowed, f"{', '.join(first)} or {last}")


def callables(*arguments: str) -> Validator:
    return _checked(
        lambda value: (
            isinstance(value, tuple)
            and all(takes(layer, len(arguments)) for layer in cast("tuple[object, ...]", value))
        ),
        f"a list of callables of ({', '.join(arguments)})",
    )


def having(method: str, wanted: str) -> Validator:
    return _checked(
        lambda value: (
            isinstance(value, tuple)
            and all(callable(getattr(one, method, None)) for one in cast("tuple[object, ...]", value))
        ),
        wanted,
    )


def as_tuple(value: Iterable[Any]) -> tuple[Any, ...]:
    """Convert an ordered iterable to a tuple; return anything else unchanged, for a validator to refuse."""
    # Not sets: the order of layers counts. Not strings: the error must show what was given, not its characters.
    given = cast("object", value)
    is_ordered = isinstance(given, Iterable) and not isinstance(given, (str, bytes, AbstractSet, Mapping))
    return tuple(value) if is_ordered else cast("Any", value)


def instance_of(cls: type | tuple[type, ...], wanted: str) -> Validator:
    return _checked(lambda value: isinstance(value, cls), wanted)


def takes(value: object, arguments: int) -> bool:
    """Whether `value` can be called with that many arguments; without a known signature it is assumed to be."""
    if isinstance(value, type) or not callable(value):
        return False
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True


def _told_units(check: Validator) -> Validator:
    """Say how a duration is written where text was given; `as_seconds` has left it because it is none."""

    def check_and_tell(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        try:
            check(instance, attribute, value)
        except SettingsError as error:
            if not isinstance(value, str):
                raise
            raise SettingsError(f"{error}; text wants units, such as '250ms', '30s' or '1h30m'") from None

    return check_and_tell


def _checked(holds: Callable[[Any], bool], wanted: str, *, optional: bool = False) -> Validator:
    if optional:
        wanted = f"{wanted}, or None"

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not holds(value) and not (optional and value is None):
            raise wrong(instance, attribute.name, wanted, value)

    return check
