"""What holds messages back: pauses, limits, open circuits and locks; pause and resume."""

from __future__ import annotations

from typing import Any, Final, cast, get_args

from actorwork.inspection import as_json
from actorwork.inspection.gathering import Gathered, gather
from actorwork.inspection.locks import LockInfo, held_locks, locks_of
from actorwork.inspection.words import moment
from actorwork.records import Pause, PauseKind
from actorwork.settings import SOURCE, SOURCE_IN_WORDS
from actorwork.state.known_actors import Known, known_actors, unknown_actor, unknown_source
from actorwork.web.pages.overview import inspection_of
from actorwork.web.rendering import sentence
from actorwork.web.request import Action, Done, Form, Page, Plan, Refused, Sight

MOST: Final = 1000
"""Pauses on the page."""
MOST_NAMES: Final = 500
"""Actors and sources that a form suggests."""
MOST_LIMITS: Final = 500
"""Limits and circuits on the page, and locks."""


def shared_sources(known: Known) -> list[str]:
    """Return the sources of these actors, by name, without those of which each belongs to one actor."""
    return sorted({source for several in known.values() for source in several if not _is_own(source)})


def _is_own(source: str) -> bool:
    return source.startswith("worker:") and source.endswith(":source")


def pause_in_json(one: Pause) -> dict[str, Any]:
    """Return a pause as JSON."""
    return {"kind": one.kind, "name": one.name, "reason": one.reason, "by": one.by, "at": moment(one.at)}


async def view(sight: Sight) -> dict[str, Any]:
    """Show what is paused, oldest first, and which limits, circuits and locks hold messages back."""
    await inspection_of(sight).watch()
    gathered = await gather(sight.broker)
    known = await known_actors(sight.broker.values)
    limits = _limits(gathered)
    return {
        "pauses": [pause_in_json(one) for one in gathered.pauses[:MOST]],
        "pauses_total": len(gathered.pauses),
        "limits": limits[:MOST_LIMITS],
        "limits_total": len(limits),
        "locks": [_lock_in_json(one) for one in locks_of(gathered, await held_locks(sight.broker))[:MOST_LIMITS]],
        "actors": sorted(known)[:MOST_NAMES],
        "sources": shared_sources(known)[:MOST_NAMES],
    }


def _limits(gathered: Gathered) -> list[dict[str, Any]]:
    """Return what the nodes report of limits and circuits, together by actor; where most messages wait first."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for title, places in gathered.by_title.items():
        for place in places:
            for one in place.part.hold_ups:
                facts = found.setdefault(
                    (title, one.kind, one.name),
                    {"actor": title, "kind": one.kind, "name": one.name, "waiting": 0, "until": None, "nodes": 0},
                )
                facts["waiting"] += one.waiting
                facts["nodes"] += 1
                if one.until is not None:
                    facts["until"] = one.until if facts["until"] is None else min(one.until, facts["until"])
    several = sorted(found.values(), key=lambda one: (-one["waiting"], one["actor"], one["kind"], one["name"]))
    return [{**one, "until": None if one["until"] is None else moment(one["until"])} for one in several]


def _lock_in_json(one: LockInfo) -> dict[str, Any]:
    facts: dict[str, Any] = as_json(one)
    for times in (facts, facts["owner"] or {}):
        for name in ("since", "until", "waiting_since"):
            if times.get(name) is not None:
                times[name] = moment(times[name])
    return facts


def _what(form: Form) -> tuple[PauseKind, str]:
    kind, name = form.needed("kind"), form.text("name")
    if kind not in get_args(PauseKind):
        raise Refused(f"kind wants one of {', '.join(get_args(PauseKind))}, got {kind[:50]!r}")
    if (kind == "everything") != (name == ""):
        raise Refused("everything has no name" if name else f"a pause of the kind {kind!r} wants a name")
    if kind == "source" and not SOURCE.fullmatch(name):
        raise Refused(f"a source is {SOURCE_IN_WORDS}, got {name[:300]!r}")
    return cast("PauseKind", kind), name


async def plan_pause(sight: Sight, form: Form) -> Plan:
    """Plan a pause; all nodes obey within a second."""
    kind, name = _what(form)
    what = Pause(kind, name)

    async def do() -> Done:
        found = await sight.broker.pauses.pause(kind, name, reason=form.text("reason"), by=sight.access.who)
        return Done(f"paused {found}")

    known = await known_actors(sight.broker.values)
    unknown = {"actor": unknown_actor, "source": unknown_source, "triggers": unknown_actor}.get(kind)
    problem = unknown(name, known) if unknown is not None and known else None
    # What has not run yet may be paused, so that it does not begin; but a name may be mistyped as well.
    doubt = "" if problem is None else f" {sentence(problem)}"
    return Plan(question=f"Pause {what}?{doubt}", what=str(what), do=do, back="/pauses")


async def plan_resume(sight: Sight, form: Form) -> Plan:
    """Plan the end of a pause."""
    kind, name = _what(form)
    what = Pause(kind, name)

    async def do() -> Done:
        if not await sight.broker.pauses.resume(kind, name):
            raise Refused(f"{what} was not paused", 409)
        return Done(f"resumed {what}")

    return Plan(question=f"Resume {what}?", what=str(what), do=do, back="/pauses")


PAGES = (Page("/pauses", "Pauses", "pauses.html", view),)
ACTIONS = (
    Action("/pauses/pause", "pause", "pause", plan_pause),
    Action("/pauses/resume", "resume", "pause", plan_resume),
)
