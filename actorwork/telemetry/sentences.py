"""What the logs say of an event: pure, so that a table of examples tests it.

    level     what it means                              events
    ERROR     an operator has to look, a loss threatens  Settled(Fail), DeadLettered, GaveUp, LeaseLost, ChildExited, …
    WARNING   it recovers by itself, or was refused      Settled(Retry), Fenced, BrokerLost, BrokerTrouble, Overdue, …
    INFO      it changed on purpose                      NodeStarted, ActorStarted, Settled(Reject), ShutdownStage, …
    DEBUG     it works                                   Settled(Ack), Released, TriggerFired

Every sentence says what happened, what follows, and, where there is something to do, what.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from actorwork import events
from actorwork.errors import ProcessLost
from actorwork.message import Failure
from actorwork.policy.exits import Kind
from actorwork.policy.settlement import Ack, Fail, Reject, Retry
from actorwork.telemetry.formatting import one_line

if TYPE_CHECKING:
    from actorwork.records import Pause

_NO_TRACEBACK: Final = frozenset({"Fail", "CodecError", "MessageRefused"})
"""Errors that were expected: where they were raised tells the operator nothing."""

_IN_MEMORY: Final = frozenset({"sqlite://", "memory://"})
"""The URLs of brokers that exist in one process only."""

_STAGES: Final[Mapping[str, str]] = {
    "intake": "nothing new is read",
    "drain": "messages in flight may finish, unread ones are released",
    "cancel": "messages in flight are cancelled and released",
    "shutdown": "actors shut down, in reverse order of their start",
    "force": "what has not ended is abandoned; other nodes run it again",
}


class Sentence(NamedTuple):
    """One line of the log, before the ids that it ends with."""

    level: int
    text: str
    """A template for `%`, as the standard library's logging wants it."""
    arguments: tuple[object, ...] = ()
    fields: Mapping[str, object] = {}
    """Attributes of the record: some of `FIELDS`, and those that are ids also end the line from WARNING upwards."""
    failure: Failure | None = None
    """Its traceback is printed below the line."""
    raised: BaseException | None = None
    """The error whose traceback is printed below the line."""


