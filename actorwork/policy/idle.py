"""Why nothing happens, in one line: of a message, an actor, and a source.

`Reason` is the answer. Its `code` is for programs:

    paused        by whom, since when, and why
    no reader     no node reports that it reads the source, or runs the actor
    lease lost    the node that has it has not renewed its lease
    blocked       the loop of the node is blocked
    circuit       a circuit is open, until when
    limit         a limit holds messages back, until when
    key           another message with its key is in hand, where
    delayed       it is not due yet, until when
    full          the mailbox is full, or all that may run at once is running
    working       nothing is wrong: it is in hand, since when
    ready         nothing is wrong: it is the turn of a reader
    nothing       nothing waits
    over          it has ended
    unknown       the broker does not know it
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from actorwork.shown import Value

Code: TypeAlias = Literal[
    "paused",
    "no reader",
    "lease lost",
    "blocked",
    "circuit",
    "limit",
    "key",
    "delayed",
    "full",
    "working",
    "ready",
    "nothing",
    "over",
    "unknown",
]

FINE: frozenset[Code] = frozenset({"working", "ready", "nothing", "over", "delayed"})
"""The reasons that need no person."""


@attrs.frozen(eq=False, repr=False)
class Reason(Value):
    """Why nothing happens: a code for programs, and one line for people.

    `by` is who, `node` the node and `subject` the limit, circuit, key or pause that it is about, where there is one;
    `since` and `until` are in seconds since the epoch, by the broker's clock.
    """

    code: Code
    text: str
    subject: str = ""
    by: str = ""
    node: str = ""
    since: float | None = None
    until: float | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_fine(self) -> bool:
        """Whether it needs no person."""
        return self.code in FINE
