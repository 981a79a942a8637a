"""The fields of a stream entry, in both directions.

    field     ours                                     a foreign producer's (no `data`)
    data      the message, JSON                        –
    type      its wire name, optional                  –
    id        the message's id                         actorwork:id, only after a retry
    headers   one JSON object, absent when empty       actorwork:headers, only after a retry
    group     the only group that may have it          actorwork:group, only after a retry
    key       messages with the same key run in order  –
    priority  critical, high or low                    –
    expires   ms since the epoch                       –
    unique    its unique key                           –
    claim     proves that its result was asked for     –

The fields of a foreign entry are its message: its own `id`, `group` or `headers` belong to its sender. Of a message
only the headers are decoded here, if there are any.

Any program that may XADD to a source may write any of these fields. What the fields claim beyond the message itself is
checked against what the publish scripts have noted in keys that such a producer may not write: who holds a key or a
unique key by the places in its record (lua/order.lua), whose result is kept by its claim.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import attrs

from actorwork.message import (
    ATTEMPT,
    FAILED,
    FLOW,
    NO_HEADERS,
    REPLY_TO,
    RESULT_TTL,
    Delivery,
    Envelope,
    Failure,
    Json,
    Outcome,
    Priority,
)
from actorwork.policy.attempts import headers_of_first_attempt, headers_of_next_attempt, without_questions
from actorwork.policy.shards import whole_source
from actorwork.settings import DeadLetterSettings

if TYPE_CHECKING:
    from actorwork.records import DeadLetter, Delayed

Fields: TypeAlias = "Sequence[bytes]"
"""Names and values in turn, as Redis sends them."""

MOST_VALUES: Final = 7000
"""How many names and values a script can add to a stream; the same number as in `lua/entry.lua`."""

_NORMAL: Final = Priority.NORMAL
_MOMENTS: Final = 1000
"""How many milliseconds are remembered."""
_WIDEST: Final = 48
"""How many bits of a mark a script sets as one number: numbers in Lua are exact up to 53 bits."""
# Exactly the ids that `MessageIds` makes, and no other spelling of their numbers: each bit must stand for one id.
_numbered: Final = re.compile(r"([0-9a-f]{16})-(0|[1-9a-f][0-9a-f]{0,11})").fullmatch


class _UnreadableError(ValueError):
    pass


# ------------------------------------------------------------------------------------------------------------ outbound


def mark_of(prefix: str, message_id: str) -> tuple[str, int | str]:
    """Return the key of an id's mark, and the bit in it (`""`: the mark is the whole key)."""
    match = _numbered(message_id)
    if match is None:
        return f"{prefix}seen:{message_id}", ""
    # The arithmetic is done here: numbers in Lua have 53 bits.
    number = int(match[2], 16)
    return f"{prefix}seen:{match[1]}:{number >> 16}", number & 0xFFFF


