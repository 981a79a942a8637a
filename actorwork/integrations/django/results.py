"""From what the broker knows of a message to Django's `TaskResult`.

status         READY until an attempt begins, and between two attempts; FAILED also if it was cancelled or expired
the call       from the message while there is one, from the reply after it, from a report after a failure
worker_ids     as many as attempts; of earlier attempts the node is not known any more
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from actorwork import codec
from actorwork.errors import CodecError
from actorwork.integrations.django.calls import Call
from actorwork.integrations.django.interface import import_string, settings, tasks, timezone
from actorwork.message import Status
from actorwork.records import MessageInfo

EARLIER: Final = "unknown"
"""The worker of an earlier attempt."""
REPORT: Final = "django"
"""The name of the call in the report of a failed attempt."""
ERROR: Final = "error"
"""The name of the path of the error's class there."""


def task_of(call: Call) -> Any:
    """Return the task that a call is of, as it was sent; raises `LookupError` if this program has no such task."""
    try:
        found = import_string(call.path)
        return found.using(
            priority=call.priority, queue_name=call.queue, backend=call.backend, run_after=moment(call.run_after)
        )
    except (ImportError, AttributeError, tasks("exceptions").TaskException) as error:
        raise LookupError(f"this program has no task {call.path!r} as the message wants it: {error}") from error


def moment(seconds: float | None) -> datetime | None:
    """Return a moment as Django has it: with a timezone if it uses them."""
    if seconds is None:
        return None
    aware = datetime.fromtimestamp(seconds, UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware)


def status_of(status: Status) -> Any:
    """Return Django's word for a status."""
    words = tasks().TaskResultStatus
    match status:
        case Status.SUCCESS:
            return words.SUCCESSFUL
        case Status.STARTED:
            return words.RUNNING
        case _ if status.is_final:
            return words.FAILED
        case _:
            return words.READY


def result_of(
    call: Call, info: MessageInfo, *, task: Any = None, errors: Sequence[Any] = (), value: object = None
) -> Any:
    """Return the `TaskResult` of a call."""
    result = tasks().TaskResult(
        task=task_of(call) if task is None else task,
        id=info.id,
        status=status_of(info.status),
        enqueued_at=moment(info.sent),
        started_at=moment(info.started),
        finished_at=moment(info.ended),
        last_attempted_at=moment(info.started),
        args=call.args,
        kwargs=call.kwargs,
        backend=call.backend,
        errors=list(errors),
        worker_ids=[*([EARLIER] * (info.attempt - 1)), info.node] if info.attempt else [],
    )
    if info.status is Status.SUCCESS:
        object.__setattr__(result, "_return_value", value)  # As Django's own backends do: the class is frozen.
    return result


def errors_of(info: MessageInfo) -> list[Any]:
    """Return the error of the last attempt, if it has failed."""
    if info.failure is None:
        return (
            [_error("actorwork.errors.ActorworkError", f"{info.status}: {info.reason}")] if info.status.is_final else []
        )
    reported = None if info.progress is None else info.progress.meta.get(ERROR)
    path = reported if isinstance(reported, str) else info.failure.type
    return [_error(path, info.failure.traceback or f"{info.failure.type}: {info.failure.reason}")]


def _error(path: str, traceback: str) -> Any:
    return tasks("base").TaskError(exception_class_path=path, traceback=traceback)


def call_from(value: object) -> Call | None:
    """Read a call from JSON; return None if it is none."""
    try:
        return codec.decode_value(codec.encode_value(value), Call)
    except CodecError:
        return None
