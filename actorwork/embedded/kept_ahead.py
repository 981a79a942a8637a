"""Keeps the steps of large runs before they are started, page by page: no transaction takes all of them."""

from __future__ import annotations

from typing import Final

import attrs

from actorwork.embedded.asking import Asked
from actorwork.embedded.loose_rows import Page, new_name, pages_of
from actorwork.embedded.rows import Token
from actorwork.embedded.store import Store
from actorwork.failpoints import failpoint
from actorwork.policy.runs import rules
from actorwork.policy.runs.values import Plan
from actorwork.policy.settlement import Ack

_PAGE: Final = failpoint("rows.kept")


async def kept_ahead(writer: Asked, token: Token, ack: Ack) -> Ack | None:
    """Keep what an ack starts and one transaction cannot; return that ack as it is now, None if the delivery is not
    ours.
    """
    starts: list[Plan] = []
    for plan in (*ack.starts, *(() if ack.continues is None else (ack.continues,))):
        one = await kept(writer, plan, token)
        if one is None:
            return None
        starts.append(one)
    continues = None if ack.continues is None else starts.pop()
    return attrs.evolve(ack, starts=tuple(starts), continues=continues)


async def kept(writer: Asked, plan: Plan, token: Token | None = None) -> Plan | None:
    """Keep the steps of a large run before it is started, page by page; return its plan as it is now.

    Return None if the delivery with this token, which starts the run, belongs to another node by now.
    """
    if len(plan.steps) <= rules.AT_ONCE:
        return plan
    rows = new_name()
    for page in pages_of(plan, rows):
        if not await _is_kept(writer, rows, page, token):
            return None
        if _PAGE is not None:
            _PAGE()
    return attrs.evolve(plan, ahead=rows)


async def _is_kept(writer: Asked, rows: str, page: Page, token: Token | None) -> bool:
    def keep(store: Store) -> bool:
        if token is not None and not store.settlements.owns(token):
            return False
        store.runs.loose.add(rows, page)
        return True

    return await writer.ask(keep, rows=2 * rules.AT_ONCE)
