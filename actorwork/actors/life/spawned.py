"""The actors that an actor has spawned: a dynamic supervisor among its helper tasks, made with the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs
import trio

from actorwork.actors.context.in_flight import in_flight
from actorwork.actors.tree.spec import Child, DynamicSupervisor, as_spec
from actorwork.errors import NotRunning

if TYPE_CHECKING:
    from actorwork.actors.life.cell import Cell
    from actorwork.actors.refs.ref import ActorRef
    from actorwork.actors.supervision.supervisor import RunningSupervisor


class SpawnedChildren:
    """What one incarnation has spawned; it ends with it, before `shutdown`."""

    __slots__ = ("_cell", "_ended", "_up", "supervision")

    def __init__(self, cell: Cell) -> None:
        if cell.services.new_supervision is None:
            raise NotRunning(f"{cell.title!r} runs outside of a system and cannot spawn")
        self._cell = cell
        self._up = trio.Event()
        self._ended = trio.Event()
        self.supervision: RunningSupervisor = cell.services.new_supervision(
            DynamicSupervisor(name=f"children of {cell.title}")
        )
        cell.helpers.start_soon(self._run, name=f"children of {cell.title}")

    async def _run(self) -> None:
        in_flight.set(None)  # what they do is not on behalf of the message that the first of them was spawned for
        try:
            await self.supervision.live(self._up.set)
        finally:
            self._up.set()
            self._ended.set()

    async def spawn(self, child: object, name: str | None) -> ActorRef[Any]:
        """Start one more actor and return its ref, once it is up."""
        spec = as_spec(child if isinstance(child, (type, Child)) else Child(cast("Any", child)))
        if name is not None:
            spec = attrs.evolve(cast("Child", spec), name=name)
        await self._up.wait()
        return cast("ActorRef[Any]", await self.supervision.handle.start_child(spec))

    async def end(self, deadline: float) -> None:
        """Stop them all, each within its bound and before the deadline, and wait for that."""
        self.supervision.stop(deadline)
        with trio.CancelScope(shield=True):  # bounded: each of them has a bound
            await self._ended.wait()
