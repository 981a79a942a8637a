"""Starts and ends the children of a supervisor.

A child is one task in its supervisor's nursery, under a shielded cancel scope of its own: Trio cancels a whole subtree
at once, and only what is shielded from that can be ended one after the other. The task never raises an `Exception`: it
records how it ended and notifies the supervisor. What follows from an end is decided in `supervisor`.

    asked to end ── within its bound ──▶ it ends
          └── the bound has passed, or "brutal_kill" ──▶ cancelled ── every 10 s, until it ends ──▶ reported

Trio cannot end a task that shields itself, spins, or waits for a thread: the supervisor waits for it, and reports its
stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING

import trio

from actorwork import events
from actorwork.actors.crash import without_crash
from actorwork.actors.supervision.child_table import ChildRecord, ChildTable, State
from actorwork.actors.wakeups import Wakeup
from actorwork.errors import ChildError
from actorwork.policy.exits import Exit, Kind, exit_of, is_fatal
from actorwork.stacks import REPORT_EVERY, stack_of_task

if TYPE_CHECKING:
    from actorwork.abc import EventSink


class ChildRunner:
    """Starts and ends the children of one supervisor, called from the supervisor's own task."""

    def __init__(
        self,
        supervisor: str,
        records: ChildTable,
        emit: EventSink,
        *,
        ended: Callable[[ChildRecord, Exit], None],
        due: Callable[[ChildRecord], None],
    ) -> None:
        self._supervisor = supervisor
        self._records = records
        self._alarms = records.alarms
        self._emit = emit
        self._on_end = ended
        self._on_due = due
        self._wakeup = Wakeup()
        self._awaits_child = False
        """Whether the supervisor's task waits for a child, and not only for work in its queue."""
        self._awaited_ends: list[ChildRecord] = []
        """The children for whose ends it waits."""
        self._waits_until = -math.inf
        """While the supervisor's task waits: when it wakes by itself for an alarm. Otherwise -inf."""
        self._nursery: trio.Nursery | None = None
        # Every incarnation of every child runs in the context variables of the first start, not in those of the task
        # that happened to cause a restart or to call `start_child`.
        self._context: Context | None = None
        self._stopping = 0

    # ---- starting ----

    def open(self, nursery: trio.Nursery) -> None:
        """Set the nursery in which children run."""
        self._nursery = nursery
        self._context = self._context or copy_context()

    def close(self) -> None:
        self._nursery = None

    def launch(self, record: ChildRecord) -> None:
        """Begin to start an incarnation; never waits."""
        if self._nursery is None or self._context is None:
            raise ChildError(f"supervisor {self._supervisor!r} does not run", problem="stopped", child_id=record.key)
        # First, since it may raise `AlreadyRegistered`: nothing of the record may have changed then.
        record.member.reopen()
        record.incarnation += 1
        record.state = State.STARTING
        self._alarms.set(record, math.inf)
        record.up = record.terminated = False
        if record.incarnation > 1:  # The record was made with the scope of the first one.
            record.scope = trio.CancelScope(shield=True)
        self._context.run(self._nursery.start_soon, self._child, record, name=record.member.label)

    async def _child(self, record: ChildRecord) -> None:
        """Run one incarnation; record its end instead of raising it."""
        error: BaseException | None = None
        record.task = trio.lowlevel.current_task()
        try:
            with record.scope:
                await record.member.live(partial(self._is_up, record, record.incarnation))
        except BaseException as raised:
            # The supervisor judges what ends a child; only what ends the program is raised. A `Cancelled` that reaches
            # this point is not of the child's own scope: raised here, it would cancel all of its siblings.
            error = raised
            if is_fatal(raised):
                raise
        finally:
            self._record_end(record, error)
            error = None  # Its traceback leads to this frame: a reference cycle for each crash.

    def _is_up(self, record: ChildRecord, incarnation: int) -> None:
        if record.incarnation != incarnation or record.task is None:
            return  # That incarnation has ended: what it has leaked says nothing about the next one.
        record.up = True
        if record.spec.backoff is not None:
            record.failures = record.failures.came_up(trio.current_time())
        if record.state is State.STARTING:
            record.state = State.RUNNING
            record.notify_change()
            self._child_changed()

    def _record_end(self, record: ChildRecord, error: BaseException | None) -> None:
        state, cancelled = record.state, record.scope.cancelled_caught
        if error is not None and state is State.STOPPING:  # Raised instead of the cancellation, it hides that.
            cancelled = record.scope.cancel_called
        ended = exit_of(
            error,
            cancelled=cancelled,
            incarnation=record.incarnation,
            starting=not record.up,
            expected=state is State.STOPPING,
        )
        record.last_exit, record.task = without_crash(ended), None
        if record.spec.backoff is not None:  # Here, since the loop may be busy for long before it judges this end.
            record.failures = record.failures.ended(trio.current_time())
        self._alarms.set(record, math.inf)
        record.state = State.ENDED
        if state is State.STOPPING:
            self._stopping -= 1
            record.state = State.EMPTY
        elif error is not None and is_fatal(error):
            record.state = State.EMPTY  # The nursery raises it in the supervisor: no notice.
        if not record.ignored:
            self._emit(events.ChildExited(self._supervisor, record.member.label, record.incarnation, record.last_exit))
        record.notify_change()
        self._on_end(record, ended)
        # A supervisor that ends many children side by side is woken once, by the last of them.
        if state is not State.STOPPING or not self._stopping or self._awaited_ends == [record]:
            self._child_changed()

    # ---- waiting ----

    def _child_changed(self) -> None:
        if self._awaits_child:
            self._wakeup.wake()

    async def wait_child(self) -> None:
        """Wait until a child is up or has ended by itself, all that were asked to end have ended, or `wake`.

        Meanwhile those that were asked to end are held to their bounds.
        """
        self._awaits_child = True
        try:
            await self.wait_work(self.ring())
        finally:
            self._awaits_child = False

    async def wait_work(self, until: float) -> None:
        """Wait for `wake`, or until an alarm is due: `until` is what `ring` has returned."""
        self._waits_until = until
        try:
            if until == math.inf:
                await self._wakeup.wait()
            else:
                with trio.move_on_at(until):
                    await self._wakeup.wait()
        finally:
            self._waits_until = -math.inf

    def ring(self) -> float:
        """Act on the alarms that are due, and return when the next one is."""
        until = self._alarms.next()
        if until == math.inf or until > (now := trio.current_time()):
            return until
        for record in self._alarms.take_due(now):
            if record.state is State.STOPPING:
                self._overdue(record)
            else:
                self._on_due(record)
        return self._alarms.next()

    @property
    def idle(self) -> bool:
        """Whether the supervisor's task waits for work, and has not been woken yet."""
        return self._wakeup.is_waited_for and not self._awaits_child

    @property
    def held_up(self) -> bool:
        """Whether it waits for children to end, which may take for ever."""
        return self._wakeup.is_waited_for and len(self._awaited_ends) > 0

    def wake(self) -> None:
        """Wake the supervisor's task."""
        self._wakeup.wake()

    def _set_alarm(self, record: ChildRecord, moment: float) -> None:
        self._alarms.set(record, moment)
        if moment < self._waits_until:
            self._wakeup.wake()

    # ---- ending ----

    def begin_end(self, record: ChildRecord, deadline: float) -> None:
        """Ask a child to end within its own bound, and before the deadline; never waits."""
        match record.state:
            case State.EMPTY | State.ENDED:  # ENDED: by itself, and no supervisor will judge that any more.
                record.state = State.EMPTY
            case State.RESTARTING:
                # As if it ran: it is this end that keeps it from running again, and not the crash before it.
                record.state = State.EMPTY
                record.last_exit = Exit(Kind.SHUTDOWN, incarnation=record.incarnation)
                self._alarms.set(record, math.inf)
            case State.STOPPING:
                self._set_alarm(record, min(record.alarm, deadline))
            case State.STARTING | State.RUNNING as state:
                record.state = State.STOPPING
                self._stopping += 1
                bound = record.spec.shutdown
                if state is State.STARTING or bound == "brutal_kill":
                    self.kill(record)
                else:
                    deadline = min(deadline, trio.current_time() + bound)
                    self._set_alarm(record, deadline)
                    record.member.stop(deadline)

    async def end(self, records: Iterable[ChildRecord], deadline: float) -> None:
        """End children side by side, and wait until they have ended, however long that takes."""
        ending = list(records)
        for record in ending:
            self.begin_end(record, deadline)
        self._awaited_ends = ending
        try:
            while any(record.state is State.STOPPING for record in ending):
                await self.wait_child()
        finally:
            self._awaited_ends = []

    def _overdue(self, record: ChildRecord) -> None:
        """Cancel a child that did not end in time; report one that was cancelled already."""
        if record.scope.cancel_called:
            self._alarms.set(record, trio.current_time() + REPORT_EVERY)
            self._emit(events.StuckChild(self._supervisor, record.member.label, stack_of_task(record.task)))
        else:
            self.kill(record)

    def kill(self, record: ChildRecord) -> None:
        """Cancel a child."""
        if record.state not in (State.STARTING, State.RUNNING, State.STOPPING):
            return
        # First what it keeps under shields of its own, such as spawned actors: the scope below does not reach these.
        record.member.kill()
        record.scope.cancel(reason="killed by its supervisor")
        if record.state is State.STOPPING:
            self._set_alarm(record, trio.current_time() + REPORT_EVERY)

    def hurry(self, deadline: float) -> None:
        """Give the children that are ending already a new, earlier deadline."""
        for record in self._records:
            if record.state is State.STOPPING:
                self._alarms.set(record, min(record.alarm, deadline))
        self._wakeup.wake()
