"""A trigger as one node sees it."""

from __future__ import annotations

from typing import Final

import attrs

from actorwork.policy.odds import Odds
from actorwork.records import TriggerRecord
from actorwork.shown import Shown
from actorwork.triggers.declared import Declared

AGAIN: Final = 1.0
"""Seconds until a failed operation is tried again."""


@attrs.define(eq=False, repr=False)
class Watched(Shown):
    """A trigger as this node sees it; times in milliseconds."""

    declared: Declared
    """As it is in force."""
    code: Declared | None
    """As the program declares it; None if a user has put it at the broker."""
    record: TriggerRecord | None = None
    since: int = 0
    last: int = 0
    coming: int | None = None
    """With a `cron_schedule`: the next time."""
    is_over: bool = False
    """Another version of the program has given it another schedule, or it cannot fire as a user wants it."""
    again_at: int = 0
    """Do not try before then: after a failure, or since others are to try first."""
    is_put_off: bool = False
    """Others try the next time first."""
    odds: Odds = attrs.field(factory=Odds)
