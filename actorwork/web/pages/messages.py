"""One message by its id, delayed messages, and sending a message."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from actorwork import codec
from actorwork.clients.messages import STATES, find
from actorwork.durations import parsed
from actorwork.inspection import as_json
from actorwork.inspection.letters import json_or_text
from actorwork.inspection.words import how_far, moment, progress_in_json, source_in_words
from actorwork.message import HISTORY, Envelope, Json
from actorwork.records import Delayed, MessageInfo, TrackedMessage
from actorwork.settings import SOURCE, SOURCE_IN_WORDS, default_source, identity
from actorwork.state.known_actors import known_actors, unknown_actor, unknown_source
from actorwork.web.pages.letters import letter_in_json, trace_in
from actorwork.web.pages.overview import inspection_of
from actorwork.web.pages.pausing import MOST_NAMES, shared_sources
from actorwork.web.rendering import since
from actorwork.web.request import Action, Done, Form, Page, Plan, Refused, Sight, json_of, not_found

MOST_DELAYED: Final = 3000
MOST_LISTED: Final = 3000
SEARCHED: Final = 2000
"""How many dead letters, and how many delayed messages, are searched for the id of a message."""


def info_in_json(info: MessageInfo) -> dict[str, Any]:
    """Return what is known of the life of a message as JSON."""
    times = {name: getattr(info, name) for name in ("sent", "received", "started", "ended")}
    return {
        "id": info.id,
        "source": info.source,
        "status": str(info.status),
        "is_over": info.status.is_final,
        "attempt": info.attempt,
        "deliveries": info.deliveries,
        "actor": info.actor,
        "node": info.node,
        **{name: None if at is None else moment(at) for name, at in times.items()},
        "progress": None if info.progress is None else progress_in_json(info.progress),
        "how_far": how_far(info.progress),
        "error": None if info.failure is None else f"{info.failure.type}: {info.failure.reason}",
        "traceback": "" if info.failure is None else info.failure.traceback,
        "reason": info.reason,
    }


async def view(sight: Sight) -> dict[str, Any]:
    """Show what is known of a message: its life, its result, its dead letters, or that it is delayed."""
    wanted = sight.text("id").strip()
    found: dict[str, Any] = {"id": wanted, "source": sight.text("source"), "searched": SEARCHED}
    if not wanted:
        return found
    states = sight.broker.states
    seen = None
    with suppress(LookupError):
        seen = await inspection_of(sight).message(wanted, found["source"] or None)
    source = found["source"] or (await states.locate(wanted) if seen is None else seen.source)
    info = (await states.find(source, wanted) if source else None) if seen is None else seen.info
    found["why"] = None if seen is None else as_json(seen.why)
    found["holder"] = None if seen is None or seen.holder is None else as_json(seen.holder)
    found["label"] = await _label_of(sight, source) if source else ""
    found["trace"] = None if seen is None else trace_in(sight, seen.headers)
    if seen is not None and sight.access.may("see_payloads"):
        found["key"] = seen.key
        found["headers"] = sight.masking.masked(dict(seen.headers))
        found["attempts"] = attempts_in(seen.headers)
        if seen.payload is not None:
            kind, payload = json_or_text(seen.payload.encode())
            found["payload"] = sight.masking.masked(payload) if kind == "json" else payload
    if info is not None:
        found["info"] = info_in_json(info)
        if not sight.access.may("see_payloads"):
            found["info"]["traceback"] = ""
    if source and sight.access.may("see_payloads"):
        outcome = await sight.broker.find_outcome(source, wanted)
        if outcome is not None and outcome.status == "done":
            found["result"] = json.dumps(sight.masking.masked(codec.loads(outcome.value)), ensure_ascii=False, indent=2)
    sources = [source] if source else list(await sight.broker.dead_letters.sources())[:100]
    left = SEARCHED
    dead: list[dict[str, Any]] = []
    for one in sources:
        letters = await sight.broker.dead_letters.list(one, limit=max(1, left))
        dead += [letter_in_json(sight, letter) for letter in letters if letter.id == wanted]
        left -= len(letters)
        if left <= 0:
            break
    found["dead"] = dead
    delayed = await sight.broker.delayed.list(source, limit=SEARCHED)
    found["delayed"] = [delayed_in_json(sight, one) for one in delayed if one.id == wanted]
    run = wanted.partition("/")[0]
    found["run"] = run if await sight.broker.runs.info(run) is not None else None
    found["is_known"] = bool(info or dead or found["delayed"] or found["run"] or found["holder"])
    return found


async def _label_of(sight: Sight, source: str) -> str:
    return source_in_words(source, await known_actors(sight.broker.values))


def attempts_in(headers: Mapping[str, Json]) -> list[dict[str, Any]]:
    """Return the attempts that have failed, as the headers of a message tell."""
    history = headers.get(HISTORY)
    return [
        {
            "attempt": one.get("attempt"),
            "error": f"{one.get('error')}: {one.get('reason')}"[:1000],
            "at": at if isinstance(at := one.get("at"), int | float) else None,
        }
        for one in (history if isinstance(history, list) else [])
        if isinstance(one, dict)
    ]


def delayed_in_json(sight: Sight, one: Delayed) -> dict[str, Any]:
    """Return a delayed message as JSON, as far as a user may see it."""
    shown = None
    if sight.access.may("see_payloads"):
        kind, shown = json_or_text(one.payload)
        if kind == "json":
            shown = sight.masking.masked(shown)
    return {
        "source": one.source,
        "id": one.id,
        "due": moment(one.due),
        "type": one.type,
        "payload": shown,
        "attempt": one.headers.get("actorwork-attempt", 1),
    }


async def view_delayed(sight: Sight) -> dict[str, Any]:
    """Show delayed messages, retries that wait among them, by due time within a source."""
    limit = sight.number("limit", 100, most=MOST_DELAYED)
    found = await sight.broker.delayed.list(sight.text("source") or None, limit=limit)
    own = {default_source(identity(title)): f"actor:{title}" for title in await known_actors(sight.broker.values)}
    return {
        "delayed": [{**delayed_in_json(sight, one), "label": own.get(one.source, one.source)} for one in found],
        "source": sight.text("source"),
        "limit": limit,
        "is_cut": len(found) == limit,
    }


async def view_list(sight: Sight) -> dict[str, Any]:
    """Show tracked messages, latest first, by all that one knows of them, as far back as was searched."""
    state, text = sight.text("state"), sight.text("text").strip()
    actor, source = sight.text("actor").strip(), sight.text("source").strip()
    if state and state not in STATES:
        raise Refused(f"a state of messages is one of {', '.join(STATES)}, got {state[:50]!r}")
    key, unique, header = sight.text("key").strip(), sight.text("unique").strip(), sight.text("header").strip()
    header_name, is_pair, header_value = header.partition("=")
    if header and not (header_name and is_pair):
        raise Refused(f"a header is NAME=VALUE, such as tenant=acme, got {header[:300]!r}")
    if text or key or unique or header:
        # Searching for what one may not see would tell it.
        sight.want("see_payloads")
    limit = sight.number("limit", 100, most=MOST_LISTED)
    facts: dict[str, Any] = {"limit": limit, "states": STATES, "problem": "", "messages": [], "counts": {}}
    facts["filters"] = {"state": state, "actor": actor, "source": source, "text": text}
    facts["filters"] |= {"key": key, "unique": unique, "header": header}
    try:
        found = await find(
            sight.broker,
            states=[state] if state else [],
            actor=actor or None,
            source=source or None,
            text=text,
            key=key,
            unique=unique,
            headers={header_name: header_value} if header else {},
            limit=limit,
            search=SEARCHED,
        )
    except LookupError as error:
        return {**facts, "problem": str(error), "searched": 0, "is_complete": True, "is_cut": False}
    own = {default_source(identity(title)): f"actor:{title}" for title in await known_actors(sight.broker.values)}
    return {
        **facts,
        "messages": [
            {**_listed_in_json(sight, one), "label": own.get(one.info.source, one.info.source)} for one in found.found
        ],
        "counts": {name: count for name, count in found.counts.items() if count},
        "searched": found.searched,
        "is_complete": found.is_complete,
        "is_cut": len(found.found) == limit,
    }


def _listed_in_json(sight: Sight, one: TrackedMessage) -> dict[str, Any]:
    payload: object = None
    if one.payload is not None and sight.access.may("see_payloads"):
        kind, payload = json_or_text(one.payload)
        if kind == "json":
            payload = sight.masking.masked(payload)
    return {
        **info_in_json(one.info),
        "traceback": "",
        "state": one.state,
        "type": one.type,
        "payload": payload,
        "key": one.key if sight.access.may("see_payloads") else None,
        "unique": one.unique if sight.access.may("see_payloads") else None,
        "headers": sight.masking.masked(dict(one.headers)) if sight.access.may("see_payloads") else {},
        "duration": one.duration,
    }


async def plan_cancel(sight: Sight, form: Form) -> Plan:
    """Plan to cancel a message wherever it is."""
    wanted = form.needed("id")
    source = form.text("source") or await sight.broker.states.locate(wanted)
    if not source:
        raise not_found(f"there is no tracked message {wanted[:300]!r}; one that is delayed is named with its source")
    force = form.flag("force")

    async def do() -> Done:
        reason = form.text("reason")
        if not await sight.broker.cancel_message(source, wanted, reason=reason, force=force):
            raise Refused(f"message {wanted} cannot be cancelled: it is over, or was cancelled before", 409)
        return Done(f"cancelled message {wanted}", 1)

    return Plan(
        question=f"Cancel message {wanted}?", what=f"message {wanted} of {source}", do=do, is_grave=True, back="/"
    )


async def view_send(sight: Sight) -> dict[str, Any]:
    """Show a form for a message."""
    known = await known_actors(sight.broker.values)
    return {
        "actor": sight.text("actor"),
        "source": sight.text("source"),
        "key": sight.text("key"),
        "actors": sorted(known)[:MOST_NAMES],
        "sources": shared_sources(known)[:MOST_NAMES],
    }


async def plan_send(sight: Sight, form: Form) -> Plan:
    """Plan to send a message to an actor or a source."""
    actor, source = form.text("actor"), form.text("source")
    if bool(actor) == bool(source):
        raise Refused("a message goes to an actor or to a source: give one of them")
    known = await known_actors(sight.broker.values)
    problem = unknown_actor(actor, known) if actor else unknown_source(source, known)
    if problem is not None:
        raise not_found(problem)
    if source and not SOURCE.fullmatch(source):
        raise Refused(f"a source is {SOURCE_IN_WORDS}, got {source[:300]!r}")
    data = codec.dumps(json_of(form.needed("payload"), "the payload"))
    try:
        delay = parsed(form.text("delay")) if form.text("delay").strip() else 0.0
    except ValueError as error:
        raise Refused(f"the delay: {error}") from None
    if not math.isfinite(delay):
        raise Refused("the delay wants a finite number of seconds")

    async def do() -> Done:
        envelope = Envelope(
            source=source or default_source(identity(actor)),
            id=sight.sending,
            data=data,
            type=form.text("type") or None,
            key=form.text("key") or None,
            delay=delay,
        )
        await sight.broker.publish([envelope])
        return Done(f"sent {envelope.id}", 1)

    to = f"the actor {actor!r}" if actor else f"the source {source!r}"
    later = f", {since(delay)} from now" if delay else ""
    return Plan(question=f"Send this message to {to}{later}?", what=f"message to {to}", do=do, back="/sources")


PAGES = (
    Page("/message", "Message", "message.html", view),
    Page("/messages", "Messages", "messages.html", view_list),
    Page("/delayed", "Delayed", "delayed.html", view_delayed),
    Page("/send", "Send a message", "send.html", view_send, permission="send", is_live=False),
)
ACTIONS = (
    Action("/messages/cancel", "cancel", "cancel", plan_cancel),
    Action("/messages/send", "send", "send", plan_send),
)
