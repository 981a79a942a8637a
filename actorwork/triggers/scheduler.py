"""One task of each node fires all triggers of its actors.

    register ──▶ [ decide ──▶ fire ──▶ sleep until the next nominal time ] ──▶ (again)

Any number of nodes do this at once, and each tries to fire each time. The broker decides which is first: it marks a
time as decided in the step in which it stores the message, and only if the last decided time is the one that the node
assumed. A node that is late, or was stopped for a while, assumes an old time, fires nothing, and receives the current
state. So no node needs to lead, and a node's copy of the records may be out of date.

Time is the broker's. The node sleeps by Trio's clock until the next time, and looks again every
`status_check_interval`, since the broker's clock may be set.

Users put, change and delete triggers at the broker, beside those that the code declares. A node is notified, and then
reads the records again; one that has not been told fires nothing, since the broker compares the revision of the record,
too.

The times of a trigger with a `cron_schedule` come from custom.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, Literal, NoReturn, Protocol

import trio

from actorwork.abc import AbstractCronSchedule, EventSink, Triggers, meter_of
from actorwork.errors import BrokerError, SettingsError
from actorwork.events import BrokerTrouble, TriggerChanged, TriggerFired, TriggerTrouble
from actorwork.failpoints import failpoint
from actorwork.policy.catchup import Plan, plan
from actorwork.policy.pauses import trigger_name
from actorwork.records import Firing, TriggerChanges, TriggerRecord
from actorwork.settings import Settings
from actorwork.triggers.custom import CustomTimes
from actorwork.triggers.declared import Declared, as_changed
from actorwork.triggers.watched import AGAIN, Watched

AT_ONCE: Final = 100
"""How many messages of one trigger are sent in one step; the rest follow immediately."""
IGNORED: Final = "it does not fire; change it again, or reset it (actorwork triggers)"

_BEFORE: Final = failpoint("fire.before")
_AFTER: Final = failpoint("fire.after")


class TriggerSwitches(Protocol):
    """Which triggers are paused, as this node knows them."""

    @property
    def age(self) -> float:
        """How many seconds ago the node asked the broker."""
        ...

    @property
    def is_certain(self) -> bool:
        """Whether the node learns of every change; if not, it also looks at intervals."""
        ...

    def is_off(self, actor: str, trigger: str) -> bool:
        """Whether a trigger is paused, by itself or with all of its actor's."""
        ...

    async def refresh(self) -> None:
        """Ask the broker now."""
        ...


