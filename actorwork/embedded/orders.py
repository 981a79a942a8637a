"""How the parts of the broker reach the store: they give orders to a writer, which runs them in turns.

    Writer    takes orders and settlements, and brings the results back into the Trio thread
    Answer    what one task waits for

`writer.ThreadWriter` is the one that programs use; tests have another one, which runs on the Trio loop.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import trio

from actorwork.embedded.location import Location
from actorwork.embedded.rows import SettleOrder
from actorwork.embedded.store import Store
from actorwork.embedded.turns import Order, Turns
from actorwork.errors import BrokerError


class Writer(abc.ABC):
    """Called from the Trio thread. What is ordered first happens first."""

    def __init__(self, location: Location, turns: Turns) -> None:
        self.location = location
        self.turns = turns

    @abc.abstractmethod
    def order(self, order: Order) -> None: ...

    @abc.abstractmethod
    def settle(self, order: SettleOrder) -> None: ...

    @abc.abstractmethod
    def tell(self, change: Callable[[Turns], object]) -> None:
        """Have something changed that needs no transaction."""

    @abc.abstractmethod
    def wall(self) -> float:
        """Return the broker's clock, in seconds since the epoch."""

    @abc.abstractmethod
    def now(self) -> float:
        """Return the monotonic clock of the turns."""

    @abc.abstractmethod
    def statistics(self) -> Mapping[str, int]: ...

    async def ask(self, run: Callable[[Store], Any], *, rows: int = 1, writes: bool = True) -> Any:
        """Do something in a transaction and return its result. If cancelled, it may be done all the same."""
        await trio.lowlevel.checkpoint_if_cancelled()
        answer = Answer()
        self.order(Order(run, answer.done, answer.failed, rows, writes))
        return await answer.wait()

    async def pass_through(self) -> None:
        """Wait until everything that was ordered before has happened or failed, and its results have arrived."""
        # A store that refuses orders refuses them in their turn.
        with contextlib.suppress(BrokerError):
            await self.ask(_nothing, writes=False)


class Answer:
    """What one task waits for."""

    __slots__ = ("_error", "_event", "_value")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: Any = None
        self._error: BrokerError | None = None

    def __repr__(self) -> str:
        return f"<Answer: {'there' if self._event.is_set() else 'awaited'}>"

    def done(self, value: Any) -> None:
        self._value = value
        self._event.set()

    def failed(self, error: BrokerError) -> None:
        self._error = error
        self._event.set()

    async def wait(self) -> Any:
        await self._event.wait()
        return self.result()

    def result(self) -> Any:
        """Return the result, which must be there, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._value


def _nothing(_: object) -> None:
    pass
