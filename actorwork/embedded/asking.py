"""What the parts of the broker ask of the owner of the connection to the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from actorwork.embedded.location import Location
from actorwork.embedded.store import Store
from actorwork.embedded.turns import Turns


class Asked(Protocol):
    """Carries out what is ordered, in transactions."""

    @property
    def location(self) -> Location: ...
    @property
    def turns(self) -> Turns: ...
    async def ask(self, run: Callable[[Store], Any], *, rows: int = 1, writes: bool = True) -> Any:
        """Do something in a transaction and return its result. If cancelled, it may be done all the same."""
        ...
