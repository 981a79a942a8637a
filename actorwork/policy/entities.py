"""What brokers keep of entities: actors with a durable state for every key.

    StateChange    what a delivery makes of the state of its key; it travels with the settlement
    StoredState    a state as a settlement has committed it
    EntityInfo     what is known of one entity without reading its state

The versions of a key count its commits: 1, 2, 3, … A settlement names the version that its handler ran on, and is
refused where another one is committed by then. After a state was forgotten they begin anew.
"""

from __future__ import annotations

import attrs

from actorwork.errors import StateConflict
from actorwork.shown import Value


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StateChange(Value):
    """What a delivery makes of the state of its key: committed in the step that settles it, or not at all.

    `version` is the one that the handler ran on (0: there was no state). `data` is the new state's JSON; None deletes
    the state and its history. `stamp` is a text that no other commit has, so that a node can tell its own commit from
    another one of the same version. The state is kept for `ttl` seconds after this change, None for ever, and the last
    `history` changes of the key stay listed.
    """

    version: int
    data: bytes | None
    stamp: str = ""
    schema: int = 0
    ttl: float | None = None
    history: int = 0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StoredState(Value):
    """A committed state. `at` is in seconds since the epoch, by the broker's clock.

    `by` is the id of the message whose settlement has committed it (of a `put` its user), `node` the incarnation of the
    node that has settled it.
    """

    version: int
    data: bytes = attrs.field(repr=False)
    at: float
    by: str = ""
    node: str = ""
    schema: int = 0
    stamp: str = ""


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
        why = "a node has a message of this key in hand, which may change it: try again"
    elif found:
        why = f"it has the version {found}, not {wanted}: somebody has changed it since"
    else:
        why = f"there is none, and not one of the version {wanted}"
    return StateConflict(f"the state of {key!r} was not changed: {why}", version=found)


def stale(key: str | None, found: int) -> StateConflict:
    """Return the error of a handler that has begun on another version of the state of its key."""
    return StateConflict(
        f"the state of {key!r} has the version {found} now, not the one that this handler has begun with",
        version=found,
    )
