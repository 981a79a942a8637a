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
    a start that failed during a restart               init_failed: tried again
    `Cancelled` although nobody cancelled it           crashed: stray
    `KeyboardInterrupt`, `SystemExit`, …               fatal: never restarted, goes straight through

A Trio scope takes its own `Cancelled` out of groups, so a scope that says it caught a cancellation does not mean that
the end was clean: the error that is left over counts.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias, cast

import attrs

from actorwork.errors import Shutdown
from actorwork.policy.settlement import is_cancellation, leaves

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]


class Kind(enum.Enum):
    """How an incarnation ended."""

    NORMAL = "normal"
    SHUTDOWN = "shutdown"
    KILLED = "killed"
    CRASHED = "crashed"
    INIT_FAILED = "init_failed"


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
        return self.kind not in (Kind.NORMAL, Kind.SHUTDOWN)

    def __str__(self) -> str:
        if self.error is None:
            return self.kind.value
        return f"{self.kind.value} ({type(self.error).__name__}: {self.error})"


def is_fatal(error: BaseException) -> bool:
    """Say whether an error ends the whole program: neither an `Exception` nor a cancellation, also within a group."""
    return any(not isinstance(leaf, Exception) and not is_cancellation(leaf) for leaf in leaves(error))


def exit_of(error: BaseException | None, *, cancelled: bool, incarnation: int, starting: bool = False) -> Exit:
    """Classify how an incarnation ended: what came out of it, and whether somebody had cancelled its scope."""
    if error is None:
        return Exit(Kind.KILLED if cancelled else Kind.NORMAL, incarnation=incarnation)
    group: BaseException | None = cast("BaseException", error) if isinstance(error, BaseExceptionGroup) else None
    found = [leaf for leaf in leaves(cast("BaseException", error)) if not is_cancellation(leaf)]
    if not found:
        if cancelled:
            return Exit(Kind.KILLED, incarnation=incarnation)
        stray = RuntimeError("stray Cancelled: it came out of a child that nobody had cancelled")
        stray.__cause__ = error
        return Exit(Kind.CRASHED, stray, group, incarnation=incarnation)
    shutdowns = [leaf for leaf in found if isinstance(leaf, Shutdown)]
    if len(shutdowns) == len(found):
        return Exit(Kind.SHUTDOWN, None, group, shutdowns[0].term, incarnation)
    leaf: BaseException = found[0] if len(found) == 1 else cast("BaseException", error)
    return Exit(Kind.INIT_FAILED if starting else Kind.CRASHED, leaf, group, incarnation=incarnation)


def restart_wanted(exit: Exit, restart: Restart) -> bool:
    """Say whether an exit that nobody asked for is reason to start the child again."""
    match restart:
        case "permanent":
            return True
        case "transient":
            return exit.abnormal
        case "temporary":
            return False
