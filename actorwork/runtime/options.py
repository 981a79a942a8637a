"""How a system runs, as whoever starts it says: one value, checked, which its processes are given too.

The errors name the argument alone, since that is what was written: `run(tree, lease=0)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import attrs

from actorwork.errors import SettingsError
from actorwork.policy.bounds import is_number, takes
from actorwork.runtime.firing import cron_schedule_from

if TYPE_CHECKING:
    from actorwork.abc import AbstractCronSchedule, Middleware, PublishMiddleware

SHARE_FOR_THE_END = 0.2
"""The part of `grace` that is kept for the stages after the drain, at most `LONGEST_END` seconds."""
LONGEST_END = 5.0
SHORTEST_END = 0.5
"""Seconds that each step after the drain may take at least, whatever the grace: handing back is worth that."""


def _at_least(low: float) -> Any:
    def check(_: object, attribute: attrs.Attribute[float], value: object) -> None:
        if not is_number(value) or not value >= low:
            raise SettingsError(f"{attribute.name} wants seconds >= {low:g}, got {value!r}")

    return check


def _as_layers(value: Iterable[Any]) -> tuple[Any, ...]:
    # What is no list is left as it is, for the validator to refuse.
    return tuple(value) if isinstance(cast("object", value), Iterable) else cast("Any", value)


def _are_layers(*arguments: str) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        layers = cast("tuple[object, ...]", value)
        if not isinstance(value, tuple) or not all(takes(layer, len(arguments)) for layer in layers):
            raise SettingsError(
                f"{attribute.name} wants a list of callables of ({', '.join(arguments)}), got {value!r}"
            )

    return check


@attrs.frozen(kw_only=True)
class Options:
    """How a system runs. `lease`, `grace` and `loop_stall` are in seconds; the last two may be infinite."""

    lease: float = attrs.field(default=10.0, validator=_at_least(0.2))
    grace: float = attrs.field(default=25.0, validator=_at_least(0.0))
    loop_stall: float = attrs.field(default=0.5, validator=_at_least(0.05))
    """From how long on it is reported that the loop stands still."""
    middleware: tuple[Middleware, ...] = attrs.field(
        default=(), converter=_as_layers, validator=_are_layers("delivery", "proceed")
    )
    publish_middleware: tuple[PublishMiddleware, ...] = attrs.field(
        default=(), converter=_as_layers, validator=_are_layers("envelope")
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
