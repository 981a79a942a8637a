"""Grouping dead letters by cause, and selecting them.

    fingerprint_of(letter)     equal for letters with the same cause: 16 hexadecimal characters
    Selection                  conditions on letters, all of which must match
    by_cause(letters)          one `Cause` for each fingerprint: how many, the first, the last, an example

A fingerprint is made of the actor, the error's type, and the place where it was raised: the innermost frames of the
user's own code, by file, function and source line, not by line number, so that it outlives edits elsewhere in the file.
Errors without such frames (a message that cannot be decoded, a process that died) are distinguished by their reason,
ignoring the parts that differ from message to message: numbers, ids, quoted text.

The fingerprint is computed from a letter, not stored: letters of any age have one, and a better rule applies to all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from actorwork.message import Failure
from actorwork.records import DeadLetter

FRAMES: Final = 3
"""How many of the innermost frames enter the fingerprint."""
LONGEST: Final = 300

_FRAME: Final = re.compile(r'^(?P<before>[ |+\-]*)File "(?P<file>[^"]+)", line \d+, in (?P<function>.+)$')
_MARKS: Final = re.compile(r"^[ |]*[~^]+[ ~^]*$")
_NOT_THE_USERS: Final = re.compile(
    r"(^|/)(site-packages|dist-packages|python3\.\d+)/"
    r"|(^|/)actorwork/(actors|policy|runtime|codec|streams|embedded|clients|telemetry|testing|triggers|workflows)\b"
    r"|^<frozen"
)
_VARYING: Final = (
    (re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"), "<uuid>"),
    (re.compile(r"b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\""), "<text>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<number>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}(-[0-9a-f]+)?\b"), "<id>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<number>"),
)


def fingerprint_of(letter: DeadLetter) -> str:
    """Return the fingerprint that letters with the same cause share."""
    failure = letter.failure
    where = _place_of(failure) or (_without_what_varies(failure.reason),)
    return hashlib.sha256("\n".join((letter.actor, failure.type, *where)).encode()).hexdigest()[:16]


def _place_of(failure: Failure) -> tuple[str, ...]:
    """Return the innermost frames of the user's code; none if the traceback has none."""
    lines = failure.traceback.splitlines()
    found: list[str] = []
    for number, line in enumerate(lines):
        frame = _FRAME.match(line)
        if frame is None or _NOT_THE_USERS.search(frame["file"].replace("\\", "/")):
            continue
        below = lines[number + 1] if number + 1 < len(lines) else ""
        # Without the source, the next frame or the error itself follows directly, and the text of an error varies.
        is_source = below.startswith(f"{frame['before']}  ") and not _MARKS.match(below)
        # The parent directory distinguishes two `tasks.py`; directories above it differ from host to host.
        file = "/".join(frame["file"].replace("\\", "/").split("/")[-2:])
        found.append(f"{file} {frame['function']} {below.strip(' |') if is_source else ''}")
    return tuple(found[-FRAMES:])


def _without_what_varies(reason: str) -> str:
    for pattern, instead in _VARYING:
        reason = pattern.sub(instead, reason)
    return " ".join(reason.split())[:LONGEST]


@attrs.frozen(kw_only=True)
class Selection:
    """Conditions on dead letters. `since` and `until` are in seconds since the epoch, by the broker's clock.

    `actor` is a title or an id, `error` the name of an error's type; `text` is searched for, ignoring case, in the
    message, its id and headers, the error, and the traceback.
    """

    source: str | None = None
    actor: str | None = None
    error: str | None = None
    since: float | None = None
    until: float | None = None
    fingerprint: str | None = None
    text: str | None = None

    @property
    def is_all(self) -> bool:
        """Whether it selects every letter of its source, or of all sources."""
        return self == Selection(source=self.source)

    def has(self, letter: DeadLetter) -> bool:
        return (
            self.source in (None, letter.source)
            and self.actor in (None, letter.actor, letter.group)
            and self.error in (None, letter.failure.type)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
            and (self.text is None or _says(letter, self.text))
            and (self.fingerprint is None or fingerprint_of(letter).startswith(self.fingerprint))
        )


ALL: Final = Selection()


def _says(letter: DeadLetter, text: str) -> bool:
    failure, payload = letter.failure, letter.payload
    parts: Sequence[bytes] = (payload,) if isinstance(payload, bytes) else [*payload.keys(), *payload.values()]
    said = (
        letter.id,
        letter.type or "",
        failure.type,
        failure.reason,
        failure.traceback,
        *(f"{name} {value}" for name, value in letter.headers.items()),
        *(part.decode(errors="replace") for part in parts),
    )
    wanted = text.casefold()
    return any(wanted in one.casefold() for one in said)


@attrs.frozen
class Cause:
    """A cause of dead letters: how many there are, when the first and the last failed, and the last one in full."""

    fingerprint: str
    count: int
    first: float
    last: float
    example: DeadLetter
    sources: Mapping[str, int]


def by_cause(letters: Iterable[DeadLetter], before: Iterable[Cause] = ()) -> list[Cause]:
    """Group dead letters by their fingerprints, the largest group first; `before` are the groups so far."""
    causes = {cause.fingerprint: cause for cause in before}
    for letter in letters:
        fingerprint = fingerprint_of(letter)
        known = causes.get(fingerprint)
        if known is None:
            causes[fingerprint] = Cause(fingerprint, 1, letter.at, letter.at, letter, {letter.source: 1})
            continue
        causes[fingerprint] = Cause(
            fingerprint,
            known.count + 1,
            min(known.first, letter.at),
            max(known.last, letter.at),
            letter if letter.at >= known.last else known.example,
            {**known.sources, letter.source: known.sources.get(letter.source, 0) + 1},
        )
    return sorted(causes.values(), key=lambda cause: (-cause.count, cause.first, cause.fingerprint))
