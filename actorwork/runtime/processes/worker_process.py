"""One OS process, as its parent sees it: from its launch to the release of its lease.

A process whose loop is blocked still sends heartbeats, from a thread, with the time since the loop ran last. One that
was stopped, or is held up in code that keeps Python's own lock, sends none. Both show here as one figure: how long ago
the loop was last known to run. Before that ends a process it is asked once more: it may have been this side that did
not read its frames.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import trio

from actorwork import events
from actorwork.errors import ActorworkError
from actorwork.runtime.outline import Branch, branch_from
from actorwork.runtime.processes.config import ANSWER
from actorwork.runtime.processes.control import Frame, Frames, RemoteFailure, packed
from actorwork.runtime.processes.launching import ProcessExit, ProcessHandle

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink
    from actorwork.actors.tree.spec import Process
    from actorwork.policy.limits import Rates
    from actorwork.telemetry.metrics.registry import Registry

_GONE: Final = 5.0
"""Seconds that a process which was killed may take to be gone: it may be in the middle of a read from a bad disk."""
_RELEASE: Final = 2.0
"""Seconds for releasing the lease of a process that died; after that the lease runs out by itself."""
_MARGIN: Final = 0.1
"""The part of its time that a process leaves to its own end, at most a second: force is for those that hang."""


class Surroundings(Protocol):
    """What a process uses of the system around it."""

    @property
    def emit(self) -> EventSink: ...
    @property
    def broker(self) -> Callable[[], Broker]: ...
    @property
    def forced(self) -> Callable[[], None]: ...
    @property
    def metrics(self) -> Registry | None:
        """Where the metrics of processes are added up, if any are counted."""
        ...


class WorkerProcess:
    """One OS process, from its launch to its end."""

    def __init__(self, handle: ProcessHandle, spec: Process, system: Surroundings) -> None:
        self.incarnation: str | None = None
        """The name under which it owns deliveries."""
        self._status: tuple[Branch | None, Counter[str]] = (None, Counter())
        """Its tree and its counters, as it reported them last."""
        self.quota: Literal["open", "taken", "spent"] = "open"
        """Whether it has taken, or settled, all messages that it may handle."""
        self.unwanted = ""
        """Why it is to be replaced now, if it has asked for that."""
        self.is_up = False
        self.has_suspects = False
        """Whether it has a message in flight that another process had died with."""
        self.is_drained = False
        self.is_ending = False
        """Whether it was asked to drain, or to stop."""
        self._reported_end: tuple[bool, RemoteFailure | None] = (False, None)
        """Whether its system has ended in order, and the error that it has ended by, as it reported them."""
        self.ended: ProcessExit | None = None
        self.killed_for = ""
        """The reason for which this side killed it."""
        self.stacks = ""
        """The stacks of its threads at that time, unless an event carries them."""
        self._handle = handle
        self._spec = spec
        self._system = system
        self._frames = Frames()
        self._last_tick = trio.current_time()
        """When its loop was last known to run, by the clock of this side."""
        self._answered_stacks: str | None = None
        self._unsent: list[bytes] | None = []
        """The frames for it, until it has its configuration; then None."""
        self._change = trio.Event()

    def __repr__(self) -> str:
        return f"<process {self.pid} of {self._spec.title!r}>"

    @property
    def pid(self) -> int:
        return self._handle.pid

    @property
    def tree(self) -> Branch | None:
        return self._status[0]

    @property
    def statistics(self) -> Counter[str]:
        return self._status[1]

    @property
    def has_finished(self) -> bool:
        """Whether it reported that its system ended in order: exit code 0 alone does not prove that."""
        return self._reported_end[0]

    @property
    def failure(self) -> RemoteFailure | None:
        """The error that it reported as its end."""
        return self._reported_end[1]

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    @property
    def is_busy(self) -> bool:
        """Whether it may have something in flight."""
        return self.is_up and not (self.is_drained or self.is_over)

    @property
    def is_in_order(self) -> bool:
        """Whether it has ended, and its system in order before that."""
        return self.is_over and self.has_finished

    async def run(self, config: bytes) -> None:
        """Send it its configuration and read its frames, until it has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._configure, config)
                nursery.start_soon(self._listen)
                if self._spec.hang_timeout is not None:
                    nursery.start_soon(self._watch, self._spec.hang_timeout)
                ended = await self._handle.wait_ended()
                nursery.cancel_scope.cancel(reason="it has ended")
            # Its end is seen before its last frames are read, and these tell an end in order from a crash.
            while data := self._handle.receive_nowait():
                self._feed(data)
            self.ended = ended
        finally:
            self._notify_change()

    async def _configure(self, config: bytes) -> None:
        await self._handle.send_all(struct.pack(">Q", len(config)) + config)
        unsent, self._unsent = self._unsent or [], None
        for frame in unsent:
            self._handle.send(frame)

    def _send(self, kind: str, /, **facts: Any) -> None:
        """Send a frame; until the configuration is sent, keep it: the configuration is no frame, and comes first."""
        frame = packed(kind, **facts)
        if self._unsent is None:
            self._handle.send(frame)
        else:
            self._unsent.append(frame)

    async def wait_change(self) -> None:
        """Wait until it is up, drained, or has ended."""
        await self._change.wait()

    async def wait_over(self) -> None:
        """Wait until it has ended."""
        while not self.is_over:
            await self.wait_change()

    def _notify_change(self) -> None:
        self._change.set()
        self._change = trio.Event()

    # ---- commands to it ----

    def drain(self, within: float) -> None:
        self.is_ending = True
        self._send("drain", within=within)

    def hurry(self) -> None:
        self._send("hurry")

    def change_log_levels(self, level: str) -> None:
        self._send("log levels", level=level)

    def change_rates(self, rates: Rates) -> None:
        self._send("rates", limits=rates.limits, actors=rates.actors)

    def change_paused_sources(self, names: Collection[str]) -> None:
        self._send("paused sources", names=list(names))

    def stop(self, within: float) -> None:
        """Ask it to end within `within` seconds, after which it will be killed."""
        self.is_ending = True
        self._send("stop", within=within - min(1.0, within * _MARGIN))

    def kill(self, why: str = "") -> None:
        self.killed_for = self.killed_for or why
        self._handle.kill()

    # ---- frames from it ----

    async def _listen(self) -> None:
        while data := await self._handle.receive():
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except ValueError as error:
            self.kill(f"process {self.pid} was killed: it sent what is not a frame ({error})")
            return
        for frame in frames:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        match frame.get("type"):
            case "heartbeat":
                self._note_tick(frame.get("age"))
            case "status":
                self._status = branch_from(frame["tree"]), Counter(frame.get("statistics") or {})
                if self._system.metrics is not None:
                    self._system.metrics.absorb(self._spec.title, self.pid, frame.get("metrics") or ())
            case "quota":
                self.quota = "spent" if frame.get("spent") else "taken"
                self._notify_change()
            case "unwanted":
                self.unwanted = self.unwanted or str(frame.get("why"))
                self._notify_change()
            case "event":
                self._take_event(frame)
            case "node":
                # Its tree is up, and from here on it handles messages. It may die of the first one, before it reports
                # that it has started: that is no failed start.
                self.incarnation = str(frame.get("incarnation"))
                self._come_up()
            case "started":
                self._come_up()
            case "suspects":
                self.has_suspects = bool(frame.get("present"))
            case "drained":
                self.is_drained = True
                if frame.get("forced"):
                    self._system.forced()
                self._notify_change()
            case "stacks":
                self._answered_stacks = str(frame.get("text"))
                self._note_tick(frame.get("age"))
                self._notify_change()
            case "stuck":
                self._end_stuck(frame)
            case "failed" | "ended":
                failure = frame.get("failure")
                self._reported_end = failure is None, None if failure is None else RemoteFailure.read(failure)
            case _:
                pass

    def _take_event(self, frame: Frame) -> None:
        # Imported here: only a program with a sink of its own needs it.
        from actorwork.runtime.processes.event_frames import event_from  # noqa: PLC0415

        event = event_from(frame, events.Origin(self._spec.title, self.pid, self.incarnation or ""))
        if event is not None:
            # That process has counted it for its own metrics.
            getattr(self._system.emit, "forward", self._system.emit)(event)

    def _come_up(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._note_tick(0.0)
            self._notify_change()

    # ---- hanging ----

    async def ask_stacks(self, within: float) -> str:
        """Return the stacks of its threads; empty if it does not answer in time."""
        self._answered_stacks = None
        self._send("stacks")
        with trio.move_on_after(within):
            while self._answered_stacks is None and not self.is_over:
                await self.wait_change()
        return self._answered_stacks or ""

    def _note_tick(self, age: float | None) -> None:
        if age is not None:
            self._last_tick = max(self._last_tick, trio.current_time() - age)

    async def _watch(self, limit: float) -> None:
        """Kill it when its loop has not run for `limit` seconds, and report its stacks."""
        while not self.is_up:
            await self.wait_change()
        while True:
            await trio.sleep_until(self._last_tick + limit)
            if trio.current_time() - self._last_tick < limit:
                continue
            stacks = await self.ask_stacks(min(ANSWER, limit))
            silent = trio.current_time() - self._last_tick
            if silent < limit:  # It was this side that did not read, or its loop has just resumed.
                continue
            self._system.emit(events.ProcessHung(self._spec.title, self.pid, silent, stacks))
            self.kill(f"process {self.pid} was killed, since its loop had not run for {silent:.1f} s")
            return

    def _end_stuck(self, frame: Frame) -> None:
        """Kill it for a handler that does not end, though the loop runs: nothing else can end a thread."""
        actor, seconds = str(frame.get("actor")), float(frame.get("seconds") or 0.0)
        self._system.emit(
            events.HandlerHung(
                self._spec.title, self.pid, actor, str(frame.get("message")), seconds, str(frame.get("text"))
            )
        )
        late = f"a handler of {actor!r} had not ended {seconds:.1f} s after its deadline"
        self.kill(f"process {self.pid} was killed, since {late}")

    # ---- its end ----

    async def clean_up(self) -> None:
        """Wait until it is gone, and release its lease, unless it has done so itself. Bounded, whatever hangs."""
        in_order = self.is_in_order
        if not self.is_over:
            self._handle.kill()
            with trio.move_on_after(_GONE):
                self.ended = await self._handle.wait_ended()
        self._handle.close()
        # Only now: while it lives it may still settle, and a release would let other nodes handle the same deliveries.
        if self.incarnation is not None and not in_order:
            try:
                with trio.fail_after(_RELEASE):
                    await self._system.broker().release_lease(self.incarnation)
            except (ActorworkError, trio.TooSlowError) as error:
                what_next = f"other nodes take over the messages of process {self.pid} when its lease has run out"
                why = f"no answer in {_RELEASE:g} s" if isinstance(error, trio.TooSlowError) else str(error)
                self._system.emit(events.BrokerTrouble("releasing the lease of a process", why, what_next))
