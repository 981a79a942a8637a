"""The supervisor: starts its children in order, restarts the one that ends, stops them in reverse order.

It is one task, the loop, and one nursery. Every child is one task in that nursery under a cancel scope of the
supervisor's own, shielded: Trio cancels a whole subtree at once, and only what is shielded from that can be stopped in
order. So the loop alone feels a cancellation from outside; it stops the children one by one, each within its bound, and
then lets the cancellation go on. The price is that everything in here is bounded.

A child never lets an `Exception` out: it reports how it ended, and only the loop raises. The rules are OTP's one_for_one:

    at the start    children start one after the other; one that fails stops those before it and fails the whole start
    an exit         permanent: always restarted; transient: when it crashed; temporary: never
    a restart       counts in the sliding window of `Intensity`; beyond it the supervisor gives up: MaxRestartsExceeded
    a failed one    a start that fails during a restart is tried again, and counts again
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING

import attrs
import trio

from actorwork import events
from actorwork.actors.cell import Cell, cause_of
from actorwork.actors.execution import Crash
from actorwork.errors import ActorworkError, MaxRestartsExceeded, StartError
from actorwork.policy.restart import Intensity, Window, restart_allowed

if TYPE_CHECKING:
    from actorwork.abc import EventSink


class State(enum.Enum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@attrs.define(eq=False)
class _Slot:
    """A child as its supervisor keeps it."""

    cell: Cell
    state: State = State.WAITING
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    acked: trio.Event = attrs.field(factory=trio.Event)
    error: BaseException | None = None


class Supervisor:
    """Keeps a list of actors alive, one for one."""

    def __init__(self, cells: Sequence[Cell], *, intensity: Intensity, emit: EventSink) -> None:
        self._slots = [_Slot(cell) for cell in cells]
        self._intensity = intensity
        self._emit = emit
        self._window = Window()
        self._exits: deque[_Slot] = deque()
        self._changed = trio.Event()
        self._stop = False
        self._context = copy_context()

    def __repr__(self) -> str:
        states = ", ".join(f"{slot.cell.title}: {slot.state.value}" for slot in self._slots)
        return f"<supervisor of {states}>"

    def stop(self) -> None:
        """Ask the loop to stop the children and to end. A child that is just being restarted is not waited for."""
        self._stop = True
        self._changed.set()
        for slot in self._slots:
            if slot.state is State.STARTING:
                slot.scope.cancel(reason="stopped before it had started")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children, keep them alive, stop them when asked to.

        Raises `StartError` if one does not start, `MaxRestartsExceeded` when it gives up. Cancelled: the children are stopped in
        reverse order, each within its bound, before the cancellation goes on.
        """
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                for slot in self._slots:
                    await self._start(nursery, slot)
                    if slot.error is not None:
                        raise StartError(
                            f"{slot.cell.title!r} did not start: {type(slot.error).__name__}: {slot.error}",
                            child_id=slot.cell.title,
                        ) from slot.error
                task_status.started()
                await self._keep_alive(nursery)
            except ActorworkError as error:
                failure = error
            finally:
                with trio.CancelScope(shield=True):  # bounded: every step of it has a limit of its own
                    await self._stop_all()
        # Raised out here, so that it arrives as it is and not wrapped by this nursery.
        if failure is not None:
            raise failure

    async def _start(self, nursery: trio.Nursery, slot: _Slot) -> None:
        """Start an incarnation and wait until it has started or failed (then `slot.error` says why)."""
        slot.state = State.STARTING
        slot.scope = trio.CancelScope(shield=True)
        slot.done, slot.acked, slot.error = trio.Event(), trio.Event(), None
        # The context of the start, not of whoever caused the restart.
        self._context.run(nursery.start_soon, self._child, slot, name=slot.cell.title)
        await slot.acked.wait()

    async def _child(self, slot: _Slot) -> None:
        """Run one incarnation; report its end instead of raising it."""

        def started() -> None:
            slot.state = State.RUNNING
            slot.acked.set()

        try:
            with slot.scope:
                await slot.cell.live(started)
        except Exception as error:  # noqa: BLE001 - whatever ends a child is for the loop to judge
            slot.error = error
        except BaseException as error:
            slot.error = error
            self._stop = True  # Fatal, and on its way to the loop: until it is there, nothing is started again.
            raise
        finally:
            ended, slot.state = slot.state, State.ENDED
            if ended is not State.STARTING:
                cell = slot.cell
                error = None if slot.error is None else cause_of(slot.error)
                self._emit(events.ActorExited(cell.settings.id, cell.title, cell.incarnation, error))
            if ended is State.RUNNING:
                self._exits.append(slot)
                self._changed.set()
            if ended is State.STARTING and slot.error is None:
                slot.error = trio.TooSlowError("it was stopped before it had started")
            slot.acked.set()
            slot.done.set()

    async def _keep_alive(self, nursery: trio.Nursery) -> None:
        while not self._stop:
            while self._exits and not self._stop:
                await self._judge(nursery, self._exits.popleft())
            if not self._stop:
                self._changed = trio.Event()
                if not self._exits:
                    await self._changed.wait()

    async def _judge(self, nursery: trio.Nursery, slot: _Slot) -> None:
        """Restart a child that ended by itself, leave it, or give up."""
        error, cell = slot.error, slot.cell
        crash = error if isinstance(error, Crash) else None
        wanted = cell.child.restart == "permanent" or (cell.child.restart == "transient" and error is not None)
        if crash is not None and crash.escalate:
            raise self._give_up(slot)
        if not wanted or (crash is not None and crash.stop):
            cell.end(f"{cell.title!r} has ended")
            nursery.start_soon(cell.hand_back)
            return
        while not self._stop:
            allowed, self._window = restart_allowed(self._window, self._intensity, trio.current_time())
            if not allowed:
                raise self._give_up(slot)
            cause = None if slot.error is None else cause_of(slot.error)
            self._emit(events.ActorRestarting(cell.settings.id, cell.title, len(self._window.restarts), cause))
            await self._start(nursery, slot)
            if slot.error is None:
                return

    def _give_up(self, slot: _Slot) -> MaxRestartsExceeded:
        cell, intensity = slot.cell, self._intensity
        self._emit(events.GaveUp(cell.settings.id, cell.title, intensity.restarts, intensity.period))
        cause = None if slot.error is None else cause_of(slot.error)
        what = "ended" if cause is None else f"{type(cause).__name__}: {cause}"
        failure = MaxRestartsExceeded(
            f"gave up on {cell.title!r}: more than {intensity.restarts} restarts within {intensity.period:g} s; the last: {what}",
            child_id=cell.title,
            restarts=intensity.restarts,
            period=intensity.period,
        )
        failure.__cause__ = cause
        return failure

    async def _stop_all(self) -> None:
        """Stop the children in reverse start order, one after the other."""
        for slot in reversed(self._slots):
            if slot.state in (State.STARTING, State.RUNNING):
                await self._terminate(slot)
            slot.cell.end(f"{slot.cell.title!r} has stopped: its system ended")

    async def _terminate(self, slot: _Slot) -> None:
        """Stop one child: asked first, cancelled after its bound, and then waited for without limit.

        Trio cannot end a task that shields itself; the root's budget is what bounds this.
        """
        starting = slot.state is State.STARTING
        slot.state = State.STOPPING
        shutdown = slot.cell.child.shutdown
        if starting or shutdown == "brutal_kill":
            slot.scope.cancel(reason="brutal_kill")
        else:
            slot.cell.stop()
            # As long for what is in hand as for `shutdown` itself, which bounds itself.
            with trio.move_on_after(shutdown):
                await slot.done.wait()
            if not slot.done.is_set():
                slot.scope.cancel(reason="shutdown timeout")
        await slot.done.wait()
