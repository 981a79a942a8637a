"""Watches what the process uses, where a system is asked to: `run(tree, resources=True)`.

What is read stays at `system.resources`, for reports and metrics; a resource that becomes low is an event. It is read
in a thread, since a file system of the network may not answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from actorwork.brokers import state_directory
from actorwork.errors import BrokerError, SettingsError
from actorwork.telemetry.resources import Lows, ResourceBounds, ResourceMonitor, Resources

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink

_LONGEST_READ: Final = 30.0
"""Seconds after which a read is left behind in its thread, and the next one is tried."""


class ResourceWatch:
    """Watches the resources of this process; raises `MissingExtra` without psutil."""

    def __init__(self, bounds: object, emit: EventSink) -> None:
        self.bounds = bounds_of(bounds)
        self._emit = emit
        self._lows = Lows(self.bounds)
        self._monitor = ResourceMonitor()

    def __repr__(self) -> str:
        return f"<watch over resources: {self._lows!r}>"

    @property
    def latest(self) -> Resources | None:
        """What was read last; None before that."""
        return self._monitor.latest

    async def run(self, broker: Broker) -> None:
        """Read every so often, until cancelled."""
        self._monitor.paths = paths_of(broker.url)
        lag = 0.0
        while True:
            with trio.move_on_after(_LONGEST_READ):
                found = await trio.to_thread.run_sync(self._read, lag, abandon_on_cancel=True)
                for event in self._lows.look(found):
                    self._emit(event)
            due = trio.current_time() + self.bounds.every
            await trio.sleep_until(due)
            lag = max(0.0, trio.current_time() - due)

    def _read(self, lag: float) -> Resources:
        return self._monitor.read(loop_lag=lag)


def bounds_of(value: object) -> ResourceBounds:
    """Return the bounds that `resources=` names; raises `SettingsError`."""
    if value is True:
        return ResourceBounds()
    if isinstance(value, ResourceBounds):
        return value
    raise SettingsError(f"resources wants True, False or ResourceBounds(…), got {value!r}")


def paths_of(url: str) -> list[Path]:
    """Return whose disks matter: the file of an embedded broker, and where spools are kept, if there are any."""
    found: list[Path] = []
    if url.startswith("sqlite:"):
        from actorwork.embedded.location import parse  # noqa: PLC0415 - only the embedded broker has a file

        path = parse(url).path
        found += [] if path is None else [path]
    try:
        spools = state_directory()
        if next(spools.glob("spool-*.sqlite3"), None) is not None:
            found.append(spools)
    except (OSError, BrokerError):
        pass  # It cannot be read, or there is none, so no spool of this program is there.
    return found
