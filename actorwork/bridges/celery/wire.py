r"""Celery's messages (protocol 2) and results, as they lie at Redis.

    <queue>                        a list: producers push on the left, workers pop on the right
    <queue>\x06\x16<3, 6 or 9>   the same for less urgent messages (kombu's steps of priorities)
    celery-task-meta-<task>        a result, and the channel on which it is announced

A message is a JSON object with `headers` (task, id, eta, …), `properties`, and a `body` in base64: the JSON list of
arguments, keyword arguments and the signatures that follow. kombu writes dates and the like as objects of `__type__`
and `__value__`; here they become the texts that our codec reads.

Only JSON is read. Everything in a message is what any client of that Redis may have written.
"""

from __future__ import annotations

import base64
import binascii
import builtins
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from actorwork import codec
from actorwork.errors import CodecError
from actorwork.message import NO_HEADERS, Failure, Json, Outcome, Priority
from actorwork.policy.sending import OURS
from actorwork.shown import Value

STEPS: Final = (0, 3, 6, 9)
"""kombu's steps of priorities; the smaller goes first, and 0 is what a message has that names none."""
META: Final = "celery-task-meta-"
NOT_REGISTERED: Final = "NotRegistered"
"""Celery's error for a task that a worker does not know."""
_OF_CELERY: Final = frozenset(
    {
        "argsrepr",
        "compression",
        "eta",
        "expires",
        "group",
        "group_index",
        "id",
        "ignore_result",
        "kwargsrepr",
        "lang",
        "origin",
        "parent_id",
        "replaced_task_nesting",
        "retries",
        "root_id",
        "shadow",
        "stamped_headers",
        "stamps",
        "task",
        "timelimit",
    }
)
_SIGNATURES: Final = ("callbacks", "errbacks", "chain", "chord")

CeleryStatus: TypeAlias = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
FINAL: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


class NotTaken(ValueError):
    """A message that is not for an actor, and why."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TaskMessage(Value):
    """A task that was sent; `eta` and `expires` are in seconds since the epoch. `headers` are those of its sender."""

    name: str
    id: str
    args: Sequence[Json] = ()
    kwargs: Mapping[str, Json] = NO_HEADERS
    eta: float | None = None
    expires: float | None = None
    retries: int = 0
    priority: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    is_result_ignored: bool = False
    headers: Mapping[str, Json] = NO_HEADERS


def redis_url(url: str) -> str:
    """Return a url of kombu's in our form: `redis+socket:///path?virtual_host=1` is `unix:///path?db=1`."""
    head, scheme, rest = url.partition("redis+socket://")
    return f"unix://{rest.replace('virtual_host=', 'db=')}" if scheme and not head else url


def lists_of(queue: str) -> tuple[str, ...]:
    """Return the lists of a queue, the most urgent first."""
    return tuple(_list_of(queue, step) for step in STEPS)


def _list_of(queue: str, step: int) -> str:
    return f"{queue}\x06\x16{step}" if step else queue


def list_for(queue: str, priority: int) -> str:
    """Return the list for messages of a priority from 0 to 9."""
    return _list_of(queue, max(step for step in STEPS if step <= priority))


def priority_of(priority: int) -> Priority:
    """Return our priority: what is less urgent than Celery's default is LOW."""
    return Priority.LOW if priority >= STEPS[1] else Priority.NORMAL


# ------------------------------------------------------------------------------------------------------------ messages


def task_from(raw: bytes) -> TaskMessage:
    """Read a message; raises `NotTaken` for one in another form, and for one that other tasks wait for."""
    envelope = _object(_loads(raw, "the message"), "the message")
    headers = _object(envelope.get("headers"), "its headers")
    properties = _object(envelope.get("properties"), "its properties")
    name, task_id = headers.get("task"), headers.get("id")
    if not isinstance(name, str) or not isinstance(task_id, str) or not name or not task_id:
        raise NotTaken("it is not of Celery's protocol 2: its headers name no task and id")
    if envelope.get("content-type") != "application/json":
        raise NotTaken(f"it is {envelope.get('content-type')!r}, and only JSON is read")
    if headers.get("compression") is not None:
        raise NotTaken(f"it is compressed ({headers['compression']!r})")
    args, kwargs = _body(envelope.get("body"), properties.get("body_encoding"))
    priority = properties.get("priority")
    retries = headers.get("retries")
    return TaskMessage(
        name=name,
        id=task_id,
        args=args,
        kwargs=kwargs,
        eta=_moment(headers.get("eta"), "eta"),
        expires=_moment(headers.get("expires"), "expires"),
        retries=retries if type(retries) is int else 0,
        priority=priority if type(priority) is int else 0,
        root_id=_text(headers.get("root_id")),
        parent_id=_text(headers.get("parent_id")),
        is_result_ignored=headers.get("ignore_result") is True,
        headers={
            name: value for name, value in headers.items() if name not in _OF_CELERY and not name.startswith(OURS)
        },
    )


def _body(body: Json, encoding: Json) -> tuple[Sequence[Json], Mapping[str, Json]]:
    if not isinstance(body, str) or encoding not in ("base64", None):
        raise NotTaken(f"its body is encoded as {encoding!r}")
    try:
        data = body.encode() if encoding is None else base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotTaken(f"its body is not base64: {error}") from error
    parts = _loads(data, "its body")
    if not isinstance(parts, list) or len(parts) != 3:
        raise NotTaken("its body is no list of arguments, keyword arguments and signatures")
    args, kwargs = plain(parts[0]), _object(plain(parts[1]), "its keyword arguments")
    if not isinstance(args, list):
        raise NotTaken("its arguments are no list")
    following = _object(parts[2], "its signatures")
    others = [name for name in _SIGNATURES if following.get(name)]
    if others:
        raise NotTaken(f"other tasks follow it ({', '.join(others)}), which only a worker of Celery's sends")
    return args, kwargs


