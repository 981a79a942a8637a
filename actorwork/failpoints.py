"""Failpoints: named places at which a process can be made to die or stop, to open a failure window on purpose.

    ACTORWORK_CRASH_AT=settle.before:3         SIGKILL to itself when it passes there the third time
    ACTORWORK_CRASH_AT=lease.renew:2:stop      SIGSTOP instead: the drill sends the SIGCONT
    ACTORWORK_CRASH_AT=take_over.after,wire.sent:9

    point                 the process has just …
    handler.begun         taken a delivery to run it; its handler has not begun
    handler.returned      seen the handler return; nothing is queued yet
    read.replied          received the reply of a read; its deliveries are not offered to an actor yet
    inputs.fetched        received the inputs of a step; the step is not offered to its actor yet
    settle.before         composed a batch of settlements; it is not sent
    settle.after          received the reply that the batch is applied; it has not acted on it
    state.before          composed a settlement that changes the state of an entity; it is not sent, or not committed
    state.after           learned that it is applied; it has not acted on it
    release.before        been asked to release deliveries; nothing is sent
    release.after         released them; it still counts them as in flight
    take_over.before      decided to maintain its sources; nothing is sent
    take_over.after       received the entries that it took over; they are not offered to an actor yet
    publish.before        been asked to publish; nothing is sent
    publish.after         received the reply that its messages are stored; the sender does not know
    page.kept             kept a page of a run that the settlement of a delivery will start, at Redis
    rows.kept             kept a page of a run that it will start itself, or by a settlement, in the embedded broker
    fire.before           decided that a trigger fires; nothing is sent
    fire.after            received the reply that it has fired; it has not acted on it
    outbox.before         decided to forward what is in an outbox; it has not been read
    outbox.sent           received the reply that messages of an outbox are stored elsewhere; they are still in it
    outbox.after          deleted them from the outbox
    reshard.drained       taken messages out of an old shard; they have not been added to the new ones
    reshard.arrived       added messages to a new shard; they are still kept at the old one
    reshard.moved         deleted what has arrived from the old one
    reshard.replaced      replaced an old shard that is empty
    reshard.stored        stored the new layout; keys of the old one are left
    lease.renew           woken to take or renew its lease, in the lease's own thread
    wire.sent             passed bytes for Redis to the kernel, whatever their content; no reply has been read
    commit.before         written a turn of the embedded broker; it is not committed
    commit.after          committed it; no caller has been notified

A module looks up its failpoints when it is imported, and gets None unless the variable names them: a failpoint that is
off costs one comparison. Each process counts for itself from its start, and inherits the variable. It says so on
standard error when it starts, and again when it dies: a variable that was forgotten in an environment must not look
like a fault.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

VARIABLE: Final = "ACTORWORK_CRASH_AT"

POINTS: Final = frozenset(
    {
        "handler.begun",
        "handler.returned",
        "read.replied",
        "inputs.fetched",
        "settle.before",
        "settle.after",
        "state.before",
        "state.after",
        "release.before",
        "release.after",
        "take_over.before",
        "take_over.after",
        "publish.before",
        "publish.after",
        "fire.before",
        "fire.after",
        "page.kept",
        "rows.kept",
        "outbox.before",
        "outbox.sent",
        "outbox.after",
        "reshard.drained",
        "reshard.arrived",
        "reshard.moved",
        "reshard.replaced",
        "reshard.stored",
        "lease.renew",
        "wire.sent",
        "commit.before",
        "commit.after",
    }
)

Pass = Callable[[], None]


class Failpoint:
    """Counts its calls; the chosen call kills or stops the process."""

    def __init__(self, name: str, left: int, signal: signal.Signals) -> None:
        self.name = name
        self.left = left
        self.signal = signal

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            _say(f"{VARIABLE}: process {os.getpid()} gets {self.signal.name} at {self.name}")
            # A real signal instead of an exception: no handler, no `finally` and no buffer may run or flush.
            os.kill(os.getpid(), self.signal)


def parse(text: str) -> Mapping[str, Failpoint]:
    """Parse the variable; raise ValueError for an unknown failpoint: a drill that cannot happen must not pass."""
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


def _say(text: str) -> None:
    # Not a log: no logging is configured yet at the start, and at the end no buffer is flushed.
    with suppress(OSError):
        os.write(2, f"actorwork: {text}\n".encode())


_SET: Final = parse(os.environ.get(VARIABLE, ""))
if _SET:
    _say(
        f"{VARIABLE}={os.environ[VARIABLE]} is set: process {os.getpid()} kills or stops itself at"
        f" {', '.join(_SET)}; unset it, unless this is a drill"
    )


def failpoint(name: str) -> Pass | None:
    """Return the function to call at the failpoint of this name, or (usually) None: it is off."""
    return _SET.get(name)
