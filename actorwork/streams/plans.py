"""Plans of runs in the form that `lua/run_starting.lua` takes: JSON, in which all that must stay as it is are strings.

Lua's JSON library knows neither whole numbers of 64 bits nor the difference between an empty list and an empty object.
So a step is a string within the JSON of its run, and its headers are a string within that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from actorwork.message import FLOW, REPLY_TO, RESULT_TTL, Failure, Json, Priority
from actorwork.policy.runs.values import (
    AS_PLANNED,
    ON_ERROR,
    STATUS_OF_KIND,
    Dependent,
    End,
    Expansion,
    Heir,
    Kind,
    Numbering,
    Plan,
    RunInfo,
    Status,
    StepInfo,
    StepPlan,
    Template,
    Wants,
    message_id,
    needs_of,
    read_step_header,
    step_header,
    template_from,
    template_row,
)
from actorwork.streams.formats import FORMAT_OF_RUNS

MOST_JOINED: Final = 500
"""How many inputs a script joins to the message of a step; the same number as in `lua/run_messages.lua`."""
INFO_FIELDS: Final = ("title", "status", "reason", "total", "open", "started", "finished", "result", "late")
"""What `info_from` reads of the hash of a run."""
NEXT_AT_ONCE: Final = 500
"""How many dependents of a step are in one field; the same number as in `lua/run_book.lua`."""
_FIELDS_AT_ONCE: Final = 20
_STATES: Final = {b"1": 1, b"2": 2, b"3": 3}


def encoded(plan: Plan, pages: str | None = None, *, claim: str = "") -> str:
    """Return the JSON with which a script starts a run; with `pages`, steps were sent before, under that name.

    `claim` is that of the heir's message to its result.
    """
    total = len(plan.steps)
    row: dict[str, Any] = {
        "home": plan.home,
        "run": plan.id,
        "title": plan.title,
        "total": total,
        "holds": int(plan.holds),
        "secret": os.urandom(16).hex(),
        "ttl": _milliseconds(plan.results_ttl),
        "format": FORMAT_OF_RUNS,
        "result": _text(template_row(plan.result)),
        "needs_of_result": len(plan.needs_of_result),
    }
    # What is not there is left out: Lua takes null for a value.
    if pages is None:
        dependents = _in_order(plan.dependents())
        row |= _page(plan, 0, total, dependents)
        row["beyond"] = [part for field in _beyond(dependents) for part in field]
    else:
        row["pages"] = pages
    if (count := _inputs_of(plan.result)) > MOST_JOINED:
        row["result_inputs"] = count
    if plan.deadline is not None:
        row["deadline"] = _milliseconds(plan.deadline)
    if plan.on_error is not None:
        row["on_error"] = _text(_row(plan, plan.on_error, ON_ERROR))
    if plan.heir is not None:
        row["heir"] = _heir(plan.heir, claim)
        parent = read_step_header(plan.heir.headers.get(FLOW))
        if parent is not None:
            row["parent"] = parent
    return _text(row)


def encoded_expansion(expansion: Expansion) -> str:
    """Return the JSON with which a script adds steps to a run; it puts their numbers where the mark is."""
    mark = os.urandom(16).hex()
    numbering = Numbering(
        step=lambda number: f"{mark}s{number}",
        undo=lambda number: f"{mark}u{number}",
        group=lambda number: f"{mark}g{number}",
    )
    steps: list[str] = []
    for number, step in enumerate(expansion.steps):
        row = _row(expansion, step, number, numbering)
        if number in expansion.members:
            row["groups"] = [f"{mark}p", *row.get("groups", ())]
        steps.append(_text(row))
    dependents = expansion.dependents()
    return _text(
        {
            "mark": mark,
            "home": expansion.home,
            "run": expansion.run,
            "step": expansion.step,
            "steps": steps,
            "needs": [len(step.needs) for step in expansion.steps],
            "next": [_waits(_takers_first(dependents.get(number, ())), numbering) for number in range(len(steps))],
            "members": expansion.members,
            "undoes": [number for number, step in enumerate(expansion.steps) if step.undo is not None],
        }
    )


def pages_of(plan: Plan, size: int) -> Iterator[str]:
    """Yield the steps of a large run in pages of `size` steps, as a script adds them."""
    dependents = _in_order(plan.dependents())
    for first in range(0, len(plan.steps), size):
        yield _text(_page(plan, first, min(first + size, len(plan.steps)), dependents))
    fields = list(_beyond(dependents))
    for first in range(0, len(fields), _FIELDS_AT_ONCE):
        beyond = [part for field in fields[first : first + _FIELDS_AT_ONCE] for part in field]
        yield _text({"first": 0, "steps": [], "needs": [], "next": [], "beyond": beyond})


def _page(plan: Plan, first: int, stop: int, dependents: Mapping[int, Sequence[Dependent]]) -> dict[str, Any]:
    """Return the steps from one number to another."""
    numbers = range(first, stop)
    steps = [(number, plan.steps[number]) for number in numbers]
    rows = [_row(plan, step, number) for number, step in steps]
    large = [(number, row) for number, row in zip(numbers, rows, strict=True) if len(row["needs"]) > MOST_JOINED]
    templates = {number: _text(_without_template(row)) for number, row in large}
    page: dict[str, Any] = {
        "first": first,
        "steps": [_text(row) for row in rows],
        "needs": [len(step.needs) for _, step in steps],
        "next": [_waits(dependents.get(number, ())[:NEXT_AT_ONCE], AS_PLANNED) for number in numbers],
        "undoes": [part for number, step in steps if step.undo is not None for part in (number, 1)],
        "asks": [part for number, step in steps if step.kind == "signal" for part in (step.name, number)],
    }
    if templates:
        page["templates"] = templates
    return page


def _without_template(row: dict[str, Any]) -> dict[str, Any]:
    """Take out of the row of a step what grows with the number of its inputs; return that."""
    taken: dict[str, Any] = {"needs": row["needs"]}
    row["needs"] = []  # A client of an older version looks for it.
    if (count := _inputs_of(template_from(row.get("template", ())))) > MOST_JOINED:
        taken["template"] = row.pop("template")
        row["inputs"] = count
    return taken


def _inputs_of(template: Template) -> int:
    return sum(1 for _ in needs_of(template))


def _in_order(dependents: Mapping[int, Sequence[Dependent]]) -> Mapping[int, Sequence[Dependent]]:
    return {number: _takers_first(some) for number, some in dependents.items()}


def _takers_first(dependents: Iterable[Dependent]) -> Sequence[Dependent]:
    """Return dependents, those first that take the outcome: a look at the first ones tells whether there are any."""
    return sorted(dependents, key=_takes_result)


def _takes_result(dependent: Dependent) -> bool:
    return dependent.wants == "result"


def _beyond(dependents: Mapping[int, Sequence[Dependent]]) -> Iterator[tuple[str, str]]:
    """Yield the dependents that are too many for one field, each with the name of its field."""
    for number, some in dependents.items():
        for page, first in enumerate(range(NEXT_AT_ONCE, len(some), NEXT_AT_ONCE), 1):
            yield f"{number}.{page}", _waits(some[first : first + NEXT_AT_ONCE], AS_PLANNED)


def _waits(dependents: Iterable[Dependent], numbering: Numbering) -> str:
    """Return who waits for a step, as text: nothing, if none does."""
    rows = [[numbering.step(one.step), one.wants[0], *([1] if one.is_gathering else [])] for one in dependents]
    return _text(rows) if rows else ""


def _row(plan: Plan | Expansion, step: StepPlan, number: int, numbering: Numbering = AS_PLANNED) -> dict[str, Any]:
    """Return a step as JSON. Its number is that in the plan; of what undoes it, too."""
    return _row_under(plan, step, numbering.step(number), numbering) | (
        {} if step.undo is None else {"undo": _row_under(plan, step.undo, numbering.undo(number), numbering)}
    )


def _row_under(plan: Plan | Expansion, step: StepPlan, number: Json, numbering: Numbering) -> dict[str, Any]:
    run = plan.run if isinstance(plan, Expansion) else plan.id
    needs = [numbering.step(need) for need in sorted(step.needs)]
    row: dict[str, Any] = {"name": step.name, "kind": step.kind, "needs": needs}
    if step.seconds is not None:
        row["seconds"] = _milliseconds(step.seconds)
    if step.kind == "message":
        row["source"], row["actor"] = step.source, step.actor
        row["template"] = template_row(step.template, numbering)
        row["headers"] = _text({**step.headers, FLOW: step_header(plan.home, run, number)})
    if step.groups:
        row["groups"] = [numbering.group(group) for group in step.groups]
    for name in ("type", "group", "key"):
        if getattr(step, name) is not None:
            row[name] = getattr(step, name)
    if step.priority is not Priority.NORMAL:
        row["priority"] = step.priority.name.lower()
    if step.at is not None:
        row["due"] = str(max(0, round(step.at * 1000)))
    elif step.delay > 0:
        row["due"] = f"+{_milliseconds(step.delay)}"
    if step.lifetime is not None:
        row["lifetime"] = _milliseconds(step.lifetime)
    if step.expires is not None:
        row["expires"] = _milliseconds(step.expires)
    return row


def _heir(heir: Heir, claim: str) -> str:
    """Return who is answered when the run ends; like `settler`, it takes from the headers only what is of use."""
    headers = heir.headers
    row: dict[str, Any] = {"source": heir.source, "id": heir.id, "claim": claim}
    ttl, reply_to, flow = headers.get(RESULT_TTL), headers.get(REPLY_TO), headers.get(FLOW)
    if isinstance(ttl, (int, float)) and ttl > 0:
        row["ttl"] = str(_milliseconds(ttl))
    if isinstance(reply_to, str):
        row["reply_to"] = reply_to
    if isinstance(flow, str) and '"' not in flow:
        row["flow"] = flow
    return _text(row)


def info_from(run: str, reply: Sequence[Any]) -> RunInfo | None:
    """Return a run from the reply of `lua/run.lua` to `INFO_FIELDS`; None if there is none."""
    if not reply:
        return None
    fields, failures, asked = reply
    title, status, reason, total, left, started, finished, result, late = fields
    return RunInfo(
        id=run,
        title=title.decode(),
        status=Status(status.decode()),
        reason=reason.decode(),
        done=int(total) - int(left),
        total=int(total),
        waits_for=tuple(name.decode() for name in asked),
        started=int(started) / 1000,
        finished=None if finished is None else int(finished) / 1000,
        result=None if result is None else result.decode(),
        failures=tuple((name.decode(), end_from(end)) for name, end in failures),
        late_ends=int(late or 0),
    )


def steps_from(
    run: str,
    steps: Mapping[bytes, bytes],
    states: Mapping[bytes, bytes],
    ends: Mapping[bytes, bytes],
    values: Mapping[bytes, bytes],
    templates: Mapping[bytes, bytes],
    waits: Mapping[bytes, bytes] = MappingProxyType({}),
) -> Sequence[StepInfo]:
    """Return the steps of a run from its hashes; `waits` is needed only of a run to which steps were added."""
    found: list[StepInfo] = []
    needs: dict[int, set[int]] = {}
    for step, dependents in waits.items():
        for dependent, *_ in json.loads(dependents):
            needs.setdefault(dependent, set()).add(int(step.partition(b".")[0]))
    for number in sorted(map(int, steps)):
        name = b"%d" % number
        row: dict[str, Any] = json.loads(steps[name])
        state = _STATES.get(states.get(b"s" + name, b""), 0)
        attempt = int(states.get(b"a" + name, b"0"))
        end = End("done", values[name].decode()) if name in values else end_from(ends[name]) if name in ends else None
        kind = row["kind"]
        if state == 3:
            status = Status.HELD
        elif end is not None:
            status = STATUS_OF_KIND[end.kind]
        else:
            status = Status.STARTED if state == 1 and kind != "message" else Status.PENDING
        found.append(
            StepInfo(
                number=number,
                name=row["name"],
                kind=kind,
                status=status,
                needs=tuple(sorted(needs.get(number, ()) if waits else _needs(row, templates.get(name)))),
                actor=row.get("actor", ""),
                source=row.get("source", ""),
                message=message_id(run, number, attempt) if state and kind == "message" else "",
                end=end,
            )
        )
    return found


def _needs(row: Mapping[str, Any], kept_apart: bytes | None) -> Sequence[int]:
    return row["needs"] if kept_apart is None else json.loads(kept_apart)["needs"]


def kinds_from(ends: Mapping[bytes, bytes]) -> Mapping[int, Kind]:
    """Return how steps have ended, from what is stored of steps that are not done."""
    return {int(step): json.loads(text)["how"] for step, text in ends.items()}


def dependents_from(texts: Iterable[bytes]) -> Mapping[int, Wants]:
    """Return who waits for a step, and for what, from the fields in which that is stored."""
    return {step: "result" if wants == "r" else "outcome" for text in texts for step, wants, *_ in json.loads(text)}


def end_from(text: bytes) -> End:
    row = json.loads(text)
    failure = row.get("failure")
    return End(
        row["how"],
        "null",
        Failure(failure["type"], failure["reason"], failure.get("traceback", "")) if failure else None,
        bool(row.get("caused")),
    )


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