def sentence_of(event: events.Event, broker: str = "") -> Sentence:
    """Put an event into words; `broker` is the URL that commands need, without its password."""
    match event:
        case events.Settled():
            return _settled(event, broker)
        case events.NodeStarted(incarnation=incarnation, broker=broker, actors=actors):
            text = "node %s is up at %s and reads for %s"
            return Sentence(logging.INFO, text, (incarnation, broker, ", ".join(actors) or "no actor"))
        case events.BrokerBack(broker=broker):
            return Sentence(logging.INFO, "connected to the broker at %s", (broker,))
        case events.ActorStarted(actor_id=actor_id, title=title, incarnation=incarnation):
            fields = {"actor_id": actor_id, "actor": title}
            if incarnation <= 1:
                return Sentence(logging.INFO, "%s is up", (title,), fields)
            return Sentence(logging.INFO, "%s is up again (incarnation %d)", (title, incarnation), fields)
        case events.BrokerAdvice(text=finding, advice=advice):
            return Sentence(logging.WARNING, "%s; continuing. To change it: %s", (finding, advice))
        case events.BrokerTrouble(doing=doing, error=error, next=what_follows):
            return Sentence(logging.WARNING, "%s failed (%s); %s", (doing, error, what_follows), {"error": error})
        case events.LeaseLost(incarnation=incarnation, successor=successor, reason=reason):
            text = (
                "the lease of node %s is lost (%s): its deliveries are cancelled and other nodes run them again; "
                "this process continues as node %s"
            )
            return Sentence(logging.ERROR, text, (incarnation, reason, successor), {"error": reason})
        # From here on a case imports the rare events, so the usual ones stand above.
        case events.NodeStopped(seconds=seconds, forced=True):
            text = "the node was stopped by force after %s: other nodes run its unfinished messages again"
            return Sentence(logging.WARNING, text, (span(seconds),))
        case events.NodeStopped(seconds=seconds):
            return Sentence(logging.INFO, "the node stopped cleanly in %s", (span(seconds),))
        case events.MonitorStarted(url=url, paths=paths):
            return Sentence(logging.INFO, "the monitor listens at %s and serves %s", (url, ", ".join(paths)))
        case events.BrokerLost(error=error, retry_in=retry_in, broker=server, away=away, servers=servers) if (
            away < servers
        ):
            text = (
                "no connection to %s, one of the %d servers of the broker (%s): what is there waits, and %s on; trying "
                "again in %s"
            )
            others = "the other one goes" if servers - away == 1 else f"{servers - away} others go"
            return Sentence(logging.WARNING, text, (server, servers, error, others, span(retry_in)), {"error": error})
        case events.BrokerLost(error=error, retry_in=retry_in):
            text = "no connection to the broker (%s): trying again in %s"
            return Sentence(logging.WARNING, text, (error, span(retry_in)), {"error": error})
        case events.GroupRestored(source=source, actor_id=actor_id):
            text = (
                "the consumer group of '%s' was missing (a restart without persistence, FLUSHALL or XGROUP DESTROY) "
                "and was created again: reading starts at the beginning of the stream"
            )
            return Sentence(logging.WARNING, text, (source,), {"source": source, "actor_id": actor_id})
        case events.Reclaimed(source=source, actor_id=actor_id, previous="released", count=count):
            text = "took %d of '%s' that a node had released"
            return Sentence(logging.INFO, text, (count, source), {"source": source, "actor_id": actor_id})
        case events.Reclaimed(source=source, actor_id=actor_id, previous=previous, count=count):
            text = "reclaimed %d of '%s' from the dead node %s: they run again here"
            return Sentence(logging.WARNING, text, (count, source, previous), {"source": source, "actor_id": actor_id})
        case events.Released(source=source, actor_id=actor_id, count=count):
            text = "released %d of '%s': another node takes them at once"
            return Sentence(logging.DEBUG, text, (count, source), {"source": source, "actor_id": actor_id})
        case events.Fenced(delivery=delivery, actor_id=actor_id, settlement=settlement):
            return Sentence(
                logging.WARNING,
                "the %s of message %s of '%s' (attempt %d) was refused, because the delivery belongs to another node "
                "by now: it had no effect",
                (type(settlement).__name__, delivery.id, delivery.source, delivery.attempt),
                {
                    "actor_id": actor_id,
                    "message_id": delivery.id,
                    "source": delivery.source,
                    "attempt": delivery.attempt,
                },
            )
        case events.StaleState(delivery=delivery, actor_id=actor_id, expected=expected, found=found):
            return Sentence(
                logging.WARNING,
                "message %s of '%s' was handled on version %d of the state of '%s', which has the version %d now: it "
                "had no effect, and runs again",
                (delivery.id, delivery.source, expected, delivery.key, found),
                {"actor_id": actor_id, "message_id": delivery.id, "source": delivery.source},
            )
        case events.EntityStalled(actor_id=actor_id, title=title, key=key, version=version, error=error):
            return Sentence(
                logging.ERROR,
                "the messages of '%s' to %s wait, because this node cannot use version %d of its state (%s): a node "
                "with a newer program may, or put a state that this one can read",
                (key, title, version, error),
                {"actor_id": actor_id, "error": error},
            )
        case events.StateForgotten(actor_id=actor_id, title=title, key=key, known=known, found=found):
            return Sentence(
                logging.ERROR,
                "the state of '%s' of %s has gone back from version %d to %d (0: there is none): the broker has lost "
                "its last writes, as a Redis without AOF does that is killed, unless a user has forgotten the state",
                (key, title, known, found),
                {"actor_id": actor_id},
            )
        case events.EntityLarge(actor_id=actor_id, title=title, key=key, size=size, limit=limit):
            return Sentence(
                logging.WARNING,
                "the state of '%s' of %s has %d bytes: its messages fail when it has more than %d",
                (key, title, size, limit),
                {"actor_id": actor_id},
            )
        case events.DeadLettered(source=source, actor_id=actor_id, message_id=message_id, crashes=crashes):
            error = f"{crashes} {'process' if crashes == 1 else 'processes'} died while handling it"
            return Sentence(
                logging.ERROR,
                "message %s does not run again (%s): it is a dead letter of '%s' now%s",
                (message_id, error, source, _see(source, message_id, broker)),
                {"actor_id": actor_id, "message_id": message_id, "source": source, "error": error},
            )
        case events.MessageLost(source=source, actor_id=actor_id, message_id=message_id):
            return Sentence(
                logging.ERROR,
                "message %s of '%s' is lost: its entry was deleted by hand (XDEL, XTRIM) while it was in flight",
                (message_id, source),
                {"actor_id": actor_id, "message_id": message_id, "source": source},
            )
        case events.SuspectsInFlight(present=True):
            text = (
                "this node handles messages in whose first handling a process died: if this one dies as well, "
                "they are suspects, and run alone"
            )
            return Sentence(logging.INFO, text)
        case events.SuspectsInFlight():
            return Sentence(logging.DEBUG, "no message in whose handling a process died is in flight here any more")
        case events.ChildExited():
            return _child_exited(event)
        case events.ActorTrouble(actor_id=actor_id, title=title, doing=doing, error=raised, goes_on=goes_on):
            what_next = "the actor goes on" if goes_on else "the actor ends all the same"
            return Sentence(
                logging.ERROR,
                "the %s of %s failed (%s): %s",
                (doing, title, error_in_words(raised), what_next),
                {"actor_id": actor_id, "actor": title, "error": error_in_words(raised)},
                raised=raised,
            )
        case events.ChildRestarting(child=child, restarts=restarts, error=reason, delay=delay):
            why: dict[str, object] = {} if reason is None else {"error": error_in_words(reason)}
            because = f" after {why['error']}" if why else ""
            when = f" in {span(delay)}" if delay else ""
            text = "%s is started again%s%s (restart %d)"
            return Sentence(logging.WARNING, text, (child, when, because, restarts), {"actor": child, **why})
        case events.GaveUp(supervisor=supervisor, child=child, why=reason):
            text = "%s gives up on %s (%s): it stops all its children and ends"
            return Sentence(logging.ERROR, text, (supervisor, child, reason), {"actor": child, "error": reason})
        case events.StuckChild(child=child, stack=stack):
            return Sentence(
                logging.ERROR,
                "%s does not end, though it was asked to and then cancelled: its supervisor keeps waiting; its stack "
                "follows",
                (child,),
                {"actor": child, "error": "it does not end"},
                failure=Failure("StuckChild", "", stack),
            )
        case events.Overdue():
            return _overdue(event)
        case events.CancellationIgnored(actor_id=actor_id, title=title, message_id=message_id, seconds=seconds):
            return Sentence(
                logging.WARNING,
                "the handler of %s has not ended %s after its message %s was cancelled by force; its stack follows. If "
                "its actor is in a Process, that is replaced; else it goes on",
                (title, span(seconds), message_id),
                {
                    "actor_id": actor_id,
                    "actor": title,
                    "message_id": message_id,
                    "error": f"not ended {span(seconds)} after its cancellation",
                },
                failure=Failure("CancellationIgnored", "", event.where),
            )
        case events.LoopStalled(seconds=seconds, stack=stack, lasts=lasts):
            return Sentence(
                logging.WARNING,
                "the event loop has been blocked for %s, and nothing else runs until it is free; its stack follows"
                if lasts
                else "the event loop was blocked for %s, and nothing else could run; its stack follows. Move what "
                "blocks into a handler without async, or into trio.to_thread.run_sync",
                (span(seconds),),
                {"error": f"blocked for {span(seconds)}"},
                failure=Failure("LoopStalled", "", stack),
            )
        case events.ResourceLow():
            return _resource_low(event)
        case events.CircuitChanged(name=name, state="open", seconds=seconds, error=reason):
            because = "" if reason is None else f" ({type(reason).__name__}: {reason})"
            text = "the circuit %s is open%s: messages wait; the next one tries it in %s"
            return Sentence(logging.WARNING, text, (name, because, span(seconds)))
        case events.CircuitChanged(name=name, state="half open"):
            return Sentence(logging.INFO, "the circuit %s is half open: one message tries it", (name,))
        case events.CircuitChanged(name=name):
            return Sentence(logging.INFO, "the circuit %s is closed: messages proceed", (name,))
        case events.TriggerFired():
            return _trigger_fired(event)
        case events.TriggerTrouble(actor_id=actor_id, title=title, trigger=trigger, error=error, next=what_follows):
            text = "the trigger %r of %r cannot fire: %s; %s"
            fields = {"actor_id": actor_id, "actor": title, "error": error}
            return Sentence(logging.ERROR, text, (trigger, title, error, what_follows), fields)
        case events.TriggerChanged():
            return _trigger_changed(event)
        case events.PausesChanged():
            changes = [_paused(pause) for pause in event.paused] + [f"resumed {pause}" for pause in event.resumed]
            return Sentence(logging.INFO, "%s", ("; ".join(changes),))
        case events.Undelivered(actor_id=actor_id, title=title, message=message):
            text = "the local message %s was not handled: %s ended first"
            fields = {"actor_id": actor_id, "actor": title}
            return Sentence(logging.WARNING, text, (one_line(repr(message)), title), fields)
        case events.ShutdownStage(stage=stage, reason=reason):
            level = logging.WARNING if stage == "force" else logging.INFO
            return Sentence(level, "shutdown: %s (%s)", (_STAGES.get(stage, stage), reason))
        case _:
            return _of_a_process(event)


