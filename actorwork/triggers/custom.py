"""The times of triggers whose system has a `cron_schedule` of the user.

It is asked for the next time after each firing. It does not know the past, so times missed while no node ran do not
fire.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from actorwork.abc import AbstractCronSchedule
from actorwork.errors import SettingsError
from actorwork.policy.catchup import LATE, Plan
from actorwork.policy.schedule import Cron, milliseconds
from actorwork.records import TriggerRecord
from actorwork.triggers.watched import AGAIN, Watched

SKEW: Final = 5_000
"""Milliseconds by which the clock of a `cron_schedule` may be behind the broker's."""


class CustomTimes:
    """Asks the user's reader; `trouble` is called with what is wrong with its answers, and what follows."""

    def __init__(
        self,
        cron_schedule: AbstractCronSchedule,
        trouble: Callable[[Watched, str, str], None],
    ) -> None:
        self._cron_schedule = cron_schedule
        self._trouble = trouble

    def __repr__(self) -> str:
        return f"<CustomTimes of {self._cron_schedule!r}>"

    def plan(self, watched: Watched, record: TriggerRecord, now: int) -> Plan:
        rule = watched.declared.rule
        ends = math.inf if rule.lifetime is None else record.registered + rule.lifetime
        if watched.coming is None:
            found = self._ask(watched, now)
            if found is None:
                return Plan((), watched.again_at)
            watched.coming = found
        if watched.coming > ends:
            return Plan((), None)
        if watched.coming > now:
            return Plan((), watched.coming)
        late = now - watched.coming
        if late > LATE and (rule.catchup == "skip" or late > rule.window):
            watched.coming = None
            return Plan((), now)
        return Plan((watched.coming,), None)

    def _ask(self, watched: Watched, now: int) -> int | None:
        schedule = watched.declared.trigger.schedule
        assert isinstance(schedule, Cron)  # noqa: S101 - and intervals are not
        try:
            found = next_execution(self._cron_schedule, schedule)
        except SettingsError as error:
            pause = watched.declared.trigger.status_check_interval
            self._trouble(watched, str(error), f"asked again in {pause:g} s")
            watched.again_at = now + round(pause * 1000)
            return None
        if found > max(now, watched.last):
            return found
        # Its clock may be a little behind the broker's: then it returns the time that has just fired.
        pause = AGAIN
        if now - found > SKEW and found < watched.last:
            pause = watched.declared.trigger.status_check_interval
            error = f"the next execution of {schedule.expression!r} is before an earlier answer"
            self._trouble(watched, error, f"asked again in {pause:g} s")
        elif now - found > SKEW:
            pause = watched.declared.trigger.status_check_interval
            self._trouble(
                watched, f"the next execution of {schedule.expression!r} is past", f"asked again in {pause:g} s"
            )
        watched.again_at = now + round(pause * 1000)
        return None


def next_execution(reader: AbstractCronSchedule, cron: Cron) -> int:
    """Ask for the next time; raise `SettingsError`, which says what is wrong with the answer."""
    name = f"{type(reader).__qualname__}.next_execution({cron.expression!r})"
    ask: Callable[..., Any] = reader.next_execution
    try:
        is_given_zone = "timezone" in inspect.signature(ask).parameters
        found = ask(cron.expression, timezone=cron.zone) if is_given_zone else ask(cron.expression)
    except Exception as error:
        raise SettingsError(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(found, datetime):
        raise SettingsError(f"{name} wants to return a datetime, got {found!r}")
    if found.tzinfo is None or found.utcoffset() is None:
        raise SettingsError(f"{name} wants to return a time with a timezone, got {found!r}")
    return milliseconds(found)