class Marks:
    """The same for many ids of one source: neighbours, which most are, share a mark."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._publisher = ""
        self._page = -1
        self._mark = ""

    def of(self, message_id: str) -> tuple[str, int | str]:
        publisher, _, tail = message_id.partition("-")
        if publisher == self._publisher:
            try:
                number = int(tail, 16)
            except ValueError:
                number = -1
            # Written as `MessageIds` writes it, and no other way.
            if number >> 16 == self._page and f"{number:x}" == tail:
                return self._mark, number & 0xFFFF
        mark, bit = mark_of(self._prefix, message_id)
        if bit != "":
            self._publisher, self._page, self._mark = publisher, int(tail, 16) >> 16, mark
        return mark, bit


def pieces_of(bits: Sequence[int]) -> list[str | int]:
    """Return the arguments by which `lua/marks.lua` sets bits of a mark: those of pieces of consecutive ones."""
    pieces: list[str | int] = []
    first, width = bits[0], 0
    for bit in bits:
        if bit != first + width or width == _WIDEST:
            pieces += ("SET", f"u{width}", first, (1 << width) - 1)
            first, width = bit, 0
        width += 1
    pieces += ("SET", f"u{width}", first, (1 << width) - 1)
    return pieces


def due_of(envelope: Envelope) -> str:
    """Return when an envelope is due, in the form of the scripts (lua/publish.lua)."""
    if envelope.at is not None:
        return str(max(0, round(envelope.at * 1000)))
    if envelope.delay > 0:
        return f"+{max(1, round(envelope.delay * 1000))}"
    return ""


def is_ordered(envelope: Envelope) -> bool:
    """Return whether it depends on others when an envelope is stored, or in which stream."""
    return not (
        envelope.key is None and envelope.priority is _NORMAL and envelope.unique is None and envelope.lifetime is None
    )


def is_result_kept(envelope: Envelope) -> bool:
    """Return whether the result of an envelope will be stored. Its fields end with a claim then."""
    return bool(envelope.headers) and RESULT_TTL in envelope.headers


def kept_for(envelope: Envelope) -> int:
    """Return for how many milliseconds the result of an envelope is to be kept."""
    seconds = envelope.headers[RESULT_TTL]
    return max(1, round(seconds * 1000)) if isinstance(seconds, int | float) else 1


def has_terms(envelope: Envelope) -> bool:
    """Return whether an envelope has more than fields and a due time, so that a script has to look at it."""
    return is_ordered(envelope) or is_result_kept(envelope)


def terms_of(envelope: Envelope) -> str:
    """Return the terms of an envelope, in the form of `lua/publish.lua`."""
    due = due_of(envelope)
    if not has_terms(envelope):
        return due
    terms: dict[str, Json] = {}
    if due:
        terms["due"] = due
    if is_result_kept(envelope):
        terms["keep"] = kept_for(envelope)
    if envelope.lifetime is not None:
        terms["lifetime"] = max(0, round(envelope.lifetime * 1000))
        if envelope.expires is not None:
            terms["expires"] = round(envelope.expires * 1000)
    if (unique := envelope.unique) is not None:
        terms["unique"] = unique.key
        terms["ttl"] = max(1, round(unique.ttl * 1000))
        terms["replace"] = unique.on_conflict == "replace"
    return json.dumps(terms, separators=(",", ":"))


def fields_of(envelope: Envelope) -> list[str | bytes]:
    fields: list[str | bytes] = ["id", envelope.id, "data", envelope.data]
    if envelope.type is not None:
        fields += ("type", envelope.type)
    if envelope.headers:
        fields += ("headers", encoded_headers(envelope.headers))
    if envelope.group is not None:
        fields += ("group", envelope.group)
    if envelope.expires is not None and envelope.lifetime is None:
        fields += ("expires", str(round(envelope.expires * 1000)))
    if is_ordered(envelope):
        if envelope.key:
            fields += ("key", envelope.key)
        if envelope.priority is not _NORMAL:
            fields += ("priority", Priority(envelope.priority).name.lower())
        if envelope.unique is not None:
            fields += ("unique", envelope.unique.key)
    if is_result_kept(envelope):
        # A new one each time: the scripts note the claim of the entry that they add, and of no other under the same id.
        fields += ("claim", os.urandom(8).hex())
    return fields


def encoded_headers(headers: Mapping[str, Json]) -> str:
    if len(headers) == 1 and type(seconds := headers.get(RESULT_TTL)) in (int, float):
        return _only_ttl(cast("float", seconds))
    return _encode_headers(dict(headers)) if headers else ""


_encode_headers: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@lru_cache(64, typed=True)
def _only_ttl(seconds: float) -> str:
    """Return the headers of most messages that are submitted."""
    return _encode_headers({RESULT_TTL: seconds})


def encoded_failure(failure: Failure) -> str:
    """Return a failure as it is in the headers of the entry that tells the actor of it."""
    return json.dumps(attrs.asdict(failure), separators=(",", ":"))


def headers_of_retry(delivery: Delivery, failure: Failure, at: float, added: Mapping[str, Json] | None = None) -> str:
    """Return the headers of the next attempt, with those of the `Retry`."""
    return encoded_headers(headers_of_next_attempt(delivery, failure, at, added))


# ------------------------------------------------------------------------------------------------------------- inbound


def delivery_from(
    source: str, group: str, entry: bytes, fields: Fields, token: tuple[Any, ...], crashes: int = 0
) -> Delivery | tuple[Delivery, Failure] | None:
    """Make a delivery of an entry. None: it is meant for another group. With a failure: its headers cannot be read.

    If the message has a key or a unique key, both are added to the token: its settlement has to free them, so it is not
    a plain ack.
    """
    count = len(fields)
    if 4 <= count <= 8 and fields[0] == b"id" and fields[2] == b"data" and fields[1]:
        # Most entries have only these fields; those in a trace have headers, too.
        if count == 4:
            return Delivery(fields[1].decode(errors="replace"), source, fields[3], token, None, NO_HEADERS, 1, crashes)
        wire_name = None
        if fields[4] == b"type":
            wire_name = fields[5].decode(errors="replace")
            if count == 6:
                return Delivery(
                    fields[1].decode(errors="replace"), source, fields[3], token, wire_name, NO_HEADERS, 1, crashes
                )
        if fields[-2] == b"key" and fields[-1] and count == (6 if wire_name is None else 8):
            return Delivery(
                fields[1].decode(errors="replace"),
                source,
                fields[3],
                (*token, (fields[-1], b"", b"")),
                wire_name,
                NO_HEADERS,
                1,
                crashes,
                fields[-1].decode(errors="replace"),
            )
        if wire_name is not None and count == 8 and fields[6] == b"headers" and fields[7]:
            try:
                headers, attempt = _headers_from(fields[7])
            except (ValueError, RecursionError):
                pass  # as below, where it is said
            else:
                return Delivery(
                    fields[1].decode(errors="replace"),
                    source,
                    fields[3],
                    token,
                    wire_name,
                    headers,
                    attempt,
                    crashes,
                )
    elif count == _OF_STEP and fields[::2] == _STEP_FIELDS and fields[1] and fields[5]:
        try:
            headers, attempt = _headers_of_step(fields[5])
        except (ValueError, RecursionError):
            pass  # as below, where it is said
        else:
            claimed = (*token, (b"", b"", fields[7])) if fields[7] else token
            wire_name = fields[9].decode(errors="replace")
            return Delivery(
                fields[1].decode(errors="replace"), source, fields[3], claimed, wire_name, headers, attempt, crashes
            )
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    data = named.get(b"data")
    payload: bytes | Mapping[bytes, bytes]
    if data is None:
        own_id = named.pop(b"actorwork:id", None)
        raw = named.pop(b"actorwork:headers", None)
        only = named.pop(b"actorwork:group", None)
        kind = None
        payload = named
    else:
        own_id, raw, only, kind = named.get(b"id"), named.get(b"headers"), named.get(b"group"), named.get(b"type")
        payload = data
    if only is not None and only.decode(errors="replace") != group:
        return None
    message_id = (own_id or entry).decode(errors="replace")
    wire_name = None if kind is None else kind.decode(errors="replace")
    key: str | None = None
    priority = Priority.NORMAL
    expires: float | None = None
    others = len(named) - 1 - (own_id is not None) - (kind is not None) - (raw is not None) - (only is not None)
    if data is not None and others:
        token += _held_keys_of(named)
        key = named.get(b"key", b"").decode(errors="replace") or None
        priority = PRIORITIES.get(named.get(b"priority", b""), Priority.NORMAL)
        expires = _moment_from(named.get(b"expires"))
    headers, attempt = NO_HEADERS, 1
    problem: str | None = None
    if raw:
        try:
            headers, attempt = _headers_from(raw)
        except (ValueError, RecursionError) as error:
            # JSON that is nested too deeply raises the latter. Nothing that a sender writes may end the reader.
            problem = f"the field `headers` cannot be used: {error}"
    delivery = Delivery(
        message_id, source, payload, token, wire_name, headers, attempt, crashes, key, priority, expires
    )
    return delivery if problem is None else (delivery, Failure("CodecError", problem))


PRIORITIES: Final = {level.name.lower().encode(): level for level in Priority if level is not Priority.NORMAL}
"""The levels that have streams of their own, as entries name them."""


Held: TypeAlias = "tuple[bytes, bytes, bytes]"


def _held_keys_of(named: Mapping[bytes, bytes]) -> tuple[Held, ...]:
    """Return what a message holds until it is settled for good, if it names any: key, unique key, claim."""
    key, unique, claim = named.get(b"key", b""), named.get(b"unique", b""), named.get(b"claim", b"")
    return ((key, unique, claim),) if key or unique or claim else ()


def claim_in(token: Sequence[Any]) -> str:
    """Return the claim to its result in the token of a delivery."""
    held: Sequence[Held] = token[3:]
    return held[0][2].decode(errors="replace") if held else ""


def held_keys_in(fields: Fields) -> tuple[str, tuple[Held, ...]]:
    """Return the id and the held keys of an entry; `""` and none for a foreign one."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    if b"data" not in named:
        return "", ()
    return named.get(b"id", b"").decode(errors="replace"), _held_keys_of(named)