def _of_a_process(
    event: events.ProcessStarted
    | events.ProcessKilled
    | events.ProcessHung
    | events.HandlerHung
    | events.ProcessReplaced
    | events.ReplacementFailed
    | events.EventsDropped
    | events.Scaled,
) -> Sentence:
    match event:
        case events.ProcessStarted(process=process, pid=pid, incarnation=incarnation):
            return Sentence(logging.INFO, "%s is up: process %d, node %s", (process, pid, incarnation))
        case events.ProcessKilled(process=process, pid=pid):
            text = "%s (process %d) did not end in time and is killed: another node runs its unfinished messages again"
            return Sentence(logging.WARNING, text, (process, pid))
        case events.ProcessHung(process=process, pid=pid, seconds=seconds, stacks=stacks):
            where = "its stacks follow" if stacks else "it did not report its stacks (it is stopped, or runs C code)"
            return Sentence(
                logging.ERROR,
                "the event loop of %s (process %d) has been blocked for %s: the process is killed, and its supervisor "
                "decides what follows; %s",
                (process, pid, span(seconds), where),
                {"error": f"hung for {span(seconds)}"},
                failure=Failure("ProcessHung", "", stacks),
            )
        case events.HandlerHung(
            process=process, pid=pid, title=title, message_id=message_id, seconds=seconds, stacks=stacks
        ):
            return Sentence(
                logging.ERROR,
                "a handler of %s in %s (process %d) has not ended %s after its deadline: the process is killed, and "
                "its supervisor decides what follows; its stacks follow",
                (title, process, pid, span(seconds)),
                {"actor": title, "message_id": message_id, "error": "ExecutionTimeout"},
                failure=Failure("HandlerHung", "", stacks),
            )
        case events.ProcessReplaced(process=process, pid=pid, successor=successor, why=why):
            text = "process %d replaces process %d of %s (%s), which finishes its messages in flight and ends"
            return Sentence(logging.INFO, text, (successor, pid, process, why))
        case events.ReplacementFailed(process=process, pid=pid, why=why, error=raised, retry_in=retry_in):
            return Sentence(
                logging.ERROR,
                "process %d of %s should be replaced (%s), but its successor did not start (%s): the old process "
                "stays; next attempt in %s",
                (pid, process, why, error_in_words(raised), span(retry_in)),
                {"error": error_in_words(raised)},
                raised=raised,
            )
        case events.EventsDropped(process=process, pid=pid, count=count):
            text = "%d events of %s (process %d) did not reach emit=: it was too slow for them, or they were too large"
            return Sentence(logging.WARNING, text, (count, process, pid))
        case events.Scaled(process=process, before=before, after=after, why=why):
            count = abs(after - before)
            what_follows = f"{count} more {'starts' if count == 1 else 'start'}"
            if after < before:
                what_follows = f"{count} will end after {'its' if count == 1 else 'their'} messages in flight"
            text = "%s: from %d to %d replicas (%s); %s"
            return Sentence(logging.INFO, text, (process, before, after, why, what_follows))


