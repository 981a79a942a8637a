"""A dead letter as `dead export` writes it and `dead import` reads it, and changed by `--set`."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from actorwork.inspection.letters import in_json
from actorwork.telemetry.formatting import printable_json

if TYPE_CHECKING:
    from actorwork.message import Envelope, Json
    from actorwork.records import DeadLetter


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
