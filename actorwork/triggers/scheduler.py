"""One task of each node fires all triggers of its actors.

    register ──▶ [ decide ──▶ fire ──▶ sleep until the next nominal time ] ──▶ (again)

Any number of nodes do this at once, and each tries to fire each time. The broker decides which is first: it marks a
time as decided in the step in which it stores the message, and only if the last decided time is the one that the node
assumed. A node that is late, or was stopped for a while, assumes an old time, fires nothing, and receives the current
state. So no node needs to lead, and a node's copy of the records may be out of date.

Time is the broker's. The node sleeps by Trio's clock until the next time, and looks again every
`status_check_interval`, since the broker's clock may be set.

With a `cron_schedule` of the user, the scheduler asks for the next time after each firing. It does not know the past,
so times missed while no node ran do not fire.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn, Protocol

import attrs
import trio

from actorwork.abc import AbstractCronSchedule, EventSink, Firing, Triggers
from actorwork.errors import BrokerError, SettingsError
from actorwork.events import BrokerTrouble, TriggerFired, TriggerTrouble
from actorwork.failpoints import failpoint
from actorwork.message import TriggerRecord
from actorwork.policy.catchup import LATE, Plan, plan
from actorwork.policy.schedule import Cron, milliseconds
from actorwork.shown import Shown
from actorwork.triggers.declared import Declared

AT_ONCE: Final = 100
"""How many messages of one trigger are sent in one step; the rest follow immediately."""
AGAIN: Final = 1.0
"""Seconds until a failed operation is tried again."""
SKEW: Final = 5_000
"""Milliseconds by which the clock of a `cron_schedule` may be behind the broker's."""

_BEFORE: Final = failpoint("fire.before")
_AFTER: Final = failpoint("fire.after")


class TriggerSwitches(Protocol):
    """Which triggers are paused, as this node knows them."""

    @property
    def age(self) -> float:
        """How many seconds ago the node asked the broker."""
        ...

    def is_off(self, actor: str, trigger: str) -> bool:
        """Whether a trigger is paused, by itself or with all of its actor's."""
        ...

    async def refresh(self) -> None:
        """Ask the broker now."""
        ...


@attrs.define(eq=False, repr=False)
class _Watched(Shown):
    """A trigger as this node sees it; times in milliseconds."""

    declared: Declared
    record: TriggerRecord | None = None
    since: int = 0
    last: int = 0
    coming: int | None = None
    """With a `cron_schedule`: the next time."""
    is_over: bool = False
    """Another version of the program has given it another schedule."""
    again_at: int = 0
    """Do not try before then, after a failure."""


