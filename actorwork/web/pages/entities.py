"""Entities: which there are, their keys, the latest changes first, and one state with its history; put and forget.

What a state holds is shown to those who may see payloads, with its secrets masked. Keys are shown to all who may see:
like the ids of messages, they are names.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from actorwork import codec
from actorwork.durations import parsed
from actorwork.errors import CodecError, StateConflict
from actorwork.inspection import ActorInfo, as_json
from actorwork.inspection.words import moment
from actorwork.policy.entities import EntityInfo, StoredState
from actorwork.policy.reports import EntityReport
from actorwork.settings import default_source, identity
from actorwork.web.pages.overview import inspection_of
from actorwork.web.request import Action, Done, Form, Page, Plan, Refused, Sight, json_of, not_found

PAGE: Final = 100
"""Keys on a page, if it does not ask for more."""
MOST: Final = 1000
MOST_IDLE: Final = 100
"""Actors that run nowhere and are asked whether they have states: one command for each."""
MOST_CHANGES: Final = 50
SHOWN_CHANGE: Final = 20_000
"""Characters of a former state that are shown."""
WINDOWS: Final = ("10m", "1h", "1d", "7d")


def _place(actor: str) -> tuple[str, str]:
    group = identity(actor)
    return default_source(group), group


async def view(sight: Sight) -> dict[str, Any]:
    """Show the entities of all actors, or the keys of one."""
    actor = sight.text("actor")
    return await _view_keys(sight, actor) if actor else await _view_actors(sight)


async def _view_actors(sight: Sight) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    idle: list[str] = []
    for one in await inspection_of(sight).actors():
        if one.entities is not None:
            found.append({"title": one.title, "nodes": len(one.nodes), "entities": as_json(one.entities)})
        elif not one.nodes:
            idle.append(one.title)
    # An actor that runs nowhere does not say whether it is an entity; what it has left behind does.
    left = [title for title in idle[:MOST_IDLE] if await sight.broker.entities.list(*_place(title), limit=1)]
    found += [{"title": title, "nodes": 0, "entities": as_json(EntityReport())} for title in left]
    found.sort(key=lambda one: one["title"])
    return {"actor": "", "actors": found, "total": len(found), "not_asked": max(0, len(idle) - MOST_IDLE)}


async def _view_keys(sight: Sight, actor: str) -> dict[str, Any]:
    limit = sight.number("limit", PAGE, most=MOST)
    window = sight.text("since")
    after = _cursor(sight.text("after"))
    known = await _entity(sight, actor)
    changed_since = _begin_of(window) if window else None
    page = await sight.broker.entities.list(
        *_place(actor), changed_since=changed_since, limit=limit, after=after, newest_first=True
    )
    last = page[-1] if len(page) == limit else None
    return {
        "actor": actor,
        "is_running": known is not None and known.entities is not None,
        "nodes": 0 if known is None else len(known.nodes),
        "entities": as_json(EntityReport() if known is None or known.entities is None else known.entities),
        "keys": [_info_in_json(one) for one in page],
        "limit": limit,
        "since": window,
        "windows": list(WINDOWS),
        "after": sight.text("after"),
        "next": "" if last is None else f"{last.at!r} {last.key}",
    }


def _begin_of(window: str) -> float:
    try:
        # By this machine's clock, as the reader means it; the states' times are those of the broker's clock.
        begin = time.time() - parsed(window)
    except ValueError:
        begin = -math.inf
    if not math.isfinite(begin):
        raise Refused(f"since wants a length of time such as 10m or 7d, got {window[:50]!r}")
    return begin


def _cursor(text: str) -> tuple[float, str] | None:
    """Read where a page begins: the moment and the key of the last one of the page before."""
    if not text:
        return None
    at, _, key = text.partition(" ")
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", at):
        raise Refused(f"after wants what 'next' of the page before says, got {text[:100]!r}")
    return float(at), key


async def _entity(sight: Sight, actor: str) -> ActorInfo | None:
    try:
        return await inspection_of(sight).actor(actor)
    except LookupError:
        return None


def _info_in_json(one: EntityInfo) -> dict[str, Any]:
    return {"key": one.key, "version": one.version, "at": moment(one.at), "by": one.by, "bytes": one.bytes}


def _state_in_json(sight: Sight, state: StoredState) -> dict[str, Any]:
    facts = {
        "version": state.version,
        "at": moment(state.at),
        "by": state.by,
        "node": state.node,
        "schema": state.schema,
        "bytes": len(state.data),
        "state": None,
        "state_is": "hidden",
    }
    if sight.access.may("see_payloads"):
        value, kind = _value_of(state.data)
        facts |= {"state": sight.masking.masked(value), "state_is": kind}
    return facts


def _value_of(data: bytes) -> tuple[Any, str]:
    try:
        return codec.loads(data), "json"
    except CodecError:
        return data.decode(errors="replace"), "bytes"


def _text(facts: dict[str, Any]) -> str:
    if facts["state_is"] == "hidden":
        return ""
    return facts["state"] if facts["state_is"] == "bytes" else json.dumps(facts["state"], ensure_ascii=False, indent=2)


async def view_one(sight: Sight) -> dict[str, Any]:
    """Show the state of one key, with its last changes."""
    actor, key = sight.needed("actor"), sight.needed("key")
    states = sight.broker.entities
    state = await states.get(*_place(actor), key)
    known = await _entity(sight, actor)
    found: dict[str, Any] = {
        "actor": actor,
        "key": key,
        "has_state": state is not None,
        "kept_for": None if known is None or known.entities is None else known.entities.ttl,
        "most_history": None if known is None or known.entities is None else known.entities.history,
        "is_stalled": known is not None and known.entities is not None and key in known.entities.stalled_keys,
        "holder": _holder_of(known, key),
        "schema": 0 if known is None or known.entities is None else known.entities.schema,
        "state": None,
        "text": "",
        "history": [],
    }
    if state is None:
        return found
    found["state"] = _state_in_json(sight, state)
    found["text"] = _text(found["state"])
    found["history"] = await _history(sight, actor, key, state)
    return found


async def _history(sight: Sight, actor: str, key: str, state: StoredState) -> Sequence[dict[str, Any]]:
    """Return the last changes. A page that follows reads them only after a change: they may be fifty large states."""
    now = (state.version, state.at, state.stamp)
    if sight.remembered.get("changed") == now:
        return sight.remembered["history"]
    changes = await sight.broker.entities.history(*_place(actor), key, limit=MOST_CHANGES)
    found = [_change_in_json(sight, one) for one in changes]
    # A page draws their texts, which are cut.
    sight.remembered.update(changed=now, history=[one | {"state": None} for one in found])
    return found


def _change_in_json(sight: Sight, state: StoredState) -> dict[str, Any]:
    facts = _state_in_json(sight, state)
    text = _text(facts)
    return facts | {"text": text[:SHOWN_CHANGE], "is_cut": len(text) > SHOWN_CHANGE}


def _holder_of(known: ActorInfo | None, key: str) -> Any:
    held: Sequence[Any] = () if known is None else known.in_hand
    return next((as_json(one) for one in held if one.message.key == key), None)


# ---- actions ----


async def plan_put(sight: Sight, form: Form) -> Plan:
    """Plan to replace a state; masked secrets stay as they are."""
    sight.want("see_payloads")
    actor, key = form.needed("actor"), form.needed("key")
    states, place = sight.broker.entities, _place(actor)
    before = await states.get(*place, key)
    version = _number(form, "version", 0 if before is None else before.version)
    value = json_of(form.needed("state"), "the state")
    data = codec.dumps(sight.masking.unmasked(value, None if before is None else _value_of(before.data)[0]))
    known = await _entity(sight, actor)
    kept = EntityReport() if known is None or known.entities is None else known.entities
    schema = _number(form, "schema", kept.schema if before is None else before.schema)

    async def do() -> Done:
        try:
            new = await states.put(
                *place,
                key,
                data,
                version=version,
                schema=schema,
                ttl=(kept.ttl or math.inf) if is_running else None,
                history=kept.history if is_running else None,
                by=sight.access.who,
                force=form.flag("force"),
            )
        except StateConflict as error:
            raise _conflict(error, actor) from None
        return Done(f"the state of {key!r} has the version {new} now", 1)

    same = " It is unchanged." if before is not None and data == before.data else ""
    is_running = known is not None and known.entities is not None
    lost = " The former one is not kept." if is_running and not kept.history else ""
    lasts = ""
    if not is_running:
        kept_for = "for ever" if before is None else "for as long as before"
        lasts = f" No node runs this entity, so it is kept {kept_for}."
    return Plan(
        question=f"Replace the state of {key!r} of {actor!r}, which has the version {version}?{same}{lost}{lasts}",
        what=f"state {actor}/{key}",
        do=do,
        how_many=1,
        is_grave=True,
        back=f"/entity?{urlencode({'actor': actor, 'key': key})}",
    )


async def plan_forget(sight: Sight, form: Form) -> Plan:
    """Plan to delete a state and its history."""
    actor, key = form.needed("actor"), form.needed("key")
    states, place = sight.broker.entities, _place(actor)
    before = await states.get(*place, key)
    if before is None:
        raise not_found(f"{actor[:300]!r} has no state for the key {key[:300]!r}")
    version = _number(form, "version", before.version)
    runs = ""
    if form.flag("force"):
        runs = " A message of this key that runs is handled again then, and what it has changed is lost."

    async def do() -> Done:
        try:
            was_there = await states.forget(*place, key, version=version, force=form.flag("force"))
        except StateConflict as error:
            raise _conflict(error, actor) from None
        return Done(f"forgot the state of {key!r}" if was_there else f"{key!r} had no state any more", int(was_there))

    return Plan(
        question=f"Forget the state of {key!r} of {actor!r}, and its history? Its next message begins with a first"
        f" state.{runs}",
        what=f"state {actor}/{key}",
        do=do,
        how_many=1,
        is_grave=True,
        back=f"/entities?{urlencode({'actor': actor})}",
    )


def _conflict(error: StateConflict, actor: str) -> Refused:
    return Refused(f"{error}; if its messages change it all the time, pause the actor {actor!r} first", 409)


def _number(form: Form, name: str, current: int) -> int:
    """Return the version that the user has seen, which is not the one of now if the form was open for long."""
    text = form.text(name).strip()
    if not text:
        return current
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Refused(f"{name} wants a number from 0 on, got {text[:50]!r}")
    return int(text)


PAGES = (
    Page("/entities", "Entities", "entities.html", view),
    Page("/entity", "Entity", "entity.html", view_one),
)
ACTIONS = (
    Action("/entities/put", "put-state", "edit", plan_put),
    Action("/entities/forget", "forget-state", "drop", plan_forget),
)