def _moment_from(text: bytes | None) -> float | None:
    return int(text) / 1000 if text is not None and text.isdigit() and len(text) < 16 else None


def _refuse_constant(text: str) -> float:
    raise _UnreadableError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _UnreadableError(f"{_shortened(text.encode())} is too large for a number")
    return number


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_scan: Final[Callable[[str, int], tuple[Json, int]]] = cast("Any", _decoder).scan_once
_OURS: Final = frozenset({FAILED, ATTEMPT, REPLY_TO, RESULT_TTL})
"""The headers that are looked at here."""


def _json_from(raw: bytes) -> Json:
    """Decode headers; refuse what could not be encoded again (NaN, 1e999), as every retry and every replay must."""
    text = raw.decode()
    try:
        # What `decode` does around it, for white space, costs four times as much as to read a header.
        value, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)


_STEP_FIELDS: Final = [b"id", b"data", b"headers", b"claim", b"type"]
"""Those of a step of a run, in the order in which `lua/run_messages.lua` writes them, if it has no others."""
_OF_STEP: Final = 2 * len(_STEP_FIELDS)


_FLOW_LAST: Final = b'"%b":"' % FLOW.encode()


def _headers_of_step(raw: bytes) -> tuple[Mapping[str, Json], int]:
    """Read headers as `_headers_from` does. Those of a run's steps differ in a number: what is before is read once."""
    before, slash, last = raw.rpartition(b"/")
    number = last[:-2]
    if number.isdigit() and last.endswith(b'"}') and (shared := _headers_before(before + slash)) is not None:
        headers, attempt, of = shared
        return {**headers, FLOW: of + number.decode()}, attempt
    return _headers_from(raw)


