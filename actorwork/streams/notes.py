"""What a node notes of the lives of tracked messages: received, started, how far their handlers are.

    received, note ──▶ life of the delivery ──a moment later, one script for each source──▶ lua/state.lua
                                └── settled meanwhile ──▶ goes with its settlement

A note waits for some milliseconds, so that a delivery whose handler is quick writes only its end, with all times in
it, and a busy node writes for many deliveries at once. Progress is written at most once in `EVERY` seconds for each
delivery, the newest: it is for people who watch.

Notes that cannot be written are dropped: what is noted next, or the end, has all that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork.message import NO_HEADERS, Delivery, Failure, Status, is_tracked
from actorwork.streams import scripts
from actorwork.streams.entries import claim_in
from actorwork.streams.in_flight import InFlightEntries
from actorwork.streams.transport.redis_py import RedisError

if TYPE_CHECKING:
    from actorwork.records import Progress
    from actorwork.streams.lives import Life
    from actorwork.streams.transport.client import RedisClient

SOON: Final = 0.05
"""Seconds after which it is written that a delivery was received or begun: most have ended by then."""
EVERY: Final = 0.05
"""Seconds between two writes of the progress of a delivery."""
_AT_ONCE: Final = 500


class Notes:
    """The notes of one node. `spawn` starts a task in the node's nursery, and does not wait; so does nothing here."""

    def __init__(self, client: RedisClient, spawn: Callable[..., object], now: Callable[[], float]) -> None:
        self._client = client
        self._spawn = spawn
        self._now = now
        self._due: dict[Life, tuple[InFlightEntries, float]] = {}
        """What is to be written, and when, by Trio's clock."""
        self._task: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Notes, {len(self._due)} to be written>"

    def received(self, in_flight: InFlightEntries, deliveries: Sequence[Delivery]) -> None:
        """Note that deliveries were received: those of them that are tracked."""
        tracked = [one for one in deliveries if one.headers is not NO_HEADERS and is_tracked(one.headers)]
        if not tracked:
            return
        from actorwork.streams.lives import Life  # noqa: PLC0415 - a start without tracked messages needs none

        now, at = self._now(), trio.current_time() + SOON
        waits, lives, due = (in_flight, at), in_flight.lives, self._due
        for delivery in tracked:
            life = lives[delivery.token[0]] = Life(delivery, Status.RECEIVED, now)
            due[life] = waits
        self._wake_at(at)

    def note(self, delivery: Delivery, status: Status, progress: Progress | None) -> None:
        """Note more of a tracked delivery in flight; of any other one nothing."""
        in_flight: InFlightEntries = delivery.token[2]
        life = in_flight.lives.get(delivery.token[0])
        if life is None or life.delivery is not delivery:
            return
        if status is Status.STARTED and life.started is None:
            life.status, life.started = status, self._now()
            if life not in self._due:  # Else it is written with what is due: most are, their handlers being quick.
                self._write_at(trio.current_time() + SOON, life, in_flight)
        if progress is not None:
            life.progress = progress
            self._write_at(max(trio.current_time() + SOON, life.reported + EVERY), life, in_flight)

    def settled(self, delivery: Delivery) -> None:
        """Note no more of a delivery: its settlement is queued, perhaps for longer than a note, and writes it all."""
        life = delivery.token[2].lives.get(delivery.token[0])
        if life is not None:
            self._due.pop(life, None)

    def _write_at(self, at: float, life: Life, in_flight: InFlightEntries) -> None:
        before = self._due.get(life)
        if before is not None and before[1] <= at:
            return
        self._due[life] = (in_flight, at)
        self._wake_at(at)

    def _wake_at(self, at: float) -> None:
        """Write what is due at this time; or later, if a write is under way."""
        if self._task is None:
            self._task = trio.CancelScope(deadline=at)
            self._spawn(self._write, self._task)
        elif at < self._task.deadline:
            self._task.deadline = at

    async def _write(self, waiting: trio.CancelScope) -> None:
        with waiting:
            await trio.sleep_forever()
        now = trio.current_time()
        due = {life: in_flight for life, (in_flight, at) in self._due.items() if at <= now}
        self._due = {life: waits for life, waits in self._due.items() if life not in due}
        by_source: dict[str, list[tuple[Life, InFlightEntries]]] = {}
        for life, in_flight in due.items():
            if life.progress is not None:
                life.reported = now
            # Settled or released meanwhile.
            if in_flight.lives.get(life.delivery.token[0]) is life:
                by_source.setdefault(in_flight.source, []).append((life, in_flight))
        for source, some in by_source.items():
            for first in range(0, len(some), _AT_ONCE):
                await self._write_some(source, some[first : first + _AT_ONCE])
        # Only now: a write that overtakes the one before would make the progress of a delivery go back.
        self._task = None
        if self._due:
            self._wake_at(min(at for _, at in self._due.values()))

    async def _write_some(self, source: str, some: Sequence[tuple[Life, InFlightEntries]]) -> None:
        args: list[Any] = [some[0][1].keys.prefix]
        for life, in_flight in some:
            delivery = life.delivery
            fields = life.fields(in_flight.subscription.actor, in_flight.incarnation)
            args += (delivery.id, claim_in(delivery.token), life.status, delivery.attempt, delivery.token[1])
            args += (len(fields), *fields)
        with suppress(RedisError):
            await self._client.run_script(scripts.NOTE, (source,), args, idempotent=True)


def take_life(delivery: Delivery, failure: Failure | None = None) -> tuple[str | int, list[str | int]]:
    """Return the attempt of a tracked delivery that is settled, and what its settlement writes of its life."""
    if not delivery.headers or not is_tracked(delivery.headers):
        return "", []
    in_flight: InFlightEntries = delivery.token[2]
    fields: list[str | int] = ["attempt", delivery.attempt, "count", delivery.token[1]]
    life = in_flight.lives.pop(delivery.token[0], None)
    if life is not None:
        fields += life.fields(in_flight.subscription.actor, in_flight.incarnation)
    if failure is not None:
        from actorwork.streams.lives import encoded_failure  # noqa: PLC0415 - as above

        fields += ("failure", encoded_failure(attrs.evolve(failure, traceback="")), "reason", failure.reason)
    return delivery.attempt, fields
