"""Supervision: the loop that starts children in order, restarts those that end, and stops them in reverse order.

A supervisor is one task, the loop, and one nursery with a shielded task for each child (`children`). The loop alone
feels a cancellation from outside: it stops the children one by one, each within its bound, and then lets the
cancellation go on. The price is that everything in here is bounded. A child never raises into the nursery: it reports
how it ended, and only the loop raises.

What there is to do comes through one inbox, one after the other, so nothing is decided on half-changed facts:

    news         a child has ended by itself        restart it (and its siblings, by the strategy), leave it, or give up
                 or could not be restarted          the same again: queued, so that requests are served in between
    a slot       its alarm rang                     start what waited for its backoff; cancel what would not end
    a request    start_child and its like           see `administration`

The children of a static supervisor start one after the other, and the loop waits for each; those of a dynamic one start
and stop side by side, and its loop never waits for one (but at its start, for the replicas of a process). The rules are
those of `supervisor.erl` (OTP 25); where ours differ, docs/supervision.md says so and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import trio

from actorwork import events
from actorwork.actors.crash import Crash, without_crash
from actorwork.actors.supervision.administration import SupervisorRef
from actorwork.actors.supervision.child_runner import ChildRunner
from actorwork.actors.supervision.child_table import ChildRecord, ChildTable, Member, State
from actorwork.actors.supervision.failures import gave_up, start_error
from actorwork.actors.supervision.requests import ExitNotice, Item, Request, RequestQueue, Stopped
from actorwork.actors.tree.spec import DynamicSupervisor, Replicas, Spec, Supervisor
from actorwork.errors import AlreadyRegistered, MaxRestartsExceeded, Shutdown, StartError
from actorwork.groups import only_leaf
from actorwork.policy.exits import Exit, Kind, is_fatal, restart_wanted
from actorwork.policy.restart import Window, auto_shutdown_due, failed_again, touched

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.policy.retry import Dice


@attrs.frozen(eq=False)
class SupervisionEnvironment:
    """What all supervisors of a system share."""

    emit: EventSink
    dice: Dice
    build: Callable[[Spec, RunningSupervisor | None], Member]
    """Makes the member for a description; the second argument is the supervisor it will stand under."""


class RunningSupervisor:
    """A running supervisor; itself a member of the one above."""

    def __init__(
        self,
        spec: Supervisor | DynamicSupervisor,
        around: SupervisionEnvironment,
        parent: RunningSupervisor | None = None,
    ) -> None:
        self.spec = spec
        self.title = spec.title
        self.parent = parent
        self.is_dynamic = isinstance(spec, DynamicSupervisor)
        self.slots = ChildTable(self.title, lambda child: around.build(child, self))
        self.children = ChildRunner(self.title, self.slots, around.emit, self._child_ended)
        self._around = around
        self.inbox = RequestQueue(self.title, self.children.ring, lambda: self.children.idle)
        self._window = Window()
        self._stopping = False
        self._deadline = math.inf
        self._auto_shutdown = False
        self._handle = SupervisorRef(self)
        if isinstance(spec, (Supervisor, Replicas)):
            for child in spec.children if isinstance(spec, Supervisor) else spec.members:
                self.add(child)
        self.slots.keep_as_boot_list()

    def __repr__(self) -> str:
        return f"<supervision {self.title!r}: {self.slots!r}>"

    # ---- as a member of the supervisor above ----

    @property
    def handle(self) -> SupervisorRef:
        return self._handle

    async def live(self, started: Callable[[], None]) -> None:
        """Start the children, keep them alive, stop them when asked to.

        Raises `StartError` if one does not start, `MaxRestartsExceeded` when it gives up, `Shutdown` after an automatic
        shutdown. Cancelled: the children are stopped in reverse order, each within its bound, before the cancellation
        goes on.
        """
        self._window.forget()
        self.slots.begin_anew()
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self.children.open(nursery)
                self.inbox.open()
                try:
                    with trio.move_on_after(self.spec.startup_timeout) as limit:
                        await self._boot()
                    if limit.cancelled_caught:
                        raise StartError(_late(self.spec), child_id=self.spec.child_id)
                    started()
                    await self._serve()
                except Stopped:
                    pass
                except (StartError, MaxRestartsExceeded) as error:
                    failure = error
                finally:
                    self._stopping = True
                    self.inbox.close("is shutting down")
                    with trio.CancelScope(shield=True):  # bounded: every step of it has a limit of its own
                        await self._end_all()
                    self.children.close()
                    self.inbox.close("does not run")
        except BaseExceptionGroup as group:
            failure = failure or only_leaf(group)
        # Raised out here, so that it arrives as it is and not wrapped by this nursery.
        if failure is not None:
            raise failure
        if self._auto_shutdown:
            raise Shutdown("auto_shutdown")

    def stop(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
        self._stopping = True
        self.inbox.close("is shutting down")
        self.children.hurry(self._deadline)

    def kill(self) -> None:
        self._deadline = -math.inf
        for slot in reversed(self.slots):
            self.children.kill(slot)

    def end(self, exit: Exit, reason: str) -> None:
        for slot in reversed(self.slots):
            slot.member.end(exit, reason)

    def reopen(self) -> None:
        # Here and not in `live`: what is told to stop before its task has run must not forget that.
        self._stopping = self._auto_shutdown = False
        self._deadline = math.inf

    # ---- the slots ----

    def add(self, child: Spec) -> ChildRecord:
        """Make a slot for one more child, at the end."""
        return self.slots.add(child, by_ref=self.is_dynamic)

    def forget(self, slot: ChildRecord, ended: Exit, reason: str) -> None:
        """End a member for good that does not run; its slot goes with it, if it is temporary or dynamic."""
        self.slots.forget(slot, ended, reason, keep=slot.is_kept and not self.is_dynamic)

    # ---- the loop ----

    async def _boot(self) -> None:
        """Start the boot list, in order or (dynamic) side by side; the first failure fails the whole start."""
        boot_list = list(self.slots)
        for slot in boot_list if self.is_dynamic else ():
            self.children.launch(slot)
        for slot in boot_list:
            if self.is_dynamic:
                await self._wait_started(slot)
            else:
                await self.start(slot)
            if slot.failed_to_start:
                raise start_error(slot)

    async def _serve(self) -> None:
        """Do what there is to do, one thing after the other, until told to stop."""
        while not self._stopping:
            if self.slots.alarms.next() < math.inf:
                for slot in self.slots.alarms.take_due(trio.current_time()):
                    self.inbox.put(slot)
            if self.inbox:
                await self._take(self.inbox.take())
            else:
                await self.children.wait_work()

    async def _take(self, item: Item) -> None:
        match item:
            case Request():
                await self.inbox.carry_out(item)
            case ExitNotice(slot, ended):
                # An end that this loop brought about in the meantime is no news.
                current = slot in self.slots and slot.incarnation == ended.incarnation
                if current and slot.state in (State.ENDED, State.RESTARTING):
                    await self._judge(slot, ended)
            case ChildRecord(state=State.RESTARTING) if item in self.slots:
                await self._start_touched(item)
            case ChildRecord(state=State.STOPPING):
                self.children.overdue(item)
            case ChildRecord():
                pass

    def _child_ended(self, slot: ChildRecord, ended: Exit) -> None:
        """Called in the child's task at its end."""
        if slot.state is State.ENDED:
            if not (slot.ignored or slot.failed_to_start):
                self.inbox.put(ExitNotice(slot, ended))
            elif self.is_dynamic and (slot.ignored or slot.incarnation == 1):
                self.forget(slot, slot.last_exit, "did not start")  # Who called start_child is told.
            elif self.is_dynamic:
                self.inbox.put(ExitNotice(slot, ended))
            # else the loop waits for it
        elif ended.error is not None and is_fatal(ended.error):
            self._stopping = True  # It comes to the loop by itself; until then nothing is started again.
        elif self.is_dynamic:
            self.forget(slot, Exit(Kind.SHUTDOWN, incarnation=slot.incarnation), "was stopped")

    # ---- starting ----

    async def start(self, slot: ChildRecord) -> None:
        """Start an incarnation, and wait until it is up, ignored, or has failed: the slot says which."""
        if self._stopping:
            raise Stopped
        try:
            self.children.launch(slot)
        except AlreadyRegistered as error:  # Its name was free while it rested, and is another one's now.
            slot.start_refused(error)
        await self._wait_started(slot)
        if slot.ignored or slot.failed_to_start:
            slot.state = State.EMPTY
        if slot.ignored:  # Who speaks to it is told so, instead of waiting for an actor that will not be.
            self.forget(slot, slot.last_exit, "ignored its start")

    async def _wait_started(self, slot: ChildRecord) -> None:
        while slot.state is State.STARTING:
            await self.children.wait_child()
            if self._stopping:
                raise Stopped

    # ---- deciding ----

    async def _judge(self, slot: ChildRecord, ended: Exit) -> None:
        """Decide what becomes of a child that has ended by itself."""
        crash = ended.error if isinstance(ended.error, Crash) else Crash()
        if crash.escalate:
            raise self._give_up(slot, "its on_failure says escalate")
        if not crash.stop and restart_wanted(ended, slot.spec.restart):
            await self._restart(slot)
        else:
            ended = without_crash(ended)
            self.forget(slot, ended, f"has ended: {ended}")
            self._shut_down_if_due(slot)

    def _shut_down_if_due(self, slot: ChildRecord) -> None:
        """End this supervisor in order, if the end of a significant child asks for it."""
        if slot.spec.significant and isinstance(self.spec, Supervisor):
            left = sum(other.spec.significant and other.state is not State.EMPTY for other in self.slots)
            if auto_shutdown_due(self.spec.auto_shutdown, significant_left=left):
                self._auto_shutdown = self._stopping = True

    async def _restart(self, slot: ChildRecord) -> None:
        """Count a restart, end the siblings it touches, and start them all again, now or after the backoff."""
        now = trio.current_time()
        slot.state = State.RESTARTING
        if self._window.allows(self.spec.intensity, now):
            delay = self._backoff(slot, now)
        elif self.spec.on_exceeded is None:
            raise self._give_up(slot)
        else:
            self._window.forget()
            delay = self.spec.on_exceeded
        slot.restarts += 1
        self._around.emit(
            events.ChildRestarting(self.title, slot.spec.title, slot.restarts, slot.last_exit.error, delay)
        )
        for sibling in reversed(self._touched(slot)):
            if sibling is not slot:
                await self.children.end([sibling], self._deadline)
                if not sibling.is_kept:
                    self.forget(sibling, Exit(Kind.SHUTDOWN), "was ended with its siblings")
        if delay > 0:
            self.slots.alarms.set(slot, now + delay)
        else:
            await self._start_touched(slot)

    def _backoff(self, slot: ChildRecord, now: float) -> float:
        backoff = slot.spec.backoff
        if backoff is None:
            return 0.0
        slot.failures = failed_again(slot.failures, backoff, now, self._around.dice)
        if backoff.max_attempts is not None and slot.failures.count > backoff.max_attempts:
            raise self._give_up(slot, f"{slot.failures.count} failures in a row")
        return slot.failures.resumed - now

    def _touched(self, slot: ChildRecord) -> list[ChildRecord]:
        """Return the slots that a restart of one touches, in start order."""
        if not isinstance(self.spec, Supervisor) or self.spec.strategy == "one_for_one":
            return [slot]
        slots = list(self.slots)
        return [slots[position] for position in touched(self.spec.strategy, slots.index(slot), len(slots))]

    async def _start_touched(self, slot: ChildRecord) -> None:
        """Start a child and the siblings the strategy restarts with it; the first that fails is tried again later."""
        if self.is_dynamic:
            self.children.launch(slot)
            return
        for other in self._touched(slot):
            if other.state in (State.EMPTY, State.RESTARTING):
                await self.start(other)
                if other.failed_to_start:
                    # Queued, not looped: requests and a stop are served between two attempts.
                    other.state = State.RESTARTING
                    self.inbox.put(ExitNotice(other, other.last_exit))
                    return

    def _give_up(self, slot: ChildRecord, why: str | None = None) -> MaxRestartsExceeded:
        intensity = self.spec.intensity
        why = why or f"more than {intensity.restarts} restarts within {intensity.period:g} s"
        self._around.emit(events.GaveUp(self.title, slot.spec.title, why))
        slot.state = State.EMPTY
        return gave_up(self.spec, slot, why)

    # ---- ending ----

    async def _end_all(self) -> None:
        """End all children: the last one started first, or side by side in a dynamic supervisor."""
        reason = "has stopped: its system ended"
        if self.is_dynamic:
            await self.children.end(self.slots, self._deadline)
            for slot in list(self.slots):
                self.forget(slot, Exit(Kind.SHUTDOWN), reason)
            return
        for slot in list(reversed(self.slots)):
            await self.children.end([slot], self._deadline)
            if self.parent is None:  # Else this supervisor may be restarted, and the refs of its children stay good.
                slot.member.end(Exit(Kind.SHUTDOWN), f"{slot.spec.title!r} {reason}")


def _late(spec: Supervisor | DynamicSupervisor) -> str:
    return f"{spec.title!r} took longer than {spec.startup_timeout:g} s to start its children"