@lru_cache(64)
def _headers_before(raw: bytes) -> tuple[Mapping[str, Json], int, str] | None:
    """Read the headers up to the step's number, and what is before that; None if they have to be read with it."""
    _, found, step = raw.rpartition(_FLOW_LAST)
    if not found or b'"' in step or b"\\" in step:
        return None
    try:
        headers, attempt = _headers_from(raw + b'"}')
    except (ValueError, RecursionError):
        return None
    of = headers.get(FLOW)
    is_plain = all(value is None or isinstance(value, str | int | float) for value in headers.values())
    return (headers, attempt, of) if isinstance(of, str) and is_plain else None


_TRACE_ALONE: Final = re.compile(rb'\{"traceparent":"([0-9a-f-]{55})"\}')
"""The headers of most messages that are sent in a trace."""


def _headers_from(raw: bytes) -> tuple[Mapping[str, Json], int]:
    if (found := _TRACE_ALONE.fullmatch(raw)) is not None:
        return {"traceparent": found[1].decode()}, 1  # In 0.4 of the time that the decoder takes, for each message.
    headers = _json_from(raw)
    if not isinstance(headers, dict):
        raise _UnreadableError(f"wanted a JSON object, got {_shortened(raw)}")
    if _OURS.isdisjoint(headers):
        return headers, 1
    if FAILED in headers:
        # Made of the entry that has failed, whose outcome has been reported already (lua/entry.lua).
        headers = without_questions(headers)
    attempt = headers.get(ATTEMPT, 1)
    if type(attempt) is not int or attempt < 1:
        raise _UnreadableError(f"{ATTEMPT} wants a whole number from 1 on, got {attempt!r}")
    reply_to = headers.get(REPLY_TO)
    if reply_to is not None and not isinstance(reply_to, str):
        raise _UnreadableError(f"{REPLY_TO} wants a str, got {reply_to!r}")
    if reply_to is not None and not _is_text(reply_to):
        raise _UnreadableError(f"{REPLY_TO} wants a str that can be written as UTF-8, got {reply_to!r}")
    ttl = headers.get(RESULT_TTL)
    if ttl is not None and (type(ttl) not in (int, float) or not 0 < cast("float", ttl) <= _LONGEST_TTL):
        raise _UnreadableError(f"{RESULT_TTL} wants seconds greater than 0, at most {_LONGEST_TTL:.0e}, got {ttl!r}")
    return headers, attempt


