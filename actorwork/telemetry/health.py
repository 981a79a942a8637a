"""Whether a node is well, decided from facts: pure, so that a table of examples tests it.

    live      the loop has turned within `hang_timeout`, and the lease is renewed: if not, restart the process
    ready     it has started, reaches its broker, is not stopping, and its loop turns: if not, send it no requests
    started   all actors have started, and the node reads

A node whose broker is away cannot renew its lease, and stays live: to restart it would mend nothing, and would end
what it is handling. It is not ready then. Of a cluster, only the primary may be away that has the lease: such a node
works for the sources at the others, and is ready until its lease runs out. By then the cluster has replaced a primary
that it can replace. A lease that is not renewed although nothing says why is another matter: what should renew it is
gone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import attrs

from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.abc import LeaseState

READY_WITHIN: Final = 5.0
"""Seconds for which the loop of a node that is ready may be blocked."""


@attrs.frozen(eq=False, repr=False)
class Facts(Value):
    """What is known of a node at one moment.

    `blocked` is for how many seconds its loop has not turned, 0 while it does, and `where` is the code that blocks it.
    `lease` is None before the node has one, and once it has nothing in flight any more because it stops. `stopping` is
    the reason of the shutdown, None before it has begun. Of the `servers` of its broker, `away` have no connection.
    """

    node: str
    has_started: bool
    blocked: float = 0.0
    where: str = ""
    lease: LeaseState | None = None
    stopping: str | None = None
    servers: int = 1
    away: int = 0


@attrs.frozen(eq=False, repr=False)
class Verdict(Value):
    """The answer to one of the three questions, with one sentence for each problem."""

    check: str
    problems: tuple[str, ...]

    @property
    def is_well(self) -> bool:
        return not self.problems

    def as_json(self, facts: Facts) -> dict[str, object]:
        """Return it as JSON; the keys are described in docs/health.md."""
        lease = facts.lease
        return {
            "status": "pass" if self.is_well else "fail",
            "check": self.check,
            "node": facts.node,
            "problems": list(self.problems),
            "started": facts.has_started,
            "stopping": facts.stopping,
            "loop": {"blocked_seconds": round(facts.blocked, 3), "at": facts.where},
            "lease": None
            if lease is None or math.isinf(lease.left)
            else {"left_seconds": round(lease.left, 3), "trouble": lease.trouble},
            "broker": {"servers": facts.servers, "away": facts.away},
        }


def live(facts: Facts, hang_timeout: float) -> Verdict:
    problems: list[str] = []
    if facts.blocked > hang_timeout:
        problems.append(f"{_blocked(facts)}, longer than the hang_timeout of {hang_timeout:g} s")
    lease = facts.lease
    if lease is not None and lease.left < 0 and not lease.trouble:
        problems.append(f"the lease ran out {-lease.left:.1f} s ago, and nothing renews it")
    return Verdict("live", tuple(problems))


def ready(facts: Facts, hang_timeout: float) -> Verdict:
    problems: list[str] = []
    if facts.stopping is not None:
        problems.append(f"it stops: {facts.stopping}")
    elif not facts.has_started:
        problems.append("it has not started yet")
    if facts.blocked > min(READY_WITHIN, hang_timeout):
        problems.append(_blocked(facts))
    lease = facts.lease
    if lease is not None and lease.trouble and facts.away < facts.servers and facts.servers > 1:
        if lease.left < 0:
            problems.append(
                f"the lease ran out {-lease.left:.1f} s ago, and the server that has it cannot be reached: "
                f"{lease.trouble}"
            )
    elif lease is not None and lease.trouble:
        problems.append(f"the broker cannot be reached: {lease.trouble}")
    elif lease is not None and lease.left < 0:
        problems.append(f"the lease ran out {-lease.left:.1f} s ago")
    return Verdict("ready", tuple(problems))


def started(facts: Facts) -> Verdict:
    return Verdict("started", () if facts.has_started else ("it has not started yet",))


def _blocked(facts: Facts) -> str:
    by = f" by {facts.where}" if facts.where else ""
    return f"the loop has been blocked for {facts.blocked:.1f} s{by}"
