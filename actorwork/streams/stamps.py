"""Which states the messages meet that a read brings, asked for with the read itself.

    XREADGROUP … BLOCK   EVALSHA stamps ──one write──▶ the server waits for an entry, and runs the script right after
                                        ◀─both replies─ the entry, and the stamp of the state of its key

An entity handles a message on the committed state, so its node looks at the stamp of that before the handler begins.
Without this a message that comes alone costs a round trip more than that of a plain actor: nothing of it could be asked
before its key was known. Stamps are looked up once the entry is pending under the name of this node, so from then on no
user changes the state but by force, which the settlement finds.

A read that brings many tells nothing; the node asks for their states together (`actors/entities/ahead.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from actorwork.streams import scripts
from actorwork.streams.transport.redis_py import NoScriptError, RedisError

if TYPE_CHECKING:
    from actorwork.streams.source_set import SourceSet
    from actorwork.streams.transport.client import RedisClient

_FEW: Final = 16
_TRIES: Final = 4
"""How often in a row the script is loaded and not known then. On a server that loads none, states cost a round trip."""


class StampsOfReads:
    """Asks for the stamps of the states that reads of one source set meet."""

    def __init__(self, client: RedisClient, sources: SourceSet) -> None:
        self._client = client
        self._sources = sources
        self._last: dict[bytes, bytes] = {}
        """The last entry that was read of each stream."""
        self.is_unknown = False
        """The server does not know the script: it is to be loaded."""
        self._in_vain = 0
        """How often it was not known since it was there last."""

    def __repr__(self) -> str:
        return f"<StampsOfReads of {self._sources!r}>"

    async def load(self) -> None:
        """Let the server know the script. Where that fails, states are asked for by themselves."""
        self.is_unknown = False
        for stream in self._sources.by_stream:
            with suppress(RedisError):
                # Run with its key, since that says which member of a cluster has to know it.
                args = ("", "", "", "0-0", 0)
                await self._client.run_script(scripts.STAMPS, (stream,), args, idempotent=True)
            return

    def command(self, streams: Sequence[str]) -> Sequence[Any]:
        """Return the command to send along with a read of these streams; nothing where there are several."""
        stream = streams[0].encode()
        in_flight = self._sources.by_stream.get(stream)
        if len(streams) > 1 or in_flight is None or self._in_vain >= _TRIES:
            return ()
        last = self._last.get(stream, b"0-0")
        of = in_flight.keys.prefix, in_flight.group, in_flight.incarnation
        return ("EVALSHA", scripts.STAMPS.sha, 1, stream, *of, last, _FEW)

    def told(self, reply: object) -> Mapping[bytes, str]:
        """Return the stamps in the reply to such a command, by their entries."""
        if isinstance(reply, NoScriptError):
            self._in_vain += 1
            self.is_unknown = self._in_vain < _TRIES
        if not isinstance(reply, list):
            return {}
        self._in_vain = 0
        told = cast("list[Any]", reply)
        if not all(isinstance(one, bytes) for one in told):
            return {}
        return {entry: stamp.decode(errors="replace") for entry, stamp in zip(told[::2], told[1::2], strict=False)}

    def read(self, stream: bytes, found: Sequence[Any]) -> None:
        """Note what a read has brought: entries, the last one at the end."""
        if found:
            self._last[stream] = found[-1][0]
