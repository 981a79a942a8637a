"""How a child's task ended, in OTP's terms, and whether it is restarted.

    how it ended                                       kind       permanent  transient  temporary
    returned, or `context.stop()`                      normal     restart    -          - (dropped)
    raised `Shutdown(term)`                            shutdown   restart    -          -
    on its supervisor's request, in time               shutdown   (expected: nothing to decide)
    its bound passed, the scope was cancelled          killed     (expected)
    an error, after either of these requests           as above, with that error: it is reported, and no crash
    killed by other code than its supervisor           killed     restart    restart    -
    an `Exception`                                     crashed    restart    restart    -
    a group: one leaf besides cancellations            crashed by that leaf
    a group: several leaves                            crashed by the group
    a start that failed                                init_failed: tried again during a restart
    a start that raised `Ignore`                       ignored: nothing runs, nothing failed
    `Cancelled` although its scope was not cancelled   crashed: stray
    `KeyboardInterrupt`, `SystemExit`, …               fatal: never restarted, propagates
    a process: its system ended in order               normal     restart    -          -
    a process: any other end, of itself or by SIGKILL  crashed, by a `ProcessLost`; not counted (`is_counted`) if it
                                                       had a message in flight that processes had died with

A Trio scope removes its own `Cancelled` from groups, so a scope that caught a cancellation does not imply a clean end:
the error that remains counts.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import attrs

from actorwork.errors import Ignore, ProcessLost, Shutdown
from actorwork.groups import is_cancellation, is_group, leaves, only_leaf
from actorwork.shown import Value

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]


class Kind(enum.Enum):
    """How an incarnation ended."""

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    KILLED = "killed"
    CRASHED = "crashed"
    INIT_FAILED = "init_failed"
    IGNORED = "ignored"


@attrs.frozen(eq=False, repr=False)
class Exit(Value):
    """The end of an incarnation.

    `error` is the decisive leaf, `group` the group it came in. `reason` is the term of `Shutdown(term)`. An end that
    the supervisor asked for is `shutdown` or `killed`, also if the child raised an error meanwhile.
    """

    kind: Kind
    error: BaseException | None = None
    group: BaseException | None = None
    reason: object = None
    incarnation: int = 0

    @property
    def abnormal(self) -> bool:
        return self.kind in (Kind.KILLED, Kind.CRASHED, Kind.INIT_FAILED)

    def __str__(self) -> str:
        if self.error is None:
            return self.kind.value
        return f"{self.kind.value} ({type(self.error).__name__}: {self.error})"


def is_fatal(error: BaseException) -> bool:
    """Whether an error ends the whole program: it is or contains neither an `Exception` nor a cancellation."""
    if is_plain(error):
        return False
    return any(not isinstance(leaf, Exception) and not is_cancellation(leaf) for leaf in leaves(error))


def exit_of(
    error: BaseException | None, *, cancelled: bool, incarnation: int, starting: bool = False, expected: bool = False
) -> Exit:
    """Classify how an incarnation ended, by the error it raised and whether its scope had been cancelled.

    `starting`: it had not yet reported that it was up. `expected`: its supervisor had asked it to end.
    """
    if error is None and not starting and not cancelled:
        return Exit(Kind.SHUTDOWN if expected else Kind.NORMAL, incarnation=incarnation)
    if is_plain(error) and not expected and not isinstance(error, (Shutdown, Ignore)):
        # The same result as below, without the cost of looking through groups: crashes can come in quick succession.
        return Exit(Kind.INIT_FAILED if starting else Kind.CRASHED, error, incarnation=incarnation)
    found = [] if error is None else [leaf for leaf in leaves(error) if not is_cancellation(leaf)]
    # With several leaves, none is *the* error: the group is, and its text names them.
    leaf = None if error is None or not found else only_leaf(error)
    group = error if is_group(error) else None
    shutdowns = [leaf for leaf in found if isinstance(leaf, Shutdown)]
    if expected and not (error is not None and is_fatal(error)):
        if leaf is None and error is not None and not cancelled:
            leaf = _caused_by(RuntimeError(_STRAY), error)
        elif all(isinstance(leaf, (Shutdown, Ignore)) for leaf in found):
            leaf = None  # It had decided to end as well, and no error is left to report.
        # One that was cancelled before it was up has missed nothing: `shutdown`, as if it had been waiting for a start.
        return Exit(Kind.KILLED if cancelled and not starting else Kind.SHUTDOWN, leaf, group, incarnation=incarnation)
    if starting:
        if found and all(isinstance(leaf, Ignore) for leaf in found):
            return Exit(Kind.IGNORED, None, group, incarnation=incarnation)
        if leaf is None:
            why = "it was cancelled before it was up" if cancelled else "it returned before it had started"
            leaf = _caused_by(RuntimeError(why if error is None else _STRAY), error)
        return Exit(Kind.INIT_FAILED, leaf, group, incarnation=incarnation)
    if leaf is None:
        if cancelled:
            return Exit(Kind.KILLED, incarnation=incarnation)
        return Exit(Kind.CRASHED, _caused_by(RuntimeError(_STRAY), error), group, incarnation=incarnation)
    if len(shutdowns) == len(found):
        return Exit(Kind.SHUTDOWN, None, group, shutdowns[0].term, incarnation)
    return Exit(Kind.CRASHED, leaf, group, incarnation=incarnation)


def is_plain(error: BaseException | None) -> bool:
    """Whether it is an `Exception` and not a group."""
    # Not `is_group`, whose call would cost more than the rest: each crash is asked this several times.
    return isinstance(error, Exception) and not isinstance(error, BaseExceptionGroup)


_STRAY = "stray Cancelled: a child raised it although its scope was not cancelled"


def _caused_by(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def is_counted(exit: Exit) -> bool:
    """Whether a restart after an exit counts towards the intensity of the supervisor.

    The death of a process that had a message in flight which processes had died with before does not: such a message
    runs alone and becomes a dead letter after a few deaths, and a supervisor that gave up before that would end the
    program for it.
    """
    return not (isinstance(exit.error, ProcessLost) and exit.error.had_suspects)


def restart_wanted(exit: Exit, restart: Restart) -> bool:
    """Whether a supervisor restarts a child after an exit that it had not requested."""
    match restart:
        case "permanent":
            return True
        case "transient":
            return exit.abnormal
        case "temporary":
            return False
