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
from typing import TYPE_CHECKING, Final

import trio

from actorwork import events
from actorwork.actors.crash import without_crash
from actorwork.actors.slots import Slot, Slots, State
from actorwork.errors import ChildError
from actorwork.policy.exits import Exit, exit_of, is_fatal

if TYPE_CHECKING:
    from actorwork.abc import EventSink

REPORT_EVERY: Final = 10.0
"""Seconds between two reports about a child that does not end."""


class Children:
    """Starts and ends what lives in the slots of one supervisor, in the supervisor's own task."""

    def __init__(self, supervisor: str, slots: Slots, emit: EventSink, ended: Callable[[Slot, Exit], None]) -> None:
        self._supervisor = supervisor
        self._slots = slots
        self._alarms = slots.alarms
        self._emit = emit
        self._on_end = ended
        self._bell = trio.lowlevel.ParkingLot()
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

    def launch(self, slot: Slot) -> None:
        """Begin to start an incarnation."""
        if self._nursery is None or self._context is None:
            raise ChildError(f"supervisor {self._supervisor!r} does not run", problem="stopped", child_id=slot.key)
        slot.member.reopen()  # first, since it may refuse: its name may be another one's by now
        slot.incarnation += 1
        slot.state = State.STARTING
        self._alarms.set(slot, math.inf)
        slot.scope = trio.CancelScope(shield=True)
        self._context.run(self._nursery.start_soon, self._child, slot, name=slot.spec.title)

    async def _child(self, slot: Slot) -> None:
        """Run one incarnation; write down its end instead of raising it."""
        error: BaseException | None = None
        slot.task = trio.lowlevel.current_task()

        up = False

        def started() -> None:
            nonlocal up
            up = True
            if slot.state is State.STARTING:
                slot.state = State.RUNNING
                slot.tell_news()
                self._bell.unpark_all()

        try:
            with slot.scope:
                await slot.member.live(started)
        except BaseException as raised:
            # Whatever ends a child is for the supervisor to judge; what ends the program goes on. A `Cancelled` that
            # comes as far as this is not of the child's own scope: raised here, it would cancel all of its siblings.
            error = raised
            if is_fatal(raised):
                raise
        finally:
            self._write_down(slot, error, starting=not up)

    def _write_down(self, slot: Slot, error: BaseException | None, *, starting: bool) -> None:
        state = slot.state
        ended = exit_of(
            error,
            cancelled=slot.scope.cancelled_caught,
            incarnation=slot.incarnation,
            starting=starting,
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
            self._bell.unpark_all()

    async def wait_ring(self) -> None:
        """Wait until a child is up or has ended by itself, all that were told to end have ended, or `ring`."""
        await self._bell.park()

    async def wait_change(self) -> None:
        """Wait as `wait_ring` does, or until a slot is due."""
        with trio.move_on_at(self._alarms.next()):
            await self._bell.park()

    def ring(self) -> None:
        """Have the supervisor's task look again."""
        self._bell.unpark_all()

    # ---- ending ----

    def begin_end(self, slot: Slot, deadline: float) -> None:
        """Tell a child to end before the deadline and before its own bound has passed; never waits."""
        match slot.state:
            case State.EMPTY | State.ENDED | State.RESTARTING:
                slot.state = State.EMPTY
                self._alarms.set(slot, math.inf)
            case State.STOPPING:
                self._alarms.set(slot, min(slot.alarm, deadline))
            case State.STARTING | State.RUNNING as state:
                slot.state = State.STOPPING
                self._stopping += 1
                bound = slot.spec.shutdown
                if state is State.STARTING or bound == "brutal_kill":
                    self.kill(slot)
                else:
                    deadline = min(deadline, trio.current_time() + bound)
                    self._alarms.set(slot, deadline)
                    slot.member.stop(deadline)

    async def end(self, slots: Iterable[Slot], deadline: float) -> None:
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
                await self._bell.park()

    def overdue(self, slot: Slot) -> None:
        """Cancel a child whose time to end is over; report one that was cancelled already."""
        if slot.scope.cancel_called:
            self._alarms.set(slot, trio.current_time() + REPORT_EVERY)
            self._emit(events.StuckChild(self._supervisor, slot.spec.title, _stack(slot.task)))
        else:
            self.kill(slot)

    def kill(self, slot: Slot) -> None:
        """Cancel a child, the innermost of what it shields first."""
        if slot.state not in (State.STARTING, State.RUNNING, State.STOPPING):
            return
        slot.member.kill()
        slot.scope.cancel(reason="killed by its supervisor")
        if slot.state is State.STOPPING:
            self._alarms.set(slot, trio.current_time() + REPORT_EVERY)

    def hurry(self, deadline: float) -> None:
        """Let those that are told to end already end before a new deadline."""
        for slot in self._slots:
            if slot.state is State.STOPPING:
                self._alarms.set(slot, min(slot.alarm, deadline))
        self._bell.unpark_all()


def _stack(task: trio.lowlevel.Task | None) -> str:
    if task is None:
        return ""
    return "\n".join(
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in task.iter_await_frames()
    )
