"""Measurements that are no events: they would be too many, or are of interest to metrics alone.

Implements `abc.Meter`. The loop calls most of it; the thread that renews a lease calls `lease_renewed`, and the thread
that writes the embedded broker's file calls `command`. No two threads write one series.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from actorwork.telemetry.metrics.family import copied

if TYPE_CHECKING:
    from actorwork.telemetry.metrics.family import Family

_REMEMBERED: Final = 60.0
"""Seconds for which the margin of a renewal counts."""


class Measurements:
    """Writes measurements into the families of a registry."""

    def __init__(self, family: Callable[[str], Family], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._family = family
        self._margins: deque[tuple[float, float]] = deque(maxlen=1000)
        """When the lease was renewed, and how many seconds were left then; of the last minute."""

    def __repr__(self) -> str:
        return f"<measurements: {len(self._margins)} renewals of the lease>"

    def settled_batch(self, count: int, seconds: float) -> None:
        self._family("actorwork_settle_batch_messages").observe((), count)
        self._family("actorwork_settle_duration_seconds").observe((), seconds)

    def command(self, name: str, seconds: float) -> None:
        self._family("actorwork_broker_commands_total").add((name,))
        self._family("actorwork_broker_command_duration_seconds").observe((name,), seconds)

    def read(self, actor: str, count: int) -> None:
        self._family("actorwork_reads_total").add((actor,))
        self._family("actorwork_read_messages_total").add((actor,), count)

    def sent(self, source: str, outcome: str, count: int = 1) -> None:
        self._family("actorwork_sent_total").add((source, outcome), count)

    def took_to_send(self, outcome: str, seconds: float) -> None:
        self._family("actorwork_send_duration_seconds").observe((outcome,), seconds)

    def limited(self, limit: str, kind: str) -> None:
        self._family("actorwork_limited_total").add((limit, kind))

    def entity(self, what: str, actor: str) -> None:
        self._family(f"actorwork_entity_{what}_total").add((actor,))

    def trigger_next(self, trigger: str, at: float | None) -> None:
        gauge = self._family("actorwork_trigger_next_timestamp_seconds")
        if at is None:
            gauge.drop((trigger,))
        else:
            gauge.set((trigger,), at)

    def loop_late(self, seconds: float) -> None:
        self._family("actorwork_loop_lag_seconds").observe((), seconds)

    def lease_renewed(self, margin: float) -> None:
        self._margins.append((self._clock(), margin))

    def collect(self) -> None:
        """Bring the margin of the lease up to date; called before each reading."""
        since = self._clock() - _REMEMBERED
        margins = [margin for at, margin in copied(self._margins) if at >= since]
        gauge = self._family("actorwork_lease_margin_seconds")
        if margins:
            gauge.set((), max(0.0, min(margins)))
        else:
            gauge.drop(())
