"""A source as lines of JSON: what `actorwork export` writes and `actorwork import` reads, whatever the broker.

    {"actorwork": 1, "source": …}     the first line
    {"message": {…}}                  in an order in which they can be sent: of one key, each after the one before
    {"dead": {…}}                     a dead letter
    {"seen": {…}}                     ids that must not enter again; after all messages, or these would be refused
    {"end": {…}}                      how many there were of each; without this line the file is incomplete

Bytes that are UTF-8 are text, others `{"base64": …}`. Fields that are as usual are left out, and unknown ones ignored.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, cast

from actorwork.errors import BrokerError
from actorwork.message import ATTEMPT, NO_HEADERS, Envelope, Failure, Priority, Unique
from actorwork.records import DeadLetter

VERSION: Final = 1


def mark_of_letter(letter: DeadLetter) -> str:
    """Return what tells one dead letter from others: an id may fail again, later or for another actor."""
    facts = f"{letter.id} {letter.group} {round(letter.at * 1000)}"
    return f"dead {hashlib.sha256(facts.encode()).hexdigest()[:32]}"


def is_retry_with_key(envelope: Envelope) -> bool:
    """Whether a message that is held back has the turn of its key: those behind it wait for it."""
    return bool(envelope.key) and ATTEMPT in envelope.headers


def line_of(kind: str, facts: Mapping[str, Any]) -> str:
    return json.dumps({kind: {name: value for name, value in facts.items() if value not in (None, {}, "")}})


def message_line(envelope: Envelope) -> str:
    unique, priority = envelope.unique, envelope.priority
    return line_of(
        "message",
        {
            "id": envelope.id,
            "data": _text(envelope.data),
            "type": envelope.type,
            "headers": dict(envelope.headers),
            "at": envelope.at,
            "group": envelope.group,
            "key": envelope.key,
            "priority": None if priority is Priority.NORMAL else priority.name.lower(),
            "expires": envelope.expires,
            "unique": None if unique is None else unique.key,
            "unique_ttl": None if unique is None else unique.ttl,
        },
    )


def letter_line(letter: DeadLetter) -> str:
    payload = letter.payload
    if not isinstance(payload, bytes):
        shown = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in payload.items()}
        payload = json.dumps(shown).encode()
    return line_of(
        "dead",
        {
            "entry": letter.entry,
            "id": letter.id,
            "group": letter.group,
            "actor": letter.actor,
            "error": letter.failure.type,
            "reason": letter.failure.reason,
            "traceback": letter.failure.traceback,
            "attempt": letter.attempt,
            "at": letter.at,
            "data": _text(payload),
            "type": letter.type,
            "headers": dict(letter.headers),
        },
    )


def message_of(source: str, facts: Mapping[str, Any]) -> Envelope:
    """Return the message that a line describes; raises `KeyError`, `TypeError` or `ValueError`."""
    unique = facts.get("unique")
    return Envelope(
        source,
        str(facts["id"]),
        _bytes(facts["data"]),
        facts.get("type"),
        facts.get("headers") or NO_HEADERS,
        at=facts.get("at"),
        group=facts.get("group"),
        key=facts.get("key"),
        priority=Priority[str(facts.get("priority", "normal")).upper()],
        expires=facts.get("expires"),
        unique=None if unique is None else Unique(unique, ttl=facts.get("unique_ttl", 3600.0), on_conflict="first"),
    )


def letter_of(source: str, facts: Mapping[str, Any]) -> DeadLetter:
    """Return the dead letter that a line describes; raises as `message_of`."""
    return DeadLetter(
        source=source,
        entry=str(facts.get("entry", "")),
        id=str(facts["id"]),
        group=str(facts.get("group", "")),
        actor=str(facts.get("actor", "")),
        failure=Failure(str(facts.get("error", "")), str(facts.get("reason", "")), str(facts.get("traceback", ""))),
        attempt=int(facts.get("attempt", 1)),
        at=float(facts.get("at", 0.0)),
        payload=_bytes(facts["data"]),
        type=facts.get("type"),
        headers=facts.get("headers") or NO_HEADERS,
    )


def parts_of(number: int, line: str) -> tuple[str, Any]:
    """Return what a line is and has; raises `BrokerError`, which names its number."""
    try:
        found = json.loads(line)
        ((kind, facts), *_) = found.items()
    except (ValueError, AttributeError) as error:
        wanted = "a JSON object as `actorwork export` writes it"
        raise BrokerError(f"line {number} wants {wanted}, got {line[:80]!r}") from error
    return kind, (found if kind == "actorwork" else facts)


def _text(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return base64.b64decode(cast("dict[str, str]", value)["base64"], validate=True)
