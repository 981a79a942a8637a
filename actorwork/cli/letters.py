"""A dead letter as the command line prints it, and as `dead export` writes it and `dead import` reads it."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from actorwork.cli.output import moment
from actorwork.telemetry.formatting import printable_json

if TYPE_CHECKING:
    from actorwork.message import DeadLetter, Envelope, Json
    from actorwork.policy.dead_letters import Cause


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
    from actorwork import codec
    from actorwork.errors import CodecError

    if not isinstance(letter.payload, bytes):
        return "fields", {_text(name): _text(value) for name, value in letter.payload.items()}
    try:
        return "json", codec.loads(letter.payload)
    except CodecError:
        return "bytes", _text(letter.payload)


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


def exported(letter: DeadLetter) -> str:
    """Return a letter as a line of JSON, from which `envelopes` makes its message again."""
    facts = in_json(letter)
    if facts["payload_is"] == "bytes":
        facts["payload_base64"] = base64.b64encode(cast("bytes", letter.payload)).decode()
    return printable_json(json.dumps(facts, ensure_ascii=False))


def envelopes(lines: Iterable[str]) -> Iterator[Envelope]:
    """Read exported letters; an invalid line ends the command before anything is sent."""
    from actorwork import codec
    from actorwork.message import Envelope
    from actorwork.policy.attempts import headers_of_first_attempt

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            letter = json.loads(line)
            encoded = letter.get("payload_base64")
            yield Envelope(
                source=letter["source"],
                id=f"{letter['message_id']}/{letter['entry']}/again",
                data=codec.dumps(letter["payload"]) if encoded is None else base64.b64decode(encoded),
                type=letter["type"],
                headers=headers_of_first_attempt(letter["headers"]),
                group=letter["actor_id"],
            )
        except (KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise click.ClickException(
                f"line {number} is not an exported dead letter ({what}); nothing was sent"
            ) from None


def with_changes(value: Json, changes: Sequence[str]) -> Json:
    """Return a copy of a JSON value with the fields of FIELD=VALUE set."""
    whole: Any = json.loads(json.dumps(value))
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path:
            raise click.UsageError(f"--set wants FIELD=VALUE, got {change!r}")
        try:
            new: Any = json.loads(text)
        except ValueError:
            new = text
        *outer, name = path.split(".")
        place: Any = whole
        for field in outer:
            place = cast("dict[str, Any]", place).get(field) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise click.ClickException(f"the message has no object in which {path!r} could be set")
        cast("dict[str, Any]", place)[name] = new
    return whole
