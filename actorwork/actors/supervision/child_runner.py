"""Children: how a child is started under its supervisor, and how it is ended.

A child is one task in its supervisor's nursery, under a cancel scope of its own, shielded: Trio cancels a whole subtree
at once, and only what is shielded from that can be ended one after the other. It never lets an `Exception` out: how it
ended is written into its slot, and the supervisor is told. Tasks begin and end here; what follows from an end is
decided in `supervision`.

    asked to end ── within its bound ──▶ it ends
          └── the bound has passed, or "brutal_kill" ──▶ cancelled ── every 10 s, until it ends ──▶ reported

Trio cannot end a task that shields itself, spins, or sits in a thread: that is waited for, and reported with its stack.
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
from actorwork.policy.exits import Exit, exit_of, is_fatal
from actorwork.stacks import REPORT_EVERY, stack_of_task

if TYPE_CHECKING:
    from actorwork.abc import EventSink


class ChildRunner:
    """Starts and ends what lives in the slots of one supervisor, in the supervisor's own task."""

    def __init__(
        self, supervisor: str, slots: ChildTable, emit: EventSink, ended: Callable[[ChildRecord, Exit], None]
    ) -> None:
        self._supervisor = supervisor
        self._slots = slots
        self._alarms = slots.alarms
        self._emit = emit
        self._on_end = ended
        self._bell = Wakeup()
        self._awaited = False
        """Whether the supervisor's task waits for children, and not just for something to do."""
        self._idle_until = -math.inf
        """When it looks for something to do at the latest, while it has nothing; otherwise it looks by itself."""
        self._nursery: trio.Nursery | None = None
        # Every incarnation of every child runs in the context of the first start, not in that of whoever caused a
        # restart or asked for one more child.
        self._context: Context | None = None
        self._stopping = 0

    # ---- starting ----

    def open(self, nursery: trio.Nursery) -> None:
        """Say where children run."""
        self._nursery = nursery
        self._context = self._context or copy_context()

    def close(self) -> None:
        self._nursery = None

    def launch(self, slot: ChildRecord) -> None:
        """Begin to start an incarnation."""
        if self._nursery is None or self._context is None:
            raise ChildError(f"supervisor {self._supervisor!r} does not run", problem="stopped", child_id=slot.key)
        slot.member.reopen()  # first, since it may refuse: its name may be another one's by now
        slot.incarnation += 1
        slot.state = State.STARTING
        self._alarms.set(slot, math.inf)
        slot.up = False
        if slot.incarnation > 1:  # the first one has that which the slot was made with
            slot.scope = trio.CancelScope(shield=True)
        self._context.run(self._nursery.start_soon, self._child, slot, name=slot.spec.title)

    async def _child(self, slot: ChildRecord) -> None:
        """Run one incarnation; write down its end instead of raising it."""
        error: BaseException | None = None
        slot.task = trio.lowlevel.current_task()
        try:
            with slot.scope:
                await slot.member.live(partial(self._is_up, slot))
        except BaseException as raised:
            # Whatever ends a child is for the supervisor to judge; what ends the program goes on. A `Cancelled` that
            # comes as far as this is not of the child's own scope: raised here, it would cancel all of its siblings.
            error = raised
            if is_fatal(raised):
                raise
        finally:
            self._write_down(slot, error)

    def _is_up(self, slot: ChildRecord) -> None:
        slot.up = True
        if slot.state is State.STARTING:
            slot.state = State.RUNNING
            slot.tell_news()
            self._child_changed()

    def _write_down(self, slot: ChildRecord, error: BaseException | None) -> None:
        state = slot.state
        ended = exit_of(
            error,
            cancelled=slot.scope.cancelled_caught,
            incarnation=slot.incarnation,
            starting=not slot.up,
            expected=state is State.STOPPING,
        )
        slot.last_exit, slot.task = without_crash(ended), None
        self._alarms.set(slot, math.inf)
        slot.state = State.ENDED
        if state is State.STOPPING:
            self._stopping -= 1
            slot.state = State.EMPTY
        elif error is not None and is_fatal(error):
            slot.state = State.EMPTY  # It is on its way to the supervisor by itself.
        if not slot.ignored:
            self._emit(events.ChildExited(self._supervisor, slot.spec.title, slot.incarnation, slot.last_exit))
        slot.tell_news()
        self._on_end(slot, ended)
        if state is not State.STOPPING or not self._stopping:  # else somebody waits for the last of many
            self._child_changed()

    def _child_changed(self) -> None:
        if self._awaited:
            self._bell.ring()

    async def wait_child(self) -> None:
        """Wait until a child is up or has ended by itself, all that were told to end have ended, or `ring`."""
        self._awaited = True
        try:
            await self._bell.wait()
        finally:
            self._awaited = False

    async def wait_work(self) -> None:
        """Wait for `ring`, or until a slot is due."""
        self._idle_until = self._alarms.next()
        try:
            if self._idle_until == math.inf:
                await self._bell.wait()
            else:
                with trio.move_on_at(self._idle_until):
                    await self._bell.wait()
        finally:
            self._idle_until = -math.inf

    @property
    def idle(self) -> bool:
        """Whether the supervisor's task waits for something to do, and there is nothing yet."""
        return self._idle_until > -math.inf and self._bell.is_waited_for

    def ring(self) -> None:
        """Have the supervisor's task look again."""
        self._bell.ring()

    def _set_alarm(self, slot: ChildRecord, moment: float) -> None:
        self._alarms.set(slot, moment)
        if moment < self._idle_until:
            self._bell.ring()

    # ---- ending ----

    def begin_end(self, slot: ChildRecord, deadline: float) -> None:
        """Tell a child to end before the deadline and before its own bound has passed; never waits."""
        match slot.state:
            case State.EMPTY | State.ENDED | State.RESTARTING:
                slot.state = State.EMPTY
                self._alarms.set(slot, math.inf)
            case State.STOPPING:
                self._set_alarm(slot, min(slot.alarm, deadline))
            case State.STARTING | State.RUNNING as state:
                slot.state = State.STOPPING
                self._stopping += 1
                bound = slot.spec.shutdown
                if state is State.STARTING or bound == "brutal_kill":
                    self.kill(slot)
                else:
                    deadline = min(deadline, trio.current_time() + bound)
                    self._set_alarm(slot, deadline)
                    slot.member.stop(deadline)

    async def end(self, slots: Iterable[ChildRecord], deadline: float) -> None:
        """End children side by side, and wait until they have ended, however long that takes."""
        ending = list(slots)
        for slot in ending:
            self.begin_end(slot, deadline)
        while ending := [slot for slot in ending if slot.state is State.STOPPING]:
            now = trio.current_time()
            for slot in ending:
                if slot.alarm <= now:
                    self.overdue(slot)
            with trio.move_on_at(min(slot.alarm for slot in ending)):
                await self.wait_child()

    def overdue(self, slot: ChildRecord) -> None:
        """Cancel a child whose time to end is over; report one that was cancelled already."""
        if slot.scope.cancel_called:
            self._alarms.set(slot, trio.current_time() + REPORT_EVERY)
            self._emit(events.StuckChild(self._supervisor, slot.spec.title, stack_of_task(slot.task)))
        else:
            self.kill(slot)

    def kill(self, slot: ChildRecord) -> None:
        """Cancel a child, the innermost of what it shields first."""
        if slot.state not in (State.STARTING, State.RUNNING, State.STOPPING):
            return
        slot.member.kill()
        slot.scope.cancel(reason="killed by its supervisor")
        if slot.state is State.STOPPING:
            self._set_alarm(slot, trio.current_time() + REPORT_EVERY)

    def hurry(self, deadline: float) -> None:
        """Let those that are told to end already end before a new deadline."""
        for slot in self._slots:
            if slot.state is State.STOPPING:
                self._alarms.set(slot, min(slot.alarm, deadline))
        self._bell.ring()