class Scheduler:
    """Fires triggers until cancelled. Cancellation is atomic: a time is decided with its message stored, or neither."""

    def __init__(
        self,
        triggers: Triggers,
        declared: Sequence[Declared],
        *,
        now: Callable[[], float],
        status: TriggerSwitches,
        emit: EventSink,
        cron_schedule: AbstractCronSchedule | None = None,
        looks_again: bool = True,
    ) -> None:
        self._triggers = triggers
        self._watched = [_Watched(one) for one in declared]
        self._clock = now
        self._status = status
        self._emit = emit
        self._cron_schedule = cron_schedule
        self._longest = math.inf
        if looks_again:
            self._longest = min((one.trigger.status_check_interval for one in declared), default=math.inf)
        self._wakeup = trio.Event()

    def __repr__(self) -> str:
        return f"<Scheduler of {len(self._watched)} triggers>"

    def wake(self) -> None:
        """Decide again now: a pause has begun or ended."""
        self._wakeup.set()

    async def run(self) -> NoReturn:
        while True:
            self._wakeup = trio.Event()
            try:
                pause = await self._work()
            except BrokerError as error:
                self._emit(BrokerTrouble("firing triggers", str(error), f"again in {AGAIN:g} s"))
                pause = AGAIN
            with trio.move_on_after(min(pause, self._longest)):
                await self._wakeup.wait()

    def _now(self) -> int:
        return round(self._clock() * 1000)

    async def _work(self) -> float:
        """Fire all due triggers; return in how many seconds the next one will be due."""
        await self._register()
        soonest = math.inf
        due: list[tuple[_Watched, Plan]] = []
        for watched in self._watched:
            if watched.is_over:
                continue
            if self._status.is_off(*watched.declared.names):
                # Times that pass during a pause do not fire afterwards: the broker ensures that.
                watched.since, watched.coming = self._now(), None
                continue
            found = self._plan(watched)
            if found.fire:
                due.append((watched, found))
                soonest = -math.inf  # Whatever the outcome, decide again at once.
            elif found.wake is not None:
                soonest = min(soonest, found.wake)
        if due:
            await self._refresh_status([watched for watched, _ in due])
            async with trio.open_nursery() as nursery:
                for watched, found in due:
                    if not self._status.is_off(*watched.declared.names):
                        nursery.start_soon(self._fire, watched, found.fire[:AT_ONCE])
        return max(0.0, (soonest - self._now()) / 1000)

    async def _register(self) -> None:
        """Register triggers that the broker does not know (any more), with the others of their actors."""
        actors = dict.fromkeys(watched.declared.settings for watched in self._watched if watched.record is None)
        for settings in actors:
            mine = [watched for watched in self._watched if watched.declared.settings is settings]
            records = await self._triggers.register(
                settings.default_source, [watched.declared.definition for watched in mine]
            )
            for watched, record in zip(mine, records, strict=True):
                watched.record, watched.last, watched.since = record, record.last, self._now()
                watched.is_over = False

    async def _refresh_status(self, due: Sequence[_Watched]) -> None:
        ttls = [watched.declared.trigger.status_cache_ttl for watched in due]
        if any(ttl is not None and self._status.age > ttl for ttl in ttls):
            await self._status.refresh()

    def _plan(self, watched: _Watched) -> Plan:
        record, now = watched.record, self._now()
        assert record is not None  # noqa: S101 - for type checkers: `_register` has just set it
        if watched.again_at > now:
            return Plan((), watched.again_at)
        if watched.declared.is_custom:
            return self._plan_custom(watched, record, now)
        return plan(
            watched.declared.rule,
            registered=record.registered,
            last=watched.last,
            now=now,
            watched_since=watched.since,
        )

    async def _fire(self, watched: _Watched, times: tuple[int, ...]) -> None:
        declared, last = watched.declared, times[-1]
        definition = declared.definition
        messages = declared.messages(times)
        if _BEFORE is not None:
            _BEFORE()
        try:
            firing = await self._triggers.fire(definition, decided=watched.last, last=last, messages=messages)
        except BrokerError as error:
            self._emit(BrokerTrouble(f"firing the trigger {definition.title!r}", str(error), f"again in {AGAIN:g} s"))
            watched.again_at = self._now() + round(AGAIN * 1000)
            return
        if _AFTER is not None:
            _AFTER()
        self._learn(watched, firing)
        if firing.outcome == "fired":
            actor = declared.settings
            self._emit(TriggerFired(actor.id, actor.title, definition.id, definition.title, times, firing.kept))

    def _learn(self, watched: _Watched, firing: Firing) -> None:
        match firing.outcome:
            case "fired" | "decided":
                watched.last = firing.last
                if watched.coming is not None and watched.coming <= firing.last:
                    watched.coming = None
            case "superseded":
                watched.is_over = True
                self._trouble(
                    watched,
                    "another version of the program has registered it with another schedule",
                    "this node leaves it to that version",
                )
            case "unknown":
                watched.record = None

    def _trouble(self, watched: _Watched, error: str, next_step: str) -> None:
        actor = watched.declared.settings
        self._emit(TriggerTrouble(actor.id, actor.title, watched.declared.trigger.title, error, next_step))

    # ---- with a `cron_schedule` ----

    def _plan_custom(self, watched: _Watched, record: TriggerRecord, now: int) -> Plan:
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

    def _ask(self, watched: _Watched, now: int) -> int | None:
        assert self._cron_schedule is not None  # noqa: S101 - for type checkers: then nothing is custom
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
