"""How a child's task ended, in the words of OTP, and whether that is reason to start it again.

    how it ended                                       kind       permanent  transient  temporary
    returned, or `context.stop()`                      normal     restart    -          - (dropped)
    raised `Shutdown(term)`                            shutdown   restart    -          -
    asked to by its supervisor, in time                shutdown   (expected: nothing to decide)
    its bound passed, the scope was cancelled          killed     (expected)
    killed by somebody else                            killed     restart    restart    -
    an `Exception`                                     crashed    restart    restart    -
    a group: one leaf besides cancellations            crashed by that leaf
    a group: several leaves                            crashed by the group
    a start that failed                                init_failed: tried again during a restart
    a start that raised `Ignore`                       ignored: nothing runs, nothing failed
    `Cancelled` although nobody cancelled it           crashed: stray
    `KeyboardInterrupt`, `SystemExit`, …               fatal: never restarted, goes straight through
    a process: its system ended in order               normal     restart    -          -
    a process: any other end, of itself or by SIGKILL  crashed, by a `ProcessLost`

A Trio scope takes its own `Cancelled` out of groups, so a scope that says it caught a cancellation does not mean that
the end was clean: the error that is left over counts.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import attrs

from actorwork.errors import Ignore, Shutdown
from actorwork.groups import is_cancellation, is_group, leaves, only_leaf

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]


class Kind(enum.Enum):
    """How an incarnation ended."""

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    KILLED = "killed"
    CRASHED = "crashed"
    INIT_FAILED = "init_failed"
    IGNORED = "ignored"


@attrs.frozen
class Exit:
    """The end of an incarnation.

    `error` is the leaf that counts, `group` the group it came in. `reason` is what `Shutdown(term)` carried.
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
    """Say whether an error ends the whole program: neither an `Exception` nor a cancellation, also within a group."""
    if is_plain(error):
        return False
    return any(not isinstance(leaf, Exception) and not is_cancellation(leaf) for leaf in leaves(error))


def exit_of(
    error: BaseException | None, *, cancelled: bool, incarnation: int, starting: bool = False, expected: bool = False
) -> Exit:
    """Classify how an incarnation ended: by what came out of it, and whether somebody had cancelled its scope.

    `starting` says that it had not said that it was up; `expected` that its supervisor had told it to end.
    """
    if error is None and not starting and not cancelled:
        return Exit(Kind.SHUTDOWN if expected else Kind.NORMAL, incarnation=incarnation)
    if is_plain(error) and not isinstance(error, (Shutdown, Ignore)):
        # The same as below, where crashes one after another spend no time on groups.
        return Exit(Kind.INIT_FAILED if starting else Kind.CRASHED, error, incarnation=incarnation)
    found = [] if error is None else [leaf for leaf in leaves(error) if not is_cancellation(leaf)]
    # Of several leaves none is *the* error: the group is, and its text names them.
    leaf = None if error is None or not found else only_leaf(error)
    group = error if is_group(error) else None
    if starting:
        if found and all(isinstance(leaf, Ignore) for leaf in found):
            return Exit(Kind.IGNORED, None, group, incarnation=incarnation)
        if leaf is None:
            why = "it was cancelled before it was up" if cancelled else "it returned without saying that it had started"
            leaf = _caused_by(RuntimeError(why if error is None else _STRAY), error)
        return Exit(Kind.INIT_FAILED, leaf, group, incarnation=incarnation)
    if leaf is None:
        if cancelled:
            return Exit(Kind.KILLED, incarnation=incarnation)
        return Exit(Kind.CRASHED, _caused_by(RuntimeError(_STRAY), error), group, incarnation=incarnation)
    shutdowns = [leaf for leaf in found if isinstance(leaf, Shutdown)]
    if len(shutdowns) == len(found):
        return Exit(Kind.SHUTDOWN, None, group, shutdowns[0].term, incarnation)
    return Exit(Kind.CRASHED, leaf, group, incarnation=incarnation)


def is_plain(error: BaseException | None) -> bool:
    """Say whether it is an `Exception`, and no group."""
    return isinstance(error, Exception) and not is_group(error)


_STRAY = "stray Cancelled: it came out of a child that nobody had cancelled"


def _caused_by(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def restart_wanted(exit: Exit, restart: Restart) -> bool:
    """Say whether an exit that nobody asked for is reason to start the child again."""
    match restart:
        case "permanent":
            return True
        case "transient":
            return exit.abnormal
        case "temporary":
            return False
