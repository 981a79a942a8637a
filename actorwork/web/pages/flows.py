"""Runs of workflows: how far they are, their graph; cancel, pause, resume, retry, signal, forget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from actorwork import codec
from actorwork.clients.runs import retry_steps, send_signal
from actorwork.errors import CodecError
from actorwork.inspection.flows import in_json, step_in_json, waits_for
from actorwork.policy.runs.choosing import can_retry, to_retry
from actorwork.policy.runs.drawing import svg
from actorwork.policy.runs.values import RunInfo, Status, StepInfo
from actorwork.web.request import Action, Done, Form, Page, Plan, Refused, Sight, json_of, not_found

STATUSES: Final = ("STARTED", "PAUSED", "HELD", "RETRY", "SUCCESS", "FAILURE", "CANCELLED")
MOST: Final = 3000
SHOWN_STEPS: Final = 60
"""Steps on a page that does not ask for more: those that have failed come first, then those that run."""
MOST_STEPS: Final = 500
_RUNNING: Final = (Status.STARTED, Status.RECEIVED, Status.RETRY)


async def view(sight: Sight) -> dict[str, Any]:
    """Show runs, latest first, of one status or of all."""
    status = sight.text("status")
    if status and status not in STATUSES:
        raise Refused(f"status wants one of {', '.join(STATUSES)}, got {status[:50]!r}")
    limit = sight.number("limit", 100, most=MOST)
    found = await sight.broker.runs.list(statuses=[status] if status else [], limit=limit)
    return {
        "runs": [_without_result(one) for one in found],
        "status": status,
        "statuses": list(STATUSES),
        "limit": limit,
        "is_cut": len(found) == limit,
    }


def _without_result(info: RunInfo) -> dict[str, Any]:
    facts = in_json(info)
    del facts["result"]
    return facts


async def _find(sight: Sight, run: str) -> RunInfo:
    info = await sight.broker.runs.info(run)
    if info is None:
        raise not_found(f"there is no run {run[:300]!r}: it was never started, or is kept no longer")
    return info


async def view_one(sight: Sight) -> dict[str, Any]:
    """Show one run: its steps, its graph, what it waits for, its result."""
    info = await _find(sight, sight.needed("id"))
    limit = sight.number("limit", SHOWN_STEPS, most=MOST_STEPS)
    steps = await sight.broker.runs.steps(info.id)
    facts = in_json(info)
    if sight.access.may("see_payloads"):
        facts["result"] = sight.masking.masked(facts["result"])
    else:
        facts["result"] = None
    return facts | {
        "is_over": info.status.is_final,
        "waits": await waits_for(sight.broker, info, steps),
        "signals": list(info.waits_for),
        "steps": [step_in_json(one) | {"can_retry": can_retry(one)} for one in _shown(steps, limit)],
        "steps_total": len(steps),
        "steps_to_retry": sum(map(can_retry, steps)),
        "limit": limit,
        "most": MOST_STEPS,
        "graph": svg(info, steps, is_styled=False),
    }


def _shown(steps: Sequence[StepInfo], limit: int) -> Sequence[StepInfo]:
    if len(steps) <= limit:
        return steps
    return sorted(steps, key=lambda one: (not can_retry(one), one.status not in _RUNNING, one.number))[:limit]


def _named(info: RunInfo) -> str:
    return f"{info.title!r} ({info.id})" if info.title else repr(info.id)


def _planning(
    verb: str,
    act: Callable[[Sight, str, Form], Awaitable[bool]],
    unless: str,
    done: str,
    *,
    is_grave: bool = False,
) -> Callable[[Sight, Form], Awaitable[Plan]]:
    async def plan(sight: Sight, form: Form) -> Plan:
        info = await _find(sight, form.needed("id"))

        async def do() -> Done:
            if not await act(sight, info.id, form):
                raise Refused(f"run {info.id!r} is {unless} ({info.status})", 409)
            return Done(f"{done} run {info.id!r}", 1)

        return Plan(
            question=f"{verb} run {_named(info)}?",
            what=f"run {info.id}",
            do=do,
            is_grave=is_grave,
            back=f"/runs?status={info.status}" if verb == "Forget" else "/runs",
        )

    return plan


async def _cancel(sight: Sight, run: str, form: Form) -> bool:
    return await sight.broker.runs.cancel(run, form.text("reason"))


async def _pause(sight: Sight, run: str, _: Form) -> bool:
    return await sight.broker.runs.pause(run)


async def _resume(sight: Sight, run: str, _: Form) -> bool:
    return await sight.broker.runs.resume(run)


async def plan_retry(sight: Sight, form: Form) -> Plan:
    """Plan to run again what has failed in a run: all of it, or the steps that are named, or given by `number`."""
    info = await _find(sight, form.needed("id"))
    steps = await sight.broker.runs.steps(info.id)
    wanted = [*form.texts("step"), *map(_number, form.texts("number"))]
    try:
        chosen = to_retry(info.id, steps, wanted) if wanted else {one.number for one in steps if can_retry(one)}
    except (LookupError, ValueError) as error:
        raise Refused(str(error.args[0]), 409) from None
    if not wanted and form.flag("chosen"):
        raise Refused("no step is chosen: tick those that are to run again")

    names = [repr(one.name) for one in steps if one.number in chosen]
    which = f"{', '.join(names[:5])}{f' and {len(names) - 5:,} more' if len(names) > 5 else ''}"

    async def do() -> Done:
        runs = sight.broker.runs
        try:
            is_done = await (retry_steps(runs, info.id, steps, chosen) if wanted else runs.retry(info.id))
        except ValueError as error:
            raise Refused(str(error), 409) from None
        if not is_done:
            raise Refused(f"run {info.id!r} is neither held nor failed ({info.status})", 409)
        return Done(f"retrying {which or 'what had not succeeded'} of run {info.id!r}", len(chosen))

    rest = " The other steps that failed stay as they are." if len(chosen) < sum(map(can_retry, steps)) else ""
    return Plan(
        question=f"Retry {which or 'what has not succeeded'} of run {_named(info)}? What was cancelled because of"
        f" {'it' if len(chosen) == 1 else 'them'} runs again as well.{rest}",
        what=f"run {info.id}: {which}" if wanted else f"run {info.id}",
        do=do,
        how_many=len(chosen),
        back=f"/run?{urlencode({'id': info.id})}",
    )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise Refused(f"number wants the number of a step, got {text[:50]!r}")
    return int(text)


async def _forget(sight: Sight, run: str, _: Form) -> bool:
    return await sight.broker.runs.forget(run)


async def _signal(sight: Sight, run: str, form: Form) -> bool:
    name, text = form.needed("name"), form.text("value") or "null"
    value = json_of(text, 'the value of a signal, such as true or "yes",')
    try:
        return await send_signal(sight.broker.runs, run, name, codec.dumps(value))
    except CodecError as error:
        raise Refused(str(error)) from None


PAGES = (Page("/runs", "Runs", "runs.html", view), Page("/run", "Run", "run.html", view_one))
ACTIONS = (
    Action("/runs/cancel", "cancel run", "cancel", _planning("Cancel", _cancel, "over", "cancelled", is_grave=True)),
    Action("/runs/pause", "pause run", "pause", _planning("Pause", _pause, "not under way", "paused")),
    Action("/runs/resume", "resume run", "pause", _planning("Resume", _resume, "not paused", "resumed")),
    Action("/runs/retry", "retry run", "replay", plan_retry),
    Action("/runs/signal", "signal run", "send", _planning("Signal", _signal, "not waiting for this", "signalled")),
    Action("/runs/forget", "forget run", "drop", _planning("Forget", _forget, "not over", "forgot", is_grave=True)),
)
