"""All of redis-py's commands with redis-py's answers, for where convenience counts more than microseconds.

`AsyncCoreCommands` asks for one method, `execute_command`, and the transport has it. This module is imported when the
first such command is: it costs what `redis.client` and `redis.commands` cost, 25 ms.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, cast

from redis.client import EMPTY_RESPONSE, NEVER_DECODE, Redis
from redis.commands.core import AsyncCoreCommands
from redis.event import EventDispatcher

from actorwork.streams.transport.redis_py import ResponseError

# What changes the connection, or holds it up, would do so for every task on it.
_NOT_HERE: Final = frozenset(
    {
        "WATCH",
        "UNWATCH",
        "MULTI",
        "EXEC",
        "DISCARD",
        "MONITOR",
        "RESET",
        "QUIT",
        "HELLO",
        "AUTH",
        "SELECT",
        "SYNC",
        "PSYNC",
    }
    | {"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE"}
    | {"BLPOP", "BRPOP", "BLMOVE", "BRPOPLPUSH", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP", "WAIT", "WAITAOF"}
)
_MAY_BLOCK: Final = frozenset({"XREAD", "XREADGROUP"})


class Commands(AsyncCoreCommands):
    """`await commands.xinfo_stream(…)`, `async for key in commands.scan_iter(…)`: replies through redis-py's
    callbacks.
    """

    _is_async_client: Literal[True] = True

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        # Never connected: it knows the encoding and the callbacks.
        self._template = Redis(protocol=3, legacy_responses=False)
        self._callbacks = cast("Mapping[str, Callable[..., Any]]", self._template.response_callbacks)
        self._call = call
        self._event_dispatcher = EventDispatcher()  # Their protocol asks for one; nobody listens to it.

    def get_encoder(self) -> Any:
        return cast("Any", self._template).get_encoder()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command as redis-py spells it (`"XINFO STREAM"` in one string), and return what redis-py makes of
        the reply.
        """
        name = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
        words = name.upper().split()
        if words[0] in _NOT_HERE or (words[0] in _MAY_BLOCK and any(_is_block(arg) for arg in args[1:6])):
            raise ValueError(f"{name} would block or change a connection that many tasks share: use open_exclusive()")
        options.pop("keys", None)
        options.pop(NEVER_DECODE, None)
        empty = options.pop(EMPTY_RESPONSE, _NOTHING)
        parts = (bytes(arg) if isinstance(arg, bytearray) else arg for arg in args[1:])
        try:
            reply = await self._call(*name.split(), *parts)
        except ResponseError:
            if empty is _NOTHING:
                raise
            return empty
        callback = self._callbacks.get(name)
        return reply if callback is None else callback(reply, **options)


_NOTHING: Final = object()


def _is_block(arg: object) -> bool:
    return arg in (b"BLOCK", "BLOCK")