def _loads(data: bytes, what: str) -> Json:
    try:
        return codec.loads(data)
    except CodecError as error:
        raise NotTaken(f"{what} cannot be read: {error}") from error


def _object(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise NotTaken(f"{what} wants a JSON object, got {type(value).__name__}")
    return value


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _moment(value: Json, what: str) -> float | None:
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError) as error:
        raise NotTaken(f"its {what} is no time: {value!r}") from error
    # Celery reads a time without a timezone as UTC.
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


def plain(value: Json) -> Json:
    """Return a value with kombu's own types as texts: ISO 8601, decimals, UUIDs, base64; raises `NotTaken`."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"__type__", "__value__"}:
        return {name: plain(one) for name, one in value.items()}
    kind, inner = value["__type__"], value["__value__"]
    if kind in ("datetime", "date", "time", "decimal", "bytes", "base64") and isinstance(inner, str):
        return inner
    if kind == "uuid" and isinstance(inner, dict) and isinstance(text := inner.get("hex"), str):
        try:
            return str(uuid.UUID(text))
        except ValueError as error:
            raise NotTaken(f"it has a UUID that is none: {text!r}") from error
    raise NotTaken(f"it has a value of kombu's type {kind!r}")


def encoded_task(task: TaskMessage, queue: str) -> bytes:
    """Write a message as Celery's producers do; raises `CodecError` for arguments that JSON cannot express."""
    body = codec.dumps([list(task.args), dict(task.kwargs), dict.fromkeys(_SIGNATURES)])
    headers: dict[str, Json] = {
        **task.headers,
        "lang": "py",
        "task": task.name,
        "id": task.id,
        "shadow": None,
        "eta": _iso(task.eta),
        "expires": _iso(task.expires),
        "group": None,
        "group_index": None,
        "retries": task.retries,
        "timelimit": [None, None],
        "root_id": task.root_id or task.id,
        "parent_id": task.parent_id,
        "argsrepr": _shown(list(task.args)),
        "kwargsrepr": _shown(dict(task.kwargs)),
        "origin": "actorwork",
        "ignore_result": task.is_result_ignored,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    return codec.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "correlation_id": task.id,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": task.priority,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 1024 else f"{text[:1000]}..."


def redirected(raw: bytes, queue: str) -> bytes:
    """Return a message that is on its way to another queue, where a worker gives it back if it cannot handle it."""
    try:
        envelope: Any = json.loads(raw)
        envelope["properties"]["delivery_info"] = {"exchange": "", "routing_key": queue}
        return json.dumps(envelope).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return raw


# ------------------------------------------------------------------------------------------------------------- results


def encoded_result(id: str, outcome: Outcome, now: datetime) -> bytes:
    """Write a result as Celery's backend on Redis does; a rejected message is REVOKED."""
    status: CeleryStatus = "SUCCESS"
    result = outcome.value.decode()
    trace: str | None = None
    if outcome.status != "done":
        failure = outcome.failure or Failure(outcome.status, "")
        if outcome.status == "rejected":
            status = "REVOKED"
            reason = "expired" if failure.type == "Expired" else failure.reason
            error = {"exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"}
        else:
            status = "FAILURE"
            trace = failure.traceback
            error = {"exc_type": failure.type, "exc_message": [failure.reason], "exc_module": _module_of(failure.type)}
        result = json.dumps(error)
    head: dict[str, Json] = {
        "status": status,
        "traceback": trace,
        "children": [],
        "date_done": now.isoformat(),
        "task_id": id,
    }
    # The value as it came: numbers keep all of their digits.
    return f'{{"result": {result}, {json.dumps(head)[1:]}'.encode()


def _module_of(error: str) -> str | None:
    """Return the module of an exception; None makes Celery's callers a class of that name."""
    if error == NOT_REGISTERED:
        return "celery.exceptions"
    found = getattr(builtins, error, None)
    return "builtins" if isinstance(found, type) and issubclass(found, BaseException) else None


@attrs.frozen(eq=False, repr=False)
class StoredResult(Value):
    """What Celery's backend has of a task: its value, if it has succeeded, or its failure."""

    status: CeleryStatus
    value: Json = None
    failure: Failure | None = None


def result_from(raw: bytes) -> StoredResult:
    """Read a result; raises `CodecError` for what is none."""
    found = codec.loads(raw)
    if not isinstance(found, dict) or not isinstance(found.get("status"), str):
        raise CodecError(f"a result of Celery's wants a JSON object with a status, got {raw[:80]!r}")
    status = cast("CeleryStatus", found["status"])
    if status == "SUCCESS":
        try:
            return StoredResult(status, plain(found.get("result")))
        except NotTaken as error:
            raise CodecError(f"the result of task {found.get('task_id')}: {error}") from error
    if status not in FINAL:
        return StoredResult(status)
    error = found.get("result")
    if not isinstance(error, dict):
        return StoredResult(status, failure=Failure(status, str(error), str(found.get("traceback") or "")))
    message = error.get("exc_message")
    reason = ", ".join(map(str, message)) if isinstance(message, list) else str(message or "")
    return StoredResult(
        status, failure=Failure(str(error.get("exc_type") or status), reason, str(found.get("traceback") or ""))
    )
