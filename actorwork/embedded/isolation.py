"""Lets a suspect, a message that processes died with, run with nothing beside it in its node.

    open ──a suspect waits──▶ closed ──nothing in flight──▶ one suspect runs ──it has ended──▶ the next one, if any
      ▲                          │ CLEARING                      │ ALONE                             │ none
      └──────────────────────────┴───────────────────────────────┴───────────────────────────────────┘

The reasons and the bounds are in `policy/crashes`, which both brokers follow.

One turn decides for one node, by what it sees in its transaction. If the turn fails, the next one decides again, by
what it sees then: nothing here has to be undone.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from actorwork.policy.crashes import ALONE, CLEARING, LEFT_TO_OTHERS, TRY_AGAIN

LOOK_EVERY: Final = 0.25
"""Seconds between two looks at whether suspects still wait: another process may have taken them."""


@attrs.define(eq=False)
class Isolation:
    """What one node may take now. All times are by the monotonic clock."""

    is_closed: bool = False
    """Whether nothing may be read but suspects."""
    look_at: float = -math.inf
    """When to decide again, if no order comes. A node that begins does so before it reads anything."""
    _held_since: float | None = None
    _until: float = math.inf
    _not_before: float = -math.inf
    _is_running: bool = False
    """Whether a suspect was taken that has not ended."""

    def decide(self, now: float, *, is_idle: bool, are_held: bool, has_room: bool) -> bool:
        """Return whether one suspect is to be taken now.

        `is_idle`: the node has nothing in flight. `are_held`: suspects wait. `has_room`: it could take one of them.
        """
        if is_idle and self._is_running:
            self._is_running, self._until = False, now + CLEARING
        if self.is_closed and now >= self._until:
            self._not_before = now + TRY_AGAIN
            self._open()
        if not are_held:
            self._held_since = None
            if not self._is_running:
                self._open()
        elif is_idle and not has_room:
            # Without room, though nothing is in flight: the actor takes nothing. What is in flight may need all room.
            self._open()
        elif not self.is_closed and now >= self._not_before:
            self._held_since = now if self._held_since is None else self._held_since
            if is_idle or now - self._held_since >= LEFT_TO_OTHERS:
                self.is_closed, self._until = True, now + CLEARING
        return self.is_closed and is_idle and are_held

    def has_taken(self, now: float) -> None:
        """Note that a suspect was taken: it runs now."""
        self._is_running, self._until = True, now + ALONE

    def _open(self) -> None:
        self.is_closed, self._is_running = False, False

    def reset(self) -> None:
        """Begin anew, with nothing in flight: the lease was lost."""
        self._open()
        self._held_since, self._not_before, self.look_at = None, -math.inf, -math.inf
