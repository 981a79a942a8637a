"""The names of spans and their attributes, and those of metrics: the semantic conventions for messaging, of version
1.44; for the commands to the broker those for databases.

These are at the stage Development, so they may still change; `SCHEMA_URL` tells a backend which version this is. All
attributes of a span are given when it is made, since samplers decide by them. The conventions know no name for an
actor and for the number of an attempt: those are `actorwork.actor` and `actorwork.attempt`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from actorwork.errors import ExecutionTimeout, Reject
from actorwork.groups import is_cancellation
from actorwork.message import FLOW
from actorwork.policy.settlement import decisive

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from actorwork.message import Delivery, Envelope
    from actorwork.settings import Settings

SCOPE: Final = "actorwork"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

PROCESS_EXCEPTION: Final = "messaging.process.exception"
"""The name of the log event of an exception that a handler has raised."""
SEND_EXCEPTION: Final = "messaging.send.exception"
"""The name of the log event of an exception that a call of a client has raised, which sends."""
OTHER_ERROR: Final = "_OTHER"
_HOST: Final = socket.gethostname()


def own_version() -> str:
    try:
        return version("actorwork")
    except PackageNotFoundError:
        return ""


def attributes_of_broker(url: str) -> dict[str, AttributeValue]:
    """Return what is the same for all spans at a broker."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "valkey", "valkeys", "unix"):
        return {"messaging.system": "actorwork"}
    found: dict[str, AttributeValue] = {"messaging.system": "redis"}
    if parts.scheme == "unix":
        found["server.address"] = parts.path
    elif parts.hostname:
        found["server.address"] = parts.hostname
        found["server.port"] = parts.port or 6379
    return found


def client_id() -> str:
    """Return the name of this process, as nodes report themselves: host:pid. It differs in a fork."""
    return f"{_HOST}:{os.getpid()}"


_OPERATIONS: Final[Mapping[str, str]] = {
    "actorwork_process_duration_seconds": "process",
    "actorwork_sent_total": "send",
    "actorwork_send_duration_seconds": "send",
    "actorwork_read_messages_total": "receive",
}
"""What the metrics measure that have names of the conventions for messaging."""
_COMMANDS: Final = "actorwork_broker_command_duration_seconds"
_FAILED: Final = frozenset({"fail", "retry", "refused"})
"""Outcomes of operations that have failed; the class of the error is known to `actorwork.failures` alone."""


def is_measured(metric: str, labels: Mapping[str, str]) -> bool:
    """Whether a series is exported; what waits in a spool must not be among the messages that were sent."""
    return metric != "actorwork_sent_total" or labels["outcome"] != "spooled"


def attributes_of_metric(
    metric: str, labels: Mapping[str, str], broker: Mapping[str, AttributeValue]
) -> dict[str, AttributeValue]:
    """Return the attributes of a series: its labels, and those that the conventions require of its metric.

    `metric` is its name in Prometheus, `broker` are the attributes that `attributes_of_broker` returns.
    """
    found: dict[str, AttributeValue] = dict(labels)
    operation = _OPERATIONS.get(metric)
    if operation is not None:
        found |= broker
        found["messaging.operation.name"] = found["messaging.operation.type"] = operation
        if "actor" in labels:
            found["messaging.consumer.group.name"] = labels["actor"]
        if "source" in labels:
            found["messaging.destination.name"] = labels["source"]
        if labels.get("outcome") in _FAILED:
            found["error.type"] = OTHER_ERROR
    elif metric == _COMMANDS:
        found |= _attributes_of_command(labels["command"], broker)
    return found


def _attributes_of_command(command: str, broker: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {name: value for name, value in broker.items() if name.startswith("server.")}
    if broker["messaging.system"] != "redis":
        return {**found, "db.system.name": "sqlite", "db.operation.name": command}
    found["db.system.name"] = "redis"
    # Verbs are written in capitals, and the names of scripts are not.
    found["db.operation.name"] = command if command.isupper() else "EVALSHA"
    if not command.isupper():
        found["db.stored_procedure.name"] = command
    return found


def destination_of(source: str, settings: Settings) -> str:
    """Return the name of a source in the name of a span; an actor's own source is named by its title, as in logs."""
    return f"actor:{settings.title}" if source == settings.default_source else source


def attributes_of_process(settings: Settings, source: str) -> dict[str, AttributeValue]:
    """Return the attributes of the span of a handler that are the same for all messages of a source."""
    found: dict[str, AttributeValue] = {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": source,
        "messaging.consumer.group.name": settings.title or settings.id,
        "messaging.client.id": client_id(),
        "actorwork.actor": settings.title or settings.id,
    }
    if (shown := destination_of(source, settings)) != source:
        found["messaging.destination.template"] = shown
    return found


def attributes_of_delivery(delivery: Delivery) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"messaging.message.id": delivery.id, "actorwork.attempt": delivery.attempt}
    if (run := run_of(delivery)) is not None:
        found["messaging.message.conversation_id"] = run
    return found


def attributes_of_batch(deliveries: Sequence[Delivery]) -> dict[str, AttributeValue]:
    return {"messaging.batch.message_count": len(deliveries)}


def attributes_of_create(envelope: Envelope) -> dict[str, AttributeValue]:
    """Return the attributes of the span of a message that is made to be sent."""
    found: dict[str, AttributeValue] = {
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.client.id": client_id(),
        "messaging.destination.name": envelope.source,
    }
    if envelope.id:  # What an actor publishes gets its id with the settlement.
        found["messaging.message.id"] = envelope.id
    return found


def attributes_of_send(envelopes: Sequence[Envelope]) -> dict[str, AttributeValue]:
    """Return the attributes of the span of a call that sends."""
    found: dict[str, AttributeValue] = {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.client.id": client_id(),
    }
    first = envelopes[0]
    if len(envelopes) > 1:
        found["messaging.batch.message_count"] = len(envelopes)
    elif first.id:
        found["messaging.message.id"] = first.id
    if all(one.source == first.source for one in envelopes):
        found["messaging.destination.name"] = first.source
    return found


def run_of(delivery: Delivery) -> str | None:
    """Return the id of the run of which a message is a step."""
    flow = delivery.headers.get(FLOW)
    parts = flow.rsplit("/", 2) if isinstance(flow, str) else ()
    return parts[1] if len(parts) == 3 else None


def is_failure(error: BaseException) -> bool:
    """Whether an error is one for an operator: not a rejection, and not a cancellation at a shutdown."""
    return not isinstance(decisive(error), Reject) and not is_cancellation(error)


def error_type(error: BaseException) -> str:
    """Return the class of an error, with its module unless that is `builtins`: of low cardinality."""
    decided = decisive(error)
    if isinstance(decided, ExecutionTimeout):
        return "timeout"
    cls = type(decided)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}" if cls.__qualname__.isidentifier() else OTHER_ERROR


def text_of(error: BaseException) -> str:
    """Return an error as the description of a status."""
    try:
        return f"{type(error).__name__}: {error}"[:400]
    except Exception:  # noqa: BLE001 - the text of a user's error may raise anything
        return type(error).__name__
