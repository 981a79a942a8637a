"""What runs in a process that a tree has started: a system of its own, which its parent controls.

    the loop       runs the system; reports that it runs, and its status; carries out drain, hurry and stop
    the channel    a thread that a blocked loop cannot stop (parent_channel.py). A handler that holds Python's global
                   lock stops it too: for that there is a timer of faulthandler's, which needs no lock and writes the
                   stacks of all threads to standard error

A signal to the whole process group does nothing here, since only the root process acts on signals. When the parent is
gone, the process ends at once: its lease runs out, and other nodes take over its deliveries.
"""

from __future__ import annotations

import faulthandler
import math
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorwork import events
from actorwork.actors.execution.workplace import interrupts
from actorwork.groups import is_cancellation, only_leaf
from actorwork.runtime.processes.config import ANSWER, NOT_OURS, NodeConfig, NodeSystem
from actorwork.runtime.processes.control import Frame, RemoteFailure
from actorwork.runtime.processes.exit_codes import EXIT_FAILED, EXIT_FORCED
from actorwork.runtime.processes.parent_channel import ParentChannel
from actorwork.stacks import all_stacks
from actorwork.telemetry.configuring import configure
from actorwork.telemetry.logs import LogSink

if TYPE_CHECKING:
    from actorwork.message import Delivery
    from actorwork.policy.settlement import Settlement
    from actorwork.runtime.processes.event_frames import EventForwarding

_PR_SET_PDEATHSIG: Final = 1
_ROUNDED: Final = 1e-3
"""Seconds by which sums of the same times may differ."""


def main(end: socket.socket) -> None:
    """Run the node; called by multiprocessing, in the new process. Its exit code is that of `run`."""
    # The parent has started it with these signals blocked. Handlers come first and unblocking second: the other way
    # round, a signal that is pending already would kill the process.
    for number in NOT_OURS:
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_OURS)
    _end_with_parent()
    channel = ParentChannel(end)
    content = channel.read_config()
    channel.start_thread()
    try:
        # Here, and not as an argument of multiprocessing's: unpickling imports the classes of the tree, and an error in
        # their modules has to reach the parent.
        config: NodeConfig = pickle.loads(content)  # noqa: S301 - the parent's own, through a socket that only it holds
    except Exception as error:  # noqa: BLE001 - whatever a module raises while it is imported, the parent has to know
        channel.send("failed", failure=attrs.asdict(RemoteFailure.of(error)))
        channel.finish()
        sys.exit(EXIT_FAILED)
    if config.log_format is not None:
        configure(config.log_level, "json" if config.log_format == "json" else "text", one_of_several=True)
    code = trio.run(_run, config, channel)
    channel.finish()
    if code:
        sys.exit(code)


def _ignore(number: int, frame: object) -> None:
    """Take a signal, and do nothing: SIG_IGN instead would be inherited by the programs that this process starts."""


def _end_with_parent() -> None:
    """Ask the kernel to end this process with its parent, where it can: the channel's thread needs Python's own lock,
    and a handler may hold that.
    """
    if sys.platform != "linux":
        return
    with suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415 - not every Python has it

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _run(config: NodeConfig, channel: ParentChannel) -> int:
    """Run the system until the parent stops it, or its tree cannot be kept alive; return the exit code."""
    emit = NodeSink(config, channel)
    first, *others = config.children  # A single supervisor is the root, and needs none above it.
    system: NodeSystem | None = None
    try:
        async with (
            config.open(
                [first, *others] if others else first,
                broker=config.broker,
                emit=emit,
                **attrs.asdict(config.options, recurse=False),
            ) as system,
            trio.open_nursery() as nursery,
        ):
            if config.rates is not None:
                system.change_rates(config.rates)
            channel.serve(config.heartbeat_interval, CommandHandler(system, channel, nursery))
            nursery.start_soon(_report_status, system, channel, emit, config.heartbeat_interval, _last_resort(config))
            channel.send("started")
            await system.wait_stopped()
            # The final counters: what was settled since the last status would be missing from the parent's sums.
            channel.send("status", **_status(system))
            nursery.cancel_scope.cancel()
    except BaseException as error:
        whole = only_leaf(error)
        if is_cancellation(whole):
            raise
        # Whatever ends this system is only reported: the supervisor in the parent decides what it is the end of.
        emit.report_dropped()
        channel.send("failed" if system is None else "ended", failure=attrs.asdict(RemoteFailure.of(whole)))
        return EXIT_FAILED
    emit.report_dropped()
    channel.send("ended", failure=None)
    return EXIT_FORCED if system.forced else 0


