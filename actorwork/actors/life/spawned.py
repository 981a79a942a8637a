"""The actors that an actor has spawned: a dynamic supervisor among its helper tasks, made for the first of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from actorwork.actors.context.in_flight import in_flight
from actorwork.actors.refs.ref import ActorRef
from actorwork.actors.tree.spec import Child, as_spec

if TYPE_CHECKING:
    from actorwork.actors.context.nursery import ActorNursery
    from actorwork.actors.supervision.supervisor import RunningSupervisor


class SpawnedChildren:
    """What one incarnation has spawned; it ends with it, before `shutdown`."""

    __slots__ = ("_ended", "_up", "supervision")

    def __init__(self, title: str, supervision: RunningSupervisor, nursery: ActorNursery) -> None:
        self._up = trio.Event()
        self._ended = trio.Event()
        self.supervision = supervision
        nursery.start_soon(self._run, name=f"children of {title}")

    async def _run(self) -> None:
        # The task inherits the message that the first of them was spawned for, but the children do not act for it.
        in_flight.set(None)
        try:
            await self.supervision.live(self._up.set)
        finally:
            # `_up` too: if the supervisor ends before it is up, `spawn` must meet the error and not wait for good.
            self._up.set()
            self._ended.set()

    async def spawn(self, child: object, name: str | None) -> ActorRef[Any]:
        """Start one more actor and return its ref, once it is up."""
        spec = as_spec(cast("object", child)) if isinstance(child, (type, Child)) else Child(cast("Any", child))
        if name is not None:
            spec = attrs.evolve(cast("Child", spec), name=name)
        await self._up.wait()
        return cast("ActorRef[Any]", await self.supervision.handle.start_child(spec))

    def sent(self, origin: object) -> bool:
        """Whether a signal is about one of them: about its end, its restart, or a link to it."""
        ref: object = cast("tuple[object, object]", origin)[1] if isinstance(origin, tuple) else origin
        return isinstance(ref, ActorRef) and ref.cell.supervisor is self.supervision.handle

    async def end(self, deadline: float) -> None:
        """Stop them all, each within its bound and before the deadline, and wait until they have ended."""
        self.supervision.stop(deadline)
        with trio.CancelScope(shield=True):  # bounded: each of them has a bound
            await self._ended.wait()
