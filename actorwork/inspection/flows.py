"""Runs of workflows as JSON, and in words: how far they are, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from actorwork.inspection.gathering import gather
from actorwork.inspection.words import how_far, moment, progress_in_json

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.policy.idle import Place
    from actorwork.policy.runs.values import End, RunInfo, StepInfo


def progress(info: RunInfo) -> str:
    """Return how many steps have ended, well or not, of how many."""
    return f"{info.done:,}/{info.total:,}"


def step_status(one: StepInfo) -> str:
    """Return the status of a step, with how far its handler is."""
    return f"{one.status} {how_far(one.progress)}".rstrip()


async def waits_for(broker: Broker, info: RunInfo, steps: Sequence[StepInfo]) -> list[str]:
    """Return what a run waits for that no actor works on: signals, pauses, a decision about a failed step, a node."""
    from actorwork.policy.runs.values import Status

    return [
        *(f"the signal {name!r}" for name in info.waits_for),
        *(f"the pause {one.name!r}" for one in steps if one.kind == "nap" and one.status is Status.STARTED),
        *(f"`runs retry` of {one.name!r}" for one in steps if one.status is Status.HELD),
        *(["`runs resume`"] if info.status is Status.PAUSED else []),
        *await _without_node(broker, info, steps),
    ]


async def _without_node(broker: Broker, info: RunInfo, steps: Sequence[StepInfo]) -> list[str]:
    """Return which nodes are missing: for messages that wait in sources which none reads, as far as nodes report it."""
    from actorwork.policy.runs.values import Status

    waiting = {one.source: one.actor for one in steps if one.message and one.status is Status.PENDING}
    if not waiting or info.status.is_final:
        return []
    gathered = await gather(broker)
    if not gathered.is_whole:
        return []
    return sorted(
        {
            f"a node with the actor {actor!r}: none runs it" if actor else f"a node that reads {source!r}: none does"
            for source, actor in waiting.items()
            if not _is_read(gathered.by_source.get(source, ()))
        }
    )


def _is_read(places: Iterable[Place]) -> bool:
    return any(place.is_alive for place in places)


def error(end: End | None) -> str:
    """Return why a step did not succeed."""
    if end is None or end.failure is None:
        return ""
    return f"{end.failure.type}: {end.failure.reason}"


def in_json(info: RunInfo) -> dict[str, Any]:
    """Return a run as JSON; its result is the value itself, null while there is none."""
    from actorwork import codec

    return {
        "id": info.id,
        "title": info.title,
        "status": str(info.status),
        "reason": info.reason,
        "done": info.done,
        "total": info.total,
        "waits_for": list(info.waits_for),
        "started": moment(info.started),
        "finished": None if info.finished is None else moment(info.finished),
        "result": None if info.result is None else codec.loads(info.result.encode()),
        "failures": [{"step": name, "error": error(end)} for name, end in info.failures],
        "late_ends": info.late_ends,
    }


def step_in_json(one: StepInfo) -> dict[str, Any]:
    return {
        "number": one.number,
        "name": one.name,
        "kind": one.kind,
        "status": str(one.status),
        "needs": list(one.needs),
        "actor": one.actor,
        "source": one.source,
        "message": one.message,
        "progress": None if one.progress is None else progress_in_json(one.progress),
        "error": error(one.end),
    }
