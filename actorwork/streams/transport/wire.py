"""RESP3 on the wire: commands to bytes, bytes to replies.

hiredis does both where it is installed. Where it is not, `python_pack` and `PythonReader` do, with the same results:
the tests take hiredis as the oracle, with every split of the bytes.

    reply              becomes                       reply              becomes
    simple, bulk       bytes                         array, set         list (members of a set may be lists)
    verbatim           bytes, without its prefix     map                dict
    integer            int                           push               Push, a list of its own type
    double             float                         null, *-1, $-1     None
    boolean            bool                          error              a redis exception, as a value
    big number         bytes of its digits
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol, cast

from actorwork.streams.transport.redis_py import InvalidResponse, parse_error

NOT_ENOUGH: Final = object()
"""What a reader answers when the next reply has not arrived whole."""


class ReplyReader(Protocol):
    def feed(self, data: bytes, /) -> object: ...
    def gets(self) -> Any:
        """Return the next whole reply, or `NOT_ENOUGH`; raise `InvalidResponse` for what is no RESP3."""
        ...


class PythonPush(list[Any]):
    """A message nobody asked for: `[kind, …]`."""


def python_pack(command: Sequence[Any]) -> bytes:
    """Pack one command, as `hiredis.pack_command` does."""
    out = bytearray(b"*%d\r\n" % len(command))
    for part in command:
        if isinstance(part, str):
            data = part.encode()
        elif isinstance(part, int | float) and not isinstance(part, bool):
            data = repr(part).encode()
        elif isinstance(part, bytes):
            data = part
        elif isinstance(part, memoryview):
            data = part.tobytes()
        else:
            raise TypeError(f"a part of a command is str, bytes, int or float, not {part!r}")
        out += b"$%d\r\n%b\r\n" % (len(data), data)
    return bytes(out)


class PythonReader:
    """A RESP3 parser as a generator: it yields `NOT_ENOUGH` wherever the bytes end, and each reply when it is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self._replies = self._parse()

    def feed(self, data: bytes) -> None:
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    def gets(self) -> Any:
        return next(self._replies)

    def _parse(self) -> Generator[Any, None, None]:
        while True:
            yield (yield from self._reply())

    def _line(self) -> Generator[Any, None, bytes]:
        searched = 0
        while (end := self._buffer.find(b"\r\n", self._at + searched)) < 0:
            searched = max(len(self._buffer) - self._at - 1, 0)
            yield NOT_ENOUGH
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _bulk(self, length: int) -> Generator[Any, None, bytes]:
        while len(self._buffer) - self._at < length + 2:
            yield NOT_ENOUGH
        data = bytes(self._buffer[self._at : self._at + length])
        self._at += length + 2
        return data

    def _list(self, length: int) -> Generator[Any, None, list[Any]]:
        items: list[Any] = []
        for _ in range(length):
            items.append((yield from self._reply()))  # noqa: PERF401  (a comprehension cannot yield from)
        return items

    def _reply(self) -> Generator[Any, None, Any]:
        line = yield from self._line()
        kind, rest = line[:1], line[1:]
        try:
            match kind:
                case b"+" | b"(":
                    return rest
                case b"-":
                    return parse_error(rest.decode(errors="replace"))
                case b":":
                    return int(rest)
                case b"_":
                    return None
                case b"#":
                    return {b"t": True, b"f": False}[rest]
                case b",":
                    return float(rest)
                case b"$" | b"=" if (length := int(rest)) >= 0:
                    data = yield from self._bulk(length)
                    return data if kind == b"$" else data[4:]
                case b"*" | b"~" | b">" if (length := int(rest)) >= 0:
                    items = yield from self._list(length)
                    return items if kind != b">" else PythonPush(items)
                case b"%":
                    items = yield from self._list(2 * int(rest))
                    return dict(zip(items[::2], items[1::2], strict=True))
                case b"$" | b"*":
                    return None
                case _:
                    raise InvalidResponse(f"no RESP3 reply begins with {line[:20]!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidResponse(f"no RESP3 reply begins with {line[:20]!r}: {error}") from error


Push: type[list[Any]] = PythonPush
pack: Callable[[tuple[Any, ...]], bytes] = python_pack
new_reader: Callable[[], ReplyReader] = PythonReader

try:
    import hiredis
except ImportError:
    pass
else:
    Push = hiredis.PushNotification
    pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)

    def _new_hiredis_reader() -> ReplyReader:
        return cast(
            "ReplyReader",
            hiredis.Reader(protocolError=InvalidResponse, replyError=parse_error, notEnoughData=NOT_ENOUGH),
        )

    new_reader = _new_hiredis_reader
