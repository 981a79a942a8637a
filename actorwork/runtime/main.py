"""`run`: a tree of actors as a program of its own, with signals, logs and exit codes.

first SIGTERM or SIGINT     the staged shutdown
second                      handlers are cancelled now, their deliveries handed back
third, or `grace` is over   the process ends, whatever still runs

exit code 0     a clean stop
          1     the tree did not start or could not be kept alive, or the broker refused
          3     force was needed: handlers were cancelled, or the process had to be ended
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING

import trio

from actorwork.errors import ActorworkError
from actorwork.runtime.system import System, open_system

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink
    from actorwork.policy.restart import Intensity

EXIT_FAILED = 1
"""The tree did not start, or could not be kept alive."""
EXIT_FORCED = 3
"""Handlers had to be cancelled, or the process had to be ended."""

_MARGIN = 1.0
"""Seconds after `grace` at which the process is ended."""

log = logging.getLogger("actorwork.run")


def run(
    tree: object,
    *,
    broker: str | Broker | None = None,
    lease: float = 10.0,
    grace: float = 25.0,
    intensity: Intensity | None = None,
    emit: EventSink | None = None,
) -> None:
    """Run a tree of actors until SIGTERM or SIGINT; the arguments are those of `open_system`.

    Logs to standard error unless logging is configured already. Returns after a clean stop; otherwise raises
    `SystemExit` with one of the codes above, after saying why.
    """
    from actorwork.telemetry.logs import LogSink, configure  # noqa: PLC0415 - only a program of its own logs by itself

    configure()
    sink = emit if emit is not None else LogSink(f"{socket.gethostname()}:{os.getpid()}")
    try:
        forced = trio.run(partial(_main, tree, broker, lease, grace, intensity, sink))
    except ActorworkError as error:
        log.error("%s: %s", type(error).__name__, error, exc_info=error.__cause__ and error)
        raise SystemExit(EXIT_FAILED) from None
    if forced:
        raise SystemExit(EXIT_FORCED)


async def _main(
    tree: object, broker: str | Broker | None, lease: float, grace: float, intensity: Intensity | None, emit: EventSink
) -> bool:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            starting = trio.CancelScope()
            systems: list[System] = []
            nursery.start_soon(_obey, signals, systems, starting, grace)
            system: System | None = None
            error: Exception | None = None
            try:
                with starting:
                    async with open_system(
                        tree, broker=broker, lease=lease, grace=grace, intensity=intensity, emit=emit
                    ) as system:
                        systems.append(system)
                        await system.wait_stopped()
            except ActorworkError as failure:
                error = failure
            nursery.cancel_scope.cancel(reason="the system has ended")
    if error is not None:
        raise error
    return system is not None and system.forced


async def _obey(signals: object, systems: list[System], starting: trio.CancelScope, grace: float) -> None:
    """Turn signals into the shutdown, the hurry and the end."""
    count = 0
    async for number in signals:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        name = signal.Signals(number).name  # pyright: ignore[reportUnknownArgumentType]
        count += 1
        if count == 1:
            _end_the_process_after(grace + _MARGIN)
        if count > 2:
            log.error("%s for the %d. time: ending now; what was in hand is taken over by other nodes", name, count)
            os._exit(EXIT_FORCED)
        if systems:
            systems[0].stop(name)
        else:
            starting.cancel(reason=name)


def _end_the_process_after(seconds: float) -> None:
    """End the process when the time is up: from a thread, since a handler that blocks the loop blocks everything else."""
    if math.isinf(seconds):
        return

    def end() -> None:
        log.error(
            "still not ended %g s after the first signal: ending now; what was in hand is taken over by other nodes",
            seconds,
        )
        os._exit(EXIT_FORCED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
