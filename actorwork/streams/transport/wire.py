"""RESP3 on the wire: commands to bytes, bytes to replies. hiredis does both; this module holds its types and settings.

reply              becomes                       reply              becomes
simple, bulk       bytes                         array, set         list (members of a set may be lists)
verbatim           bytes, without its prefix     map                dict
integer            int                           push               Push, a list of its own type
double             float                         null, *-1, $-1     None
boolean            bool                          error              a redis exception, as a value
big number         bytes of its digits
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, cast

import hiredis

from actorwork.streams.transport.redis_py import InvalidResponse, parse_error

NOT_ENOUGH: Final = object()
"""What a reader returns while the next reply has not arrived whole."""

Push: Final[type[list[Any]]] = hiredis.PushNotification
"""A message that answers no request: `[kind, …]`."""

pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)
"""Pack one command. Raises `TypeError` for a part that is not str, bytes, int or float."""

MULTI: Final = pack(("MULTI",))
EXEC: Final = pack(("EXEC",))


def pack_transaction(commands: Iterable[Sequence[Any]]) -> bytes:
    """Pack commands between MULTI and EXEC. Raises `TypeError` as `pack` does."""
    return b"".join([MULTI, *[pack(tuple(command)) for command in commands], EXEC])


def parts_of(packed: bytes) -> bytes:
    """Return the parts of a packed command without their number, for `pack_parts`."""
    return packed[packed.index(b"\n") + 1 :]


def pack_parts(count: int, parts: Iterable[bytes]) -> bytes:
    """Pack a command of `count` parts, which are packed already."""
    return b"*%d\r\n%b" % (count, b"".join(parts))


def is_list_of(size: int, reply: Any) -> bool:
    """Return whether a reply is a list of lists of this size: RESP3 can say what Redis never does."""
    return isinstance(reply, list) and all(
        isinstance(one, list) and len(cast("list[Any]", one)) == size for one in cast("list[Any]", reply)
    )


class ReplyReader(Protocol):
    def feed(self, data: bytes, /) -> object: ...
    def gets(self) -> Any:
        """Return the next whole reply, or `NOT_ENOUGH`; raise `InvalidResponse` for bytes that are not RESP3."""
        ...


def new_reader() -> ReplyReader:
    return cast(
        "ReplyReader",
        hiredis.Reader(protocolError=InvalidResponse, replyError=parse_error, notEnoughData=NOT_ENOUGH),
    )
