"""The administration of a supervisor while its tree runs.

Every call is a request to the supervisor's loop, which serves it between two decisions, also while a child waits for
its restart, or does not end when it is terminated. A caller that is cancelled loses the answer; the request is served
all the same. A supervisor that does not run, or shuts down, refuses (`ChildError`, problem "stopped").

    start_child        add a child at the end and start it
    terminate_child    stop a child; its record stays, empty (that of a temporary or dynamic child goes)
    restart_child      start a child that has a record and does not run
    delete_child       remove such a record
    which_children, count_children, get_child_spec     read
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from actorwork.actors.supervision.child_table import ChildRecord, State
from actorwork.actors.supervision.failures import start_error
from actorwork.actors.tree.spec import DynamicSupervisor, Spec, as_spec
from actorwork.errors import AlreadyRegistered, ChildError, SettingsError

if TYPE_CHECKING:
    from actorwork.actors.supervision.child_runner import ChildRunner
    from actorwork.actors.supervision.child_table import ChildTable
    from actorwork.actors.supervision.children import ChildCounts, ChildInfo
    from actorwork.actors.supervision.requests import RequestQueue
    from actorwork.actors.tree.spec import Supervisor


if TYPE_CHECKING:

    class Administered(Protocol):
        """The running supervisor behind a ref."""

        spec: Supervisor | DynamicSupervisor
        title: str
        is_dynamic: bool
        queue: RequestQueue
        records: ChildTable
        runner: ChildRunner

        def add(self, child: Spec) -> ChildRecord: ...
        def forget(self, record: ChildRecord, reason: str) -> None: ...
        async def start(self, record: ChildRecord) -> None: ...


class SupervisorRef:
    """A supervisor's address; survives restarts of the supervisor."""

    __slots__ = ("_supervision",)

    def __init__(self, supervision: Administered) -> None:
        self._supervision = supervision

    def __repr__(self) -> str:
        return f"<supervisor {self._supervision.title!r}>"

    @property
    def title(self) -> str:
        return self._supervision.title

    @property
    def supervision(self) -> Administered:
        """The supervisor behind it; not for users."""
        return self._supervision

    async def start_child(self, *arguments: Any, **named: Any) -> Any:
        """Start one more child and return its ref, or None if it ignored its start.

        A static supervisor takes a part of a tree and adds it at the end; a dynamic one takes arguments for its
        template's factory, or a part of a tree if it has no template. Actors started here are local: no broker feeds
        them. Raises `ChildError` (already_started, already_present, max_children, stopped), `AlreadyRegistered` if its
        name is taken, and `StartError` with its cause; nothing is left of the child then. Cancelled: the child keeps
        running.
        """
        supervision = self._supervision
        child = _described(supervision.spec, arguments, named)
        if not supervision.is_dynamic:
            return await supervision.queue.request(partial(self._start, child))
        # Children of a dynamic supervisor start side by side: the caller waits for the start, not the loop.
        record = await supervision.queue.request_brief(partial(self._launch, child))
        # Only the first incarnation counts. By the time this task runs, the child may have been up, crashed, and failed
        # to start again: then it is kept, and tried again.
        while record.incarnation == 1 and record.state is State.STARTING:
            await record.wait_change()
        if record.incarnation == 1 and record.failed_to_start:
            raise start_error(record)
        return None if record.ignored else record.member.handle

    async def terminate_child(self, child: object) -> None:
        """Stop a child, named by its id or ref, and wait until it has ended; do nothing if it has ended already.

        Its record stays, empty, unless it is temporary or dynamic. Raises `ChildError` (not_found, stopped).
        """
        # The loop does not wait for the end: the alarm of the record holds the bound.
        record = await self._supervision.queue.request_brief(partial(self._begin_termination, child))
        if record.state is not State.STOPPING:
            await trio.lowlevel.checkpoint()
        while record.state is State.STOPPING:
            await record.wait_change()

    async def restart_child(self, child: object) -> Any:
        """Start a child that was terminated or has finished, and return its ref (None if it ignored its start).

        Counts as no restart. Raises `ChildError` (not_found, running, restarting, stopped), `StartError`, and
        `AlreadyRegistered` if another actor has taken its name.
        """
        return await self._supervision.queue.request(partial(self._restart, child))

    async def delete_child(self, child: object) -> None:
        """Remove the record of a child that does not run; raises `ChildError` (not_found, running, restarting)."""
        await self._supervision.queue.request(partial(self._delete, child))

    async def which_children(self) -> list[ChildInfo]:
        """Return the children in start order (OTP: in reverse)."""
        return await self._supervision.queue.read(self._which)

    async def count_children(self) -> ChildCounts:
        """Return how many children there are: defined, running, supervisors, workers."""
        return await self._supervision.queue.read(self._count)

    async def get_child_spec(self, child: object) -> Spec:
        """Return a child's description, by id or ref; raises `ChildError` (not_found)."""
        return await self._supervision.queue.read(partial(self._spec, child))

    # ---- requests, served by the loop ----

    async def _start(self, child: Spec) -> Any:
        supervision = self._supervision
        present = supervision.records.get(child.child_id)
        if present is not None:
            is_up = present.state not in (State.EMPTY, State.RESTARTING)
            raise ChildError(
                f"supervisor {self.title!r} has a child {child.child_id!r} already"
                + ("" if is_up else "; restart_child starts it, delete_child removes it"),
                problem="already_started" if is_up else "already_present",
                child_id=child.child_id,
            )
        record = supervision.add(child)
        await supervision.start(record)
        if record.failed_to_start:
            supervision.records.forget(record, "did not start", keep=False)
            raise start_error(record)
        return None if record.ignored else record.member.handle

    def _launch(self, child: Spec) -> ChildRecord:
        supervision = self._supervision
        spec, count = supervision.spec, len(supervision.records)
        if isinstance(spec, DynamicSupervisor) and count >= spec.max_children:
            raise ChildError(
                f"supervisor {self.title!r} has {count} of {spec.max_children:g} children", problem="max_children"
            )
        record = supervision.add(child)
        supervision.runner.launch(record)
        return record

    def _begin_termination(self, key: object) -> ChildRecord:
        supervision = self._supervision
        record = supervision.records.find(key)
        record.terminated = True
        supervision.runner.begin_end(record, math.inf)
        if record.state is State.EMPTY and record in supervision.records:
            supervision.forget(record, "was stopped")
        return record

    async def _restart(self, key: object) -> Any:
        record = self._at_rest(key)
        await self._supervision.start(record)
        if record.failed_to_start:
            record.member.end(record.final_exit, f"{record.member.label!r} did not start")
            # The name is taken: nothing was started, so this is no `StartError`.
            error = record.last_exit.error
            raise error if isinstance(error, AlreadyRegistered) else start_error(record)
        return None if record.ignored else record.member.handle

    async def _delete(self, key: object) -> None:
        self._supervision.records.remove(self._at_rest(key))

    def _at_rest(self, key: object) -> ChildRecord:
        record = self._supervision.records.find(key)
        match record.state:
            case State.EMPTY:
                return record
            case State.RESTARTING:
                raise ChildError(f"{record.key!r} is being restarted", problem="restarting", child_id=record.key)
            case _:
                raise ChildError(f"{record.key!r} is running", problem="running", child_id=record.key)

    def _which(self) -> list[ChildInfo]:
        from actorwork.actors.supervision.children import ChildInfo  # noqa: PLC0415 - a start needs none

        return [ChildInfo(record.spec.child_id, _shown(record), _type(record)) for record in self._supervision.records]

    def _count(self) -> ChildCounts:
        from actorwork.actors.supervision.children import ChildCounts  # noqa: PLC0415 - as above

        records = list(self._supervision.records)
        supervisors = sum(record.spec.is_supervisor for record in records)
        return ChildCounts(
            specs=len(records),
            active=sum(record.state not in (State.EMPTY, State.RESTARTING) for record in records),
            supervisors=supervisors,
            workers=len(records) - supervisors,
        )

    def _spec(self, key: object) -> Spec:
        return self._supervision.records.find(key).spec


def _described(spec: Spec, arguments: tuple[Any, ...], named: dict[str, Any]) -> Spec:
    """Return the description of the child that `start_child` starts."""
    template = spec.template if isinstance(spec, DynamicSupervisor) else None
    if template is not None and not arguments and not named:
        return template
    if template is not None:
        return attrs.evolve(template, factory=partial(template.factory, *arguments, **named))
    if len(arguments) != 1 or named:
        raise SettingsError("start_child wants one child here: an actor class, Child(…) or Supervisor(…)")
    child = as_spec(arguments[0])
    if child.significant and getattr(spec, "auto_shutdown", "never") == "never":
        raise SettingsError(f"{child.child_id!r} is significant, which has no effect without auto_shutdown")
    return child


def _shown(record: ChildRecord) -> Any:
    match record.state:
        case State.EMPTY:
            return None
        case State.RESTARTING:
            return "restarting"
        case _:
            return record.member.handle


def _type(record: ChildRecord) -> str:
    return "supervisor" if record.spec.is_supervisor else "worker"