class Scheduler:
    """Fires triggers until cancelled. Cancellation is atomic: a time is decided with its message stored, or neither."""

    def __init__(
        self,
        triggers: Triggers,
        actors: Sequence[Settings],
        declared: Sequence[Declared],
        *,
        now: Callable[[], float],
        status: TriggerSwitches,
        emit: EventSink,
        cron_schedule: AbstractCronSchedule | None = None,
    ) -> None:
        self._triggers = triggers
        self._actors = {settings.default_source: settings for settings in actors}
        self._watched = [Watched(one, one) for one in declared]
        self._changes = 0
        """The number of changes by hand that are known here."""
        self._looks = True
        """Whether there may be more."""
        self._clock = now
        self._status = status
        self._emit = emit
        self._custom = None if cron_schedule is None else CustomTimes(cron_schedule, self._trouble)
        self._meter = meter_of(emit)
        self._longest = math.inf
        if not status.is_certain:
            self._longest = min((one.trigger.status_check_interval for one in declared), default=60.0)
        self._began = self._now()
        self._wakeup = trio.Event()
        self.dice = Random()

    def __repr__(self) -> str:
        return f"<Scheduler of {len(self._watched)} triggers>"

    def wake(self) -> None:
        """Decide again now: a pause has begun or ended."""
        self._wakeup.set()

    def look(self) -> None:
        """Check whether users have put, changed or deleted triggers."""
        self._looks = True
        self.wake()

    async def run(self) -> NoReturn:
        while True:
            self._wakeup = trio.Event()
            try:
                if self._looks:
                    await self._look()
                pause = await self._work()
                if self._looks:
                    pause = min(pause, AGAIN)
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
        due: list[tuple[Watched, Plan]] = []
        for watched in self._watched:
            if watched.is_over:
                continue
            is_off = watched.record is not None and not watched.record.is_on
            if is_off or self._status.is_off(*watched.declared.names):
                # Times that pass while it is off do not fire afterwards: the broker ensures that.
                watched.since, watched.coming = self._now(), None
                self._note_next(watched, None)
                continue
            found = self._plan(watched)
            self._note_next(watched, found.wake)
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

    def _note_next(self, watched: Watched, wake: int | None) -> None:
        if self._meter is not None:
            at = None if wake is None else wake / 1000
            self._meter.trigger_next(trigger_name(*watched.declared.names), at)

    async def _register(self) -> None:
        """Register triggers that the broker does not know (any more), with the others of their actors."""
        declared = [(watched, watched.code) for watched in self._watched if watched.code is not None]
        for settings in dict.fromkeys(code.settings for watched, code in declared if watched.record is None):
            mine = [(watched, code) for watched, code in declared if code.settings is settings]
            records = await self._triggers.register(settings.default_source, [code.definition for _, code in mine])
            for (watched, _), record in zip(mine, records, strict=True):
                watched.since = self._now()
                self._take(watched, record)

    async def _look(self) -> None:
        """Read the records, if users have changed any. If that fails, those that are known fire, and it is repeated."""
        self._looks = False
        try:
            number = await self._triggers.changes()
            if number == self._changes:
                return
            records = await self._triggers.list()
        except BrokerError as error:
            self._looks = error.may_pass
            next_step = f"again in {AGAIN:g} s" if error.may_pass else "going on with those that are known"
            self._emit(BrokerTrouble("looking for triggers that were changed by hand", str(error), next_step))
            return
        self._changes = number
        found = {(one.definition.source, one.definition.id): one for one in records}
        for watched in tuple(self._watched):
            definition = watched.declared.definition
            record = found.pop((definition.source, definition.id), None)
            if watched.code is None and (record is None or not record.is_put):
                self._watched.remove(watched)
                self._note_next(watched, None)
                self._tell(watched, "deleted")
            elif record is not None and watched.record is not None and record.revision != watched.record.revision:
                self._take(watched, record)
        for record in found.values():
            settings = self._actors.get(record.definition.source)
            if record.is_put and settings is not None:
                self._add(settings, record)

    def _add(self, settings: Settings, record: TriggerRecord) -> None:
        """Watch a trigger that a user has put at the broker."""
        try:
            declared = as_changed(settings, record, None)
        except SettingsError as error:
            self._emit(TriggerTrouble(settings.id, settings.title, record.definition.title, str(error), IGNORED))
            return
        # A node that runs has watched it since it was put, even if it is notified a moment later.
        watched = Watched(declared, None, since=min(self._now(), max(record.last, self._began)))
        self._watched.append(watched)
        self._take(watched, record)

    def _take(self, watched: Watched, record: TriggerRecord) -> None:
        """Go on with a trigger as its record has it."""
        before = watched.record.revision if watched.record is not None else 0
        watched.record, watched.last, watched.coming = record, record.last, None
        watched.is_over, watched.again_at = False, 0
        if record.revision == before:
            return
        try:
            watched.declared = as_changed(watched.declared.settings, record, watched.code)
        except SettingsError as error:
            watched.is_over = True
            self._trouble(watched, str(error), IGNORED)
            return
        if record.changes is None:
            self._tell(watched, "reset")
        else:
            self._tell(watched, "changed" if record.is_declared else "put", record.changes)

    def _tell(
        self,
        watched: Watched,
        action: Literal["put", "changed", "reset", "deleted"],
        changes: TriggerChanges | None = None,
    ) -> None:
        actor, definition = watched.declared.settings, watched.declared.definition
        parts, by = ((), "") if changes is None else (changes.parts, changes.by)
        self._emit(TriggerChanged(actor.id, actor.title, definition.id, definition.title, action, parts, by))

    async def _refresh_status(self, due: Sequence[Watched]) -> None:
        ttls = [watched.declared.trigger.status_cache_ttl for watched in due]
        if any(ttl is not None and self._status.age > ttl for ttl in ttls):
            await self._status.refresh()

    def _plan(self, watched: Watched) -> Plan:
        record, now = watched.record, self._now()
        assert record is not None  # noqa: S101 - for type checkers: `_register` has just set it
        if watched.again_at > now:
            return Plan((), watched.again_at)
        if self._custom is not None and watched.declared.is_custom:
            return self._custom.plan(watched, record, now)
        return plan(
            watched.declared.rule,
            registered=record.registered,
            last=watched.last,
            now=now,
            watched_since=watched.since,
        )

    async def _fire(self, watched: Watched, times: tuple[int, ...]) -> None:
        declared, record, last = watched.declared, watched.record, times[-1]
        assert record is not None  # noqa: S101 - as in `_plan`
        definition = declared.definition
        messages = declared.messages(times)
        if not watched.is_put_off and not watched.odds.has_turn(self.dice.random()):
            watched.is_put_off = True
            watched.again_at = self._now() + watched.odds.later(self.dice.random())
            return
        if _BEFORE is not None:
            _BEFORE()
        try:
            firing = await self._triggers.fire(
                record.stored, decided=watched.last, last=last, messages=messages, revision=record.revision
            )
        except BrokerError as error:
            self._emit(BrokerTrouble(f"firing the trigger {definition.title!r}", str(error), f"again in {AGAIN:g} s"))
            watched.again_at = self._now() + round(AGAIN * 1000)
            return
        if _AFTER is not None:
            _AFTER()
        self._learn(watched, firing)
        if firing.outcome == "fired":
            watched.odds.won()
        elif firing.outcome == "decided":
            watched.odds.lost()
        watched.is_put_off = False
        if firing.outcome == "fired":
            actor = declared.settings
            self._emit(TriggerFired(actor.id, actor.title, definition.id, definition.title, times, firing.kept))

    def _learn(self, watched: Watched, firing: Firing) -> None:
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
            case "changed":
                # The node was not told yet, or the user's program died before it could announce the change.
                self._changes, self._looks = -1, True
                watched.again_at = self._now() + round(AGAIN * 1000)
            case "unknown" if watched.code is None:
                self._changes, self._looks, watched.is_over = -1, True, True
            case "unknown":
                watched.record = None

    def _trouble(self, watched: Watched, error: str, next_step: str) -> None:
        actor = watched.declared.settings
        self._emit(TriggerTrouble(actor.id, actor.title, watched.declared.trigger.title, error, next_step))
