"""How a record of the log is written down: as text for people, as JSON for programs.

Times are ISO 8601 in UTC. What came from outside (an id, a reason, a traceback) is made harmless: it cannot begin a
line of its own, fill the screen or command the terminal. So every line of text that begins in the first column is the
beginning of a record: all further ones (of a traceback, of an application's own message) are indented. No line shows
the password of a URL (`masked`).
"""

from __future__ import annotations

import json
import logging
import re
import textwrap
from datetime import UTC, datetime
from typing import Any, Final

INDENT: Final = "  "
ACTORS_LOGGER: Final = "actorwork.actor"
"""The logger of `context.log`."""
_SHOWN: Final = (("actor", "actor"), ("message", "message_id"), ("attempt", "attempt"))
_LONGEST: Final = 500
_WORD: Final = r"""[^\s'"<>]+"""
_PORT: Final = r"\d+(?:[/?#]|$)"
_HIDDEN_OPTION: Final = (
    r"""([?&;][\w.\-]{0,40}(?:pass|pwd|secret|token|credential|api_?key|signature)[\w.\-]{0,40}=)[^&;\s'"<>#]+"""
)


def masked(text: str) -> str:
    """Return a text with `***` in the place of every password and token of a URL in it.

        redis://ann:s3cret@host/0        redis://ann:***@host/0
        https://host/path?token=abc      https://host/path?token=***

    A password that is not percent-encoded may hold any character but a space or a quote. The time is linear in the
    length of the text, which may come from outside.
    """
    # The expressions are compiled at their first use: most programs never need them.
    if "@" in text and "://" in text:
        text = re.sub(_WORD, lambda word: _without_passwords(word[0]), text)
    if "=" in text and ("?" in text or "&" in text):
        text = re.sub(_HIDDEN_OPTION, r"\1***", text, flags=re.IGNORECASE)
    return text


def _without_passwords(word: str) -> str:
    if "@" not in word or "://" not in word:
        return word
    scheme, *rests = word.split("://")
    return "://".join((scheme, *map(_without_password, rests)))


def _without_password(rest: str) -> str:
    """Hide the password in what follows `://`."""
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    user, colon, password = place.partition(":")
    if not colon:
        return rest
    if "@" in password:
        end = place.rindex("@")
    elif "@" in rest and "@" not in user and not re.match(_PORT, rest[len(user) + 1 :]):
        end = rest.rindex("@")  # Not percent-encoded, it holds a / or the like.
    else:
        return rest
    return f"{user}:***{rest[end:]}"


def one_line(text: str) -> str:
    """Keep a str from elsewhere from breaking the line, filling the screen, and showing a password."""
    text = masked(text)
    return printable(f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text)


def printable(text: str) -> str:
    """Keep a str from elsewhere from commanding the terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def indented(text: str) -> str:
    """Keep lines from elsewhere from looking like records: printable, without passwords, each with an indent."""
    return "\n".join(f"{INDENT}{_readable(line)}" for line in masked(text).split("\n"))


def _readable(line: str) -> str:
    return "\t".join(map(printable, line.split("\t")))


def printable_json(text: str) -> str:
    """Escape characters that command a terminal, or that no encoding has, in JSON: it stays the same JSON."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1] for character in text
    )


def _utc(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """For people: `2025-11-20T10:44:01.250Z ERROR actorwork: greeter failed message …`.

    Where several processes write to the same place, each line names its own: `actorwork[4711]: …`.
    """

    def __init__(self, *, one_of_several: bool = False) -> None:
        name = "%(name)s[%(process)d]" if one_of_several else "%(name)s"
        super().__init__(f"%(asctime)s %(levelname)s {name}: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - a logging.Formatter
        return _utc(record.created)

    def format(self, record: logging.LogRecord) -> str:
        first, *more = masked(super().format(record)).split("\n")
        # Those that begin with a space are indented already: by the methods below, or by the sink.
        return "\n".join((_readable(first), *(line if line.startswith(" ") else indented(line) for line in more)))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - a logging.Formatter
        text = super().formatMessage(record)
        if record.name != ACTORS_LOGGER:
            return text
        # What an actor logs by `context.log`: by its title, since the sentence is the actor's and need not name it.
        shown = ((word, getattr(record, key, None)) for word, key in _SHOWN)
        names = " ".join(f"{word}={one_line(str(value))}" for word, value in shown if value is not None)
        return f"{text} [{names}]" if names else text

    def formatException(self, ei: Any) -> str:  # noqa: N802 - a logging.Formatter
        return indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - a logging.Formatter
        return indented(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """For programs: one JSON object a line; `time` is ISO 8601 in UTC.

    Keys: `time`, `level`, `logger`, `message` (the sentence), `traceback` if there is one, and the attributes that the
    record has from `extra`: ours are `event`, `node_id`, `actor_id`, `actor`, `message_id`, `source`, `attempt` and
    `error`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key not in _OF_EVERY_RECORD and not key.startswith("_"):
                line.setdefault(key, value)
        if record.exc_text:
            line["traceback"] = textwrap.dedent(record.exc_text)
        elif record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        line = {key: masked(value) if isinstance(value, str) else value for key, value in line.items()}
        try:
            return printable_json(json.dumps(line, ensure_ascii=False, allow_nan=False, default=str))
        except (TypeError, ValueError):
            # Keys that are no str, NaN, circles: an application's `extra` may hold anything.
            return printable_json(json.dumps({key: _plain(value) for key, value in line.items()}, ensure_ascii=False))


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)


_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
