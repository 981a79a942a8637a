"""The numbers of shards at a broker that divides nothing: it has one place for all messages.

They are kept in one shared value, and another number than the one at first use is refused, as at Redis: so a program
that runs on a file, or in a test, declares what it will find there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from actorwork.abc import Pauses, Shards, Values
from actorwork.errors import BrokerError
from actorwork.policy.shards import NAME, Layout, differs, encoded, layouts_in, not_paused

_ATTEMPTS: Final = 20


class StoredShards(Shards):
    """Implements `actorwork.abc.Shards` for a broker on one machine."""

    def __init__(self, values: Values, pauses: Pauses) -> None:
        self._values = values
        self._pauses = pauses

    def __repr__(self) -> str:
        return f"<StoredShards in {self._values!r}>"

    async def declare(self, source: str, shards: int) -> None:
        known = await change_layout(self._values, source, lambda known: known or Layout(source, shards, 0))
        if known.shards != shards:
            raise BrokerError(differs(source, known.shards, shards))

    async def list(self) -> Mapping[str, int]:
        layouts, _ = await read_layouts(self._values)
        return {name: layouts[name].shards for name in sorted(layouts)}

    async def reshard(self, source: str, shards: int, *, progress: Callable[[int], object] = int) -> int:
        await check_paused(self._pauses, source)
        await change_layout(
            self._values, source, lambda known: attrs.evolve(known or Layout(source, shards, 0), shards=shards)
        )
        progress(0)
        return 0


async def check_paused(pauses: Pauses, source: str) -> None:
    """Raise `BrokerError` unless a source is paused."""
    if not any(
        one.kind == "everything" or (one.kind == "source" and one.name == source) for one in await pauses.list()
    ):
        raise BrokerError(not_paused(source))


async def read_layouts(values: Values) -> tuple[Mapping[str, Layout], int]:
    """Return the layouts of all sources that are divided, and the version of the value that has them."""
    kept = await values.get(NAME)
    return ({}, 0) if kept is None else (layouts_in(kept.data), kept.version)


async def change_layout(values: Values, source: str, change: Callable[[Layout | None], Layout]) -> Layout:
    """Replace the layout of a source by what `change` makes of it; return that.

    `change` may be called several times, and may raise. Raises `BrokerError` if others change it all the time.
    """
    for _ in range(_ATTEMPTS):
        layouts, version = await read_layouts(values)
        known = layouts.get(source)
        new = change(known)
        if new == known:
            return new
        if await values.set(NAME, encoded({**layouts, source: new}), version=version) is not None:
            return new
    raise BrokerError(f"the shards of {source!r} are being changed all the time by others: try again", may_pass=True)
