"""A state and its JSON: how a state begins, how an older one is brought up to date, and what a newer one has.

The version of a state's schema is 1, or one more than that of its last migration. It is stored with every commit:

    older than ours    the migrations are applied to the JSON, one after the other
    newer than ours    the state is for nodes that know it: this one hands the message back
    the same           fields that this program does not know are kept beside the state, and written back (unknown.py)

The last is what lets a field be added without a migration: an older node does not cut what a newer one wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast, get_args, get_origin

import attrs

from actorwork.actors.entities.readable import Look, quick_look
from actorwork.actors.entities.unknown import Rest, join, split
from actorwork.codec import (
    check_type,
    dumps,
    encode_as,
    encoder_of,
    field_types,
    is_message_class,
    is_record,
    loads,
    structure,
)
from actorwork.errors import CodecError, Fail, SettingsError
from actorwork.message import Json

if TYPE_CHECKING:
    from actorwork.codec.text import KeepsText

Migration: TypeAlias = "Callable[[Any], Any]"
M = TypeVar("M", bound=Migration)

_MIGRATIONS: Final = "__actorwork_migrations__"
_PLAIN: Final = (dict, list, str, int, float, bool)


@attrs.frozen
class Nothing:
    """Takes the place of a reminder that is forgotten; handling it does nothing."""

    __wire_name__ = "actorwork:nothing"


@attrs.frozen
class Forget:
    """Has the state of its key deleted, in its turn."""

    __wire_name__ = "actorwork:forget"


class NewerSchemaError(Exception):
    """The state was written by a newer version of the program."""


def migrates(state: type, *, since: int) -> Callable[[M], M]:
    """Mark a function that turns the JSON of a state's version `since` into that of the next version.

        @migrates(Balance, since=1)
        def in_cents(old: dict[str, int]) -> dict[str, int]:
            return {"cents": old["amount"] * 100}

    It must be pure. A class without migrations has the version 1; the functions of a class must leave no version out.
    Raises `SettingsError` for a class that is not the program's own, and for a second function of the same version.
    """
    if not is_message_class(state):
        raise SettingsError(f"@migrates wants an attrs class, a dataclass or a model of your own, got {state!r}")
    if isinstance(since, bool) or since < 1:
        raise SettingsError(f"@migrates({state.__qualname__}, since=…) wants a version from 1 on, got {since!r}")
    known: dict[int, Migration] = dict(_migrations_of(state))
    if since in known:
        raise SettingsError(f"{state.__qualname__} has a migration of its version {since} already")

    def mark(function: M) -> M:
        known[since] = function
        setattr(state, _MIGRATIONS, known)
        return function

    return mark


def _migrations_of(state: object) -> Mapping[int, Migration]:
    return vars(state).get(_MIGRATIONS, {}) if isinstance(state, type) else {}


def _version_of(schema: StateSchema) -> int:
    return max(schema.migrations, default=0) + 1


def _encoder_of(schema: StateSchema) -> Callable[..., bytes]:
    return encoder_of(schema.type)


def _look_of(schema: StateSchema) -> Look:
    return quick_look(schema.type)


def _kind_of(schema: StateSchema) -> Any:
    """Return the class that makes the state of a key that has none; None if that state is null."""
    kind = get_origin(schema.type) or schema.type
    return None if kind in (Any, object, None, type(None)) or type(None) in get_args(schema.type) else kind


def _maker_of(schema: StateSchema) -> Callable[[], Any]:
    kind = _kind_of(schema)
    return _null if kind is None else kind


def _null() -> None:
    """Return the state of a key that has none, of a type that may be null."""


@attrs.frozen(eq=False)
class StateSchema:
    """How one type of states is read and written."""

    type: Any
    limit: int
    """The most bytes that the JSON of a state may have."""
    migrations: Mapping[int, Migration] = attrs.field(factory=dict[int, Migration])
    version: int = attrs.field(init=False, default=attrs.Factory(_version_of, takes_self=True))
    _make: Callable[[], Any] = attrs.field(init=False, default=attrs.Factory(_maker_of, takes_self=True))
    _encode: Callable[..., bytes] = attrs.field(init=False, default=attrs.Factory(_encoder_of, takes_self=True))
    _is_as_annotated: Look = attrs.field(init=False, default=attrs.Factory(_look_of, takes_self=True))

    @classmethod
    def of(cls, state: Any, where: str, limit: int) -> StateSchema:
        """Check a type of states; raises `SettingsError`, which names the entity (`where`)."""
        try:
            check_type(state)
        except CodecError as error:
            raise SettingsError(f"{where}: its state {error}") from error
        found = _migrations_of(state)
        missing = [version for version in range(1, max(found, default=0)) if version not in found]
        if missing:
            raise SettingsError(f"{where}: there is no migration of the version {missing[0]} of its state")
        schema = cls(state, limit, found)
        schema._check_first(where)
        return schema

    def first(self) -> Any:
        """Return the state of a key that has none."""
        return self._make()

    def _check_first(self, where: str) -> None:
        """Raise `SettingsError` if there is no state for a key that has none."""
        kind = _kind_of(self)
        if kind is None:
            return
        if kind not in _PLAIN and not is_message_class(kind):
            raise SettingsError(
                f"{where}: its state is an attrs class, a dataclass, a model or a JSON value, got {self.type!r}"
            )
        try:
            self.first()
        except Exception as error:
            raise SettingsError(
                f"{where}: {kind.__qualname__}() is the state of a key that has none, so all of its fields need"
                f" defaults ({error})"
            ) from error

    def read(self, data: bytes, version: int) -> tuple[Any, Rest | None]:
        """Return a state, and what this program does not know of it.

        Raises `NewerSchemaError`, `CodecError`, and what migrations raise. A state that was put without a version
        (0) has ours.
        """
        if version > self.version:
            raise NewerSchemaError(f"it has the version {version} of its schema, and this program knows {self.version}")
        value: Any = loads(data)
        for step in range(version or self.version, self.version):
            value = self.migrations[step](value)
        known, unknown = split(cast("Json", value), self.type)
        return structure(known, self.type), unknown

    def write(self, value: Any, unknown: Rest | None = None, known: KeepsText | None = None) -> bytes:
        """Return the JSON of a state; raises `Fail` for one that is too large or cannot be written."""
        try:
            data = self._encode(value, known)
            if unknown is not None:
                data = dumps(join(loads(data), unknown))
        except CodecError as error:
            path = _path_to(value, self.type, "state")
            raise Fail(f"the state cannot be kept: {path} {error}") from error
        if len(data) > self.limit:
            path, size = _largest(value, self.type, "state")
            raise Fail(
                f"the state is too large to be kept: its JSON has {len(data):,} bytes, and the limit is"
                f" {self.limit:,} (Entities.limit); most of them are in {path}: {size:,}"
            )
        return data

    def check(self, value: Any) -> None:
        """Raise `Fail` for a state that could be written, and not be read again (readable.py)."""
        if self._is_as_annotated(value):
            return
        try:
            structure(loads(self._encode(value)), self.type)
        except CodecError as error:
            raise Fail(f"the state cannot be kept, since it could not be read again: {error}") from error


def _parts_of(value: object, annotation: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Return what a value of a type consists of: of each part its path, itself and its type."""
    cls: type[object] = type(value)
    arguments = get_args(annotation)
    if is_record(cls):
        return [(f"{path}.{name}", getattr(value, name, None), kind) for name, kind in field_types(cls).items()]
    if isinstance(value, dict):
        kind = arguments[1] if len(arguments) == 2 else Any
        return [(f"{path}[{name!r}]", one, kind) for name, one in cast("dict[Any, Any]", value).items()]
    if isinstance(value, (list, tuple)):
        kind = arguments[0] if arguments else Any
        return [(f"{path}[{number}]", one, kind) for number, one in enumerate(cast("list[Any]", value))]
    return []


def _size_of(value: Any, annotation: Any) -> int | None:
    """Return how many bytes of JSON a value of a type has, or None if it cannot be written."""
    try:
        return len(encode_as(value, annotation))
    except CodecError:
        return None


def _path_to(value: Any, annotation: Any, path: str) -> str:
    """Return the path to the first part of a value that cannot be written."""
    for name, part, kind in _parts_of(value, annotation, path):
        if _size_of(part, kind) is None:
            return _path_to(part, kind, name)
    return path


def _largest(value: Any, annotation: Any, path: str) -> tuple[str, int]:
    """Return the path to the largest part of a value that has more than half of it, and its size."""
    size = _size_of(value, annotation) or 0
    for name, part, kind in _parts_of(value, annotation, path):
        if 2 * (_size_of(part, kind) or 0) > size:
            return _largest(part, kind, name)
    return path, size
