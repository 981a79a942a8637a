"""Supervision: the loop that starts children in order, restarts those that end, and stops them in reverse order.

A supervisor is one task, the loop, and one nursery. Every child is one task in that nursery under a cancel scope of the
supervisor's own, shielded: Trio cancels a whole subtree at once, and only what is shielded from that can be stopped in
order. So the loop alone feels a cancellation from outside; it stops the children one by one, each within its bound, and
then lets the cancellation go on. The price is that everything in here is bounded.

A child never lets an `Exception` out: it reports how it ended, and only the loop raises. Reports, requests and due
retries go through one inbox, one after the other, so nothing is decided on half-changed facts:

    exit       a child has ended by itself       restart it (and its siblings, by the strategy), leave it, or give up
    retry      a restart that waited is due      start the child, and those its strategy restarts with it
    request    start_child and its like          answered between two decisions, also while a child cannot be restarted

A slot is a child's place: it holds a member (running), nothing (EMPTY: defined, not running), or one that is to be
started again (RESTARTING). An exit is matched by its incarnation, so one that this loop brought about itself is never
mistaken for news. The rules are those of `supervisor.erl` (OTP 25); where ours differ, docs/supervision.md says so
and why.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import attrs
import trio

from actorwork import events
from actorwork.actors.child import Child, DynamicSupervisor, Spec, Supervisor, as_spec
from actorwork.actors.crash import Crash, cause_of
from actorwork.errors import ChildError, Ignore, MaxRestartsExceeded, Shutdown, StartError
from actorwork.policy.exits import Exit, Kind, exit_of, is_fatal, restart_wanted
from actorwork.policy.restart import (
    Failures,
    Window,
    auto_shutdown_due,
    failed_again,
    restart_allowed,
    restart_delay,
    touched,
)
from actorwork.policy.settlement import leaves, only_leaf

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.policy.retry import Dice

REPORT_EVERY: Final = 10.0
"""Seconds between two reports about a child that does not end."""


class State(enum.Enum):
    """What a slot holds."""

    EMPTY = "empty"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"


class Member(Protocol):
    """What a slot holds: an actor's cell, a supervisor, or a task."""

    @property
    def handle(self) -> Any:
        """What `start_child` returns and `which_children` shows."""
        ...

    async def live(self, started: Callable[[], None]) -> None:
        """Run one incarnation; call `started` once it is up. Raises what it ends of."""
        ...

    def stop(self, deadline: float) -> None:
        """Ask it to end, within the deadline (Trio's clock). Never waits."""
        ...

    def kill(self) -> None:
        """Cancel what it keeps under shields of its own."""
        ...

    def end(self, exit: Exit, reason: str) -> None:
        """It will not run again, unless it is reopened."""
        ...

    def reopen(self) -> None:
        """It will run again after all."""
        ...


class _Slot:
    """A child's place."""

    __slots__ = (
        "acked",
        "done",
        "exit",
        "expected",
        "failures",
        "ignored",
        "incarnation",
        "member",
        "restarts",
        "retry_at",
        "scope",
        "spec",
        "state",
        "task",
    )

    def __init__(self, spec: Spec, member: Member) -> None:
        self.spec = spec
        self.member = member
        self.state = State.EMPTY
        self.incarnation = 0
        self.restarts = 0
        self.failures = Failures()
        self.exit: Exit | None = None
        self.expected = False
        self.ignored = False
        self.retry_at = math.inf
        self.scope: trio.CancelScope | None = None
        self.acked: trio.Event | None = None
        self.done: trio.Event | None = None
        self.task: trio.lowlevel.Task | None = None


class _Stopped(Exception):
    """The supervisor was told to stop while it waited."""


@attrs.define(eq=False)
class _Request:
    """Something the loop is asked to do; `answer` is set when it has done it."""

    action: Callable[[], Awaitable[Any]]
    answered: trio.Event = attrs.field(factory=trio.Event)
    value: Any = None
    error: BaseException | None = None


@attrs.frozen
class ChildInfo:
    """A child, as `which_children` shows it: `handle` is its ref, None (not running), or "restarting"."""

    id: Hashable
    handle: Any
    type: str
    """`worker` or `supervisor`."""


@attrs.frozen
class ChildCounts:
    """How many children there are: defined, running, and of which kind."""

    specs: int
    active: int
    supervisors: int
    workers: int