_LONGEST_TTL: Final = 1e9


def _is_text(text: str) -> bool:
    """Return whether a str can be encoded: JSON may hold lone surrogates, which UTF-8 has not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shortened(raw: bytes) -> str:
    return repr(raw if len(raw) <= 80 else raw[:77] + b"...")


# ------------------------------------------------------------------------------------------------------------- delayed


def delayed_from(source: str, due: bytes, fields: Fields) -> Delayed:
    """Make a delayed message of its fields, to be shown; headers that cannot be read are left out."""
    from actorwork.records import Delayed  # noqa: PLC0415 - see records.py

    named = dict(zip(fields[::2], fields[1::2], strict=False))
    data, kind = named.get(b"data"), named.get(b"type")
    message_id = named.get(b"id" if data is not None else b"actorwork:id", b"")
    if data is None:
        shown = {
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in named.items()
            if not name.startswith(b"actorwork:")
        }
        data, kind = json.dumps(shown).encode(), None
    return Delayed(
        source=source,
        id=message_id.decode(errors="replace"),
        due=int(float(due)) / 1000,
        payload=data,
        type=None if kind is None else kind.decode(errors="replace"),
        headers=headers_to_look_at(named.get(b"headers" if b"data" in named else b"actorwork:headers")),
    )


def headers_to_look_at(raw: bytes | None) -> Mapping[str, Json]:
    if not raw:
        return NO_HEADERS
    try:
        read = _json_from(raw)
    except (ValueError, RecursionError):
        return NO_HEADERS
    return read if isinstance(read, dict) else NO_HEADERS


# ------------------------------------------------------------------------------------------------------------ outcomes


_DONE: Final = b',"status":"done","value":'


def encoded_outcome(source: str, message_id: str, outcome: Outcome, flow: object = None) -> bytes:
    """Make the record that is stored and published: one JSON object that names its message.

    `flow` is the step of a run that the message was: a script recognises it at the beginning of the record.
    """
    begin = f'"flow":"{flow}",' if isinstance(flow, str) and '"' not in flow else ""
    start = f'{{{begin}"source":{json.dumps(source)},"id":{json.dumps(message_id)}'.encode()
    if outcome.status == "done":
        return b"%b%b%b}" % (start, _DONE, outcome.value)
    failure = json.dumps(attrs.asdict(outcome.failure) if outcome.failure else None, separators=(",", ":"))
    return b'%b,"status":"%b","failure":%b}' % (start, outcome.status.encode(), failure.encode())


def outcome_from(record: bytes) -> tuple[str, str, Outcome]:
    """Return the source and the id of the message, and its outcome.

    A script that drops a message names its shard.
    """
    whole = cast("dict[str, Any]", json.loads(record))
    source, message_id, status = whole_source(whole["source"]), whole["id"], whole["status"]
    if status == "done":
        # The value is passed on as it came. Strings before it have their quotes escaped, so the first match is the
        # field.
        value = record[record.index(_DONE) + len(_DONE) : -1]
        return source, message_id, Outcome("done", value)
    failure = whole.get("failure")
    return source, message_id, Outcome(status, failure=Failure(**failure) if failure else None)


# -------------------------------------------------------------------------------------------------------- dead letters


def _message_of(named: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return the fields of the message in a dead letter."""
    if (packed := named.get(b"packed")) is not None:
        return _unpacked(packed)
    return {name[2:]: value for name, value in named.items() if name.startswith(b"m:")}


