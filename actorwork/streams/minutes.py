"""What was handled in each minute, at Redis: a hash for each minute and source, which expires after two hours.

A minute of a source has a field for each bucket of durations that is not empty: some ten fields, 200 to 300 bytes. So a
source in which something happens all the time takes some 30 kB, and one that is idle nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from actorwork.abc import Minutes
from actorwork.policy.minutes import KEPT, MinuteCounts, fields_of, from_fields
from actorwork.streams import keys, scripts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot

AT_ONCE: Final = 500
"""Sources to which one script adds: a few milliseconds of the server's time."""
KEPT_SECONDS: Final = 60 * (KEPT + 1)


class RedisMinutes(Minutes):
    """Implements `actorwork.abc.Minutes`."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisMinutes at {self._client!r}>"

    async def add(self, minute: int, counts: Mapping[str, MinuteCounts]) -> None:
        by_key = {keys.minute(source, minute): fields_of(one) for source, one in counts.items()}
        for some in self._client.at_one_place(list(by_key), AT_ONCE):
            args: list[str | int] = [KEPT_SECONDS]
            for key in some:
                args.append(len(by_key[key]))
                args += [part for field in by_key[key] for part in field]
            with cannot("add to the counts of this minute"):
                await self._client.run_script(scripts.ADD_MINUTES, some, args)

    async def read(self, source: str, first: int, last: int) -> Mapping[int, MinuteCounts]:
        wanted = range(first, last + 1)
        with cannot(f"read the last minutes of {source!r}" if source else "read the last minutes"):
            found = await self._client.run_script(
                scripts.MINUTES, [keys.minute(source, one) for one in wanted], (), idempotent=True
            )
        return {
            minute: from_fields(
                (name.decode(errors="replace"), _number(count))
                for name, count in zip(flat[::2], flat[1::2], strict=False)
            )
            for minute, flat in zip(wanted, found, strict=True)
            if flat
        }


def _number(count: bytes) -> int:
    try:
        return int(count)
    except ValueError:  # Another program has written it.
        return 0