@attrs.frozen(eq=False)
class Surroundings:
    """What all supervisors of a system share."""

    emit: EventSink
    dice: Dice
    build: Callable[[Spec, Supervision | None], Member]
    """Makes the member for a description; the second argument is the supervisor it will stand under."""


Item: TypeAlias = "tuple[_Slot, int] | _Slot | _Request"


class Supervision:
    """A running supervisor."""

    def __init__(
        self, spec: Supervisor | DynamicSupervisor, around: Surroundings, parent: Supervision | None = None
    ) -> None:
        self.spec = spec
        self.title = spec.title
        self.parent = parent
        self._around = around
        self._is_dynamic = isinstance(spec, DynamicSupervisor)
        self._slots: list[_Slot] = []
        self._inbox: deque[Item] = deque()
        self._wake = trio.Event()
        self._window = Window()
        self._stopping = False
        self._deadline = math.inf
        self._auto_shutdown = False
        self._running = False
        self._nursery: trio.Nursery | None = None
        self._context: Context | None = None
        self._handle = SupervisorRef(self)
        self._new_slots()

    def __repr__(self) -> str:
        return f"<supervision {self.title!r}: {', '.join(f'{slot.spec.child_id}: {slot.state.value}' for slot in self._slots)}>"

    def _new_slots(self) -> None:
        """Take the children of the boot list: those added at run time are lost when the supervisor is restarted."""
        spec = self.spec
        specs: Sequence[Spec] = spec.children if isinstance(spec, Supervisor) else ()
        known = {slot.spec: slot for slot in self._slots}
        # A child that was there before keeps its member, and so its ref and its mailbox.
        self._slots = [known.pop(child, None) or _Slot(child, self._around.build(child, self)) for child in specs]
        for slot in known.values():
            slot.member.end(
                Exit(Kind.SHUTDOWN), f"{slot.spec.title!r} was added at run time, and its supervisor was restarted"
            )

    # ---- as a member of its own supervisor ----

    @property
    def handle(self) -> SupervisorRef:
        return self._handle

    async def live(self, started: Callable[[], None]) -> None:
        """Start the children, keep them alive, stop them when asked to.

        Raises `StartError` if one does not start, `MaxRestartsExceeded` when it gives up. Cancelled: the children are
        stopped in reverse order, each within its bound, before the cancellation goes on.
        """
        self._stopping, self._auto_shutdown, self._deadline = False, False, math.inf
        self._window = Window()
        self._inbox.clear()
        if self._context is None:
            # Every incarnation of every child runs in the context of the first start, not in that of whoever caused a
            # restart.
            self._context = copy_context()
        else:
            self._new_slots()
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                self._running = True
                try:
                    await self._boot()
                    started()
                    await self._serve()
                except _Stopped:
                    pass
                except (StartError, MaxRestartsExceeded) as error:
                    failure = error
                finally:
                    self._stopping = True
                    with trio.CancelScope(shield=True):  # bounded: every step of it has a limit of its own
                        await self._terminate_all()
                    self._running = False
                    self._refuse_requests()
        except BaseExceptionGroup as group:
            failure = failure or only_leaf(group)
        finally:
            self._nursery = None
        # Raised out here, so that it arrives as it is and not wrapped by this nursery.
        if failure is not None:
            raise failure
        if self._auto_shutdown:
            raise Shutdown("auto_shutdown")

    def stop(self, deadline: float) -> None:
        self._deadline = deadline
        self._stopping = True
        self._wake.set()

    def kill(self) -> None:
        for slot in self._slots:
            self._kill(slot)

    def end(self, exit: Exit, reason: str) -> None:
        for slot in self._slots:
            slot.member.end(exit, reason)

    def reopen(self) -> None:
        """The children are reopened when they are started."""

    # ---- the loop ----

    async def _boot(self) -> None:
        """Start the boot list in order; the first failure fails the whole start."""
        for slot in list(self._slots):
            await self._start(slot)
            if slot.state is State.EMPTY and slot.exit is not None and not slot.ignored:
                error = slot.exit.error
                raise StartError(
                    f"{slot.spec.title!r} did not start: {_told(error)}", child_id=slot.spec.child_id
                ) from error
            self._drop_if_ignored(slot)

    async def _serve(self) -> None:
        """Take one item of the inbox after the other until told to stop."""
        while not self._stopping:
            if not self._inbox:
                self._take_due_retries()
            if self._inbox:
                await self._take(self._inbox.popleft())
            else:
                self._wake = trio.Event()
                with trio.move_on_at(min((slot.retry_at for slot in self._slots), default=math.inf)):
                    await self._wake.wait()

    def _take_due_retries(self) -> None:
        now = trio.current_time()
        for slot in self._slots:
            if slot.retry_at <= now:
                slot.retry_at = math.inf
                self._inbox.append(slot)

    async def _take(self, item: Item) -> None:
        match item:
            case _Request():
                await self._answer(item)
            case (slot, incarnation):
                if slot in self._slots and slot.incarnation == incarnation and not slot.expected:
                    await self._judge(slot)
            case slot:
                if slot in self._slots and slot.state is State.RESTARTING:
                    await self._start_touched(slot)

    def _put(self, item: Item) -> None:
        self._inbox.append(item)
        self._wake.set()

    # ---- starting ----

    async def _start(self, slot: _Slot) -> None:
        """Start an incarnation, and wait until it is up or has failed; its state says which.

        Raises `_Stopped` if this supervisor is told to stop meanwhile.
        """
        self._launch(slot)
        assert slot.acked is not None
        while not slot.acked.is_set():
            if self._stopping:
                raise _Stopped
            self._wake = trio.Event()
            await self._wake.wait()

    def _launch(self, slot: _Slot) -> None:
        """Begin to start an incarnation."""
        assert self._nursery is not None
        assert self._context is not None
        slot.incarnation += 1
        slot.state = State.STARTING
        slot.exit, slot.expected, slot.ignored, slot.retry_at = None, False, False, math.inf
        slot.scope = trio.CancelScope(shield=True)
        slot.acked, slot.done = trio.Event(), trio.Event()
        slot.member.reopen()
        self._context.run(self._nursery.start_soon, self._child, slot, slot.incarnation, name=slot.spec.title)

    async def _child(self, slot: _Slot, incarnation: int) -> None:
        """Run one incarnation; report its end instead of raising it."""
        error: BaseException | None = None
        scope, acked, done = slot.scope, slot.acked, slot.done
        assert scope is not None
        assert acked is not None
        assert done is not None
        slot.task = trio.lowlevel.current_task()

        def started() -> None:
            slot.state = State.RUNNING
            acked.set()
            self._wake.set()

        try:
            with scope:
                await slot.member.live(started)
        except Exception as raised:  # noqa: BLE001 - whatever ends a child is for the loop to judge
            error = raised
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._report(slot, incarnation, error, cancelled=scope.cancelled_caught, starting=not acked.is_set())
            acked.set()
            done.set()
            self._wake.set()

    def _report(
        self, slot: _Slot, incarnation: int, error: BaseException | None, *, cancelled: bool, starting: bool
    ) -> None:
        """Write down how an incarnation ended; the loop judges it, unless it brought it about or waits for it."""
        slot.ignored = starting and error is not None and any(isinstance(leaf, Ignore) for leaf in leaves(error))
        if starting and error is None and not cancelled:
            error = RuntimeError("it returned without saying that it had started")
        slot.exit = exit_of(error, cancelled=cancelled, incarnation=incarnation, starting=starting)
        if slot.expected and slot.exit.kind is Kind.NORMAL:
            slot.exit = Exit(Kind.SHUTDOWN, incarnation=incarnation)
        slot.state = State.EMPTY
        slot.task = None
        if error is not None and is_fatal(error):
            self._stopping = True  # On its way to the loop: until it is there, nothing is started again.
            return
        if not slot.ignored:
            self._around.emit(events.ChildExited(self.title, slot.spec.title, incarnation, _with_cause(slot.exit)))
        if not slot.expected and (not starting or self._is_dynamic):
            self._put((slot, incarnation))

    def _drop_if_ignored(self, slot: _Slot) -> None:
        if slot.ignored and (slot.spec.restart == "temporary" or self._is_dynamic):
            self._remove(slot)

    def _remove(self, slot: _Slot) -> None:
        self._slots.remove(slot)

    # ---- deciding ----

    async def _judge(self, slot: _Slot) -> None:
        """Decide what becomes of a child that has ended by itself."""
        ended = slot.exit
        assert ended is not None
        if slot.ignored:
            self._drop_if_ignored(slot)
            return
        crash = ended.error if isinstance(ended.error, Crash) else None
        if crash is not None and crash.escalate:
            raise self._giving_up(slot, "its on_failure says escalate")
        never_ran = ended.kind is Kind.INIT_FAILED and slot.incarnation == 1
        if never_ran:  # only in a dynamic supervisor: whoever called start_child is told, and nothing is left
            self._remove(slot)
        elif restart_wanted(ended, slot.spec.restart) and not (crash is not None and crash.stop):
            await self._restart(slot)
        else:
            self._leave(slot, ended)

    def _leave(self, slot: _Slot, ended: Exit) -> None:
        """Let a child rest that has ended by itself; with it perhaps this supervisor."""
        slot.member.end(_with_cause(ended), f"{slot.spec.title!r} has ended: {_with_cause(ended)}")
        if slot.spec.restart == "temporary" or self._is_dynamic:
            self._remove(slot)
        if slot.spec.significant and isinstance(self.spec, Supervisor):
            left = sum(1 for other in self._slots if other.spec.significant and other.state is not State.EMPTY)
            if auto_shutdown_due(self.spec.auto_shutdown, significant_left=left):
                self._auto_shutdown = True
                self._stopping = True

    async def _restart(self, slot: _Slot) -> None:
        """Count a restart, end the siblings it touches, and start them all again, now or after the backoff."""
        now = trio.current_time()
        allowed, self._window = restart_allowed(self._window, self.spec.intensity, now)
        slot.state = State.RESTARTING
        if not allowed:
            if self.spec.on_exceeded is None:
                raise self._giving_up(slot)
            self._window = Window()
            delay = self.spec.on_exceeded
        else:
            delay = self._backoff(slot, now)
        slot.restarts += 1
        cause = None if slot.exit is None else _with_cause(slot.exit).error
        self._around.emit(events.ChildRestarting(self.title, slot.spec.title, slot.restarts, cause, delay))
        await self._end_siblings(slot)
        if delay > 0:
            slot.retry_at = now + delay
        else:
            await self._start_touched(slot)

    def _backoff(self, slot: _Slot, now: float) -> float:
        backoff = slot.spec.backoff
        if backoff is None:
            return 0.0
        slot.failures = failed_again(slot.failures, backoff, now)
        if backoff.max_attempts is not None and slot.failures.count > backoff.max_attempts:
            raise self._giving_up(slot, f"{backoff.max_attempts} failures in a row")
        return restart_delay(slot.failures, backoff, self._around.dice)

    def _touched(self, slot: _Slot) -> list[_Slot]:
        if not isinstance(self.spec, Supervisor):
            return [slot]
        positions = touched(self.spec.strategy, self._slots.index(slot), len(self._slots))
        return [self._slots[position] for position in positions]

    async def _end_siblings(self, slot: _Slot) -> None:
        """End, in reverse order, the siblings that the strategy restarts together with a child; drop temporary ones."""
        for sibling in reversed(self._touched(slot)):
            if sibling is slot:
                continue
            await self._terminate(sibling)
            if sibling.spec.restart == "temporary":
                sibling.member.end(Exit(Kind.SHUTDOWN), f"{sibling.spec.title!r} was ended with its siblings")
                self._remove(sibling)

    async def _start_touched(self, slot: _Slot) -> None:
        """Start a child and the siblings the strategy restarts with it; the first that fails is tried again later."""
        if self._is_dynamic:
            self._launch(slot)
            return
        for other in self._touched(slot):
            if other.state in (State.RUNNING, State.STARTING):
                continue
            await self._start(other)
            if other.state is State.EMPTY and not other.ignored:
                # Queued, not looped: requests and a stop are served between two attempts.
                other.state = State.RESTARTING
                self._put_failed(other)
                return
            self._drop_if_ignored(other)

    def _put_failed(self, slot: _Slot) -> None:
        async def again() -> None:
            if slot in self._slots and slot.state is State.RESTARTING:
                await self._restart(slot)

        self._put(_Request(again))

    def _giving_up(self, slot: _Slot, why: str | None = None) -> MaxRestartsExceeded:
        intensity = self.spec.intensity
        error = None if slot.exit is None else _with_cause(slot.exit).error
        why = why or f"more than {intensity.restarts} restarts within {intensity.period:g} s"
        self._around.emit(events.GaveUp(self.title, slot.spec.title, why))
        slot.state = State.EMPTY
        failure = MaxRestartsExceeded(
            f"{self.title!r} gave up on {slot.spec.title!r}: {why}; the last end: {_told(error)}",
            child_id=slot.spec.child_id,
            restarts=intensity.restarts,
            period=intensity.period,
        )
        failure.__cause__ = error
        return failure

    # ---- ending ----

    async def _terminate(self, slot: _Slot, deadline: float = math.inf) -> None:
        """End a child: asked first, cancelled when its bound has passed, then waited for.

        Trio cannot end a task that shields itself, spins or sits in a thread: that is waited for, and reported
        every ten seconds with its stack.
        """
        slot.retry_at = math.inf
        if slot.state in (State.EMPTY, State.RESTARTING):
            slot.state = State.EMPTY
            return
        assert slot.done is not None
        slot.expected = True
        was_starting = slot.state is State.STARTING
        slot.state = State.STOPPING
        shutdown = slot.spec.shutdown
        if was_starting or shutdown == "brutal_kill":
            self._kill(slot)
        else:
            deadline = min(deadline, self._deadline, trio.current_time() + shutdown)
            slot.member.stop(deadline)
            with trio.move_on_at(deadline):
                await slot.done.wait()
            if not slot.done.is_set():
                self._kill(slot)
        while not slot.done.is_set():
            with trio.move_on_after(REPORT_EVERY):
                await slot.done.wait()
            if not slot.done.is_set():
                self._around.emit(events.StuckChild(self.title, slot.spec.title, _stack(slot.task)))
        slot.state = State.EMPTY

    def _kill(self, slot: _Slot) -> None:
        """Cancel a child, what it shields itself first."""
        if slot.state is not State.EMPTY and slot.scope is not None:
            slot.member.kill()
            slot.scope.cancel(reason="killed by its supervisor")

    async def _terminate_all(self) -> None:
        """End all children: the last one started first, or side by side in a dynamic supervisor."""
        if self._is_dynamic:
            async with trio.open_nursery() as nursery:
                for slot in self._slots:
                    nursery.start_soon(self._terminate, slot)
        else:
            for slot in reversed(self._slots):
                await self._terminate(slot)
        for slot in reversed(self._slots):
            if self._stopping_for_good:
                slot.member.end(Exit(Kind.SHUTDOWN), f"{slot.spec.title!r} has stopped: its system ended")

    @property
    def _stopping_for_good(self) -> bool:
        """Whether nothing restarts this supervisor. Its children's refs stay good if something does."""
        return self.parent is None

    # ---- requests ----

    async def request(self, action: Callable[[], Awaitable[Any]]) -> Any:
        """Have the loop do something; return what it returned.

        Raises `ChildError` while the supervisor does not run. Cancelled: the answer is lost, not the action.
        """
        if not self._running or self._stopping:
            raise self._not_running()
        request = _Request(action)
        self._put(request)
        await request.answered.wait()
        if request.error is not None:
            raise request.error
        return request.value

    def _not_running(self) -> ChildError:
        state = "is shutting down" if self._running else "does not run"
        return ChildError(f"supervisor {self.title!r} {state}", problem="stopped")

    async def _answer(self, request: _Request) -> None:
        try:
            request.value = await request.action()
        except (ChildError, StartError, ValueError) as error:
            request.error = error
        except (_Stopped, trio.Cancelled):
            request.error = self._not_running()
            raise
        finally:
            request.answered.set()

    def _refuse_requests(self) -> None:
        for item in self._inbox:
            if isinstance(item, _Request):
                item.error = self._not_running()
                item.answered.set()
        self._inbox.clear()

    def find(self, key: object) -> _Slot:
        """Return the slot of a child, by its id or by its ref; raises `ChildError`."""
        for slot in self._slots:
            if slot.spec.child_id == key or slot.member.handle == key:
                return slot
        ids = ", ".join(repr(slot.spec.child_id) for slot in self._slots) or "none"
        raise ChildError(
            f"supervisor {self.title!r} has no child {key!r}; it has {ids}", problem="not_found", child_id=key
        )

    async def start_child(self, child: Spec) -> Any:
        """Add a child at the end and start it."""
        for slot in self._slots:
            if slot.spec.child_id == child.child_id:
                running = slot.state is State.RUNNING
                problem = "already_started" if running else "already_present"
                raise ChildError(
                    f"supervisor {self.title!r} has a child {child.child_id!r} already",
                    problem=problem,
                    child_id=child.child_id,
                )
        slot = _Slot(child, self._around.build(child, self))
        self._slots.append(slot)
        await self._start(slot)
        return self._started_or_raise(slot)

    def _started_or_raise(self, slot: _Slot) -> Any:
        if slot.ignored:
            self._drop_if_ignored(slot)
            return None
        if slot.state is State.EMPTY and slot.exit is not None and slot.exit.kind is not Kind.NORMAL:
            error = _with_cause(slot.exit).error
            if slot in self._slots:
                self._remove(slot)
            raise StartError(
                f"{slot.spec.title!r} did not start: {_told(error)}", child_id=slot.spec.child_id
            ) from error
        return slot.member.handle

    def launch_dynamic(self, child: Spec) -> tuple[_Slot, trio.Event]:
        """Begin to start one more child of a dynamic supervisor; the event says that it is up or has failed."""
        spec = self.spec
        if isinstance(spec, DynamicSupervisor) and len(self._slots) >= spec.max_children:
            raise ChildError(
                f"supervisor {self.title!r} has {len(self._slots)} of {spec.max_children:g} children",
                problem="max_children",
            )
        slot = _Slot(child, self._around.build(child, self))
        self._slots.append(slot)
        self._launch(slot)
        assert slot.acked is not None
        return slot, slot.acked

    def started_dynamic(self, slot: _Slot) -> Any:
        return self._started_or_raise(slot)

    async def terminate_child(self, key: object) -> None:
        slot = self.find(key)
        await self._terminate(slot)
        slot.member.end(Exit(Kind.SHUTDOWN), f"{slot.spec.title!r} was stopped")
        if slot in self._slots and (slot.spec.restart == "temporary" or self._is_dynamic):
            self._remove(slot)

    async def restart_child(self, key: object) -> Any:
        slot = self._empty_slot(key)
        await self._start(slot)
        if slot.ignored:
            return None
        if slot.state is State.EMPTY and slot.exit is not None and slot.exit.kind is not Kind.NORMAL:
            error = _with_cause(slot.exit).error
            raise StartError(
                f"{slot.spec.title!r} did not start: {_told(error)}", child_id=slot.spec.child_id
            ) from error
        return slot.member.handle

    async def delete_child(self, key: object) -> None:
        self._remove(self._empty_slot(key))

    def _empty_slot(self, key: object) -> _Slot:
        slot = self.find(key)
        if slot.state is State.RESTARTING:
            raise ChildError(
                f"{slot.spec.child_id!r} is being restarted", problem="restarting", child_id=slot.spec.child_id
            )
        if slot.state is not State.EMPTY:
            raise ChildError(f"{slot.spec.child_id!r} is running", problem="running", child_id=slot.spec.child_id)
        return slot

    # ---- looking ----

    def which_children(self) -> list[ChildInfo]:
        def handle(slot: _Slot) -> Any:
            match slot.state:
                case State.EMPTY:
                    return None
                case State.RESTARTING:
                    return "restarting"
                case _:
                    return slot.member.handle

        return [
            ChildInfo(slot.spec.child_id, handle(slot), "supervisor" if slot.spec.is_supervisor else "worker")
            for slot in self._slots
        ]

    def count_children(self) -> ChildCounts:
        supervisors = sum(slot.spec.is_supervisor for slot in self._slots)
        return ChildCounts(
            specs=len(self._slots),
            active=sum(slot.state in (State.RUNNING, State.STARTING, State.STOPPING) for slot in self._slots),
            supervisors=supervisors,
            workers=len(self._slots) - supervisors,
        )

    def slots(self) -> Iterable[tuple[Spec, Member, State, int, int]]:
        """Yield (description, member, state, incarnation, restarts) of every child, in start order."""
        for slot in self._slots:
            yield slot.spec, slot.member, slot.state, slot.incarnation, slot.restarts


