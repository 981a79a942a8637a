"""Tracked messages by state, of one source, of one actor, or of all that have run at a broker.

The newest of each source are looked at, by when they were sent; how many that were is part of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final, get_args

import attrs

from actorwork.abc import Broker
from actorwork.message import Json
from actorwork.policy.bounds import check_count
from actorwork.records import MessageState, TrackedMessage
from actorwork.settings import Settings
from actorwork.shown import Value
from actorwork.state.known_actors import known_actors, near

STATES: Final[tuple[MessageState, ...]] = get_args(MessageState)
SEARCHED: Final = 1000
"""How many of the newest messages of a source are looked at, unless the caller says."""
MOST: Final = 10_000
"""How many are looked at in all sources together, and how many of one source brokers list."""
MOST_SOURCES: Final = 1000
PAYLOADS_AT_ONCE: Final = 200
NO_FILTER: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.frozen(eq=False, repr=False)
class Messages(Value):
    """The messages that were found, latest first; `searched` is how many were looked at.

    `is_complete` is false if there may be older ones, or more sources, that were not looked at. `counts` has how many
    of the searched ones are in each state, whether or not they were asked for.
    """

    found: Sequence[TrackedMessage]
    searched: int
    is_complete: bool
    counts: Mapping[MessageState, int]


async def find(
    broker: Broker,
    *,
    states: Collection[MessageState] = (),
    actor: str | None = None,
    source: str | None = None,
    text: str = "",
    key: str = "",
    unique: str = "",
    headers: Mapping[str, str] = NO_FILTER,
    limit: int = 100,
    search: int = SEARCHED,
) -> Messages:
    """Return messages of some states, or of all; raise `ValueError` for a state that there is not, and wrong numbers.

    With a `text`, those whose id, or payload as far as it is known, has it in it; capital letters do not matter. With a
    `key`, a `unique` key or `headers`, those that have exactly these, as far as they are known: of open messages, and
    the first and the last of dead letters. A header that is no text is compared as JSON.
    """
    unknown = set(states) - set(STATES)
    if unknown:
        raise ValueError(
            f"a state of messages is one of {', '.join(STATES)}, got {', '.join(map(repr, sorted(unknown)))}"
        )
    check_count("limit", limit)
    check_count("search", search)
    sources = await _sources(broker, actor, source)
    each = max(1, min(search, MOST // max(1, len(sources))))
    seen: list[TrackedMessage] = []
    is_complete = len(sources) <= MOST_SOURCES
    for name in sources[:MOST_SOURCES]:
        # One more tells whether there are more.
        newest = await broker.states.newest(name, limit=each + 1)
        is_complete = is_complete and len(newest) <= each and len(newest) < MOST
        seen += newest[:each]
    if actor is not None:
        # Those that no node has been given yet may be for any actor of their source.
        seen = [one for one in seen if one.info.actor in ("", actor)]
    seen.sort(key=lambda one: one.info.sent or 0.0, reverse=True)
    counts = dict.fromkeys(STATES, 0)
    for one in seen:
        counts[one.state] += 1
    wanted = [one for one in seen if not states or one.state in states]
    if not (text or key or unique or headers):
        return Messages(await broker.states.with_payloads(wanted[:limit]), len(seen), is_complete, counts)
    found: list[TrackedMessage] = []
    for first in range(0, len(wanted), PAYLOADS_AT_ONCE):
        some = await broker.states.with_payloads(wanted[first : first + PAYLOADS_AT_ONCE])
        found += [
            one
            for one in some
            if (not text or _has(one, text.casefold()))
            and key in ("", one.key)
            and unique in ("", one.unique)
            and all(name in one.headers and _written(one.headers[name]) == value for name, value in headers.items())
        ]
        if len(found) >= limit:
            break
    return Messages(found[:limit], len(seen), is_complete, counts)


def _written(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _has(one: TrackedMessage, text: str) -> bool:
    if text in one.info.id.casefold():
        return True
    if one.payload is None:
        return False
    raw = one.payload.decode(errors="replace")
    with suppress(ValueError):
        # As people write it: JSON may hold `\\u00e9` for an é.
        raw += json.dumps(json.loads(raw), ensure_ascii=False)
    return text in raw.casefold()


async def _sources(broker: Broker, actor: str | None, source: str | None) -> Sequence[str]:
    if source is not None:
        return [source]
    known = await known_actors(broker.values)
    if actor is None:
        return sorted({one for of_actor in known.values() for one in of_actor})
    own = Settings(title=actor).default_source
    if actor not in known and not await broker.states.newest(own, limit=1):
        raise LookupError(f"no actor {actor!r} has run at this broker; {near(actor, known)}")
    return sorted({own, *known.get(actor, ())})
