"""`run`: a tree of actors as a program of its own, with signals, logs and exit codes.

    first SIGTERM or SIGINT     the staged shutdown
    second                      handlers are cancelled now, their deliveries handed back
    third, or `grace` is over   the process ends, whatever still runs

    exit code 0     a clean stop
              1     the tree did not start or could not be kept alive, the broker refused, or a handler raised
                    KeyboardInterrupt
              3     force was needed: handlers were cancelled, or the process had to be ended

A handler may block the loop for ever, and then the loop sees no signal. So the signals are counted in the signal
handler itself, and the end of the grace is watched by a thread.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import trio

from actorwork.errors import ActorworkError, BrokerError
from actorwork.groups import is_cancellation
from actorwork.runtime.processes.config import EXIT_FAILED, EXIT_FORCED
from actorwork.runtime.system import System, open_system
from actorwork.telemetry.logs import configure

if TYPE_CHECKING:
    from actorwork.abc import AbstractCronSchedule, Broker, EventSink, Middleware, PublishMiddleware
    from actorwork.policy.restart import Intensity

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
    loop_stall: float = 0.5,
    middleware: Iterable[Middleware] = (),
    publish_middleware: Iterable[PublishMiddleware] = (),
    cron_schedule: AbstractCronSchedule | type[AbstractCronSchedule] | None = None,
    only: Iterable[str] = (),
    excluding: Iterable[str] = (),
) -> None:
    """Run a tree of actors until SIGTERM or SIGINT; the arguments are those of `open_system`.

    Logs to standard error unless logging is configured already. Returns after a clean stop; otherwise raises
    `SystemExit` with one of the codes above, after saying why.
    """
    configure()
    forced = False
    try:
        with _watched_end(grace + _MARGIN) as signalled:
            opening = partial(
                open_system,
                tree,
                broker=broker,
                lease=lease,
                grace=grace,
                intensity=intensity,
                emit=emit,
                loop_stall=loop_stall,
                middleware=middleware,
                publish_middleware=publish_middleware,
                cron_schedule=cron_schedule,
                only=only,
                excluding=excluding,
            )
            forced = trio.run(_main, opening, signalled)
    except KeyboardInterrupt:
        # No signal of ours: those are taken above. A handler raised it, and would raise it again after a restart.
        log.error("stopped by a KeyboardInterrupt that was raised within the tree; what was in hand was handed back")  # noqa: TRY400
        raise SystemExit(EXIT_FAILED) from None
    except ActorworkError as error:
        # Only what has a cause in somebody's code is worth a traceback: all else is said by the sentence.
        has_cause = error.__cause__ is not None and not isinstance(error, BrokerError)
        log.error("%s: %s", type(error).__name__, error, exc_info=error if has_cause else None)  # noqa: TRY400
        raise SystemExit(EXIT_FAILED) from None
    if forced:
        raise SystemExit(EXIT_FORCED)


async def _main(opening: Callable[[], AbstractAsyncContextManager[System]], signalled: Callable[[str], None]) -> bool:
    system: System | None = None
    failure: BaseException | None = None
    with trio.open_signal_receiver(*_SIGNALS) as signals, _told_first(signalled):
        try:
            async with trio.open_nursery() as nursery:
                starting = trio.CancelScope()
                systems: list[System] = []
                nursery.start_soon(_obey, signals, systems, starting)
                if os.getpid() == 1:
                    # Imported here: nobody but the first process of a container needs it.
                    from actorwork.runtime.orphans import reap_orphans  # noqa: PLC0415

                    nursery.start_soon(reap_orphans)
                with starting:
                    async with opening() as system:
                        systems.append(system)
                        await system.wait_stopped()
                nursery.cancel_scope.cancel(reason="the system has ended")
        except BaseExceptionGroup as group:
            found: list[BaseException] = [error for error in group.exceptions if not is_cancellation(error)]
            failure = found[0] if len(found) == 1 else group
    if failure is not None:
        raise failure
    return system is not None and system.forced


async def _obey(signals: object, systems: list[System], starting: trio.CancelScope) -> None:
    """Turn signals into the shutdown and the hurry."""
    async for number in signals:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        name = signal.Signals(number).name  # pyright: ignore[reportUnknownArgumentType]
        if systems:
            systems[0].stop(name)
        else:
            starting.cancel(reason=name)


@contextmanager
def _told_first(signalled: Callable[[str], None]) -> Generator[None]:
    """Call `signalled` in the very moment of a signal, before whoever handles it now."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        signalled(signal.Signals(number).name)
        passed_on = before[signal.Signals(number)]
        if callable(passed_on):
            passed_on(number, frame)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _watched_end(seconds: float) -> Generator[Callable[[str], None]]:
    """Give a function to be called at each signal: the third ends the process, and `seconds` after the first does.

    It is called within a signal handler, so it does no more than to write a byte. The thread that waits for that
    byte, and then for the end of the block, takes no lock that the blocked main thread may hold: it does not log.
    """
    sink, outlet = os.pipe()
    count = 0

    def signalled(name: str) -> None:
        nonlocal count
        count += 1
        if count == 1:
            os.write(outlet, b".")
        elif count > 2:
            _end(f"{name} for the {count}. time")

    def watch() -> None:
        if os.read(sink, 1) and not select.select([sink], [], [], None if math.isinf(seconds) else seconds)[0]:
            _end(f"still not ended {seconds:g} s after the first signal")

    thread = threading.Thread(target=watch, name="actorwork end", daemon=True)
    thread.start()
    try:
        yield signalled
    finally:
        os.close(outlet)
        thread.join()
        os.close(sink)


def _end(why: str) -> None:
    os.write(2, f"actorwork: {why}: ending now; what was in hand is taken over by other nodes\n".encode())
    os._exit(EXIT_FORCED)
