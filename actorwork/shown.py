"""One `__repr__` for all values: attrs would write and compile one for each class, a quarter of what making it costs.

A class has it by `@attrs.frozen(repr=False) class Limit(Shown)`; it shows what attrs would.
"""

from __future__ import annotations

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
