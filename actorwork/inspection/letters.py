"""Dead letters and their causes as JSON, and the actions on many of them."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from actorwork.inspection.words import moment
from actorwork.telemetry.formatting import printable_json

if TYPE_CHECKING:
    from actorwork.policy.dead_letters import Cause
    from actorwork.records import DeadLetter


def shown_source(letter: DeadLetter) -> str:
    """Return the name of a letter's source for people, as commands take it: of an actor's own source, `actor:TITLE`."""
    from actorwork.settings import default_source, identity

    if letter.group != identity(letter.actor) or letter.source != default_source(letter.group):
        return letter.source
    return shlex.quote(f"actor:{letter.actor}")


def fingerprint(letter: DeadLetter) -> str:
    from actorwork.policy.dead_letters import fingerprint_of

    return fingerprint_of(letter)


def error(letter: DeadLetter) -> str:
    return f"{letter.failure.type}: {letter.failure.reason}" if letter.failure.reason else letter.failure.type


def payload(letter: DeadLetter) -> tuple[str, Any]:
    """Return the kind of a payload (`json`, `fields` or `bytes`), and the payload as a JSON value."""
    if not isinstance(letter.payload, bytes):
        return "fields", {_text(name): _text(value) for name, value in letter.payload.items()}
    return json_or_text(letter.payload)


def json_or_text(data: bytes) -> tuple[str, Any]:
    """Return the kind of a message's data (`json` or `bytes`), and the data as a JSON value."""
    from actorwork import codec
    from actorwork.errors import CodecError

    try:
        return "json", codec.loads(data)
    except CodecError:
        return "bytes", _text(data)


def payload_text(letter: DeadLetter) -> str:
    kind, value = payload(letter)
    return value if kind == "bytes" else printable_json(json.dumps(value, ensure_ascii=False, indent=2))


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def in_json(letter: DeadLetter) -> dict[str, Any]:
    kind, value = payload(letter)
    return {
        "source": letter.source,
        "entry": letter.entry,
        "message_id": letter.id,
        "actor_id": letter.group,
        "actor": letter.actor,
        "attempt": letter.attempt,
        "failed_at": moment(letter.at),
        "error": error(letter),
        "fingerprint": fingerprint(letter),
        "traceback": letter.failure.traceback,
        "type": letter.type,
        "headers": dict(letter.headers),
        "payload_is": kind,
        "payload": value,
    }


def cause_in_json(cause: Cause) -> dict[str, Any]:
    return {
        "fingerprint": cause.fingerprint,
        "count": cause.count,
        "first": moment(cause.first),
        "last": moment(cause.last),
        "sources": dict(cause.sources),
        "example": in_json(cause.example),
    }
