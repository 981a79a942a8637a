"""An action that is recorded at the broker: before it is done, and once it has ended.

    async with audited(broker.audit, "purge", "orders", reason="a test") as action:
        action.how_many = await …

If the block is cancelled, or the broker cannot be reached at its end, the entry stays without an outcome: the action
may have taken effect.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress

from actorwork.abc import Audit
from actorwork.clients.identity import whoami


class Action:
    """What is known of an action by now; set `how_many` and `outcome` before the block ends."""

    def __init__(self) -> None:
        self.how_many: int | None = None
        self.outcome = "done"

    def __repr__(self) -> str:
        return f"<Action: {self.outcome}, {self.how_many}>"


@asynccontextmanager
async def audited(
    audit: Audit,
    action: str,
    what: str,
    *,
    who: str = "",
    role: str = "",
    reason: str = "",
    ip: str = "",
    step: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> AsyncGenerator[Action]:
    """Record the block as one action, in the name of the user of this program unless `who` names another one.

    Each wait for the broker to record something is in a new `step()`, which may bound it; the block bounds its own.
    Raises `BrokerError`, and does not begin the block, if the action cannot be recorded. An error of the block is
    recorded as its outcome, and raised.
    """
    with step():
        entry = await audit.append(action, what, who=who or whoami(), role=role, reason=reason, ip=ip)
    doing = Action()
    try:
        yield doing
    except Exception as error:
        with suppress(Exception), step():
            await audit.complete(entry, f"failed: {error}", doing.how_many)
        raise
    with suppress(Exception), step():  # It is done: an answer that does not come must not look like a failure.
        await audit.complete(entry, doing.outcome, doing.how_many)
