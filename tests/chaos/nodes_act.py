"""What acts have in common in which nodes go wrong, and on a cluster all else, while a client brings work.

Faults of nodes go on until the client has brought its last work, and what is open then is brought to its end without
them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from actorwork.errors import BrokerError
from actorwork.testing.redis_server import open_redis_server

from .environment import Act, ChaosError
from .plan import faults

BETWEEN: Final = 100
"""How many handlers end between two faults, unless that takes `BETWEEN_AT_MOST` seconds."""
BETWEEN_AT_MOST: Final = 4.0


class NodesAct(Act):
    """Three nodes, one of them with child processes, at Redis or, `is_embedded`, the embedded broker."""

    def __init__(self, name: str, seed: int, folder: Path, *, say: Callable[[str], None], is_embedded: bool) -> None:
        super().__init__(name, seed, 0, folder, say=say)
        self.is_embedded = is_embedded
        self.over = trio.CancelScope()
        self.repeated = 0
        """What the broker refused for a moment, and the client repeated."""
        self.stuck = ""
        """What was wrong when work stopped to end; then there is no further one."""

    @abstractmethod
    async def _bring_work(self) -> None:
        """Bring work until there has been enough of it, or `stuck`."""

    @asynccontextmanager
    async def _open_place(self) -> AsyncGenerator[None]:
        if self.is_embedded:
            yield
            return
        # No fault touches this server or its connections, so there is no proxy.
        with open_redis_server(append_only=True) as self.server:
            self.direct_url = self.url = self.server.url
            yield

    async def _go_wrong(self) -> None:
        for role in ("single", "single", "processes"):
            self.members.append(self._fill(role, self.url))
        await self._wait(
            lambda: all(b"is up at" in one.log.read_bytes() for one in self.members), "all nodes", within=120
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_filled)
            nursery.start_soon(self._watch_progress)
            # A fault that has begun is completed: a frozen process resumes, a node that stops has ended.
            async with trio.open_nursery() as under_way:
                under_way.start_soon(self._inject, under_way)
                await self._bring_work()
                self.over.cancel()
            nursery.cancel_scope.cancel()
        self._heal()

    def _heal(self) -> None:
        """Do nothing: the network works."""

    async def _on_the_way(self) -> int:
        """Count what is neither at its source yet nor delayed: nothing, except on a cluster."""
        return 0

    async def _until_taken(self, send: Callable[[], Awaitable[object]]) -> None:
        """Send something, again and again while the broker refuses it for a moment: under its ids it is the same."""
        while True:
            try:
                await send()
                break
            except BrokerError as error:
                if not error.may_pass:
                    raise
                self.repeated += 1
                await trio.sleep(0.05)

    async def _watch_progress(self) -> None:
        """Go on to the end when nothing is handled any more: the audit says what it is about."""
        try:
            await super()._watch_progress()
        except ChaosError as error:
            self.stuck = str(error)

    async def _inject(self, under_way: trio.Nursery) -> None:
        with self.over:
            for fault in faults(self.seed, act=self.name):
                await trio.sleep(fault.pause)
                # On a slow machine, faults would else find nothing but nodes that start.
                enough = self.tally.ended + BETWEEN
                with trio.move_on_after(BETWEEN_AT_MOST):
                    while self.tally.ended < enough:  # noqa: ASYNC110 - no event says so
                        await trio.sleep(0.02)
                if not self._is_possible(fault):
                    continue
                self.say(f"{self.name} {fault}")
                self.counts[fault.name] += 1
                under_way.start_soon(self.carries_out[fault.name], self, fault)
