"""Slots of Redis Cluster: which one a key is in, and which keys a command has. Pure.

A cluster spreads 16,384 slots over its primaries. The slot of a key is a checksum of what is between its first `{` and
the first `}` behind that, or of all of it. A command is served by the primary that has the slot of its keys; these must
be in one slot.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from typing import Any, Final

SLOTS: Final = 16_384

_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})
_OF_A_PART: Final = frozenset({"XGROUP", "XINFO", "OBJECT", "MEMORY"})
"""Commands whose key follows the name of a part of them."""
_READS: Final = frozenset({"XREADGROUP", "XREAD"})
_OF_ALL: Final = frozenset({"DEL", "UNLINK", "EXISTS", "MGET", "TOUCH"})
_WITHOUT: Final = frozenset(
    {
        "ACL",
        "ASKING",
        "CLIENT",
        "CLUSTER",
        "COMMAND",
        "CONFIG",
        "DBSIZE",
        "EXEC",
        "INFO",
        "LASTSAVE",
        "MODULE",
        "MULTI",
        "PING",
        "PUBLISH",
        "ROLE",
        "SCRIPT",
        "SUBSCRIBE",
        "TIME",
        "UNSUBSCRIBE",
        "WAIT",
    }
)


def key_slot(key: str | bytes) -> int:
    """Return the slot of a key."""
    name = key.encode() if isinstance(key, str) else key
    begin = name.find(b"{")
    if begin >= 0:
        end = name.find(b"}", begin + 1)
        if end > begin + 1:
            name = name[begin + 1 : end]
    return crc_hqx(name, 0) % SLOTS


def keys_of(command: Sequence[Any]) -> Sequence[Any]:
    """Return the keys of a command, as far as the commands of the broker go; of SCAN the pattern, if it has a slot."""
    verb = _text(command[0]).upper()
    if verb in _SCRIPTS:
        return command[3 : 3 + int(command[2])]
    if verb in _WITHOUT:
        return ()
    if verb in _READS:
        begin = next(index for index, part in enumerate(command) if _text(part).upper() == "STREAMS") + 1
        return command[begin : begin + (len(command) - begin) // 2]
    if verb in _OF_A_PART:
        return command[2:3]
    if verb in _OF_ALL:
        return command[1:]
    if verb == "SCAN":
        pattern = next((command[index + 1] for index, part in enumerate(command) if _text(part) == "MATCH"), "")
        tag = _text(pattern).partition("{")[2].partition("}")
        return (pattern,) if tag[1] and not any(sign in tag[0] for sign in "*?[\\") else ()
    return command[1:2]


def slots_of(keys: Iterable[Any]) -> set[int]:
    return {key_slot(key if isinstance(key, str | bytes) else str(key)) for key in keys}


def _text(part: Any) -> str:
    return part if isinstance(part, str) else part.decode(errors="replace") if isinstance(part, bytes) else str(part)
