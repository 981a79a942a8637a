"""What a class is to the codec, and what its fields are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

import attrs


def wire_name(cls: type) -> str | None:
    """Return the name of a message's type in a stream: `__wire_name__` (None: none), or the name of the class."""
    name: str | None = getattr(cls, "__wire_name__", cls.__name__)
    return name


def is_record(cls: object) -> bool:
    """Whether a class is an attrs class or a dataclass."""
    return isinstance(cls, type) and (attrs.has(cls) or hasattr(cls, "__dataclass_fields__"))


def fields_of(record: Any) -> Sequence[Any]:
    """Return the fields of an attrs class or a dataclass: each has a `name` and a `type`."""
    if attrs.has(record):
        return attrs.fields(record)
    from dataclasses import fields

    return fields(record)


def is_model(cls: object) -> bool:
    """Whether a class is a Pydantic model. Pydantic is never imported here: a program with a model has done so."""
    model = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return model is not None and isinstance(cls, type) and issubclass(cls, model)


def is_message_class(cls: object) -> bool:
    """Whether the instances of a class have a type on the wire: an attrs class, a dataclass or a Pydantic model."""
    return is_record(cls) or is_model(cls)


@cache
def field_types(cls: Any) -> Mapping[str, Any]:
    """Return the types of a record's or model's fields, by name; for anything else an empty mapping."""
    if is_model(cls):
        return {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
    if not is_record(cls):
        return {}
    if attrs.has(cls):
        return {field.name: field.type for field in attrs.fields(attrs.resolve_types(cls))}

    hints = get_type_hints(cls)
    return {field.name: hints.get(field.name, field.type) for field in fields_of(cls)}


def name_of(annotation: Any) -> str:
    """Return the name of an annotation, as an error names it."""
    return getattr(annotation, "__qualname__", None) or str(annotation)
