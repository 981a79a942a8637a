"""How a local call is handled: its error crashes the actor, and the asker gets an error at once.

`on_failure` overrides the crash. What comes out of a handler becomes a reply or a crash in `raised`, where the order of
the checks matters: if we have cancelled the handler, that is what ended it, whatever came out (a handler may turn its
cancellation into an error of its own). Next are interrupts and cancellations from outside, which are no results of the
handler and go on. Only then the error itself is looked at.

Functions instead of a class: an object for each executor, with a reference back to it, would be a cycle in every actor,
and waiting for the garbage collector to find it made restarts a fifth slower.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from actorwork import events
from actorwork.actors.context.in_flight import Stop, in_flight
from actorwork.actors.crash import Crash
from actorwork.actors.execution.threads import run_in_thread
from actorwork.actors.execution.watchdog import UNKNOWN
from actorwork.actors.execution.workplace import explained, interrupts, is_from_outside
from actorwork.actors.handlers.table import local_keywords
from actorwork.actors.mailbox.calls import PENDING, CallState, LocalCall, Queue
from actorwork.actors.refs.watching import LinkBroken
from actorwork.errors import (
    ActorCrashed,
    ActorStopped,
    DeathPact,
    MessageFailed,
    MessageRefused,
    Shutdown,
    Verdict,
)
from actorwork.policy.exits import is_fatal
from actorwork.policy.settlement import decisive, to_blame

if TYPE_CHECKING:
    from actorwork.actors.execution.workplace import Worker
    from actorwork.actors.handlers.table import Handler


class _Refused(Exception):
    """No handler takes a message, as its turn has shown; `__cause__` is the `MessageRefused`."""


async def handle(worker: Worker, call: LocalCall) -> None:
    """Handle a call; as the executor's loop does where it can, by itself."""
    in_flight.set(call)
    try:
        value = await begin(worker, call)
    except BaseException as error:  # noqa: BLE001 - `raised` makes it a reply or a crash, or raises it
        raised(worker, call, error)
    else:
        returned(worker, call, value)


def begin(worker: Worker, call: LocalCall) -> Awaitable[object]:
    """Begin to handle a call; raises `Crash` for a signal that no handler takes, and `_Refused`."""
    handler, message, keywords = call.handler, call.message, call.keywords
    if handler is None or worker.workplace.actor.behaviour.is_changed:
        handler, keywords = _handler_now(worker, call)
    instance = worker.workplace.instance
    if not handler.is_async:
        args = () if keywords is not None else (message,)
        return run_in_thread(worker, worker.workplace.actor, handler.function, (instance, *args), keywords or {})
    if keywords is None:
        awaitable: Awaitable[object] = handler.function(instance, message)
    else:
        awaitable = handler.function(instance, **keywords)
    return awaitable


def _handler_now(worker: Worker, call: LocalCall) -> tuple[Handler, dict[str, Any] | None]:
    """Return the handler by what the actor has become; for calls that were sent without one, or before."""
    message = call.message
    if isinstance(message, LinkBroken):
        raise _death_pact(worker, f"is linked to {message.ref!r}, which has ended: {message.exit}")
    try:
        handler = worker.workplace.actor.behaviour.current.for_message(message)
        return handler, local_keywords(handler, message)
    except MessageRefused as error:
        refusal = error
    if call.queue is Queue.SYSTEM:
        raise _death_pact(worker, f"watches an actor, and has no handler that takes its end: {message}")
    raise _Refused from refusal


def _death_pact(worker: Worker, why: str) -> Crash:
    policy = worker.workplace.actor.settings.on_failure
    crash = Crash(stop=policy == "stop", escalate=policy == "escalate")
    crash.__cause__ = DeathPact(f"{worker.workplace.actor.label!r} {why}")
    return crash


def returned(worker: Worker, call: LocalCall, value: object) -> None:
    """Answer with what the handler has returned."""
    if worker.ended is not None:
        _end(worker, call, None)
        return
    worker.item = None
    worker.began = UNKNOWN
    if call.state is not PENDING:
        if call.state is CallState.STASHED:
            worker.workplace.actor.stash.add(call)
        return  # Stashed, forwarded or deferred: the call has not ended with its handler.
    call.state = CallState.ENDED
    if call.reply is not None:
        call.reply.give(value)


def raised(worker: Worker, call: LocalCall, error: BaseException) -> None:
    """Make what the handler has raised a reply or a crash; raises the crash, and what came from outside."""
    state, call.state = call.state, CallState.ENDED
    if worker.ended is not None and not interrupts(error):
        _end(worker, call, error)
    elif isinstance(error, Crash):
        worker.item = None
        raise error
    elif is_from_outside(error):
        # `item` stays: the executor gives it up on its way out, and answers the asker.
        raise error
    elif isinstance(decisive(error), Stop):
        # The message ends as if its handler had returned, also if it was stashed or deferred before.
        worker.workplace.finish()
        call.state = state
        returned(worker, call, None)
    elif isinstance(error, _Refused):
        refusal = error.__cause__ or error
        worker.item = None
        worker.began = UNKNOWN
        answer(worker, call, refusal, refusal)
    else:
        _failed(worker, call, error)


def _end(worker: Worker, call: LocalCall, error: BaseException | None) -> None:
    """End a call that we have cancelled; past its timeout that is the actor's crash."""
    blamed = to_blame(error, ended=worker.ended, timeout=worker.timeout)
    if blamed is None:
        worker.give_up()
    else:
        _failed(worker, call, blamed)


def _failed(worker: Worker, call: LocalCall, error: BaseException) -> None:
    """Answer with an error; crash the actor unless the error is a verdict, or `on_failure` is to resume."""
    actor = worker.workplace.actor
    worker.item = None
    cause = decisive(error)
    explained(cause)
    if isinstance(cause, Shutdown):
        ended = ActorStopped(f"{actor.title!r} ended while it handled {type(call.message).__name__}")
        answer(worker, call, ended, cause)
        raise cause
    policy = actor.settings.on_failure
    if isinstance(cause, Verdict):
        failed = MessageFailed(
            f"{actor.title!r} answered {type(cause).__name__}: {cause.reason}",
            type=type(cause).__name__,
            reason=cause.reason,
        )
        answer(worker, call, failed, cause)
        return
    resumes = policy == "resume"
    if call.reply is None or (resumes and isinstance(cause, Exception)):
        answer(worker, call, cause, cause)
    else:
        what = f"{type(call.message).__name__}: {type(cause).__name__}: {cause}"
        answer(worker, call, ActorCrashed(f"{actor.label!r} crashed while it handled {what}"), cause)
    if resumes:
        return
    if policy is None and is_fatal(error):
        # No policy is set for it, and it asks for the end of the program.
        raise error
    raise Crash(stop=policy == "stop", escalate=policy == "escalate") from cause


def answer(worker: Worker, call: LocalCall, error: BaseException, cause: BaseException) -> None:
    """Fail the reply; a message that was told is reported as undelivered instead."""
    if call.reply is not None:
        if error is not cause:
            error.__cause__ = cause
        call.reply.fail(error)
    else:
        actor = worker.workplace.actor
        actor.services.emit(events.Undelivered(actor.settings.id, actor.label, call.message))
