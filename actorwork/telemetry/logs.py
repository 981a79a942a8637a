"""Logs, made from events.

`sentences` puts an event into words; `LogSink` decides whether and how often it is logged. Each event is one record, of
a standard logger below `actorwork`: see `AREAS`. From WARNING upwards a line ends with the ids of node, actor and
message, so that they are seen whatever formatter an application has. The same facts are attributes of the record: see
`FIELDS`.

A message that was handled costs a fraction of a microsecond here as long as DEBUG is off.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, cast
from weakref import WeakKeyDictionary

from actorwork import events
from actorwork.policy.settlement import Ack
from actorwork.telemetry.configuring import LOGGER
from actorwork.telemetry.formatting import indented, masked, one_line
from actorwork.telemetry.sentences import Sentence, sentence_of

if TYPE_CHECKING:
    from actorwork.abc import EventSink
    from actorwork.message import Delivery
    from actorwork.policy.settlement import Settlement

FIELDS: Final = ("event", "node_id", "actor_id", "actor", "message_id", "source", "attempt", "error")
"""The attributes that a record of ours may have, besides those of every record."""

AREAS: Final[Mapping[str, tuple[str, ...]]] = {
    "node": (
        "NodeStarted",
        "NodeStopped",
        "MonitorStarted",
        "LoopStalled",
        "ResourceLow",
        "ShutdownStage",
    ),
    "streams": (
        "LeaseLost",
        "BrokerLost",
        "BrokerBack",
        "GroupRestored",
        "Reclaimed",
        "Released",
        "Fenced",
        "StaleState",
        "DeadLettered",
        "MessageLost",
        "SuspectsInFlight",
        "BrokerTrouble",
        "BrokerAdvice",
        "PausesChanged",
    ),
    "actors": (
        "ActorStarted",
        "ChildExited",
        "ActorTrouble",
        "ChildRestarting",
        "GaveUp",
        "StuckChild",
        "Settled",
        "Overdue",
        "CancellationIgnored",
        "CircuitChanged",
        "EntityStalled",
        "StateForgotten",
        "EntityLarge",
        "Undelivered",
    ),
    "processes": (
        "ProcessStarted",
        "ProcessKilled",
        "ProcessHung",
        "HandlerHung",
        "ProcessReplaced",
        "ReplacementFailed",
        "EventsDropped",
        "Scaled",
    ),
    "triggers": ("TriggerFired", "TriggerTrouble", "TriggerChanged"),
}
"""What the loggers below `actorwork` log: `actorwork.streams` what concerns the broker, whichever it is. Any other
event is a record of `actorwork` itself.
"""
_AREA_OF: Final = {name: area for area, names in AREAS.items() for name in names}

_OWN_SOURCE: Final = re.compile(r"\bworker:([0-9a-f]+):source\b")
_OF_SOURCES: Final = "groups"
"""The subject of advice about sources: a process that reads them is the one that notices."""
_ADVISED: Final[WeakKeyDictionary[logging.Logger, set[str]]] = WeakKeyDictionary()
"""The advice that a logger has had. Kept here, since each client and each node of a program has a sink of its own."""
_REMIND_EVERY: Final = 10.0
"""Seconds between two warnings that there is still no connection; each attempt in between is logged at DEBUG."""


class LogSink:
    """Logs the events of one node.

    `node_id` is the host and process until the node has its lease; then it is the lease's name, as other nodes see it.

    Advice about the broker is logged once in a program, whatever opens the broker: not again by the processes of a tree
    (`is_child`). An actor's own source is shown as `actor:<title>`, where the sink knows the actor.
    """

    __slots__ = (
        "_areas",
        "_broker",
        "_clock",
        "_deliveries",
        "_is_child",
        "_logger",
        "_remind_at",
        "_titles",
        "node_id",
    )

    wants_process_events = False
    """Not those of the processes of the tree: each logs its own."""

    def __init__(
        self,
        node_id: str,
        logger: logging.Logger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        is_child: bool = False,
    ) -> None:
        self.node_id = node_id
        self._is_child = is_child
        self._titles: dict[str, str] = {}
        """Those of the node's actors, by their ids."""
        self._logger = logging.getLogger(LOGGER) if logger is None else logger
        self._areas = {area: self._logger.getChild(area) for area in AREAS}
        self._deliveries = self._areas["actors"]
        self._clock = clock
        self._broker = ""
        """The URL of the node's broker, for commands that a line recommends."""
        self._remind_at: dict[str, float] = {}
        """When the next `BrokerLost` about a server is a warning again."""

    def acked(self, actor_id: str, title: str, delivery: Delivery, settlement: Settlement, seconds: float) -> None:
        """Log the end of a delivery that was acknowledged, if that is logged; see `abc.acks_of`."""
        if self._deliveries.isEnabledFor(logging.DEBUG):
            self(events.Settled(actor_id, title, delivery, settlement, seconds))

    def __call__(self, event: events.Event) -> None:
        # The most frequent event leaves first: other sinks pass it on for every message.
        if (
            type(event) is events.Settled
            and type(event.settlement) is Ack
            and not self._deliveries.isEnabledFor(logging.DEBUG)
        ):
            return
        try:
            self._log(event)
        except Exception:  # noqa: BLE001 - an application's filter may raise anything, and a sink must not
            if logging.raiseExceptions:
                traceback.print_exc(file=sys.stderr)

    @property
    def wants_acks(self) -> bool:
        """Whether the end of a delivery that was acknowledged is logged: then, and only then, it need be told."""
        return self._deliveries.isEnabledFor(logging.DEBUG)

    def __repr__(self) -> str:
        return f"<LogSink of node {self.node_id} to {self._logger.name!r}>"

    def _log(self, event: events.Event) -> None:
        is_repeated = self._learn(event)
        kind = type(event).__name__
        logger = self._areas[_AREA_OF[kind]] if kind in _AREA_OF else self._logger
        if logger.isEnabledFor(logging.ERROR):  # No event is graver.
            sentence = sentence_of(event, self._broker)
            if is_repeated:
                sentence = sentence._replace(level=logging.DEBUG)
            if logger.isEnabledFor(sentence.level):
                self._write(logger, kind, sentence)
        if isinstance(event, events.LeaseLost):
            self.node_id = event.successor  # After the line, which is still about the lost one.

    def _learn(self, event: events.Event) -> bool:
        """Keep what later lines need; return whether this one repeats what was said before."""
        match event:
            case events.NodeStarted(incarnation=incarnation, broker=broker):
                self.node_id, self._broker = incarnation, broker
            case events.BrokerAdvice(text=text, subject=subject):
                advised = _ADVISED.setdefault(self._logger, set())
                is_repeated = text in advised or (self._is_child and subject != _OF_SOURCES)
                advised.add(text)
                return is_repeated
            case events.ActorStarted(actor_id=actor_id, title=title):
                self._titles[actor_id] = title
            case events.BrokerBack(away=0):
                self._remind_at.clear()
            case events.BrokerBack(broker=server):
                self._remind_at.pop(server, None)
            case events.BrokerLost(broker=server) if self._clock() < self._remind_at.get(server, -math.inf):
                return True
            case events.BrokerLost(broker=server):
                self._remind_at[server] = self._clock() + _REMIND_EVERY
            case _:
                pass
        return False

    def _shown(self, argument: str) -> str:
        text = one_line(argument)
        if "worker:" not in text or "actorwork " in text:
            return text  # A command is to be pasted: there a source has its name.
        return _OWN_SOURCE.sub(
            lambda found: f"actor:{self._titles[found[1]]}" if found[1] in self._titles else found[0], text
        )

    def _write(self, logger: logging.Logger, event: str, sentence: Sentence) -> None:
        level, text, arguments, fields, failure, raised = sentence
        if level >= logging.WARNING:
            shown = [("node", self.node_id)]
            shown += [
                (key.removesuffix("_id"), fields[key]) for key in ("actor_id", "message_id", "attempt") if key in fields
            ]
            text = f"{text} [{' '.join(f'{word}=%s' for word, _ in shown)}]"
            arguments = (*arguments, *(value for _, value in shown))
        record = logger.makeRecord(
            logger.name,
            level,
            __file__,
            0,
            text,
            tuple(self._shown(argument) if isinstance(argument, str) else argument for argument in arguments),
            None if raised is None else (type(raised), raised, raised.__traceback__),
            extra={
                "event": event,
                "node_id": self.node_id,
                **{name: masked(value) if isinstance(value, str) else value for name, value in fields.items()},
            },
        )
        if raised is not None:
            # Written here, so that it is harmless whatever formatter an application has.
            record.exc_text = indented("".join(traceback.format_exception(raised)).rstrip("\n"))
        if failure is not None and failure.traceback:
            # The error is known by its printed traceback only. Every standard formatter prints what is in `exc_text`.
            # Indented, since they print it as it is, and it may hold lines of the message.
            record.exc_text = indented(failure.traceback.rstrip("\n"))
        # The filters of a logger see its own records only. Those of `actorwork` are meant for all of ours.
        # From Python 3.12 on a filter may return another record.
        kept = cast("logging.LogRecord | bool", self._logger.filter(record))
        if kept:
            logger.handle(record if isinstance(kept, bool) else kept)


class GuardedSink:
    """An application's own sink, whose errors are logged: raised in the runtime, they would end what emits.

    The first one is logged with its traceback, further ones at most every ten seconds, with their number.
    """

    __slots__ = ("_clock", "_lost", "_remind_at", "_sink")

    def __init__(self, sink: EventSink, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock
        self._lost = 0
        """Events that it has raised for since the last report."""
        self._remind_at = -math.inf

    def __repr__(self) -> str:
        return f"<guarded {self._sink!r}>"

    def __call__(self, event: events.Event) -> None:
        try:
            self._sink(event)
        except Exception:  # whatever an application's code may raise: it must end nothing
            self._lost += 1
            now = self._clock()
            if now >= self._remind_at:
                lost, self._lost, self._remind_at = self._lost, 0, now + _REMIND_EVERY
                logging.getLogger(LOGGER).exception(
                    "emit=%s raised for an event of type %s (events lost to it since the last report: %s); the system"
                    " goes on, but a sink must not raise",
                    one_line(repr(self._sink)),
                    type(event).__name__,
                    lost,
                )