class NodeSink:
    """Takes the events of the process: tells the parent what it has to know, logs them, and forwards them if its
    `emit=` takes them.
    """

    def __init__(self, config: NodeConfig, channel: ParentChannel) -> None:
        self.process = config.title
        """The title of the process."""
        self._channel = channel
        self.hang_timeout = config.hang_timeout or math.inf
        """How late a handler has to be reported, so that the process is ended for it."""
        self.quota: Quota | None = None
        """How many messages the actors of the process may still take."""
        if config.max_messages is not None:
            # Imported here: only such a process needs it.
            from actorwork.runtime.processes.recycling import Quota  # noqa: PLC0415

            self.quota = Quota(config.max_messages, partial(channel.send, "quota"))
        self._log = LogSink(f"{socket.gethostname()}:{os.getpid()}", is_child=True)
        self.wants_process_events = config.forwards_events
        """Of the processes below this one: their events are passed on."""
        self._forward: EventForwarding | None = None
        if config.forwards_events:
            # Imported here: only a program with a sink of its own needs it.
            from actorwork.runtime.processes.event_frames import EventForwarding  # noqa: PLC0415

            self._forward = EventForwarding(channel.send_spare)

    def __repr__(self) -> str:
        return f"<sink of process {os.getpid()}>"

    def report_dropped(self) -> None:
        """Emit how many events did not reach the parent since the last report."""
        if self._forward is not None and (count := self._forward.take_dropped()):
            event = events.EventsDropped(self.process, os.getpid(), count)
            self._log(event)
            self._channel.send("event", **self._forward.facts_of(event))  # No spare frame: it is not dropped again.

    @property
    def wants_acks(self) -> bool:
        """Whether anything is done about the end of a delivery that was acknowledged."""
        return self._forward is not None or self._log.wants_acks

    def acked(self, actor_id: str, title: str, delivery: Delivery, settlement: Settlement, seconds: float) -> None:
        """Take the end of a delivery that was acknowledged; see `abc.acks_of`."""
        if self.wants_acks:
            self(events.Settled(actor_id, title, delivery, settlement, seconds))

    def __call__(self, event: events.Event) -> None:
        if event.origin is None:  # Else it is one of a process below, which has done all this itself.
            self._report(event)
            self._log(event)
        if self._forward is not None:
            self._forward(event)
        if (
            event.origin is None
            and isinstance(event, events.ChildExited)
            and event.exit.error is not None
            and interrupts(event.exit.error)
        ):
            # No user interrupts this process: a handler raised `KeyboardInterrupt`, and will raise it again on every
            # node that its message is released to. So it is not released: the process dies with the message in flight,
            # and that counts as a crash of the message.
            self._channel.send("ended", failure=attrs.asdict(RemoteFailure.of(event.exit.error)))
            self._channel.finish()
            os._exit(EXIT_FAILED)

    def _report(self, event: events.Event) -> None:
        match event:
            case events.NodeStarted(incarnation=incarnation) | events.LeaseLost(successor=incarnation):
                # Without a checkpoint between this and the lease, so before a delivery is handled under it: if the
                # process dies, the parent must know which lease to release.
                self._channel.send("node", incarnation=incarnation)
            case events.SuspectsInFlight(present=present):
                # Before a handler gets them, for the same reason.
                self._channel.send("suspects", present=present)
            case events.Overdue(seconds=seconds, timeout=timeout) if seconds - timeout >= self.hang_timeout - _ROUNDED:
                late, stacks = seconds - timeout, all_stacks()
                self._channel.send("stuck", actor=event.title, message=event.message_id, seconds=late, text=stacks)
            case events.CancellationIgnored(title=title, message_id=message_id):
                self._channel.send("unwanted", why=f"message {message_id} of {title!r} was cancelled by force")
            case _:
                pass


class CommandHandler:
    """Carries out the commands of the parent."""

    def __init__(self, system: NodeSystem, channel: ParentChannel, nursery: trio.Nursery) -> None:
        self._system = system
        self._channel = channel
        self._nursery = nursery
        self._is_draining = False

    def __call__(self, frame: Frame) -> None:
        within = float(frame.get("within") or 0.0)
        match frame.get("type"):
            case "drain":
                self._system.drain(within)
                if not self._is_draining:
                    self._is_draining = True
                    self._nursery.start_soon(self._report_drained)
            case "hurry":
                self._system.hurry()
            case "log levels":
                self._system.change_log_levels(str(frame.get("level")))
            case "rates":
                # Imported here: few programs change a rate.
                from actorwork.policy.limits import Rates  # noqa: PLC0415

                self._system.change_rates(Rates(frame.get("limits") or {}, frame.get("actors") or {}))
            case "paused sources":
                self._system.change_paused_sources(frame.get("names") or ())
            case "stop":
                self._system.stop("its supervisor", within=within)
            case _:
                pass

    async def _report_drained(self) -> None:
        await self._system.wait_drained()
        self._channel.send("drained", forced=self._system.forced)


def _last_resort(config: NodeConfig) -> float | None:
    """Return after how many seconds without a tick the stacks go to standard error: shortly before the kill."""
    if config.hang_timeout is None or sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        return None
    return config.hang_timeout + min(ANSWER, config.hang_timeout) / 2


def _status(system: NodeSystem) -> dict[str, object]:
    status: dict[str, object] = {"tree": system.outline(), "statistics": dict(system.statistics())}
    if system.metrics is not None:
        status["metrics"] = system.metrics.snapshot()
    return status


async def _report_status(
    system: NodeSystem, channel: ParentChannel, emit: NodeSink, every: float, last_resort: float | None
) -> None:
    """Report that the loop runs, and the tree and counters for the parent to show."""
    while True:
        channel.tick()
        if last_resort is not None:
            # Its thread needs no lock of Python's, so it also writes when a handler holds that and the channel cannot.
            faulthandler.dump_traceback_later(last_resort)
        channel.send_unless_behind("status", **_status(system))
        emit.report_dropped()
        await trio.sleep(every)
