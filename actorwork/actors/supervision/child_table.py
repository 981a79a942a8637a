"""The records of a supervisor's children: a state, an alarm and the last exit for each.

    EMPTY        defined, not running
    STARTING     its task runs, and has not reported that it is up
    RUNNING      it is up
    STOPPING     it was asked to end, or cancelled; then EMPTY: the loop needs no notice of an end that it asked for
    ENDED        it has ended by itself, and the supervisor has not judged that yet
    RESTARTING   it will be started again, at once or when its alarm is due

The key of a child is its id in a static supervisor, and its ref in a dynamic one. All operations take constant time (an
alarm: logarithmic), except looking for a static child by its ref.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actorwork.errors import ChildError
from actorwork.policy.exits import Exit, Kind
from actorwork.policy.restart import Failures

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Spec

_NEVER_RAN: Final = Exit(Kind.NORMAL)
_NO_FAILURES: Final = Failures()


class State(enum.Enum):
    """What a child is doing."""

    EMPTY = "empty"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"
    RESTARTING = "restarting"


GOING: Final = (State.EMPTY, State.STOPPING)
"""The states of a child that does not run, or not for long."""


if TYPE_CHECKING:

    class Member(Protocol):
        """A child as its supervisor sees it: a cell, a supervisor, a task, a process; outlives its incarnations."""

        @property
        def handle(self) -> Any:
            """What `start_child` returns and `which_children` shows; hashable."""
            ...

        @property
        def label(self) -> str:
            """What people tell it from others by, in trees and logs."""
            ...

        async def live(self, started: Callable[[], None]) -> None:
            """Run one incarnation; call `started` once it is up. Raises the error that ended it."""
            ...

        def stop(self, deadline: float) -> None:
            """Ask it to end, within the deadline (Trio's clock). Never waits."""
            ...

        def kill(self) -> None:
            """Cancel what it keeps under shields of its own; the supervisor cancels the rest."""
            ...

        def end(self, exit: Exit, reason: str) -> None:
            """End for good, unless it is reopened."""
            ...

        def reopen(self) -> None:
            """Undo `end`: it will run again."""
            ...


class ChildRecord:
    """A child's place, and the facts about its incarnations. Small: there may be a hundred thousand."""

    __slots__ = (
        "alarm",
        "changed",
        "failures",
        "incarnation",
        "key",
        "last_exit",
        "member",
        "restarts",
        "scope",
        "spec",
        "state",
        "task",
        "terminated",
        "up",
    )

    def __init__(self, key: Hashable, spec: Spec, member: Member) -> None:
        self.key = key
        self.spec = spec
        self.member = member
        self.state = State.EMPTY
        self.incarnation = 0
        self.restarts = 0
        self.failures = _NO_FAILURES
        self.last_exit = _NEVER_RAN
        """How it ended last: the incarnation, or the wait for its restart."""
        self.alarm = math.inf
        """When something is due: its restart (RESTARTING), its cancellation or a report (STOPPING)."""
        self.scope = trio.CancelScope(shield=True)
        self.task: trio.lowlevel.Task | None = None
        self.up = False
        """Whether the incarnation has reported that it is up."""
        self.terminated = False
        """Whether it was asked to end by `terminate_child`: then for good, also if its record stays."""
        self.changed: trio.Event | None = None
        """Set at the next change; made on demand, since few are waited for."""

    def __repr__(self) -> str:
        return f"<record of {self.key!r}: {self.state.value}, incarnation {self.incarnation}>"

    @property
    def ignored(self) -> bool:
        """Whether its latest start raised `Ignore`: there is nothing to run."""
        ended = self.last_exit
        return ended.kind is Kind.IGNORED and ended.incarnation == self.incarnation

    @property
    def failed_to_start(self) -> bool:
        """Whether its latest start failed, or was ended before it was up."""
        ended = self.last_exit
        has_ended = ended.incarnation == self.incarnation
        return not self.up and has_ended and ended.kind in (Kind.INIT_FAILED, Kind.SHUTDOWN)

    @property
    def is_kept(self) -> bool:
        """Whether the record stays when its child has ended for good."""
        return self.spec.restart != "temporary"

    @property
    def final_exit(self) -> Exit:
        """What watchers and links receive if it does not run again."""
        return self.last_exit if self.incarnation else Exit(Kind.SHUTDOWN)

    def start_refused(self, error: Exception) -> None:
        """Record a start that failed before a task ran."""
        self.incarnation += 1
        self.up = False
        self.last_exit = Exit(Kind.INIT_FAILED, error, incarnation=self.incarnation)

    def notify_change(self) -> None:
        """Wake all tasks in `wait_change`."""
        if self.changed is not None:
            self.changed.set()
            self.changed = None

    async def wait_change(self) -> None:
        """Wait for the next change. Cancelled: nothing happens to the child."""
        if self.changed is None:
            self.changed = trio.Event()
        await self.changed.wait()


class Alarms:
    """When which record is due: a heap, from which entries that are void are dropped lazily."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ChildRecord]] = []
        self._numbers = itertools.count()
        self._set = 0

    def set(self, record: ChildRecord, moment: float) -> None:
        """Set when a record is due (Trio's clock), instead of its former alarm; infinite: not at all."""
        if moment == record.alarm:
            return
        self._set += (moment < math.inf) - (record.alarm < math.inf)
        record.alarm = moment
        if moment < math.inf:
            heapq.heappush(self._heap, (moment, next(self._numbers), record))
        if len(self._heap) > 2 * self._set + 64:  # Otherwise records that are gone would be kept until they are due.
            self._heap = [entry for entry in self._heap if entry[2].alarm == entry[0]]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """Return when the next record is due."""
        while self._heap and self._heap[0][2].alarm != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float) -> list[ChildRecord]:
        """Return the records that are due, and clear their alarms."""
        due: list[ChildRecord] = []
        while self.next() <= now:
            record = self._heap[0][2]
            self.set(record, math.inf)
            due.append(record)
        return due


class ChildTable:
    """The records of one supervisor, in start order."""

    def __init__(self, supervisor: str, build: Callable[[Spec], Member]) -> None:
        self._supervisor = supervisor
        self._build = build
        self._by_key: dict[Hashable, ChildRecord] = {}
        self._boot_list: dict[Hashable, ChildRecord] = {}
        self.alarms = Alarms()

    def __repr__(self) -> str:
        return ", ".join(f"{record.key}: {record.state.value}" for record in self)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[ChildRecord]:
        return iter(self._by_key.values())

    def __reversed__(self) -> Iterator[ChildRecord]:
        return reversed(self._by_key.values())

    def __contains__(self, record: ChildRecord) -> bool:
        return self._by_key.get(record.key) is record

    def add(self, child: Spec, *, by_ref: bool) -> ChildRecord:
        """Make a record for one more child, at the end of the table."""
        member = self._build(child)
        record = ChildRecord(member.handle if by_ref else child.child_id, child, member)
        self._by_key[record.key] = record
        return record

    def keep_as_boot_list(self) -> None:
        """Remember the present records, for `reset_to_boot_list`."""
        self._boot_list = dict(self._by_key)

    def reset_to_boot_list(self) -> None:
        """Go back to the boot list: as in OTP, a restart of the supervisor loses children added at run time."""
        for record in list(self):
            if self._boot_list.get(record.key) is not record:
                self.forget(record, "was lost when its supervisor was restarted", keep=False)
        self._by_key = dict(self._boot_list)

    def remove(self, record: ChildRecord) -> None:
        """Remove a record; one of the boot list comes back when the supervisor is restarted."""
        del self._by_key[record.key]
        self.alarms.set(record, math.inf)

    def forget(self, record: ChildRecord, reason: str, *, keep: bool) -> None:
        """End a member for good that does not run; remove its record, or keep it, empty."""
        record.state = State.EMPTY
        record.member.end(record.final_exit, f"{record.member.label!r} {reason}")
        if not keep and record in self:
            self.remove(record)

    def get(self, key: Hashable) -> ChildRecord | None:
        return self._by_key.get(key)

    def find(self, key: object) -> ChildRecord:
        """Return the record of a child by its key or its ref; raises `ChildError`."""
        try:
            found = self._by_key.get(key)
        except TypeError:  # A key that cannot be hashed gets the same error as an unknown one.
            found = None
        found = found or next((record for record in self if record.member.handle == key), None)
        if found is None:
            few = ", ".join(repr(record.key) for record in itertools.islice(self, 10)) or "none"
            raise ChildError(
                f"supervisor {self._supervisor!r} has no child {key!r}; it has {few}{', …' * (len(self) > 10)}",
                problem="not_found",
                child_id=key,
            )
        return found
