"""The dead letters of all sources: one stream for each, whose entries never change.

Replaying is one script: a letter is removed in the step in which its message enters. Headers are edited here and not
there, since Lua's JSON would turn empty lists into objects and large numbers into floats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from actorwork.abc import DeadLetters
from actorwork.errors import BrokerError
from actorwork.message import INPUTS, NO_HEADERS, Json
from actorwork.policy.attempts import headers_of_first_attempt
from actorwork.records import DeadLetter
from actorwork.streams import keys, scripts
from actorwork.streams.entries import (
    dead_letter_from,
    encoded_headers,
    headers_of_replay,
    is_too_large_to_replay,
)
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot

_PAGE = 500

_ENTRY: Final = r"[0-9]+-[0-9]+"
"""The form of an entry id; Redis refuses any other."""


class RedisDeadLetters(DeadLetters):
    """Reads and moves dead letters."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisDeadLetters at {self._client!r}>"

    async def list(
        self, source: str | None = None, *, limit: int = 100, after: str | None = None
    ) -> Sequence[DeadLetter]:
        with cannot("list dead letters"):
            if source is not None:
                return await self._of(source, limit, after)
            letters: list[DeadLetter] = []
            for name in await self.sources():
                letters += await self.list(name, limit=limit - len(letters))
                if len(letters) >= limit:
                    break
            return letters

    async def get(self, source: str, entry: str) -> DeadLetter | None:
        if not re.fullmatch(_ENTRY, entry):
            return None
        key = keys.SourceKeys.of(source).dead
        with cannot(f"read the dead letter {entry} of {source!r}"):
            found = await self._client.call("XRANGE", key, entry, entry, idempotent=True)
        return dead_letter_from(source, found[0][0], found[0][1]) if found else None

    async def replay(self, source: str, entries: Sequence[str]) -> int:
        """Cancelled or failed: any of them may have been sent again; these are no dead letters any more."""
        of = keys.SourceKeys.of(source)
        args: list[str] = []
        for entry in entries:
            letter = await self.get(source, entry)
            if letter is not None:
                if is_too_large_to_replay(letter):
                    raise BrokerError(
                        f"the dead letter {entry} of {source!r} has {len(letter.payload)} fields, more than a script"
                        " can send again: send its message anew, as one field `data` with a JSON object, and drop the"
                        " letter"
                    )
                args += (entry, headers_of_replay(letter))
        count = 0
        for start in range(0, len(args), 2 * _PAGE):
            some = (of.prefix, *args[start : start + 2 * _PAGE])
            with cannot(f"replay to {source}"):
                # If the reply is lost and this is sent again, it finds no letter, so nothing is sent twice.
                count += await self._client.run_script(scripts.REPLAY, (of.stream, of.dead), some, idempotent=True)
        return count

    async def replay_as(
        self, source: str, entry: str, data: bytes, *, type: str | None = None, headers: Mapping[str, Json] = NO_HEADERS
    ) -> bool:
        """After a lost reply it is sent again and finds no letter: it returns False then, though this call has sent
        it.
        """
        if not re.fullmatch(_ENTRY, entry):
            return False
        of = keys.SourceKeys.of(source)
        first = headers_of_first_attempt(headers)
        first.pop(INPUTS, None)  # Else it would be read as the message that it was.
        args = (of.prefix, entry, data, type or "", encoded_headers(first))
        with cannot(f"replay to {source}"):
            return bool(await self._client.run_script(scripts.REPLAY_AS, (of.stream, of.dead), args, idempotent=True))

    async def drop(self, source: str, entries: Sequence[str]) -> int:
        names = [entry for entry in entries if re.fullmatch(_ENTRY, entry)]
        if not names:
            return 0
        with cannot(f"drop dead letters of {source!r}"):
            return await self._client.call("XDEL", keys.SourceKeys.of(source).dead, *names, idempotent=True)

    async def sources(self) -> Sequence[str]:
        with cannot("look for sources with dead letters"):
            names = await self._client.names(keys.ALL_DEAD)
        return sorted(source for name in names if (source := keys.source_of_dead(name)) is not None)

    async def _of(self, source: str, limit: int, after: str | None = None) -> Sequence[DeadLetter]:
        if limit <= 0 or not (after is None or re.fullmatch(_ENTRY, after)):
            return ()
        start = "-" if after is None else f"({after}"
        key = keys.SourceKeys.of(source).dead
        found = await self._client.call("XRANGE", key, start, "+", "COUNT", limit, idempotent=True)
        return [dead_letter_from(source, entry, fields) for entry, fields in found]
