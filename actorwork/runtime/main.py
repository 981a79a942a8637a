"""`run`: a tree of actors as a program of its own, with signals, logs and exit codes.

    first SIGTERM or SIGINT     the staged shutdown
    second                      handlers are cancelled now, their deliveries released
    third, or `grace` is over   the process ends, whatever still runs

    exit code 0     a clean stop
              1     the tree did not start or could not be kept alive, the broker refused, or a handler raised
                    KeyboardInterrupt
              3     force was needed: handlers were cancelled, or the process had to be ended

A handler may block the loop, and a blocked loop handles no signal. So the signals are counted in the signal handler
itself, and a thread watches the end of the grace.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import FrameType
from typing import Unpack

import attrs
import trio

from actorwork.errors import ActorworkError, BrokerError
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.runtime.options import Options, SystemOptions, refuse_unknown
from actorwork.runtime.processes.config import EXIT_FAILED, EXIT_FORCED
from actorwork.runtime.system import System, open_system
from actorwork.telemetry.configuring import configure

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MARGIN = 1.0
"""Seconds after `grace` at which the process is ended."""

log = logging.getLogger("actorwork.run")


def run(tree: object, **options: Unpack[SystemOptions]) -> None:
    """Run a tree of actors until SIGTERM or SIGINT; the options are those of `open_system`.

    Logs to standard error unless logging is configured already. Returns after a clean stop; otherwise logs the reason
    and raises `SystemExit` with one of the codes above.
    """
    refuse_unknown("run", options)
    configure()
    forced = False
    grace = options.get("grace", attrs.fields(Options).grace.default)
    try:
        with _watched_end(grace + _MARGIN) as signalled:
            forced = trio.run(_main, lambda: open_system(tree, **options), signalled)
    except KeyboardInterrupt:
        # Not of a signal: those are handled above. A handler raised it, and would raise it again after a restart.
        log.error("stopped by a KeyboardInterrupt that a handler raised; the messages in flight were released")  # noqa: TRY400
        raise SystemExit(EXIT_FAILED) from None
    except ActorworkError as error:
        # A traceback is of use only if the cause is in the user's code; otherwise the sentence has it all.
        has_cause = error.__cause__ is not None and not isinstance(error, BrokerError)
        log.error("%s: %s", type(error).__name__, error, exc_info=error if has_cause else None)  # noqa: TRY400
        raise SystemExit(EXIT_FAILED) from None
    if forced:
        raise SystemExit(EXIT_FORCED)


async def _main(opening: Callable[[], AbstractAsyncContextManager[System]], signalled: Callable[[str], None]) -> bool:
    system: System | None = None
    # The order of the two matters: `_called_first` passes a signal on to the handler that it finds, which is Trio's.
    with trio.open_signal_receiver(*_SIGNALS) as signals, _called_first(signalled):
        async with open_unwrapping_nursery() as nursery:
            starting = trio.CancelScope()
            systems: list[System] = []
            nursery.start_soon(_act_on, signals, systems, starting)
            if os.getpid() == 1:
                # Imported here: only the first process of a container needs it.
                from actorwork.runtime.orphans import reap_orphans  # noqa: PLC0415

                nursery.start_soon(reap_orphans)
            # A start is cancelled by the first signal, at whatever it waits for: there is nothing to end in stages.
            with starting:
                async with opening() as system:
                    systems.append(system)
                    await system.wait_stopped()
            nursery.cancel_scope.cancel(reason="the system has ended")
    return system is not None and system.forced


async def _act_on(signals: AsyncIterator[int], systems: list[System], starting: trio.CancelScope) -> None:
    """Turn signals into the shutdown; a second `stop` makes it hurry."""
    async for number in signals:
        name = signal.Signals(number).name
        if systems:
            systems[0].stop(name)
        else:
            starting.cancel(reason=name)


@contextmanager
def _called_first(signalled: Callable[[str], None]) -> Generator[None]:
    """Call `signalled` within the signal handler, before the handler that was installed until now.

    That one only wakes the loop, so a blocked loop would never count the signals.
    """
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

    It is called within a signal handler, so it does no more than to write a byte: the main thread may hold any lock at
    that moment. The thread that waits for that byte, and then for the end of the block, does not log either, since a
    blocked main thread may hold the lock of a log handler.
    """
    read_end, write_end = os.pipe()
    count = 0

    def signalled(name: str) -> None:
        nonlocal count
        count += 1
        if count == 1:
            os.write(write_end, b".")
        elif count > 2:
            _end(f"{name} for the {count}. time")

    def watch() -> None:
        # The end of the block closes the pipe: the first read then returns nothing, or the wait ends at once.
        if os.read(read_end, 1):
            timeout = None if math.isinf(seconds) else seconds
            if not select.select([read_end], [], [], timeout)[0]:
                _end(f"still not ended {seconds:g} s after the first signal")

    thread = threading.Thread(target=watch, name="actorwork end", daemon=True)
    thread.start()
    try:
        yield signalled
    finally:
        os.close(write_end)
        thread.join()
        os.close(read_end)


def _end(why: str) -> None:
    os.write(2, f"actorwork: {why}: ending now; other nodes take over the messages in flight\n".encode())
    os._exit(EXIT_FORCED)
