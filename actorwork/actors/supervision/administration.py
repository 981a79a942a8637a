"""Administration: what can be asked of a supervisor while its tree runs.

Every call is a request to the supervisor's loop. It is carried out between two decisions, also while a child cannot be
restarted; who is cancelled while waiting loses the answer, the request is carried out all the same. A supervisor that
does not run, or shuts down, refuses (`ChildError`, problem "stopped").

    start_child        add a child at the end and start it
    terminate_child    stop a child; its place stays, empty (a temporary or dynamic child leaves none)
    restart_child      start a child that is in its place and does not run
    delete_child       take such a place away
    which_children, count_children, get_child_spec     look
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from actorwork.actors.supervision.child_table import ChildRecord, State
from actorwork.actors.supervision.failures import start_error
from actorwork.actors.tree.spec import DynamicSupervisor, Spec, as_spec
from actorwork.errors import AlreadyRegistered, ChildError, SettingsError
from actorwork.policy.exits import Exit, Kind

if TYPE_CHECKING:
    from actorwork.actors.supervision.child_runner import ChildRunner
    from actorwork.actors.supervision.child_table import ChildTable
    from actorwork.actors.supervision.requests import RequestQueue
    from actorwork.actors.tree.spec import Supervisor


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


class Administered(Protocol):
    """The running supervisor behind a ref."""

    spec: Supervisor | DynamicSupervisor
    title: str
    is_dynamic: bool
    inbox: RequestQueue
    slots: ChildTable
    children: ChildRunner

    def add(self, child: Spec) -> ChildRecord: ...
    def forget(self, slot: ChildRecord, ended: Exit, reason: str) -> None: ...
    async def start(self, slot: ChildRecord) -> None: ...


class SupervisorRef:
    """A supervisor's administration; as good after its restart as before."""

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
        """The engine behind it, for the runtime."""
        return self._supervision

    async def start_child(self, *arguments: Any, **named: Any) -> Any:
        """Start one more child and return its ref, or None if it ignored its start.

        A static supervisor takes what stands in a tree and adds it at the end; a dynamic one takes arguments for its
        template's factory, or what stands in a tree where it has no template. Actors started so are local: no broker
        feeds them. Raises `ChildError` (already_started, already_present, max_children, stopped), and `StartError` with
        its cause, after which nothing is left of the child. Cancelled: the child goes on.
        """
        supervision = self._supervision
        child = _described(supervision.spec, arguments, named)
        if not supervision.is_dynamic:
            return await supervision.inbox.request(partial(self._start, child))
        # Children of a dynamic supervisor start side by side: the wait is the caller's, not the loop's.
        slot = await supervision.inbox.request_brief(partial(self._launch, child))
        while slot.state is State.STARTING:
            await slot.wait_news()
        if slot.failed_to_start:
            raise start_error(slot)
        return None if slot.ignored else slot.member.handle

    async def terminate_child(self, child: object) -> None:
        """Stop a child, named by its id or ref, and wait until it has ended; once that is so, do nothing.

        Its place stays, empty, unless it is temporary or dynamic. Raises `ChildError` (not_found, stopped).
        """
        inbox = self._supervision.inbox
        if self._supervision.is_dynamic:  # The loop goes on: its alarm sees to the bound, its end to the rest.
            slot = await inbox.request_brief(partial(self._begin_termination, child))
        else:
            slot = await inbox.request(partial(self._terminate, child))
        if slot.state is not State.STOPPING:
            await trio.lowlevel.checkpoint()
        while slot.state is State.STOPPING:
            await slot.wait_news()

    async def restart_child(self, child: object) -> Any:
        """Start a child that was terminated or has finished, and return its ref (None if it ignored its start).

        Counts as no restart. Raises `ChildError` (not_found, running, restarting, stopped), `StartError`, and
        `AlreadyRegistered` if its name is another one's by now.
        """
        return await self._supervision.inbox.request(partial(self._restart, child))

    async def delete_child(self, child: object) -> None:
        """Take away the place of a child that does not run; raises `ChildError` (not_found, running, restarting)."""
        await self._supervision.inbox.request(partial(self._delete, child))

    async def which_children(self) -> list[ChildInfo]:
        """Return the children in start order (OTP: in reverse)."""
        return await self._supervision.inbox.request(self._which)

    async def count_children(self) -> ChildCounts:
        """Return how many children there are: defined, running, supervisors, workers."""
        return await self._supervision.inbox.request(self._count)

    async def get_child_spec(self, child: object) -> Spec:
        """Return a child's description, by id or ref; raises `ChildError` (not_found)."""
        return await self._supervision.inbox.request(partial(self._spec, child))

    # ---- carried out by the loop ----

    async def _start(self, child: Spec) -> Any:
        supervision = self._supervision
        present = supervision.slots.get(child.child_id)
        if present is not None:
            is_up = present.state not in (State.EMPTY, State.RESTARTING)
            raise ChildError(
                f"supervisor {self.title!r} has a child {child.child_id!r} already"
                + ("" if is_up else "; restart_child starts it, delete_child makes room for another one"),
                problem="already_started" if is_up else "already_present",
                child_id=child.child_id,
            )
        slot = supervision.add(child)
        await supervision.start(slot)
        if slot.failed_to_start:
            supervision.slots.forget(slot, slot.last_exit, "did not start", keep=False)
            raise start_error(slot)
        return None if slot.ignored else slot.member.handle

    def _launch(self, child: Spec) -> ChildRecord:
        supervision = self._supervision
        spec, count = supervision.spec, len(supervision.slots)
        if isinstance(spec, DynamicSupervisor) and count >= spec.max_children:
            raise ChildError(
                f"supervisor {self.title!r} has {count} of {spec.max_children:g} children", problem="max_children"
            )
        slot = supervision.add(child)
        supervision.children.launch(slot)
        return slot

    def _begin_termination(self, key: object) -> ChildRecord:
        slot = self._supervision.slots.find(key)
        self._supervision.children.begin_end(slot, math.inf)
        return self._forget_empty(slot)

    async def _terminate(self, key: object) -> ChildRecord:
        slot = self._supervision.slots.find(key)
        await self._supervision.children.end([slot], math.inf)
        return self._forget_empty(slot)

    def _forget_empty(self, slot: ChildRecord) -> ChildRecord:
        supervision = self._supervision
        if slot.state is State.EMPTY and slot in supervision.slots:
            supervision.forget(slot, Exit(Kind.SHUTDOWN, incarnation=slot.incarnation), "was stopped")
        return slot

    async def _restart(self, key: object) -> Any:
        slot = self._at_rest(key)
        await self._supervision.start(slot)
        if slot.failed_to_start:
            slot.member.end(slot.last_exit, f"{slot.spec.title!r} did not start")
            # A name that is taken is between the asker and its owner: no start was tried.
            error = slot.last_exit.error
            raise error if isinstance(error, AlreadyRegistered) else start_error(slot)
        return None if slot.ignored else slot.member.handle

    async def _delete(self, key: object) -> None:
        self._supervision.slots.remove(self._at_rest(key))

    def _at_rest(self, key: object) -> ChildRecord:
        slot = self._supervision.slots.find(key)
        match slot.state:
            case State.EMPTY:
                return slot
            case State.RESTARTING:
                raise ChildError(f"{slot.key!r} is being restarted", problem="restarting", child_id=slot.key)
            case _:
                raise ChildError(f"{slot.key!r} is running", problem="running", child_id=slot.key)

    async def _which(self) -> list[ChildInfo]:
        return [ChildInfo(slot.spec.child_id, _shown(slot), _type(slot)) for slot in self._supervision.slots]

    async def _count(self) -> ChildCounts:
        slots = list(self._supervision.slots)
        supervisors = sum(slot.spec.is_supervisor for slot in slots)
        return ChildCounts(
            specs=len(slots),
            active=sum(slot.state not in (State.EMPTY, State.RESTARTING) for slot in slots),
            supervisors=supervisors,
            workers=len(slots) - supervisors,
        )

    async def _spec(self, key: object) -> Spec:
        return self._supervision.slots.find(key).spec


def _described(spec: Spec, arguments: tuple[Any, ...], named: dict[str, Any]) -> Spec:
    """Return the description of the child that `start_child` is asked for."""
    template = spec.template if isinstance(spec, DynamicSupervisor) else None
    if template is not None and not arguments and not named:
        return template
    if template is not None:
        return attrs.evolve(template, factory=partial(template.factory, *arguments, **named))
    if len(arguments) != 1 or named:
        raise SettingsError("start_child wants one child here: an actor class, Child(…) or Supervisor(…)")
    child = as_spec(arguments[0])
    if child.significant and getattr(spec, "auto_shutdown", "never") == "never":
        raise SettingsError(f"{child.child_id!r} is significant, which means something only with auto_shutdown")
    return child


def _shown(slot: ChildRecord) -> Any:
    match slot.state:
        case State.EMPTY:
            return None
        case State.RESTARTING:
            return "restarting"
        case _:
            return slot.member.handle


def _type(slot: ChildRecord) -> str:
    return "supervisor" if slot.spec.is_supervisor else "worker"
