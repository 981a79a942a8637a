"""Check-ins of triggers at Sentry's monitors of crons: `Sentry(crons=True)`.

    begun      its handler begins, or begins again
    ok         it has returned, or has rejected the message, which is its own decision
    error      the message is a dead letter, was cancelled at a node, or has taken its actor down

A monitor is named by actor and trigger, and is made and kept up to date by its check-ins, with the schedule that is
declared. All attempts of a message are one check-in, on whatever node they are: its id comes from that of the message.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from actorwork.message import TRIGGER_ID
from actorwork.policy.schedule import Cron

if TYPE_CHECKING:
    from actorwork.message import Delivery
    from actorwork.policy.trigger import Trigger
    from actorwork.settings import Settings

_LONGEST_SLUG: Final = 50
_UNITS: Final = (("week", 604_800), ("day", 86_400), ("hour", 3600), ("minute", 60))

Stage = Literal["in_progress", "ok", "error"]


class CheckIns:
    """The check-ins of one actor; `capture` is that of Sentry's SDK."""

    def __init__(self, settings: Settings, capture: Callable[..., object]) -> None:
        self._capture = capture
        self._monitors = {
            one.id: (slug_of(settings.title or settings.id, one.title), config)
            for one in settings.triggers
            if (config := config_of(one, settings.execution_timeout)) is not None
        }

    def __repr__(self) -> str:
        return f"<check-ins of {', '.join(slug for slug, _ in self._monitors.values()) or 'no trigger'}>"

    def note(self, deliveries: Sequence[Delivery], stage: Stage) -> None:
        """Tell Sentry of those messages that triggers have sent."""
        if not self._monitors:
            return
        for delivery in deliveries:
            found = self._monitors.get(str(delivery.headers.get(TRIGGER_ID, "")))
            if found is None:
                continue
            slug, config = found
            self._capture(monitor_slug=slug, check_in_id=_id_of(delivery), status=stage, monitor_config=config)


def slug_of(actor: str, trigger: str) -> str:
    """Return the name of a monitor: lower case letters, digits and hyphens, at most 50 of them."""
    whole = f"{actor}-{trigger}"
    plain = re.sub(r"[^a-z0-9]+", "-", whole.casefold()).strip("-")
    if plain == whole and len(plain) <= _LONGEST_SLUG:
        return plain
    # What was left out may be all in which two names differ.
    digest = hashlib.sha256(f"{actor}\0{trigger}".encode()).hexdigest()[:8]
    return f"{plain[: _LONGEST_SLUG - 9].rstrip('-')}-{digest}".lstrip("-")


def config_of(trigger: Trigger, timeout: float) -> Mapping[str, Any] | None:
    """Return how a monitor expects its check-ins; None for a schedule that Sentry has no words for."""
    schedule = trigger.schedule
    config: dict[str, Any] = {"max_runtime": max(1, math.ceil(timeout / 60))}
    if isinstance(schedule, Cron):
        if schedule.custom or len(schedule.expression.split()) != 5:
            return None
        return {**config, "schedule": {"type": "crontab", "value": schedule.expression}, "timezone": schedule.timezone}
    for unit, length in _UNITS:
        if schedule.total_seconds % length == 0:
            count = int(schedule.total_seconds // length)
            return {**config, "schedule": {"type": "interval", "value": count, "unit": unit}}
    return None


def _id_of(delivery: Delivery) -> str:
    return hashlib.sha256(f"{delivery.source}\0{delivery.id}".encode(errors="replace")).hexdigest()[:32]
