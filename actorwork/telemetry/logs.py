"""Logs, made from events, in this one place.

    level     what it means                           events
    ERROR     somebody has to look, a loss threatens  Settled(Fail), DeadLettered, GaveUp, LeaseLost, ChildExited
    WARNING   it mends itself, or was refused         Settled(Retry), Fenced, BrokerLost, BrokerTrouble, Overdue, …
    INFO      it changed on purpose                   NodeStarted, ActorStarted, Settled(Reject), ShutdownStage, …
    DEBUG     it works                                Settled(Ack), Released

All of it goes to the standard logger `actorwork`. Every sentence says what happens next; from WARNING upwards it
ends with the ids of node, actor and message, so that they are seen whatever formatter an application has. The same
facts are attributes of the record: `node_id`, `actor_id`, `actor` (its title), `message_id`, `source`, `attempt`,
`error`.

A message that was handled costs a fraction of a microsecond here as long as DEBUG is off.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from actorwork import events
from actorwork.errors import ProcessLost
from actorwork.message import Failure
from actorwork.policy.schedule import moment
from actorwork.policy.settlement import Ack, Fail, Reject, Retry

LOGGER: Final = "actorwork"

FIELDS: Final = ("node_id", "actor_id", "actor", "message_id", "source", "attempt", "error")
"""What a record of ours may carry as attributes, besides what every record has."""

_SAY_IT_ALL: Final = frozenset({"Fail", "CodecError", "MessageRefused"})
"""Errors that were expected: where they were raised is no news."""

_LONGEST: Final = 500
_REMIND_EVERY: Final = 10.0
"""Seconds after which it is said again that there is still no connection; each try in between is for DEBUG."""


class LogSink:
    """Writes down what happened at one node.

    `node_id` is what the node is called until it has its lease; then it is the lease's own name, as others see it.
    """

    __slots__ = ("_clock", "_logger", "_remind_at", "_says", "node_id")

    def __init__(
        self,
        node_id: str,
        logger: logging.Logger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node_id = node_id
        self._logger = logging.getLogger(LOGGER) if logger is None else logger
        self._clock = clock
        self._remind_at = -math.inf
        """When it is to be said again that there is no connection."""
        self._says: dict[type, Callable[[Any], None]] = {
            events.Settled: self._settled,
            events.NodeStarted: self._node_started,
            events.NodeStopped: self._node_stopped,
            events.LeaseLost: self._lease_lost,
            events.BrokerLost: self._broker_lost,
            events.BrokerBack: self._broker_back,
            events.GroupRestored: self._group_restored,
            events.Reclaimed: self._reclaimed,
            events.Released: self._handed_back,
            events.Fenced: self._fenced,
            events.DeadLettered: self._dead_lettered,
            events.BrokerTrouble: self._broker_trouble,
            events.BrokerAdvice: self._broker_advice,
            events.ActorStarted: self._actor_started,
            events.ChildExited: self._child_exited,
            events.ActorTrouble: self._actor_trouble,
            events.ChildRestarting: self._child_restarting,
            events.GaveUp: self._gave_up,
            events.StuckChild: self._stuck_child,
            events.ProcessStarted: self._process_started,
            events.ProcessKilled: self._process_killed,
            events.ProcessHung: self._process_hung,
            events.HandlerHung: self._handler_hung,
            events.ProcessReplaced: self._process_replaced,
            events.ReplacementFailed: self._replacement_failed,
            events.Scaled: self._scaled,
            events.Overdue: self._overdue,
            events.LoopStalled: self._loop_stalled,
            events.CircuitChanged: self._circuit_changed,
            events.TriggerFired: self._trigger_fired,
            events.TriggerTrouble: self._trigger_trouble,
            events.PausesChanged: self._pauses_changed,
            events.Undelivered: self._undelivered,
            events.ShutdownStage: self._shutdown_stage,
        }

    def __call__(self, event: events.Event) -> None:
        # The commonest event leaves first.
        if (
            type(event) is events.Settled
            and type(event.settlement) is Ack
            and not self._logger.isEnabledFor(logging.DEBUG)
        ):
            return
        if not self._logger.isEnabledFor(logging.ERROR):
            return  # No event is graver, and nothing need be put into words that nobody will read.
        try:
            say = self._says.get(type(event))
            if say is None:
                self._say(logging.INFO, "%r", (event,))
            else:
                say(event)
        except Exception:  # noqa: BLE001 - an application's filter may raise anything, and a sink must not
            if logging.raiseExceptions:
                traceback.print_exc(file=sys.stderr)

    def __repr__(self) -> str:
        return f"<LogSink of node {self.node_id} to {self._logger.name!r}>"

    def _say(
        self,
        level: int,
        sentence: str,
        arguments: tuple[object, ...] = (),
        *,
        failure: Failure | None = None,
        raised: BaseException | None = None,
        **fields: object,
    ) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        if level >= logging.WARNING:
            sentence, arguments = self._with_ids(sentence, arguments, fields)
        record = logger.makeRecord(
            logger.name,
            level,
            __file__,
            0,
            sentence,
            tuple(_one_line(argument) if isinstance(argument, str) else argument for argument in arguments),
            None if raised is None else (type(raised), raised, raised.__traceback__),
            extra={"node_id": self.node_id, **fields},
        )
        if failure is not None and failure.traceback:
            # The error came as text. Every standard formatter prints a text that stands here.
            record.exc_text = "\n".join(_printable(line) for line in failure.traceback.splitlines())
        logger.handle(record)

    def _with_ids(
        self, sentence: str, arguments: tuple[object, ...], fields: Mapping[str, object]
    ) -> tuple[str, tuple[object, ...]]:
        shown: list[tuple[str, object]] = [("node", self.node_id)]
        shown += [
            (key.removesuffix("_id"), fields[key]) for key in ("actor_id", "message_id", "attempt") if key in fields
        ]
        trailer = " ".join(f"{word}=%s" for word, _ in shown)
        return f"{sentence} [{trailer}]", (*arguments, *(value for _, value in shown))

    def _settled(self, event: events.Settled) -> None:
        delivery, settlement = event.delivery, event.settlement
        common: dict[str, Any] = {
            "actor_id": event.actor_id,
            "actor": event.title,
            "message_id": delivery.id,
            "source": delivery.source,
            "attempt": delivery.attempt,
        }
        match settlement:
            case Ack():
                self._say(
                    logging.DEBUG,
                    "%s handled message %s of '%s' (attempt %d) in %s",
                    (event.title, delivery.id, delivery.source, delivery.attempt, _span(event.seconds)),
                    **common,
                )
            case Retry(delay=delay, failure=failure):
                self._say(
                    logging.WARNING,
                    "%s could not handle message %s of '%s' (attempt %d, %s): it runs again %s",
                    (
                        event.title,
                        delivery.id,
                        delivery.source,
                        delivery.attempt,
                        in_words(failure),
                        f"in {_span(delay)}" if delay > 0 else "at once",
                    ),
                    **common,
                    error=in_words(failure),
                )
            case Reject(failure=failure):
                self._say(
                    logging.INFO,
                    "%s rejected message %s of '%s' (attempt %d, %s): it is dropped",
                    (event.title, delivery.id, delivery.source, delivery.attempt, in_words(failure)),
                    **common,
                    error=in_words(failure),
                )
            case Fail(failure=failure):
                self._say(
                    logging.ERROR,
                    "%s failed message %s (attempt %d, %s): a dead letter of '%s' now; see: actorwork dead show %s %s",
                    (
                        event.title,
                        delivery.id,
                        delivery.attempt,
                        in_words(failure),
                        delivery.source,
                        delivery.source,
                        delivery.id,
                    ),
                    failure=None if failure.type in _SAY_IT_ALL else failure,
                    **common,
                    error=in_words(failure),
                )

    def _node_started(self, event: events.NodeStarted) -> None:
        self.node_id = event.incarnation
        self._say(
            logging.INFO,
            "node %s is up at %s and reads for %s",
            (event.incarnation, event.broker, ", ".join(event.actors) or "no actor"),
        )

    def _node_stopped(self, event: events.NodeStopped) -> None:
        if event.forced:
            sentence = "the node stopped by force after %s: what was in hand is run again by another node"
            self._say(logging.WARNING, sentence, (_span(event.seconds),))
        else:
            self._say(logging.INFO, "the node stopped cleanly in %s", (_span(event.seconds),))

    def _lease_lost(self, event: events.LeaseLost) -> None:
        self._say(
            logging.ERROR,
            "the lease of %s is lost (%s): its deliveries are cancelled, other nodes run them again; going on as %s",
            (event.incarnation, event.reason, event.successor),
            error=event.reason,
        )
        self.node_id = event.successor

    def _broker_lost(self, event: events.BrokerLost) -> None:
        now = self._clock()
        is_news = now >= self._remind_at
        if is_news:
            self._remind_at = now + _REMIND_EVERY
        self._say(
            logging.WARNING if is_news else logging.DEBUG,
            "no connection to the broker (%s): trying again in %s",
            (event.error, _span(event.retry_in)),
            error=event.error,
        )

    def _broker_back(self, event: events.BrokerBack) -> None:
        self._remind_at = -math.inf
        self._say(logging.INFO, "connected to the broker at %s", (event.broker,))

    def _group_restored(self, event: events.GroupRestored) -> None:
        self._say(
            logging.WARNING,
            "the group of '%s' was gone (a restart without persistence, FLUSHALL or XGROUP DESTROY) and is made anew: "
            "reading goes on from the beginning of the stream",
            (event.source,),
            source=event.source,
            actor_id=event.actor_id,
        )

    def _reclaimed(self, event: events.Reclaimed) -> None:
        where: dict[str, Any] = {"source": event.source, "actor_id": event.actor_id}
        if event.previous == "released":
            sentence = "took %d of '%s' that another node had handed back"
            self._say(logging.INFO, sentence, (event.count, event.source), **where)
        else:
            self._say(
                logging.WARNING,
                "reclaimed %d of '%s' from the dead node %s: they are run again here",
                (event.count, event.source, event.previous),
                **where,
            )

    def _handed_back(self, event: events.Released) -> None:
        self._say(
            logging.DEBUG,
            "handed back %d of '%s': another node takes them at once",
            (event.count, event.source),
            source=event.source,
            actor_id=event.actor_id,
        )

    def _fenced(self, event: events.Fenced) -> None:
        delivery = event.delivery
        self._say(
            logging.WARNING,
            "the %s of message %s of '%s' (attempt %d) was refused, since the delivery belongs to another node by now: "
            "nothing of it took effect",
            (type(event.settlement).__name__, delivery.id, delivery.source, delivery.attempt),
            actor_id=event.actor_id,
            message_id=delivery.id,
            source=delivery.source,
            attempt=delivery.attempt,
        )

    def _dead_lettered(self, event: events.DeadLettered) -> None:
        error = f"{event.crashes} {'process' if event.crashes == 1 else 'processes'} died with it in hand"
        self._say(
            logging.ERROR,
            "message %s is not run again (%s): a dead letter of '%s' now; see: actorwork dead show %s %s",
            (event.message_id, error, event.source, event.source, event.message_id),
            actor_id=event.actor_id,
            message_id=event.message_id,
            source=event.source,
            error=error,
        )

    def _broker_trouble(self, event: events.BrokerTrouble) -> None:
        self._say(logging.WARNING, "%s failed (%s); %s", (event.doing, event.error, event.next), error=event.error)

    def _broker_advice(self, event: events.BrokerAdvice) -> None:
        self._say(logging.WARNING, "%s; going on. To change it: %s", (event.text, event.advice))

    def _actor_started(self, event: events.ActorStarted) -> None:
        self._say(
            logging.INFO,
            "%s is up" if event.incarnation <= 1 else "%s is up again (incarnation %d)",
            (event.title,) if event.incarnation <= 1 else (event.title, event.incarnation),
            actor_id=event.actor_id,
            actor=event.title,
        )

    def _child_exited(self, event: events.ChildExited) -> None:
        ended = event.exit
        if not ended.abnormal or ended.error is None:
            self._say(logging.INFO, "%s has ended (%s)", (event.child, ended.kind.value), actor=event.child)
            return
        error = _error_in_words(ended.error)
        self._say(
            logging.ERROR,
            "%s %s (%s): %s decides what follows",
            (event.child, ended.kind.value.replace("_", " "), error, event.supervisor),
            # Where it was noticed that a process had died is no news; what it died of there is.
            raised=None if _is_lost_alone(ended.error) else ended.group or ended.error,
            actor=event.child,
            error=error,
        )

    def _actor_trouble(self, event: events.ActorTrouble) -> None:
        error = _error_in_words(event.error)
        self._say(
            logging.ERROR,
            "the %s of %s failed (%s): it ends all the same",
            (event.doing, event.title, error),
            raised=event.error,
            actor_id=event.actor_id,
            actor=event.title,
            error=error,
        )

    def _child_restarting(self, event: events.ChildRestarting) -> None:
        why: dict[str, Any] = {} if event.error is None else {"error": _error_in_words(event.error)}
        because = f" after {why['error']}" if why else ""
        when = f" in {_span(event.delay)}" if event.delay else ""
        self._say(
            logging.WARNING,
            "%s is started again%s%s (restart %d)",
            (event.child, when, because, event.restarts),
            actor=event.child,
            **why,
        )

    def _gave_up(self, event: events.GaveUp) -> None:
        self._say(
            logging.ERROR,
            "%s gives up on %s (%s): it ends with all its children",
            (event.supervisor, event.child, event.why),
            actor=event.child,
            error=event.why,
        )

    def _process_started(self, event: events.ProcessStarted) -> None:
        self._say(logging.INFO, "%s is up: process %d, node %s", (event.process, event.pid, event.incarnation))

    def _process_killed(self, event: events.ProcessKilled) -> None:
        sentence = "%s (process %d) did not end in its time and is killed: what it had in hand is run by another node"
        self._say(logging.WARNING, sentence, (event.process, event.pid))

    def _process_hung(self, event: events.ProcessHung) -> None:
        where = "below is where it stands" if event.stacks else "it did not say where it stands (stopped, or in C code)"
        self._say(
            logging.ERROR,
            "the loop of %s (process %d) has not turned for %s: it is killed, its supervisor decides what follows; %s",
            (event.process, event.pid, _span(event.seconds), where),
            failure=Failure("ProcessHung", "", event.stacks),
            error=f"hung for {_span(event.seconds)}",
        )

    def _handler_hung(self, event: events.HandlerHung) -> None:
        self._say(
            logging.ERROR,
            "a handler of %s in %s (process %d) has not ended %s after its deadline: the process is killed, its "
            "supervisor decides what follows; below is where it stands",
            (event.title, event.process, event.pid, _span(event.seconds)),
            failure=Failure("HandlerHung", "", event.stacks),
            actor=event.title,
            message_id=event.message_id,
            error="ExecutionTimeout",
        )

    def _process_replaced(self, event: events.ProcessReplaced) -> None:
        self._say(
            logging.INFO,
            "process %d takes the place of process %d of %s (%s); that one finishes what it has in hand, and ends",
            (event.successor, event.pid, event.process, event.why),
        )

    def _scaled(self, event: events.Scaled) -> None:
        what = "are started" if event.after > event.before else "finish what they have in hand, and end"
        count = abs(event.after - event.before)
        self._say(
            logging.INFO,
            "%s: from %d to %d replicas (%s); %d %s",
            (event.process, event.before, event.after, event.why, count, what),
        )

    def _replacement_failed(self, event: events.ReplacementFailed) -> None:
        error = _error_in_words(event.error)
        self._say(
            logging.ERROR,
            "process %d of %s is to be replaced (%s), but its successor did not start (%s): it goes on; next try in %s",
            (event.pid, event.process, event.why, error, _span(event.retry_in)),
            raised=event.error,
            error=error,
        )

    def _stuck_child(self, event: events.StuckChild) -> None:
        self._say(
            logging.ERROR,
            "%s does not end, though it was told to and cancelled; it is waited for, and below is where it stands",
            (event.child,),
            failure=Failure("StuckChild", "", event.stack),
            actor=event.child,
            error="it does not end",
        )

    def _overdue(self, event: events.Overdue) -> None:
        self._say(
            logging.WARNING,
            "%s is past its execution_timeout with message %s for %s already and does not end (%s): %s",
            (
                event.title,
                event.message_id,
                _span(event.seconds),
                event.where,
                "the message has ended without it" if event.is_settled else "the message stays in hand until it does",
            ),
            actor_id=event.actor_id,
            actor=event.title,
            message_id=event.message_id,
            error="ExecutionTimeout",
        )

    def _loop_stalled(self, event: events.LoopStalled) -> None:
        self._say(
            logging.WARNING,
            "the loop has stood still for %s already, and nothing else runs until it goes on; below is where it stands"
            if event.lasts
            else "the loop stood still for %s, and nothing else could run; below is where. What blocks belongs into a "
            "handler without async, or into trio.to_thread.run_sync",
            (_span(event.seconds),),
            failure=Failure("LoopStalled", "", event.stack),
            error=f"stalled for {_span(event.seconds)}",
        )

    def _circuit_changed(self, event: events.CircuitChanged) -> None:
        match event.state:
            case "open":
                why = "" if event.error is None else f" ({type(event.error).__name__}: {event.error})"
                text = "the circuit %s is open%s: messages wait; the next one tries it in %s"
                self._say(logging.WARNING, text, (event.name, why, _span(event.seconds)))
            case "half open":
                self._say(logging.INFO, "the circuit %s is half open: one message tries it", (event.name,))
            case _:
                self._say(logging.INFO, "the circuit %s is closed: messages go on", (event.name,))

    def _trigger_fired(self, event: events.TriggerFired) -> None:
        if not self._logger.isEnabledFor(logging.DEBUG):
            return
        text = "the trigger %r of %r fired for %s"
        times = ", ".join(f"{moment(nominal):%Y-%m-%d %H:%M:%S} UTC" for nominal in event.times[-3:])
        if len(event.times) > 3:
            times = f"{len(event.times)} times up to {times}"
        if event.kept < len(event.times):
            text += f"; {len(event.times) - event.kept} did not, since one of its messages waits or is in hand"
        self._say(logging.DEBUG, text, (event.trigger, event.title, times), actor_id=event.actor_id, actor=event.title)

    def _trigger_trouble(self, event: events.TriggerTrouble) -> None:
        self._say(
            logging.ERROR,
            "the trigger %r of %r cannot fire: %s; %s",
            (event.trigger, event.title, event.error, event.next),
            actor_id=event.actor_id,
            actor=event.title,
            error=event.error,
        )

    def _pauses_changed(self, event: events.PausesChanged) -> None:
        for pause in event.paused:
            why = f": {pause.reason}" if pause.reason else ""
            by = f" by {pause.by}" if pause.by else ""
            self._say(logging.INFO, "paused%s%s%s; what waits there stays until it is resumed", (f" {pause}", by, why))
        for pause in event.resumed:
            self._say(logging.INFO, "resumed %s", (pause,))

    def _undelivered(self, event: events.Undelivered) -> None:
        self._say(
            logging.WARNING,
            "nobody handles the local message %s: %s ended before",
            (_one_line(repr(event.message)), event.title),
            actor_id=event.actor_id,
            actor=event.title,
        )

    def _shutdown_stage(self, event: events.ShutdownStage) -> None:
        level = logging.WARNING if event.stage == "force" else logging.INFO
        self._say(level, "shutdown: %s (%s)", (_STAGES.get(event.stage, event.stage), event.reason))


_STAGES: Final[Mapping[str, str]] = {
    "intake": "nothing new is read",
    "drain": "what is in hand may finish, the unread is handed back",
    "cancel": "what is in hand is cancelled and handed back",
    "shutdown": "actors shut down, in reverse order of their start",
    "force": "what has not ended is left behind; other nodes run it again",
}


def in_words(failure: Failure) -> str:
    """Return a failure's type and reason as one text: `ValueError: no such order`."""
    return f"{failure.type}: {failure.reason}" if failure.reason else failure.type


