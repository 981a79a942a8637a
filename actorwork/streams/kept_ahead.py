"""Keeps large runs that a settlement starts before it is applied, page by page: no script takes all of their steps.

    for each page   one script, under the fence of the delivery, under keys that expire
    settlement      names these keys: its script gives them to the run (lua/run_starting.lua)

A delivery that ends in between, or that belongs to another node by then, leaves nothing but the keys, which expire.
When it is repeated it writes its own. On a cluster a run may be in another slot than the delivery: there the pages have
no fence, and are kept for a day, for which the start may be on its way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork.events import BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.streams import keys, scripts
from actorwork.streams.forwarding import claimed
from actorwork.streams.plans import pages_of
from actorwork.streams.settle_calls import SettleCalls, pause_after
from actorwork.streams.transport.redis_py import RedisError, cannot, may_pass

if TYPE_CHECKING:
    from actorwork.message import Delivery
    from actorwork.policy.runs.values import Plan
    from actorwork.policy.settlement import Ack
    from actorwork.streams.in_flight import InFlightEntries

KEPT: Final = 3_600_000
KEPT_ELSEWHERE: Final = 86_400_000
"""For how many ms a page is kept."""
_PAGE: Final = failpoint("page.kept")


async def kept_ahead(calls: SettleCalls, delivery: Delivery, ack: Ack) -> Ack | None:
    """Keep what an ack starts and one script cannot; return that ack as it is now, None if the delivery is not ours."""
    plans = (*ack.starts, *(() if ack.continues is None else (ack.continues,)))
    if all(len(plan.steps) <= keys.SENT_AT_ONCE for plan in plans):
        return ack
    with cannot(f"keep a run that {delivery.id} starts"):
        return await _with_kept(calls, delivery, ack)


async def _with_kept(calls: SettleCalls, delivery: Delivery, ack: Ack) -> Ack | None:
    starts: list[Plan] = []
    for plan in ack.starts:
        kept = await _kept(calls, delivery, plan)
        if kept is None:
            return None
        starts.append(kept)
    continues = ack.continues
    if continues is not None:
        continues = await _kept(calls, delivery, continues)
        if continues is None:
            return None
    return attrs.evolve(ack, starts=tuple(starts), continues=continues)


async def _kept(calls: SettleCalls, delivery: Delivery, plan: Plan) -> Plan | None:
    if len(plan.steps) <= keys.SENT_AT_ONCE:
        return plan
    if calls.outbox is not None:
        of = plan
        plan = await _until_done(calls, delivery, lambda: claimed(calls.client, of))
    name = os.urandom(8).hex()
    at = f"{keys.run(plan.home, plan.id)}:{name}"
    in_flight: InFlightEntries = delivery.token[2]
    is_elsewhere = calls.outbox is not None and calls.outbox.is_elsewhere(delivery.source, plan.home)
    for page in pages_of(plan, keys.SENT_AT_ONCE):
        if is_elsewhere:
            run, args = keys.run(plan.home, plan.id), ("page", at, page, KEPT_ELSEWHERE)
            await _run(calls, delivery, scripts.RUN, run, args)
        else:
            args = (in_flight.group, in_flight.incarnation, *delivery.token[:2], at, page, KEPT)
            if not await _run(calls, delivery, scripts.KEEP_PAGE, in_flight.stream, args):
                return None
        if _PAGE is not None:
            _PAGE()
        if in_flight.is_over:
            return None
    return attrs.evolve(plan, ahead=name)


async def _run(calls: SettleCalls, delivery: Delivery, script: scripts.Script, key: str, args: Any) -> Any:
    return await _until_done(calls, delivery, lambda: calls.client.run_script(script, (key,), args, idempotent=True))


async def _until_done(calls: SettleCalls, delivery: Delivery, call: Any) -> Any:
    """Call until the server has answered; raise what will not pass."""
    attempt = 0
    while True:
        try:
            return await call()
        except RedisError as error:
            if not may_pass(error):
                raise
            attempt += 1
            pause = pause_after(attempt)
            calls.emit(BrokerTrouble(f"keeping a run that {delivery.id} starts", str(error), f"again in {pause:g} s"))
        await trio.sleep(pause)
