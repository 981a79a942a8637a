"""The staged shutdown: how a system that runs comes to an end, whatever ends it.

    1 intake    readers stop; messages from outside the actors are refused
    2 drain     handlers in flight may finish, local messages are handled; unread deliveries are released at once
    3 cancel    at the second signal, or when the time of stage 2 is over: Cancelled in the handlers, whose deliveries
                are released
    4 shutdown  `shutdown()` of the actors in reverse start order, each within its bound
      force     what still runs when the whole `grace` is over is abandoned (`run` ends the process)

The first three are here; the engine runs the fourth, since it is the end of the root supervisor. A system that is a
part of another one waits between 3 and 4, until its parent stops it: nothing is in flight there then, and the
supervisor in the parent ends its children in its own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from actorwork import events

if TYPE_CHECKING:
    from actorwork.abc import EventSink, Node
    from actorwork.actors.life.services import Resident
    from actorwork.runtime.options import Options


if TYPE_CHECKING:

    class Intake(Protocol):
        """An actor's deliveries."""

        def end_intake(self) -> None: ...
        async def release_deliveries(self) -> object: ...

    class ProcessPart(Protocol):
        """A part of the system that runs in another process, and goes through the same stages there."""

        @property
        def busy(self) -> bool: ...
        async def wait_quiet(self) -> None: ...
        def drain(self, within: float) -> None: ...
        def hurry(self) -> None: ...

    class Parts(Protocol):
        """All that is to end. Each is read anew at each step: actors and processes come and go meanwhile."""

        @property
        def residents(self) -> Iterable[Resident]: ...
        @property
        def consumers(self) -> Sequence[Intake]: ...
        @property
        def processes(self) -> Iterable[ProcessPart]: ...


class StagedShutdown:
    """One shutdown: who asked for it, how much time it has, and its first three stages."""

    def __init__(self, options: Options, emit: EventSink, parts: Parts) -> None:
        self._options = options
        self._emit = emit
        self._parts = parts
        self._begin_asked = trio.Event()
        self._end_asked = trio.Event()
        """Set once stage 4 may follow: at once, but for a process of a tree."""
        self._hurry_asked = trio.Event()
        self._drained = trio.Event()
        self._draining = trio.CancelScope()
        self._reason = ""
        self.forced = False
        """Whether handlers had to be cancelled."""
        self.began = 0.0
        """When it began, by Trio's clock; for a part of another system, when its parent stopped it."""

    def __repr__(self) -> str:
        return f"<staged shutdown, {self._reason or 'not begun'}>"

    @property
    def has_begun(self) -> bool:
        return self._begin_asked.is_set()

    @property
    def is_drained(self) -> bool:
        """Whether stages 1 to 3 are over: the node gives up its lease then."""
        return self._drained.is_set()

    @property
    def reason(self) -> str:
        """Why it has begun; empty before that."""
        return self._reason

    # ---- asking for it ----

    def drain(self, reason: str, within: float | None) -> None:
        """Begin, and stay after stage 3 until `stop`. Called again, it may only shorten the time of stage 2."""
        if within is not None:
            self._options = attrs.evolve(self._options, grace=within)
            self._draining.deadline = min(self._draining.deadline, trio.current_time() + self._options.drain)
        self._reason = self._reason or reason
        self._begin_asked.set()

    def stop(self, reason: str, within: float | None) -> None:
        """Begin, and go through all stages. Called again, it hurries."""
        if self._end_asked.is_set():
            self.hurry()
        self.drain(reason, within)
        self._end_asked.set()

    def hurry(self) -> None:
        """End stage 2 now: cancel the handlers."""
        self._hurry_asked.set()
        for process in list(self._parts.processes):
            process.hurry()

    def note_force(self) -> None:
        self.forced = True

    async def wait_asked(self) -> None:
        """Wait until it has to begin."""
        await self._begin_asked.wait()

    async def wait_drained(self) -> None:
        """Wait until stages 1 to 3 are over: nothing is in flight then."""
        await self._drained.wait()

    # ---- the stages ----

    async def end_work(self, node: Node) -> float:
        """Go through stages 1 to 3, and wait until stage 4 may follow; return its deadline, by Trio's clock.

        Each step is bounded, so that one which hangs (a broker that is away, a handler that swallows its cancellation)
        takes no time from those after it beyond its own.
        """
        self.began = trio.current_time()
        await self._stop_intake(node)
        await self._drain()
        if self._is_busy:
            await self._cancel()
        # Again: what was cancelled, or came from a reader after the first release, is released for other nodes.
        await self._release()
        # The node buffers settlements: without this wait the last ones would be lost with the lease.
        with trio.move_on_after(self._options.ending):
            await node.wait_settled()
        self._drained.set()
        if not self._end_asked.is_set():
            await self._end_asked.wait()
            self.began = trio.current_time()
        # However many actors there are to end, and however long each may take: `grace` is for all of them together.
        return max(self.began + self._options.grace, trio.current_time() + self._options.ending)

    def enter(self, stage: str) -> None:
        """Report a stage."""
        self._emit(events.ShutdownStage(stage, self._reason))

    async def _stop_intake(self, node: Node) -> None:
        self.enter("intake")
        # First all stop to take messages, without a checkpoint in between: an actor that drains could otherwise
        # send a message to one that still takes some, and the drain would not end.
        for resident in list(self._parts.residents):
            resident.refuse(f"{resident.title!r} takes no new messages: the system is shutting down ({self._reason})")
        for consumer in self._parts.consumers:
            consumer.end_intake()
        for process in list(self._parts.processes):
            process.drain(self._options.drain)
        with trio.move_on_after(self._options.ending):
            await node.stop_intake()

    async def _drain(self) -> None:
        self.enter("drain")
        # Before the wait: other nodes can handle the unread deliveries while the handlers here finish.
        await self._release()
        self._draining.deadline = min(self._draining.deadline, trio.current_time() + self._options.drain)
        with self._draining:
            await self._wait_quiet()

    async def _wait_quiet(self) -> None:
        # Imported here, since it is used at the end and not on the way to the first message.
        from trio_util import move_on_when  # noqa: PLC0415 # pyright: ignore[reportUnknownVariableType]

        async with move_on_when(self._hurry_asked.wait):
            # One pass is not enough: an actor that was quiet may get a local message from one that is still busy. So
            # until all are quiet at once, with no checkpoint between the first that is asked and the last.
            while any(resident.busy for resident in self._parts.residents) or self._is_any_process_busy:
                for resident in list(self._parts.residents):
                    await resident.wait_quiet()
                for process in list(self._parts.processes):
                    await process.wait_quiet()

    async def _cancel(self) -> None:
        self.forced = True
        self.enter("cancel")
        for resident in list(self._parts.residents):
            resident.end_in_flight()
        for process in list(self._parts.processes):
            process.hurry()
        with trio.move_on_after(self._options.ending):
            while self._is_busy:  # noqa: ASYNC110 - a handler that was cancelled notifies nothing when it ends
                await trio.sleep(0.01)
        if self._is_busy:
            self.enter("force")

    @property
    def _is_busy(self) -> bool:
        return any(resident.in_flight for resident in self._parts.residents) or self._is_any_process_busy

    @property
    def _is_any_process_busy(self) -> bool:
        return any(process.busy for process in self._parts.processes)

    async def _release(self) -> None:
        with trio.move_on_after(self._options.ending):
            for consumer in self._parts.consumers:
                await consumer.release_deliveries()
