"""One `__repr__`, `__eq__` and `__hash__` for all values.

attrs would write and compile them for each class: half of what making a class costs, and a node makes ninety before its
first message. A class has all three by `@attrs.frozen(eq=False, repr=False) class Limit(Value)`, and the first alone by
`@attrs.frozen(repr=False) class Limit(Shown)`. They do what those of attrs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from typing import Any


class Shown:
    """Shows itself as the call that makes it, without the fields that have `repr=False`."""

    __slots__ = ()

    def __repr__(self) -> str:
        fields: Any = getattr(type(self), "__attrs_attrs__", ())
        shown = ", ".join(
            f"{field.name}={(repr if field.repr is True else field.repr)(getattr(self, field.name))}"
            for field in fields
            if field.repr is not False
        )
        return f"{type(self).__qualname__.rpartition('>.')[2]}({shown})"


class Value(Shown):
    """Shows itself, and is equal to a value of the same class whose fields are equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        fields = _fields_of(self.__class__)
        return fields(self) == fields(other)

    def __hash__(self) -> int:
        return hash((self.__class__, _hashed_fields_of(self.__class__)(self)))


@cache
def _fields_of(kind: Any) -> Callable[[object], object]:
    return _getter(field.name for field in kind.__attrs_attrs__)


@cache
def _hashed_fields_of(kind: Any) -> Callable[[object], object]:
    return _getter(field.name for field in kind.__attrs_attrs__ if field.hash is not False)


def _getter(fields: Iterable[str]) -> Callable[[object], object]:
    names = tuple(fields)
    return attrgetter(*names) if names else lambda _: ()
