"""The task that writes a node's report, and looks for commands with it.

    usually          every 10 seconds, give or take a quarter, so that the nodes of a cluster spread
    watched          every 2 seconds, as long as an operator looks
    called           at once: a command waits for this node, or reports begin to be watched

A broker that lives in this process alone is asked for nothing unless a look at it calls: in tests in virtual time no
task ticks.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import attrs
import trio

from actorwork.errors import BrokerError
from actorwork.events import BrokerTrouble
from actorwork.policy import history
from actorwork.policy.reports import NodeReport, StallReport, cut_stack, written
from actorwork.runtime.reporting.answering import answer_to
from actorwork.runtime.reporting.minutes import MinuteWriter
from actorwork.runtime.reporting.stand_in import StandIn
from actorwork.runtime.reporting.tree import Portrait
from actorwork.runtime.reporting.usage import Usage

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink, Node
    from actorwork.actors.life.cell import Cell
    from actorwork.actors.life.services import Services
    from actorwork.actors.supervision.supervisor import RunningSupervisor
    from actorwork.records import Pause
    from actorwork.runtime.stalls import StallCounts

USUALLY: Final = 10.0
WATCHED: Final = 2.0
UNTOLD: Final = 5.0
"""Seconds between two reports where the broker cannot call."""
SPREAD: Final = 0.25
_FOR_EVER: Final = 1e9
_LAST: Final = 0.5
"""Seconds for deleting the report at the end."""


class Parts(Protocol):
    """The members of the system that reports."""

    @property
    def root(self) -> RunningSupervisor: ...
    @property
    def services(self) -> Services: ...
    @property
    def by_title(self) -> Mapping[str, Cell]: ...
    @property
    def stalls(self) -> StallCounts: ...


class Stopping(Protocol):
    """The shutdown of the system that reports."""

    @property
    def has_begun(self) -> bool: ...
    def stop(self, reason: str, within: float | None) -> None: ...


class Reporter:
    """Reports a system. Implements `answering.Host`."""

    def __init__(
        self,
        parts: Parts,
        shutdown: Stopping,
        broker: Broker,
        node: Node,
        *,
        lease: float,
        emit: EventSink,
        pauses: Callable[[], Iterable[Pause]],
    ) -> None:
        self._parts = parts
        self._shutdown = shutdown
        self._broker = broker
        self._node = node
        self._lease = lease
        self._emit = emit
        self._pauses = pauses
        self._is_local = broker.shared_url is None
        self._minutes = MinuteWriter(parts.services.tally, broker.minutes, node.now, emit)
        self._usage = Usage()
        self._recorder = history.Recorder()
        self._started = node.now()
        self._lag = 0.0
        self._version = ""
        self._called = trio.Event()
        self._is_troubled = False
        self._last: NodeReport | None = None

    def __repr__(self) -> str:
        return f"<Reporter of {self._node.incarnation}>"

    # ---- for commands ----

    @property
    def cells(self) -> Iterable[Cell]:
        return self._parts.by_title.values()

    def stop(self, reason: str, within: float | None) -> None:
        self._shutdown.stop(reason, within)

    # ---- for the thread that watches the loop ----

    def stand_in(self) -> StandIn | None:
        """Return what stands in for a blocked loop; None where no other loop reaches the broker."""
        url = self._broker.shared_url
        return None if url is None else StandIn(url, lambda: self._node.incarnation, self._last_report)

    def _last_report(self) -> NodeReport:
        # From another thread the tree may change under a walk through it: the last one is good enough.
        report = self._last or self._facts()
        return attrs.evolve(report, at=self._node.now(), lease_margin=self._lease_margin())

    # ---- the task ----

    async def count(self) -> None:
        """Add what this node handles to the minutes at the broker, until cancelled; here, only with the reports."""
        if not self._is_local:
            await self._minutes.run()

    async def run(self) -> NoReturn:
        """Report until cancelled; then the report is deleted, within half a second."""
        incarnation = self._node.incarnation
        try:
            while True:
                incarnation = self._node.incarnation
                async with self._broker.commands.listen(incarnation, self._call) as is_told:
                    await self._report(incarnation, is_told=is_told)
        finally:
            with trio.move_on_after(_LAST, shield=True):
                await self._drop(incarnation)

    def _call(self) -> None:
        self._called.set()

    async def _report(self, incarnation: str, *, is_told: bool) -> None:
        """Report under one incarnation, until another one has followed."""
        if self._is_local and self._last is None:
            await self._called.wait()
            self._version = _version()
        elif not self._version:
            # It reads files, for some ten milliseconds: too long for the loop of a node that works.
            self._version = await trio.to_thread.run_sync(_version, abandon_on_cancel=True)
        while self._node.incarnation == incarnation:
            # Before the report: what is asked while it is written sets the new event, and is looked for at once.
            self._called = trio.Event()
            watched = await self._write(incarnation)
            if watched:
                pause = WATCHED
            elif self._is_local:
                pause = math.inf
            else:
                usual = USUALLY if is_told else UNTOLD
                pause = usual * (1 + SPREAD * (2 * self._parts.services.random.random() - 1))
            due = trio.current_time() + pause
            with trio.move_on_at(due) as limit:
                await self._called.wait()
            self._lag = max(0.0, trio.current_time() - due) if limit.cancelled_caught else 0.0
        await self._drop(incarnation)

    async def _write(self, incarnation: str) -> bool:
        """Write the report and carry out what waits; return whether the reports are watched."""
        try:
            portrait = self._portrait()
            report = self._last = attrs.evolve(
                self._facts(),
                tree=portrait.of(self._parts.root),
                locks=portrait.locks(self._parts.services.lock_uses),
                stalls=self._stalls(),
            )
            ttl = _FOR_EVER if self._is_local else USUALLY * (1 + SPREAD) + self._lease
            if self._is_local:
                await self._minutes.write()
            mail = await self._broker.reports.write(incarnation, written(report), now=report.at, ttl=ttl)
            for ask in mail.asks:
                answer, then = answer_to(ask.data, self, trio.lowlevel.current_root_task())
                await self._broker.commands.answer(ask.id, answer)
                if then is not None:
                    then()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a report, the actors go on
            self._trouble(error)
            return False
        self._is_troubled = False
        return mail.watched > 0

    def _trouble(self, error: Exception) -> None:
        if not self._is_troubled:
            self._is_troubled = True
            text = str(error) if isinstance(error, BrokerError) else f"{type(error).__name__}: {error}"
            self._emit(BrokerTrouble("reporting this node", text, f"again in {USUALLY:g} s; its work goes on"))

    async def _drop(self, incarnation: str) -> None:
        try:
            await self._broker.reports.drop(incarnation)
        except BrokerError as error:
            self._trouble(error)

    # ---- the report ----

    def _portrait(self) -> Portrait:
        now = trio.current_time()
        return Portrait(self._parts.services.limiters, now, self._node.now() - now)

    def _stalls(self) -> StallReport | None:
        found = self._parts.stalls
        if found.last is None:
            return None
        return StallReport(
            count=found.count,
            seconds=found.seconds,
            at=self._node.now() - (trio.current_time() - found.ended),
            last=found.last.seconds,
            stack=cut_stack(found.last.stack),
        )

    def _lease_margin(self) -> float | None:
        left = self._node.lease_state().left
        return left if math.isfinite(left) else None

    def _facts(self) -> NodeReport:
        host = socket.gethostname()
        usage = self._usage
        counters = self._node.statistics()
        memory, cpu_seconds = usage.memory, usage.cpu_seconds
        past = self._recorder.note(
            self._node.now(),
            settled=counters.get("settled", 0),
            # Those that processes died with, which the broker buries, and those that handlers have failed.
            dead=counters.get("dead_lettered", 0)
            + sum(cell.consumer.failed for cell in self._parts.by_title.values() if cell.consumer is not None),
            cpu=cpu_seconds,
            memory=memory,
        )
        return NodeReport(
            name=f"{host}:{os.getpid()}",
            host=host,
            pid=os.getpid(),
            version=self._version,
            started=self._started,
            at=self._node.now(),
            state="stopping" if self._shutdown.has_begun else "running",
            lease=self._lease,
            lease_margin=self._lease_margin(),
            loop_lag=self._lag,
            memory=memory,
            cpu=usage.share(),
            cpu_seconds=cpu_seconds,
            threads=usage.threads,
            process=str(getattr(self._emit, "process", "")),
            interval=0.0 if self._is_local else USUALLY * (1 + SPREAD),
            pauses=tuple(map(str, self._pauses())),
            counters=dict(counters),
            history=history.written(past),
        )


def _version() -> str:
    try:
        return version("actorwork")
    except PackageNotFoundError:  # A clone that is not installed.
        return "unknown"
