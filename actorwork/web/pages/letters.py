"""Dead letters by cause: look, replay, edit and replay, drop.

At most `MOST` letters are searched for a page, and changed by one action: the oldest ones of each source come first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from actorwork import codec
from actorwork.abc import DeadLetters
from actorwork.clients.dead_letters import act_on, pages
from actorwork.inspection.letters import cause_in_json, in_json, payload, shown_source
from actorwork.message import Json
from actorwork.policy.dead_letters import Cause, Selection, by_cause
from actorwork.records import DeadLetter
from actorwork.web.request import Action, Done, Form, Page, Plan, Refused, Sight, json_of, not_found

MOST: Final = 10_000
MOST_PROBLEMS: Final = 20
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-")
_FILTERS: Final = ("source", "actor", "error", "fingerprint", "text")


def _selection(sight: Sight, text: Callable[[str], str]) -> Selection:
    if text("text"):
        # Searching for what one may not see would tell it.
        sight.want("see_payloads")
    return Selection(
        source=text("source") or None,
        actor=text("actor") or None,
        error=text("error") or None,
        fingerprint=text("fingerprint") or None,
        text=text("text") or None,
    )


async def _search(sight: Sight, selection: Selection, most: int = MOST) -> tuple[list[Sequence[DeadLetter]], int, bool]:
    """Return the pages of a selection, how many letters they have, and whether there are more."""
    found: list[Sequence[DeadLetter]] = []
    count = 0
    async with aclosing(pages(sight.broker.dead_letters, selection)) as all_pages:
        async for page in all_pages:
            if count + len(page) > most:
                found.append(page[: most - count])
                return found, most, True
            found.append(page)
            count += len(page)
    return found, count, False


def letter_in_json(sight: Sight, letter: DeadLetter) -> dict[str, Any]:
    """Return a letter as JSON, as far as a user may see it, with its secrets masked."""
    facts = in_json(letter) | {"shown_source": shown_source(letter), "error_type": letter.failure.type}
    facts["reason"] = letter.failure.reason
    if sight.access.may("see_payloads"):
        facts["payload"] = sight.masking.masked(facts["payload"])
        facts["headers"] = sight.masking.masked(facts["headers"])
    else:
        facts |= {"payload": None, "payload_is": "hidden", "headers": {}, "traceback": ""}
    return facts


def trace_in(sight: Sight, headers: Mapping[str, Json]) -> dict[str, str] | None:
    """Return the trace of a message, by its W3C header: its id, and where it is shown, if the dashboard knows."""
    found = _TRACEPARENT.match(str(headers.get("traceparent", "")))
    return None if found is None else {"id": found[1], "url": sight.trace_url.replace("{trace_id}", found[1])}


def _cause_in_json(sight: Sight, cause: Cause) -> dict[str, Any]:
    return cause_in_json(cause) | {"example": letter_in_json(sight, cause.example)}


async def view(sight: Sight) -> dict[str, Any]:
    """Show the causes of dead letters, the largest group first."""
    selection = _selection(sight, sight.text)
    found, count, is_cut = await _search(sight, selection)
    causes: list[Cause] = []
    for page in found:
        causes = by_cause(page, causes)
    limit = sight.number("limit", 100, most=1000)
    return {
        "causes": [_cause_in_json(sight, cause) for cause in causes[:limit]],
        "causes_total": len(causes),
        "letters": count,
        "is_cut": is_cut,
        "searched": MOST,
        "sources": list(await sight.broker.dead_letters.sources())[:1000],
        "filters": {name: sight.text(name) for name in _FILTERS},
    }


async def view_letters(sight: Sight) -> dict[str, Any]:
    """Show the dead letters of a selection, newest last."""
    selection = _selection(sight, sight.text)
    limit = sight.number("limit", 100, most=3000)
    found, count, is_cut = await _search(sight, selection)
    letters = [letter for page in found for letter in page]
    # The newest are what an operator looks for; each source is oldest first.
    letters.sort(key=lambda letter: -letter.at)
    return {
        "letters": [letter_in_json(sight, letter) | {"traceback": ""} for letter in letters[:limit]],
        "total": count,
        "is_cut": is_cut,
        "searched": MOST,
        "limit": limit,
        "filters": {name: sight.text(name) for name in _FILTERS},
    }


async def _find(sight: Sight, source: str, entry: str) -> DeadLetter:
    letter = await sight.broker.dead_letters.get(source, entry)
    if letter is None:
        raise not_found(f"there is no dead letter {entry[:300]!r} of {source[:300]!r}; it may have been replayed")
    return letter


async def view_one(sight: Sight) -> dict[str, Any]:
    """Show one dead letter in full."""
    letter = await _find(sight, sight.needed("source"), sight.needed("entry"))
    facts = letter_in_json(sight, letter)
    facts["trace"] = trace_in(sight, letter.headers)
    facts["payload_text"] = _text(facts) if sight.access.may("see_payloads") else ""
    return facts


def _text(facts: dict[str, Any]) -> str:
    if facts["payload_is"] == "bytes":
        return facts["payload"]
    return json.dumps(facts["payload"], ensure_ascii=False, indent=2)


# ---- actions ----

_Act = Callable[[DeadLetters, str, Sequence[str]], Awaitable[int]]


async def _replay(letters: DeadLetters, source: str, names: Sequence[str]) -> int:
    return await letters.replay(source, names)


async def _drop(letters: DeadLetters, source: str, names: Sequence[str]) -> int:
    return await letters.drop(source, names)


def _planning(verb: str, done: str, act: _Act, *, is_grave: bool) -> Callable[[Sight, Form], Awaitable[Plan]]:
    async def plan(sight: Sight, form: Form) -> Plan:
        entries = form.texts("entry")
        named = [(form.needed("source"), entry) for entry in entries] or [_named(one) for one in form.texts("letter")]
        if named:
            by_source: dict[str, list[DeadLetter]] = {}
            for source, entry in named[:MOST]:
                by_source.setdefault(source, []).append(await _find(sight, source, entry))
            found: list[Sequence[DeadLetter]] = list(by_source.values())
            count, is_cut = min(len(named), MOST), len(named) > MOST
        elif form.flag("chosen"):
            # A list in which none is ticked: its filters do not say that all are meant.
            raise Refused("no letter is chosen: tick those that are meant")
        elif form.flag("all") or any(form.text(name) for name in _FILTERS):
            found, count, is_cut = await _search(sight, _selection(sight, form.text))
        else:
            raise Refused("choose which: source and entry, one of the filters, or all")
        chosen = {name: form.text(name) for name in _FILTERS if form.text(name)}
        which = ", ".join(f"{name} {value}" for name, value in chosen.items())
        if named:
            which = ", ".join(f"{entry} of {source}" for source, entry in named[:10])
        what = f"dead letters: {which or 'all'}"
        if not count:
            raise not_found(f"no dead letter is selected by {which or 'this'}")

        async def do() -> Done:
            problems: list[str] = []
            changed = 0

            async def counted(letters: DeadLetters, source: str, names: Sequence[str]) -> int:
                some = await act(letters, source, names)
                sight.progress.count += some
                return some

            for page in found:
                changed += await act_on(sight.broker.dead_letters, page, counted, problems)
            text = f"{done} {_many(changed)}"
            if changed + len(problems) < count:
                text += f"; {count - changed - len(problems):,} no longer existed"
            if problems:
                text += f"; {len(problems):,} were refused: {problems[0]}"
            return Done(text, changed, problems[:MOST_PROBLEMS])

        more = f" There are more; one action takes {MOST:,} at most." if is_cut else ""
        return Plan(
            question=f"{verb} {_many(count)}?{more}",
            what=what,
            do=do,
            how_many=count,
            is_grave=is_grave,
            back="/dead",
        )

    return plan


def _named(text: str) -> tuple[str, str]:
    """Read the letter that a box of the list stands for: its entry, which has no space, and its source."""
    entry, _, source = text.partition(" ")
    if not entry or not source:
        raise Refused(f"letter wants an entry and a source, with a space between, got {text[:300]!r}")
    return source, entry


def _many(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


async def plan_edit(sight: Sight, form: Form) -> Plan:
    """Plan to send a letter again with another payload, under its id."""
    sight.want("see_payloads")
    letter = await _find(sight, form.needed("source"), form.needed("entry"))
    value = json_of(form.needed("payload"), "the payload")
    kind, before = payload(letter)
    changed = codec.dumps(sight.masking.unmasked(value, before if kind != "bytes" else None))

    async def do() -> Done:
        is_sent = await sight.broker.dead_letters.replay_as(
            letter.source, letter.entry, changed, type=letter.type, headers=letter.headers
        )
        if not is_sent:
            raise not_found("the dead letter no longer exists; nothing was sent")
        return Done(f"replayed message {letter.id}, changed", 1)

    same = " It is unchanged." if kind == "json" and changed == codec.dumps(before) else ""
    return Plan(
        question=f"Replay message {letter.id} with this payload?{same} The former one is not kept.",
        what=f"dead letter {letter.entry} of {letter.source}",
        do=do,
        how_many=1,
        is_grave=True,
        back="/dead",
    )


PAGES = (
    Page("/dead", "Dead letters", "dead.html", view),
    Page("/dead/letters", "Dead letters", "letters.html", view_letters),
    Page("/dead/letter", "Dead letter", "letter.html", view_one),
)
ACTIONS = (
    Action("/dead/replay", "replay", "replay", _planning("Replay", "replayed", _replay, is_grave=False)),
    Action("/dead/drop", "drop", "drop", _planning("Drop", "dropped", _drop, is_grave=True)),
    Action("/dead/edit", "edit and replay", "edit", plan_edit),
)
