"""`run`: a tree of actors as a program of its own, with signals, logs and exit codes.

    first SIGTERM or SIGINT     the staged shutdown
    second                      handlers are cancelled now, their deliveries released
    third, or `grace` is over   the process ends, whatever still runs
    SIGHUP                      files of settings are read again, if there are any (configuration/reloading)

    exit code 0     a clean stop
              1     the tree did not start or could not be kept alive, the broker refused, or a handler raised
                    KeyboardInterrupt
              3     force was needed: handlers were cancelled, or the process had to be ended

A handler may block the loop, and a blocked loop handles no signal. So the signals are counted in the signal handler
itself, and a thread watches the end of the grace. Both begin with the first line of `run`: a signal during the start is
an ordinary one, and cancels the start. Python waits at its end for threads that are no daemons, which a handler or its
library may have started: so the grace also ends a program that nothing but such threads keeps (`_watch_threads`).
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import threading
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import attrs
import trio

from actorwork.durations import as_seconds
from actorwork.errors import ActorworkError, BrokerError, MissingExtra, SettingsError
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.bounds import is_number
from actorwork.runtime.options import Options, RunOptions, SystemOptions, refuse_unknown
from actorwork.runtime.processes.exit_codes import EXIT_FAILED, EXIT_FORCED
from actorwork.runtime.system import System, open_announced, with_config
from actorwork.stacks import frame_of_thread
from actorwork.telemetry.configuring import change_levels, configure

if TYPE_CHECKING:
    from actorwork.policy.limits import Rates
    from actorwork.runtime.configuration.loading import Configuration
    from actorwork.runtime.options import Configured

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MARGIN = 1.0
"""Seconds after `grace` at which the process is ended."""

log = logging.getLogger("actorwork.run")


def run(tree: object, **options: Unpack[RunOptions]) -> None:
    """Run a tree of actors until SIGTERM or SIGINT; the options are those of `open_system`, and two for the logs.

    Logs to standard error, from `log_level` ("INFO") on and as `log_format` ("text" or "json") says, unless logging is
    configured already. Returns after a clean stop; otherwise logs the reason and raises `SystemExit` with one of the
    codes above.
    """
    refuse_unknown("run", options, RunOptions.__optional_keys__)
    given = frozenset(options)
    with _Signals() as signals:
        if options.get("config") is not None:
            options = _configured(options)
        logs = [name for name in ("log_level", "log_format") if name in options]
        level, form = options.pop("log_level", "INFO"), options.pop("log_format", "text")
        grace = as_seconds(options.get("grace", attrs.fields(Options).grace.default))
        if not is_number(grace):
            grace = math.inf  # Opening the system refuses it, with its reason.
        with signals.watched_end(grace + _MARGIN):
            try:
                if not configure(level, form) and logs:
                    log.warning("%s ignored: this program has configured logging already", " and ".join(logs))
            except SettingsError as error:
                configure()
                log.error("SettingsError: %s", error)  # noqa: TRY400 - the sentence has it all
                raise SystemExit(EXIT_FAILED) from None
            code = _run(tree, options, signals, given)
    if code:
        raise SystemExit(code)


def _configured(options: RunOptions) -> RunOptions:
    """Return the options with what an operator has set below them; ends the program if that cannot be used."""
    try:
        chosen = with_config(options)
    except (SettingsError, MissingExtra) as error:
        configure()
        log.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - the sentence has it all
        raise SystemExit(EXIT_FAILED) from None
    config = cast("Configured", chosen.get("config"))
    logs = {name: config.options[name] for name in ("log_level", "log_format") if name in config.options}
    return cast("RunOptions", {**logs, **chosen})


def _run(tree: object, options: SystemOptions, signals: _Signals, given: Collection[str]) -> int:
    """Run it to its end; return the exit code, and log the reason of a failure."""
    try:
        forced = trio.run(_main, tree, options, signals, given)
    except KeyboardInterrupt as error:
        # Not of a signal: those do not raise it. A handler raised it, and would raise it again after a restart.
        text = "stopped by a KeyboardInterrupt that a handler raised; the messages in flight were released"
        log.error(text, exc_info=error.__cause__)  # noqa: TRY400 - its own traceback says no more than that
        return EXIT_FAILED
    except ActorworkError as error:
        # A traceback is of use only if the cause is in the user's code; otherwise the sentence has it all.
        has_cause = error.__cause__ is not None and not isinstance(error, BrokerError)
        log.error("%s: %s", type(error).__name__, error, exc_info=error if has_cause else None)  # noqa: TRY400
        return EXIT_FAILED
    return EXIT_FORCED if forced else 0


async def _main(tree: object, options: SystemOptions, signals: _Signals, given: Collection[str]) -> bool:
    systems: list[System] = []
    async with open_unwrapping_nursery() as nursery:
        starting = trio.CancelScope()
        if os.getpid() == 1:
            # Imported here: only the first process of a container needs it.
            from actorwork.runtime.orphans import reap_orphans  # noqa: PLC0415

            nursery.start_soon(reap_orphans)
        nursery.start_soon(_act_on, signals, systems, starting)
        config = cast("Configured | None", options.get("config"))
        if config is not None and config.read_again is not None:
            # Imported here: only a program with files of settings needs it.
            from actorwork.runtime.configuration.reloading import reload_on_hangup  # noqa: PLC0415

            nursery.start_soon(reload_on_hangup, cast("Configuration", config), given, _Running(systems))
        # A start is cancelled by the first signal, at whatever it waits for: there is nothing to end in stages.
        with starting:
            await trio.lowlevel.checkpoint()  # For a signal that came before: nothing is begun then.
            async with open_announced(tree, options, systems.append) as system:
                await system.wait_stopped()
        nursery.cancel_scope.cancel(reason="the system has ended")
    return any(system.forced for system in systems)


class _Running:
    """The system, once it runs, as SIGHUP changes it."""

    def __init__(self, systems: Sequence[System]) -> None:
        self._systems = systems

    def change_log_levels(self, level: str) -> bool:
        return self._systems[-1].change_log_levels(level) if self._systems else change_levels(level)

    def change_rates(self, rates: Rates) -> Collection[tuple[str, str]]:
        return self._systems[-1].change_rates(rates) if self._systems else ()

    def change_paused_sources(self, names: Collection[str]) -> Collection[str]:
        return self._systems[-1].change_paused_sources(names) if self._systems else names


async def _act_on(signals: _Signals, systems: list[System], starting: trio.CancelScope) -> None:
    """Turn signals into the shutdown; a second `stop` makes it hurry."""
    count = 0
    while True:
        for name in await signals.wait_more(count):
            count += 1
            if systems and systems[0].has_started:
                systems[0].stop(name)
            else:
                starting.cancel(reason=name)


class _Signals:
    """Receives SIGINT and SIGTERM in the block, instead of the handlers before it, in any code that the main thread
    runs: also where no loop runs yet, or it is blocked.

    The third one ends the process.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._names: list[str] = []
        self._first_at: float | None = None
        """When the first one came."""
        self._before: dict[signal.Signals, Any] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._news = trio.Event()
        self._read_end, self._write_end = os.pipe()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        # The main thread may hold any lock at this moment, so this does no more than to write a byte, and to call what
        # Trio allows in a signal handler.
        if os.getpid() != self._pid:
            # A fork of this program, such as a process of multiprocessing: the pipe is the program's, and would count
            # this as a signal to it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        self._names.append(name)
        self._first_at = self._first_at or time.monotonic()
        if len(self._names) == 1:
            os.write(self._write_end, b".")
        elif len(self._names) > 2:
            _end(f"{name} for the {len(self._names)}. time")
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._tell)

    def _tell(self) -> None:
        self._news.set()

    async def wait_more(self, than: int) -> Sequence[str]:
        """Wait until more than `than` signals have come, those before the loop ran included; return their names."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            # First the event, then the look: a signal that comes in between sets the new one.
            self._news = trio.Event()
            if more := self._names[than:]:
                return more
            await self._news.wait()

    @contextmanager
    def watched_end(self, seconds: float) -> Generator[None]:
        """End the process `seconds` after the first signal.

        The thread that waits for its byte, and then for the end of the block, does not log, since a blocked main thread
        may hold the lock of a log handler.
        """

        def watch() -> None:
            # The end of the block closes the pipe: the first read then returns nothing, or the wait ends at once.
            if os.read(self._read_end, 1):
                timeout = None if math.isinf(seconds) else seconds
                if not select.select([self._read_end], [], [], timeout)[0]:
                    _end(f"still not ended {seconds:g} s after the first signal")

        thread = threading.Thread(target=watch, name="actorwork end", daemon=True)
        thread.start()
        try:
            yield
        finally:
            os.close(self._write_end)
            thread.join()
            os.close(self._read_end)
            _watch_threads((self._first_at or time.monotonic()) + seconds)


def _watch_threads(deadline: float) -> None:
    """End the process at a deadline (`time.monotonic`), once only threads keep it; not while `run` has a caller."""
    main = threading.main_thread()

    def others() -> list[str]:
        return [thread.name for thread in threading.enumerate() if not (thread.daemon or thread is main)]

    def watch() -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        while not _is_over(main):
            time.sleep(_MARGIN)
        _end(f"threads that have not ended keep the process ({', '.join(others())})")

    if others() and not math.isinf(deadline):
        threading.Thread(target=watch, name="actorwork end", daemon=True).start()


def _is_over(main: threading.Thread) -> bool:
    """Whether the program has come to its end, and the interpreter waits for threads."""
    # By the outermost frame, since the main thread is alive while it waits for the threads of `concurrent.futures`.
    frame = frame_of_thread(main.ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_shutdown" and frame.f_globals.get("__name__") == "threading"


def _end(why: str) -> None:
    os.write(2, f"actorwork: {why}: ending now; other nodes take over the messages in flight\n".encode())
    os._exit(EXIT_FORCED)
