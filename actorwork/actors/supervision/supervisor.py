"""The running supervisor: a loop that starts children in order, restarts those that end, and stops them in reverse.

A supervisor is one task, the loop, and one nursery with a shielded task for each child (`child_runner`). Only the loop
feels a cancellation from outside: it stops the children one by one, each within its bound, and then lets the
cancellation proceed. The price is that everything in here must be bounded. A child never raises into the nursery: it
reports how it ended, and only the loop raises.

All work comes through one queue and is done one item after the other, so no decision is based on half-changed facts:

    ExitNotice    a child has ended by itself     restart it (and siblings, by the strategy), leave it, or give up
                  or could not be restarted       try again: queued, so that requests are served in between
    ChildRecord   its backoff is over             start it (and siblings, by the strategy)
    Request       start_child and its like        see `administration`

The children of a static supervisor start one after the other, and the loop waits for each; so it does for the siblings
that it ends before a restart of them all. Those of a dynamic one start and stop side by side, and its loop never waits
for one (except at its start, for the replicas of a process). No loop waits for a child that `terminate_child` ends: it
may shield itself, and would keep its siblings from being restarted. Requests that only read are answered also while a
loop waits for ends. The rules are those of `supervisor.erl` (OTP 25); where ours differ, docs/supervision.md says so
and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import attrs
import trio

from actorwork import events
from actorwork.actors.crash import Crash
from actorwork.actors.supervision.administration import SupervisorRef
from actorwork.actors.supervision.child_runner import ChildRunner
from actorwork.actors.supervision.child_table import GOING, ChildRecord, ChildTable, State
from actorwork.actors.supervision.failures import gave_up, start_error
from actorwork.actors.supervision.requests import ExitNotice, Item, Request, RequestQueue, Stopped
from actorwork.actors.tree.spec import DynamicSupervisor, Process, Replicas, Spec, Supervisor
from actorwork.errors import AlreadyRegistered, MaxRestartsExceeded, Shutdown, StartError
from actorwork.nurseries import open_unwrapping_nursery
from actorwork.policy.exits import Exit, is_counted, is_fatal, restart_wanted
from actorwork.policy.restart import Window, auto_shutdown_due, failed_again, restart_delay, touched
from actorwork.shown import Shown

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.actors.supervision.child_table import Member
    from actorwork.policy.retry import Dice


@attrs.frozen(eq=False, repr=False)
class SupervisionEnvironment(Shown):
    """What all supervisors of a system share."""

    emit: EventSink
    dice: Dice
    build: Callable[[Spec, RunningSupervisor | None], Member]
    """Makes the member for a description; the second argument is the supervisor above it."""


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
        self.records = ChildTable(self.title, lambda child: around.build(child, self))
        self.runner = ChildRunner(self.title, self.records, around.emit, ended=self._child_ended, due=self._child_due)
        self._around = around
        self.queue = RequestQueue(self.title, self.runner)
        self._window = Window()
        self._stopping = False
        self._deadline = math.inf
        self._auto_shutdown = False
        self._handle = SupervisorRef(self)
        if isinstance(spec, (Supervisor, Replicas)):
            for child in spec.children if isinstance(spec, Supervisor) else spec.members:
                self.add(child)
        self.records.keep_as_boot_list()

    def __repr__(self) -> str:
        return f"<supervision {self.title!r}: {self.records!r}>"

    # ---- as a member of the supervisor above ----

    @property
    def handle(self) -> SupervisorRef:
        return self._handle

    @property
    def label(self) -> str:
        return self.title

    async def live(self, started: Callable[[], None]) -> None:
        """Start the children, keep them alive, and stop them when asked to.

        Raises `StartError` if one does not start, `MaxRestartsExceeded` when it gives up, `Shutdown` after an automatic
        shutdown. Cancelled: the children are stopped in reverse order, each within its bound, before the cancellation
        proceeds.
        """
        self._window.forget()
        self.records.reset_to_boot_list()
        async with open_unwrapping_nursery() as nursery:
            self.runner.open(nursery)
            self.queue.open()
            try:
                with trio.move_on_after(self.spec.startup_timeout) as limit:
                    await self._boot()
                if limit.cancelled_caught:
                    raise StartError(_late(self.spec), child_id=self.spec.child_id)
                started()
                await self._serve()
            except Stopped:
                pass
            finally:
                # Inside the nursery: leaving it with an error would cancel all children at once, not one by one.
                self._stopping = True
                self.queue.close("is shutting down")
                with trio.CancelScope(shield=True):  # bounded: every step of it has a limit of its own
                    await self._end_all()
                self.runner.close()
                self.queue.close("does not run")
        if self._auto_shutdown:
            raise Shutdown("auto_shutdown")

    def stop(self, deadline: float) -> None:
        self._deadline = min(self._deadline, deadline)
        self._stopping = True
        self.queue.close("is shutting down")
        self.runner.hurry(self._deadline)

    def kill(self) -> None:
        self._deadline = -math.inf
        for record in reversed(self.records):
            self.runner.kill(record)

    def end(self, exit: Exit, reason: str) -> None:
        # Each child by its own end: that of its supervisor is the crash of the one child that it could not keep alive.
        for record in reversed(self.records):
            record.member.end(record.final_exit, reason)

    def reopen(self) -> None:
        # Here and not in `live`: a stop may come between `reopen` and the first step of the task that runs `live`.
        self._stopping = self._auto_shutdown = False
        self._deadline = math.inf

    # ---- the records ----

    def add(self, child: Spec) -> ChildRecord:
        """Make a record for one more child, at the end of the table."""
        return self.records.add(child, by_ref=self.is_dynamic)

    def forget(self, record: ChildRecord, reason: str) -> None:
        """End a member for good that does not run; a temporary or dynamic child loses its record as well."""
        self.records.forget(record, reason, keep=record.is_kept and not self.is_dynamic)

    # ---- the loop ----

    async def _boot(self) -> None:
        """Start the boot list, in order or (dynamic) side by side; the first failure fails the whole start."""
        if self.is_dynamic:
            boot_list = list(self.records)  # A child that does not start leaves the table at once.
            for record in boot_list:
                self.runner.launch(record)
            for record in boot_list:
                await self._wait_started(record)
                if record.failed_to_start:
                    raise start_error(record)
            return
        for together in self._booted_together():
            for record in together:
                self._launch(record)
            for record in together:
                await self._judge_start(record)
                if record.failed_to_start:
                    raise start_error(record)

    def _booted_together(self) -> Iterator[list[ChildRecord]]:
        """Yield the boot list in the parts that are launched together: each child alone, or neighbouring processes.

        A process takes a second to start, most of it for its imports, and does not depend on the actors of another
        one. Where the strategy says that it does, they start in order as all others.
        """
        may = isinstance(self.spec, Supervisor) and self.spec.strategy == "one_for_one"
        for are_processes, records in groupby(
            list(self.records), lambda record: may and isinstance(record.spec, Process)
        ):
            if are_processes:
                yield list(records)
            else:
                yield from ([record] for record in records)

    async def _serve(self) -> None:
        """Take one item after the other from the queue, until asked to stop."""
        while not self._stopping:
            until = self.runner.ring()
            if self.queue:
                await self._take(self.queue.take())
            else:
                await self.runner.wait_work(until)

    async def _take(self, item: Item) -> None:
        match item:
            case Request():
                await self.queue.carry_out(item)
            case ExitNotice(record, ended):
                # The loop may have ended or restarted this child itself since the notice was queued.
                current = record in self.records and record.incarnation == ended.incarnation
                if current and record.state in (State.ENDED, State.RESTARTING):
                    await self._judge(record, ended)
            case ChildRecord(state=State.RESTARTING) if item in self.records:
                await self._start_touched(item)
            case ChildRecord():
                pass  # It was terminated, or runs again, since its alarm was queued.

    def _child_due(self, record: ChildRecord) -> None:
        """Queue the restart of a child whose backoff is over."""
        self.queue.put(record)

    def _child_ended(self, record: ChildRecord, ended: Exit) -> None:
        """Queue what follows from an end; called in the child's task as the last thing it does."""
        if record.state is State.ENDED:
            if not (record.ignored or record.failed_to_start):
                self.queue.put(ExitNotice(record, ended))
            elif self.is_dynamic and (record.ignored or record.incarnation == 1):
                # A first start that failed is no restart to judge: the caller of `start_child` gets the error.
                self.forget(record, "did not start")
            elif self.is_dynamic:
                self.queue.put(ExitNotice(record, ended))
            # In a static supervisor the loop itself waits for this start, and judges it there.
        elif ended.error is not None and is_fatal(ended.error):
            # The nursery raises it in the loop, but only at the loop's next checkpoint: start nothing before that.
            self._stopping = True
        elif self.is_dynamic or record.terminated:
            # The loop does not wait for this end, so the record goes here, or becomes that of one who is gone.
            self.forget(record, _why_over(record, "its supervisor ended") if self._stopping else "was stopped")

    # ---- starting ----

    async def start(self, record: ChildRecord) -> None:
        """Start an incarnation and wait until it is up, has ignored its start, or has failed, as the record shows."""
        self._launch(record)
        await self._judge_start(record)

    def _launch(self, record: ChildRecord) -> None:
        if self._stopping:
            raise Stopped
        try:
            self.runner.launch(record)
        except AlreadyRegistered as error:  # Another actor has taken the name while this one was at rest.
            record.start_refused(error)

    async def _judge_start(self, record: ChildRecord) -> None:
        """Wait until an incarnation is up, has ignored its start, or has failed."""
        await self._wait_started(record)
        if record.ignored or record.failed_to_start:
            record.state = State.EMPTY
        if record.ignored:  # Senders get an error now, instead of waiting for an actor that will never run.
            self.forget(record, "ignored its start")

    async def _wait_started(self, record: ChildRecord) -> None:
        while record.state is State.STARTING:
            await self.runner.wait_child()
            if self._stopping:
                raise Stopped

    # ---- deciding ----

    async def _judge(self, record: ChildRecord, ended: Exit) -> None:
        """Restart a child that has ended by itself, leave it, or give up."""
        crash = ended.error if isinstance(ended.error, Crash) else Crash()
        if crash.escalate:
            raise self._give_up(record, "its on_failure says escalate")
        if not crash.stop and restart_wanted(ended, record.spec.restart):
            await self._restart(record)
        else:
            self.forget(record, f"has ended: {record.last_exit}")
            self._shut_down_if_due(record)

    def _shut_down_if_due(self, record: ChildRecord) -> None:
        """End this supervisor in order, if the end of a significant child asks for it."""
        if record.spec.significant and isinstance(self.spec, Supervisor):
            left = sum(other.spec.significant and other.state not in GOING for other in self.records)
            if auto_shutdown_due(self.spec.auto_shutdown, significant_left=left):
                self._auto_shutdown = self._stopping = True

    async def _restart(self, record: ChildRecord) -> None:
        """Count a restart, end the siblings that the strategy restarts too, and start all again, after the backoff."""
        now = trio.current_time()
        record.state = State.RESTARTING
        if not is_counted(record.last_exit):
            # Nor is the restart before it counted any more: that was when these messages came under suspicion.
            self._window.forgive()
            delay = 0.0 if record.spec.backoff is None else restart_delay(1, record.spec.backoff, self._around.dice)
        elif self._window.allows(self.spec.intensity, now):
            delay = self._backoff(record)
        elif self.spec.on_exceeded is None:
            raise self._give_up(record)
        else:
            self._window.forget()
            delay = self.spec.on_exceeded
        record.restarts += 1
        self._around.emit(
            events.ChildRestarting(self.title, record.member.label, record.restarts, record.last_exit.error, delay)
        )
        # The siblings end before the delay, not after it: they rely on the child that is away. In reverse order, as at
        # a shutdown. The deadline is infinite unless a stop comes meanwhile, so a sibling gets its own bound.
        for sibling in reversed(self._touched(record)):
            if sibling is not record:
                did_run = sibling.task is not None
                await self.runner.end([sibling], self._deadline)
                if not sibling.is_kept:
                    self.forget(sibling, "was ended with its siblings")
                elif did_run and not sibling.terminated:
                    sibling.member.reopen()  # not only after the delay: askers whose handlers were cut off wait for it
        if delay > 0:
            # An alarm and not a sleep: the loop serves requests, other children and a stop during the backoff.
            self.records.alarms.set(record, now + delay)
        else:
            await self._start_touched(record)

    def _backoff(self, record: ChildRecord) -> float:
        backoff = record.spec.backoff
        if backoff is None:
            return 0.0
        record.failures = failed_again(record.failures, backoff)
        if backoff.max_attempts is not None and record.failures.count > backoff.max_attempts:
            raise self._give_up(record, f"{record.failures.count} failures in a row")
        return restart_delay(record.failures.count, backoff, self._around.dice)

    def _touched(self, record: ChildRecord) -> list[ChildRecord]:
        """Return the records that the strategy restarts together with one, in start order."""
        if not isinstance(self.spec, Supervisor) or self.spec.strategy == "one_for_one":
            return [record]
        records = list(self.records)
        return [records[position] for position in touched(self.spec.strategy, records.index(record), len(records))]

    async def _start_touched(self, record: ChildRecord) -> None:
        """Start a child and the siblings that the strategy restarts with it; the first to fail is tried again later."""
        if self.is_dynamic:
            self.runner.launch(record)
            return
        for other in self._touched(record):
            if other.state in (State.EMPTY, State.RESTARTING):
                await self.start(other)
                if other.failed_to_start:
                    # Queued, not tried again here: requests and a stop are served between two attempts. Siblings after
                    # it stay RESTARTING or EMPTY, and are started by the attempt that succeeds.
                    other.state = State.RESTARTING
                    self.queue.put(ExitNotice(other, other.last_exit))
                    return

    def _give_up(self, record: ChildRecord, why: str | None = None) -> MaxRestartsExceeded:
        intensity = self.spec.intensity
        why = why or f"more than {intensity.restarts} restarts within {intensity.period:g} s"
        self._around.emit(events.GaveUp(self.title, record.member.label, why))
        record.state = State.EMPTY
        return gave_up(self.spec, record, why)

    # ---- ending ----

    async def _end_all(self) -> None:
        """End all children: the last one started first, or side by side in a dynamic supervisor."""
        if self.is_dynamic:
            await self.runner.end(self.records, self._deadline)
            for record in list(self.records):
                self.forget(record, _why_over(record, "its supervisor ended"))
            return
        for record in list(reversed(self.records)):
            await self.runner.end([record], self._deadline)
            # A supervisor with a parent may be restarted, and the refs of its children stay valid then.
            if self.parent is None:
                record.member.end(record.final_exit, f"{record.member.label!r} {_why_over(record, 'its system ended')}")


def _why_over(record: ChildRecord, otherwise: str) -> str:
    """Return what the senders of a child read after the end of its supervisor."""
    return f"has ended: {record.last_exit}" if record.last_exit.abnormal else f"has stopped: {otherwise}"


def _late(spec: Supervisor | DynamicSupervisor) -> str:
    return f"{spec.title!r} took longer than {spec.startup_timeout:g} s to start its children"