def key_of_letter(fields: Fields) -> str | None:
    """Return the key of the message in a dead letter."""
    key = _message_of(dict(zip(fields[::2], fields[1::2], strict=False))).get(b"key")
    return None if key is None else key.decode(errors="replace")


def dead_letter_from(source: str, entry: bytes, fields: Fields) -> DeadLetter:
    from actorwork.records import DeadLetter  # noqa: PLC0415 - see records.py

    named = dict(zip(fields[::2], fields[1::2], strict=False))
    message = _message_of(named)
    data = message.get(b"data")
    # Its headers may be the reason why it is a dead letter.
    headers = headers_to_look_at(message.get(b"headers" if data is not None else b"actorwork:headers"))
    kind = message.get(b"type") if data is not None else None

    def text(name: bytes) -> str:
        return named.get(name, b"").decode(errors="replace")

    return DeadLetter(
        source=source,
        entry=entry.decode(),
        id=text(b"id") or text(b"entry"),
        group=text(b"group"),
        actor=text(b"actor"),
        failure=Failure(text(b"error"), text(b"reason"), text(b"traceback")),
        attempt=_whole(text(b"attempt"), 1),
        at=_whole(text(b"at"), 0) / 1000,
        payload=data
        if data is not None
        else {name: value for name, value in message.items() if not name.startswith(b"actorwork:")},
        type=None if kind is None else kind.decode(errors="replace"),
        headers=headers,
    )


def _unpacked(packed: bytes) -> dict[bytes, bytes]:
    """Read fields that were too many for a script to keep one by one: `<length>:<name><length>:<value>...`."""
    parts: list[bytes] = []
    at = 0
    while at < len(packed):
        colon = packed.index(b":", at)
        ending = colon + 1 + int(packed[at:colon])
        parts.append(packed[colon + 1 : ending])
        at = ending
    return dict(zip(parts[::2], parts[1::2], strict=True))


def is_too_large_to_replay(letter: DeadLetter) -> bool:
    """Say whether a message has more fields than a script can add to a stream."""
    return isinstance(letter.payload, Mapping) and 2 * len(letter.payload) > MOST_VALUES


def bounds_of(settings: DeadLetterSettings) -> tuple[int, int]:
    """Say how many dead letters are to be kept, and for how many milliseconds."""
    return settings.max_count, round(settings.max_age * 1000)


def headers_of_replay(letter: DeadLetter) -> str:
    """Return the headers of a first attempt."""
    return encoded_headers(headers_of_first_attempt(letter.headers))


def _whole(text: str, otherwise: int) -> int:
    return int(text) if text.isdecimal() else otherwise


class Moments(dict[bytes, float]):
    """When the server has added entries, in seconds since the epoch, by the milliseconds with which their ids begin.

    Under load many entries share a millisecond: to find it here costs a third of reading its digits again.
    """

    def __missing__(self, milliseconds: bytes) -> float:
        if len(self) >= _MOMENTS:
            self.clear()
        found = self[milliseconds] = int(milliseconds) / 1000
        return found

    def of_entry(self, entry: bytes) -> float:
        return self[entry.partition(b"-")[0]]

    def of_entries(self, entries: Iterable[bytes]) -> list[float]:
        # Taken apart together, so that the interpreter does nothing for each of them.
        return list(map(self.__getitem__, b" ".join(entries).replace(b"-", b" ").split()[::2]))


def bounds(entries: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Return the ends of a range that holds these entries, or nearly all of them: only a hint for one call.

    As text: ids that a server makes have equally long times for some centuries to come, and the fence looks up
    alone what a range has missed.
    """
    entries = tuple(entries)
    return min(entries).partition(b"-")[0], max(entries).partition(b"-")[0]
