"""How the end of an actor travels from where it was decided to its supervisor."""

from __future__ import annotations

from actorwork.policy.exits import Exit


class Crash(Exception):
    """Ends an actor: `__cause__` is the error; with `stop` or `escalate` it is not restarted."""

    def __init__(self, *, stop: bool = False, escalate: bool = False) -> None:
        super().__init__()
        self.stop = stop
        self.escalate = escalate


def cause_of(error: BaseException) -> BaseException:
    """Return the user's error that a crash carries."""
    return error.__cause__ if isinstance(error, Crash) and error.__cause__ is not None else error


def without_crash(ended: Exit) -> Exit:
    """Return the exit with the user's error instead of the crash that has carried it."""
    if not isinstance(ended.error, Crash):
        return ended
    return Exit(ended.kind, cause_of(ended.error), ended.group, ended.reason, ended.incarnation)