def _error_in_words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__


def _is_lost_alone(error: BaseException) -> bool:
    return isinstance(error, ProcessLost) and error.__cause__ is None


def _one_line(text: str) -> str:
    """Keep a foreign text from breaking the line, or from filling the screen."""
    return _printable(f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text)


def _printable(text: str) -> str:
    """Keep a foreign text from commanding the terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def _utc(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """For people: `2025-11-20T10:44:01.250Z ERROR actorwork: greeter failed message …`.

    One of several processes that write to the same place says which one it is: `actorwork[4711]: …`.
    """

    def __init__(self, *, one_of_several: bool = False) -> None:
        who = "%(name)s[%(process)d]" if one_of_several else "%(name)s"
        super().__init__(f"%(asctime)s %(levelname)s {who}: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - a logging.Formatter
        return _utc(record.created)


class JsonFormatter(logging.Formatter):
    """For programs: one JSON object a line; `time` is ISO 8601 in UTC.

    Keys: `time`, `level`, `logger`, `message` (the sentence), `traceback` if there is one, and whatever the record
    carries as `extra`: of ours `node_id`, `actor_id`, `actor`, `message_id`, `source`, `attempt` and `error`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key not in _OF_EVERY_RECORD and not key.startswith("_"):
                line.setdefault(key, value)
        if record.exc_text:
            line["traceback"] = record.exc_text
        elif record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return json.dumps(line, ensure_ascii=False, allow_nan=False, default=str)
        except (
            TypeError,
            ValueError,
        ):  # Keys that are no text, NaN, circles: an application's `extra` may hold anything.
            return json.dumps({key: _plain(value) for key, value in line.items()}, ensure_ascii=False)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)


_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_configured: list[tuple[int, Literal["text", "json"]]] = []
"""How `configure` did it, for the processes that this one starts: logging has one configuration, so there is one."""


def configured() -> tuple[int, Literal["text", "json"] | None]:
    """Return the level of the logs, and the format that `configure` gave them; None if they are not its work."""
    level = logging.getLogger(LOGGER).getEffectiveLevel()
    return level, _configured[-1][1] if _configured else None


def configure(
    level: int | str = "INFO",
    format: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
    *,
    one_of_several: bool = False,
) -> bool:
    """Send all logs to `stream` (standard error), and return whether it was done.

    Where the root logger has a handler already, logging is the application's own business: nothing is done then.
    With `one_of_several`, lines of text name the process, as JSON does by its node.
    """
    root = logging.getLogger()
    if root.handlers:
        return False
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter(one_of_several=one_of_several))
    root.addHandler(handler)
    root.setLevel(level.upper() if isinstance(level, str) else level)
    _configured.append((root.level, format))
    return True