def _see(source: str, message_id: str, broker: str) -> str:
    """Return the end of a sentence: the command that shows a dead letter, to be pasted into a shell."""
    if broker in _IN_MEMORY:
        return ""  # No other process sees it.
    named = ["--broker", broker] if broker else []
    import shlex  # noqa: PLC0415 - few nodes need it

    # What follows `--` is no option: a foreign id may begin with a dash.
    dashes = ["--"] if source.startswith("-") or message_id.startswith("-") else []
    return f"; see: {shlex.join(['actorwork', 'dead', 'show', *named, *dashes, source, message_id])}"


def _settled(event: events.Settled, broker: str) -> Sentence:
    delivery, title = event.delivery, event.title
    fields: dict[str, object] = {
        "actor_id": event.actor_id,
        "actor": title,
        "message_id": delivery.id,
        "source": delivery.source,
        "attempt": delivery.attempt,
    }
    which = (title, delivery.id, delivery.source, delivery.attempt)
    match event.settlement:
        case Ack():
            text = "%s handled message %s of '%s' (attempt %d) in %s"
            return Sentence(logging.DEBUG, text, (*which, span(event.seconds)), fields)
        case Retry(delay=delay, failure=failure):
            text = "%s could not handle message %s of '%s' (attempt %d, %s): it runs again %s"
            when = f"in {span(delay)}" if delay > 0 else "at once"
            fields["error"] = in_words(failure)
            return Sentence(logging.WARNING, text, (*which, in_words(failure), when), fields)
        case Reject(failure=failure):
            text = "%s rejected message %s of '%s' (attempt %d, %s): it is dropped"
            fields["error"] = in_words(failure)
            return Sentence(logging.INFO, text, (*which, in_words(failure)), fields)
        case Fail(failure=failure):
            fields["error"] = in_words(failure)
            return Sentence(
                logging.ERROR,
                "%s failed message %s (attempt %d, %s): it is a dead letter of '%s' now%s",
                (
                    title,
                    delivery.id,
                    delivery.attempt,
                    in_words(failure),
                    delivery.source,
                    _see(delivery.source, delivery.id, broker),
                ),
                fields,
                failure=None if failure.type in _NO_TRACEBACK else failure,
            )


