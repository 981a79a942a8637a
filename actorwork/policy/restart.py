"""Which children a supervisor restarts, how soon, and when it gives up.

The window is OTP's (`supervisor.erl`, add_restart), on seconds as floats; the default of 3 in 5 s is Elixir's:

    restarts = [now] + [t for t in restarts if t >= now - period]      # the boundary counts
    more than `intensity.restarts` of them: give up

Every decision to restart counts once, however many children it affects, and so does every failed start that is
tried again. The strategy decides which children a restart affects:

    one_for_one     the child that ended
    rest_for_one    it, and those that started after it
    one_for_all     all

The delay is Akka's, capped after the jitter: `min(max, min * 2 ** n * (1 + U(0, jitter)))` after n previous failures.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from actorwork.durations import as_seconds
from actorwork.policy.bounds import FINITE, number, whole
from actorwork.policy.retry import Dice
from actorwork.shown import Value

if TYPE_CHECKING:
    from actorwork.policy.backoffs import Backoff

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]

STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")
AUTO_SHUTDOWNS: tuple[AutoShutdown, ...] = ("never", "any_significant", "all_significant")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Intensity(Value):
    """At most `restarts` restarts within `period` seconds, for all children of a supervisor together."""

    restarts: int = attrs.field(default=3, validator=whole(0))
    period: float = attrs.field(
        default=5.0, converter=as_seconds, validator=number(0, FINITE, "finite seconds", above=True)
    )


class Window:
    """The restarts that a supervisor remembers. Not frozen, so that the many restarts of a wide window cost nothing."""

    __slots__ = ("_moments",)

    def __init__(self) -> None:
        self._moments: deque[float] = deque()

    def __len__(self) -> int:
        return len(self._moments)

    def allows(self, intensity: Intensity, now: float) -> bool:
        """Count a restart at `now` (monotonic seconds), and return whether it is still allowed."""
        moments = self._moments
        while moments and moments[0] < now - intensity.period:
            moments.popleft()
        moments.append(now)
        return len(moments) <= intensity.restarts

    def forgive(self) -> None:
        """Forget the last restart: what caused it has turned out to be no failure of the child's own."""
        if self._moments:
            self._moments.pop()

    def forget(self) -> None:
        """Forget all past restarts."""
        self._moments.clear()


def touched(strategy: Strategy, position: int, count: int) -> Sequence[int]:
    """Return the positions that a restart of the child at `position` affects, in start order."""
    match strategy:
        case "one_for_one":
            return range(position, position + 1)
        case "rest_for_one":
            return range(position, count)
        case "one_for_all":
            return range(count)


def auto_shutdown_due(mode: AutoShutdown, *, significant_left: int) -> bool:
    """Whether a supervisor ends after a significant child has ended by itself and is not restarted."""
    match mode:
        case "never":
            return False
        case "any_significant":
            return True
        case "all_significant":
            return significant_left == 0


@attrs.frozen(eq=False, repr=False)
class Failures(Value):
    """A child's failures in a row, and for how long it has been up since the last one (seconds)."""

    count: int = 0
    up_for: float = 0.0
    up_since: float = math.inf
    """When it came up (monotonic seconds); infinite while it is not up."""

    def came_up(self, now: float) -> Failures:
        return Failures(self.count, self.up_for, now)

    def ended(self, now: float) -> Failures:
        return Failures(self.count, self.up_for + max(0.0, now - self.up_since))


def failed_again(failures: Failures, backoff: Backoff) -> Failures:
    """Count one more failure, or the first after a long time without any.

    Only the time during which the child was up counts as such: a child whose starts hang for long before they fail has
    not recovered, and neither has one that waits for its restart.
    """
    reset_after = (backoff.min + backoff.max) / 2 if backoff.reset_after is None else backoff.reset_after
    return Failures(1 if failures.up_for > reset_after else failures.count + 1)


def restart_delay(count: int, backoff: Backoff, dice: Dice) -> float:
    """Return how long to wait after the `count`-th failure in a row (1, 2, …)."""
    try:
        grown = backoff.min * 2.0 ** (count - 1)
    except OverflowError:
        return backoff.max if backoff.min else 0.0
    return min(backoff.max, grown * (1 + backoff.jitter * dice()))
