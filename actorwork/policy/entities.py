"""What brokers keep of entities: actors with a durable state for every key.

    StateChange    what a delivery makes of the state of its key; it travels with the settlement
    StoredState    a state as a settlement has committed it
    EntityInfo     what is known of one entity without reading its state
    mark_of        a message among the last ones that have changed a state

The versions of a key count its commits: 1, 2, 3, … A settlement names the version that its handler ran on, and is
refused where another one is committed by then. After a state was forgotten they begin anew.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, TypeAlias

import attrs

from actorwork.errors import StateConflict
from actorwork.shown import Value

MARKS: Final = 64
"""How many messages a state knows that have changed it last."""
MARK_BYTES: Final = 8
LISTED: Final = 20
"""How many changes are listed at least, where it is not said how many are kept."""


def mark_of(message_id: str) -> bytes:
    """Return the mark that a message leaves with a state that its settlement changes."""
    return hashlib.blake2b(message_id.encode(errors="surrogatepass"), digest_size=MARK_BYTES).digest()


def has_mark(marks: bytes, mark: bytes) -> bool:
    """Whether a message is among the last ones that have changed a state."""
    at = marks.find(mark)
    while at > 0 and at % MARK_BYTES:
        at = marks.find(mark, at + 1)
    return at >= 0


def with_mark(marks: bytes, mark: bytes) -> bytes:
    """Return the marks after one more message; the oldest one goes."""
    return (marks + mark)[-MARKS * MARK_BYTES :]


@attrs.define(kw_only=True, eq=False, repr=False)
class StateChange(Value):
    """What a delivery makes of the state of its key: committed in the step that settles it, or not at all. Not frozen,
    since one is made for nearly every message, and a frozen one takes two to three times as long.

    `version` is the one that the handler ran on (0: there was no state). `data` is the new state's JSON; None deletes
    the state and its history. `stamp` is a text that no other commit has, so that a node can tell its own commit from
    another one of the same version. The state is kept for `ttl` seconds after this change, None for ever, and the last
    `history` changes of the key stay listed; None lists this change, too, however many are listed. `mark` is that of
    the message if the change ends it, else empty: the last 64 are kept with the state, so that a message which comes
    once more is known.
    """

    version: int
    data: bytes | None
    stamp: str = ""
    schema: int = 0
    ttl: float | None = None
    history: int | None = 0
    mark: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StoredState(Value):
    """A committed state. `at` is in seconds since the epoch, by the broker's clock.

    `by` is the id of the message whose settlement has committed it (of a `put` its user), `node` the incarnation of the
    node that has settled it. `marks` are those of the last messages that have changed the state, one after the other;
    of a past state they are not known.
    """

    version: int
    data: bytes = attrs.field(repr=False)
    at: float
    by: str = ""
    node: str = ""
    schema: int = 0
    stamp: str = ""
    marks: bytes = attrs.field(default=b"", repr=False)


FoundState: TypeAlias = "StoredState | Literal[True] | None"
"""A committed state as a node loads it: True if it is the one that the node knows, None if there is none."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class EntityInfo(Value):
    """One entity in a list: its key, its version, when and by which message that was committed, and its size."""

    key: str
    version: int
    at: float
    by: str
    bytes: int


def conflict(key: str | None, wanted: int | None, found: int, *, is_busy: bool = False) -> StateConflict:
    """Return the error of a user who cannot change a state now."""
    if is_busy:
        why = "a node is handling a message of this key, which may change it: try again"
    elif found:
        why = f"it has the version {found}, not {wanted}: it has been changed since"
    else:
        why = f"there is none, and not one of the version {wanted}"
    return StateConflict(f"the state of {key!r} was not changed: {why}", version=found)


def stale(key: str | None, found: int) -> StateConflict:
    """Return the error of a handler that has begun on another version of the state of its key."""
    return StateConflict(
        f"the state of {key!r} has the version {found} now, not the one that this handler has begun with",
        version=found,
    )
