"""JSON text: written and parsed by the C functions of the standard library, strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from actorwork.errors import CodecError

if TYPE_CHECKING:
    from actorwork.message import Json

_MOST_PROBLEMS: Final = 20


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_scan: Final[Callable[[str, int], tuple[Json, int]]] = cast("Any", _decoder).scan_once
_encoder: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_encode_str: Final[Callable[[str], str]] = cast("Any", json.encoder).encode_basestring


def _make_encode() -> Callable[[Json, int], Iterable[str]]:
    """Return the function that writes JSON in pieces: the C encoder if it is available."""
    make = cast("Any", json.encoder).c_make_encoder
    if make is None:
        return lambda value, _: _encoder.iterencode(value)
    # The first argument, None, disables the search for cycles; the encoder's recursion limit finds them.
    encode = make(None, _encoder.default, _encode_str, None, ":", ",", False, False, False)  # noqa: FBT003 - its signature
    return cast("Callable[[Json, int], Iterable[str]]", encode)


_encode: Final = _make_encode()


def loads(data: bytes) -> Json:
    """Parse JSON; raise `CodecError`. NaN, infinities and trailing text are refused."""
    try:
        text = str(data, "utf-8")
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # leading white space, or not JSON at all
            return _decoder.decode(text)
        return value if end == len(text) else _decoder.decode(text)
    except UnicodeDecodeError as error:
        raise CodecError(f"the payload is not UTF-8: {error}") from error
    except RecursionError as error:
        raise CodecError("the payload cannot be read as JSON: it is nested too deeply") from error
    except ValueError as error:
        raise CodecError(f"the payload is not JSON: {error}; it begins with {shown(data)}") from error


def dumps(value: Json) -> bytes:
    """Write JSON; raise `CodecError` for a value that JSON cannot express."""
    try:
        # `JSONEncoder.encode` makes a new C encoder for every call; one is enough.
        return (_encode_str(value) if type(value) is str else "".join(_encode(value, 0))).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"cannot be written as JSON: {error}; got {shown(value)}") from error


_FEW: Final = 8
_LONG: Final = 256
_ESCAPED: Final = bytes([*range(0x20), *b'"\\'])


class KeepsText(Protocol):
    """Writes one object again and again: keeps the long text in it that was seen to have nothing to be escaped."""

    text: str | None


def dumps_object(value: dict[str, Json], known: KeepsText | None = None) -> bytes:
    """Write what `dumps` would for an object, faster if it has few fields, and a long text among them.

    The encoder takes five times as long to look at each character as to see that a text has none to be escaped. Of the
    text that is `known`, the same object as before, not even that is looked at.
    """
    before = None
    if known is not None:
        before, known.text = known.text, None
    if len(value) > _FEW:
        return dumps(value)
    for part in value.values():
        if type(part) is str and len(part) >= _LONG:
            break
    else:
        return dumps(value)
    pieces: list[str] = []
    try:
        # Written out in one loop, since a state is written for nearly every message of an entity.
        for name, part in value.items():
            if type(part) is str:
                if len(part) >= _LONG:
                    is_plain = part is before
                    if not is_plain:
                        written = part.encode()
                        is_plain = len(written.translate(None, _ESCAPED)) == len(written)
                    if is_plain:
                        if known is not None:
                            known.text = part
                        pieces.append(f'{_encode_str(name)}:"{part}"')
                        continue
                pieces.append(f"{_encode_str(name)}:{_encode_str(part)}")
            elif type(part) is int:
                pieces.append(f"{_encode_str(name)}:{part}")
            else:
                pieces.append(f"{_encode_str(name)}:{''.join(_encode(part, 0))}")
        return f"{{{','.join(pieces)}}}".encode()
    except (TypeError, ValueError, RecursionError):
        return dumps(value)  # Which says what is wrong, or knows how it is written.


def shown(value: object) -> str:
    """Return a value as an error shows it: in at most 80 characters."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - what cannot be shown is still wrong
        return f"a {type(value).__qualname__} that cannot be shown"
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def sentence(problems: Sequence[str]) -> str:
    """Join the problems, up to a readable length: the sender decides how many there are."""
    text = "; ".join(problems[:_MOST_PROBLEMS])
    more = len(problems) - _MOST_PROBLEMS
    return f"{text}; and {more} more" if more > 0 else text