def _child_exited(event: events.ChildExited) -> Sentence:
    ended, child = event.exit, event.child
    if ended.error is None:
        return Sentence(logging.INFO, "%s has ended (%s)", (child, ended.kind.value), {"actor": child})
    error = error_in_words(ended.error)
    # Where the parent noticed that a process had died tells nothing; what the process died of does, if it is known.
    is_lost_alone = isinstance(ended.error, ProcessLost) and ended.error.__cause__ is None
    was_asked = ended.kind in (Kind.SHUTDOWN, Kind.KILLED)
    return Sentence(
        logging.ERROR,
        "%s failed while it ended (%s), as it had been asked to: nothing follows"
        if was_asked
        else "%s %s (%s): %s decides what follows",
        (child, error) if was_asked else (child, ended.kind.value.replace("_", " "), error, event.supervisor),
        {"actor": child, "error": error},
        raised=None if is_lost_alone else ended.group or ended.error,
    )


def _overdue(event: events.Overdue) -> Sentence:
    return Sentence(
        logging.WARNING,
        "%s exceeded its execution_timeout with message %s %s ago and has not ended (%s): %s; its stack follows",
        (
            event.title,
            event.message_id,
            span(event.seconds),
            event.where.partition("\n")[0],
            "the message was settled without it" if event.is_settled else "the message stays in flight until it does",
        ),
        {
            "actor_id": event.actor_id,
            "actor": event.title,
            "message_id": event.message_id,
            "error": "ExecutionTimeout",
        },
        failure=Failure("Overdue", "", event.where),
    )


