"""How a system runs, as whoever starts it says: one value, checked, which its processes are given too.

The errors name the argument alone, since that is what was written: `run(tree, lease=0)`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import attrs

from actorwork.policy.bounds import as_tuple, callables, seconds
from actorwork.runtime.firing import cron_schedule_from

if TYPE_CHECKING:
    from actorwork.abc import AbstractCronSchedule, Middleware, PublishMiddleware

SHARE_FOR_THE_END = 0.2
"""The part of `grace` that is kept for the stages after the drain, at most `LONGEST_END` seconds."""
LONGEST_END = 5.0
SHORTEST_END = 0.5
"""Seconds that each step after the drain may take at least, whatever the grace: handing back is worth that."""


@attrs.frozen(kw_only=True)
class Options:
    """How a system runs. `lease`, `grace` and `loop_stall` are in seconds; the last two may be infinite."""

    fields_are_arguments: ClassVar = True

    lease: float = attrs.field(default=10.0, validator=seconds(0.2))
    grace: float = attrs.field(default=25.0, validator=seconds(0.0))
    loop_stall: float = attrs.field(default=0.5, validator=seconds(0.05))
    """From how long on it is reported that the loop stands still."""
    middleware: tuple[Middleware, ...] = attrs.field(
        default=(), converter=as_tuple, validator=callables("delivery", "proceed")
    )
    publish_middleware: tuple[PublishMiddleware, ...] = attrs.field(
        default=(), converter=as_tuple, validator=callables("envelope")
    )
    cron_schedule: AbstractCronSchedule | None = attrs.field(default=None, converter=cron_schedule_from)

    @property
    def drain(self) -> float:
        """How long stage 2 may take."""
        if math.isinf(self.grace):
            return math.inf
        return self.grace - min(LONGEST_END, self.grace * SHARE_FOR_THE_END)

    @property
    def ending(self) -> float:
        """How long each step around it may take."""
        return max(SHORTEST_END, min(LONGEST_END, self.grace * SHARE_FOR_THE_END))