class SupervisorRef:
    """A supervisor's administration; every call is a request to its loop, answered also while children restart."""

    __slots__ = ("_supervision",)

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision

    def __repr__(self) -> str:
        return f"<supervisor {self._supervision.title!r}>"

    async def start_child(self, *arguments: Any, **named: Any) -> Any:
        """Start one more child and return its ref (None if it ignored its start).

        A static supervisor takes what stands in a tree and adds it at the end; a dynamic one takes the arguments of its
        template's factory, or what stands in a tree where it has no template. Raises `ChildError`
        (already_started, already_present, max_children, stopped), `StartError` with its cause. Cancelled: the child
        goes on.
        """
        supervision = self._supervision
        spec = supervision.spec
        if isinstance(spec, DynamicSupervisor):
            child = self._from_template(spec, arguments, named)

            async def begin() -> Any:
                return supervision.launch_dynamic(child)

            # Children of a dynamic supervisor start side by side: the wait is the caller's, not the loop's.
            slot, up = await supervision.request(begin)
            await up.wait()
            return supervision.started_dynamic(slot)
        if len(arguments) != 1 or named:
            raise ChildError(
                "start_child wants one child: an actor class, Child(…) or Supervisor(…)", problem="not_found"
            )
        child = as_spec(arguments[0])
        return await supervision.request(lambda: supervision.start_child(child))

    @staticmethod
    def _from_template(spec: DynamicSupervisor, arguments: tuple[Any, ...], named: dict[str, Any]) -> Spec:
        from functools import partial  # noqa: PLC0415

        if spec.template is None:
            if len(arguments) != 1 or named:
                raise ChildError(
                    "start_child wants one child here, since the supervisor has no template", problem="not_found"
                )
            return as_spec(arguments[0])
        if not arguments and not named:
            return attrs.evolve(spec.template)
        return attrs.evolve(spec.template, factory=partial(spec.template.factory, *arguments, **named))

    async def terminate_child(self, child: object) -> None:
        """Stop a child, by id or ref, and wait for its end; its slot stays, empty, unless it is temporary or
        dynamic.
        """
        await self._supervision.request(lambda: self._supervision.terminate_child(child))

    async def restart_child(self, child: object) -> Any:
        """Start a child that was terminated or has finished; raises `ChildError` (not_found, running, restarting)."""
        return await self._supervision.request(lambda: self._supervision.restart_child(child))

    async def delete_child(self, child: object) -> None:
        """Forget a child that does not run; raises `ChildError` (not_found, running, restarting)."""
        await self._supervision.request(lambda: self._supervision.delete_child(child))

    async def which_children(self) -> list[ChildInfo]:
        """Return the children in start order (OTP returns them in reverse)."""
        return await self._supervision.request(self._looking(self._supervision.which_children))

    async def count_children(self) -> ChildCounts:
        return await self._supervision.request(self._looking(self._supervision.count_children))

    async def get_child_spec(self, child: object) -> Spec:
        """Return a child's description, by id or ref; raises `ChildError` (not_found)."""
        return await self._supervision.request(self._looking(lambda: self._supervision.find(child).spec))

    @staticmethod
    def _looking(look: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
        async def action() -> Any:
            return look()

        return action


class TaskMember:
    """A child that is no actor: an async function with a `task_status`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._scope = trio.CancelScope()
        self.value: Any = None

    def __repr__(self) -> str:
        return f"<task {self._child.title!r}>"

    @property
    def handle(self) -> TaskMember:
        return self

    async def live(self, started: Callable[[], None]) -> None:
        member = self

        class Status:
            """The same signature as Trio's; ours, since `nursery.start` would tie the start to whoever asked for it."""

            def started(self, value: Any = None) -> None:
                member.value = value
                limit.deadline = math.inf
                started()

        with trio.CancelScope() as self._scope, trio.move_on_after(self._child.startup_timeout) as limit:
            await self._child.factory(task_status=Status())
        if limit.cancelled_caught:
            raise trio.TooSlowError(f"it took longer than {self._child.startup_timeout:g} s to start")

    def stop(self, deadline: float) -> None:
        self._scope.cancel(reason="stopped by its supervisor")

    def kill(self) -> None: ...

    def end(self, exit: Exit, reason: str) -> None: ...

    def reopen(self) -> None: ...


def _with_cause(ended: Exit) -> Exit:
    """Return the exit with the user's error instead of the crash that carried it."""
    if isinstance(ended.error, Crash):
        return attrs.evolve(ended, error=cause_of(ended.error))
    return ended


def _told(error: BaseException | None) -> str:
    return "it was stopped" if error is None else f"{type(error).__name__}: {error}"


def _stack(task: trio.lowlevel.Task | None) -> str:
    if task is None:
        return ""
    return "\n".join(
        f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in task.iter_await_frames()
    )
