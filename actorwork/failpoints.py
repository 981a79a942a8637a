"""Places at which a process can be made to die, or to stand still: how failure windows are opened on purpose.

    ACTORWORK_CRASH_AT=settle.before:3         SIGKILL to itself as it passes there for the third time
    ACTORWORK_CRASH_AT=lease.renew:2:stop      SIGSTOP instead: somebody else may send the SIGCONT
    ACTORWORK_CRASH_AT=take_over.after,wire.sent:9

    point                 the process has just …
    handler.begun         taken a delivery in hand; its handler has not begun
    handler.returned      seen the handler return; nothing is queued yet
    read.replied          been told what it reads; no actor has been offered it
    settle.before         made up a batch of settlements; it is not sent
    settle.after          been told that the batch is applied; nobody here has drawn a conclusion
    release.before        been asked to release deliveries; nothing is sent
    release.after         released them; it still believes it has what it gave
    take_over.before      decided to look after its sources; nothing is sent
    take_over.after       been told what it has taken over; no actor has been offered it
    publish.before        been asked to publish; nothing is sent
    publish.after         been told that its messages are kept; the sender does not know
    fire.before           decided that a trigger fires; nothing is sent
    fire.after            been told that it has fired; it has drawn no conclusion
    lease.renew           woken to take or renew its lease, in the lease's own thread
    wire.sent             given bytes for Redis to the kernel, whatever they say; no reply has been looked at
    commit.before         written a turn of the embedded broker; it is not committed
    commit.after          committed it; nobody has been told

A module asks for its points when it is imported, and is given None unless the variable names them: what is off costs a
comparison. Each process counts for itself from its start, and inherits the variable.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

import attrs

VARIABLE: Final = "ACTORWORK_CRASH_AT"

POINTS: Final = frozenset(
    {
        "handler.begun",
        "handler.returned",
        "read.replied",
        "settle.before",
        "settle.after",
        "release.before",
        "release.after",
        "take_over.before",
        "take_over.after",
        "publish.before",
        "publish.after",
        "fire.before",
        "fire.after",
        "lease.renew",
        "wire.sent",
        "commit.before",
        "commit.after",
    }
)

Pass = Callable[[], None]


@attrs.define
class Failpoint:
    """Passed like a turnstile; the one in whose turn it is goes down with the whole process."""

    name: str
    left: int
    signal: signal.Signals

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            # To itself and not raised: no handler, no `finally`, no buffer gets a last word.
            os.kill(os.getpid(), self.signal)


def parse(text: str) -> Mapping[str, Failpoint]:
    """Read the variable. Raises ValueError for what names no point: a drill that cannot happen must not pass."""
    found: dict[str, Failpoint] = {}
    for one in filter(None, text.split(",")):
        name, _, rest = one.partition(":")
        turn, _, how = rest.partition(":")
        if name not in POINTS or not (turn or "1").isdecimal() or int(turn or 1) < 1 or how not in ("", "kill", "stop"):
            raise ValueError(
                f"{VARIABLE} has {one!r}: wanted <point>[:<turn, from 1>[:kill | :stop]],"
                f" a point being one of {', '.join(sorted(POINTS))}"
            )
        found[name] = Failpoint(name, int(turn or 1), signal.SIGSTOP if how == "stop" else signal.SIGKILL)
    return found


_SET: Final = parse(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> Pass | None:
    """Return what to call at the place of this name; None, usually: nothing is to happen there."""
    return _SET.get(name)