def _trigger_changed(event: events.TriggerChanged) -> Sentence:
    whose = f" by {event.by}" if event.by else ""
    match event.action:
        case "put":
            what = f"was put here by hand{whose}"
        case "changed":
            what = f"is changed by hand{whose} ({', '.join(event.parts)}): this overrides the code until it is reset"
        case "reset":
            what = "is reset: it fires as the code declares it"
        case "deleted":
            what = "is deleted, which was put here by hand"
    fields = {"actor_id": event.actor_id, "actor": event.title}
    return Sentence(logging.INFO, "the trigger %r of %r %s", (event.trigger, event.title, what), fields)


def _resource_low(event: events.ResourceLow) -> Sentence:
    share = f"{event.free / event.total:.1%}" if event.total else "nothing"
    left = f"{share} ({in_bytes(event.free)} of {in_bytes(event.total)})"
    if event.resource == "memory":
        text, of = "memory is low: %s is left of what the %s allows; beyond that the kernel ends processes", event.where
    else:
        text, of = "disk space is low: %s is left at %s; without any, nothing more can be stored there", event.where
    return Sentence(logging.WARNING, text, (left, of), {"error": f"{event.resource} is low"})


def in_bytes(count: int) -> str:
    """Return a number of bytes for people: `512 kB`, `1.25 GB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _trigger_fired(event: events.TriggerFired) -> Sentence:
    from actorwork.policy.schedule import moment  # noqa: PLC0415 - few nodes have triggers

    text = "the trigger %r of %r fired for %s"
    times = ", ".join(f"{moment(nominal):%Y-%m-%d %H:%M:%S} UTC" for nominal in event.times[-3:])
    if len(event.times) > 3:
        times = f"{len(event.times)} times up to {times}"
    if event.kept < len(event.times):
        skipped = len(event.times) - event.kept
        text += f"; {skipped} did not, because a message of this trigger is still waiting or in flight"
    fields = {"actor_id": event.actor_id, "actor": event.title}
    return Sentence(logging.DEBUG, text, (event.trigger, event.title, times), fields)


def _paused(pause: Pause) -> str:
    by = f" by {pause.by}" if pause.by else ""
    why = f": {pause.reason}" if pause.reason else ""
    return f"paused {pause}{by}{why}; messages wait there until it is resumed"


def in_words(failure: Failure) -> str:
    """Return a failure's type and reason in one str: `ValueError: no such order`."""
    return f"{failure.type}: {failure.reason}" if failure.reason else failure.type


def error_in_words(error: BaseException) -> str:
    reason = str(error)
    return f"{type(error).__qualname__}: {reason}" if reason else type(error).__qualname__


def span(seconds: float) -> str:
    """Return a duration for people: `3.1 ms`, `31 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
