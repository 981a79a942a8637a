"""All limiters of a node, by what they limit and by their names: actors that name the same limit share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

from actorwork.abc import meter_of
from actorwork.errors import SettingsError

if TYPE_CHECKING:
    from actorwork.actors.limits.limiters import Limiter
    from actorwork.actors.limits.shared import LimiterEnvironment
    from actorwork.policy.limits import ConcurrencyLimit, Limit, RateLimit, Rates


_KINDS: Final = {
    "RateLimit": "rate",
    "ConcurrencyLimit": "concurrency",
    "Bulkhead": "concurrency",
    "CircuitBreaker": "circuit",
}
"""What metrics call the kinds of limits, by the names of their classes."""


if TYPE_CHECKING:

    class ChangeableRate(Protocol):
        """A limiter of a rate, in this process or at the broker."""

        def change(self, limit: RateLimit) -> None: ...


class LimiterRegistry:
    """The limiters of a node, each made when it is first named.

    Each node has a registry, and few have a limit: so limits and limiters are imported when there is one.
    """

    def __init__(self, environment: LimiterEnvironment, publisher: str) -> None:
        self._environment = environment
        self._publisher = publisher
        self._found: dict[tuple[type, str], tuple[Limit, Limiter]] = {}
        self._meter = meter_of(environment.emit)
        self._names: dict[Limiter, tuple[str, str]] = {}
        """For metrics: the name and the kind of each limit."""
        self._rates: Rates | None = None
        """What was changed while the system runs; what is declared stays in `_found`."""

    def __repr__(self) -> str:
        return f"<limiters: {', '.join(name for _, name in self._found)}>"

    def of(self, limit: Limit, usual_name: str, whose: str) -> Limiter:
        """Return the limiter of a limit; events call an unnamed one `whose`.

        Raises `SettingsError` if a different limit has its name.
        """
        name = limit.name or usual_name
        other, limiter = self._found.get((type(limit), name), (limit, None))
        if other != limit:
            raise SettingsError(f"two limits of this system are called {name!r}, and differ: {other} and {limit}")
        if limiter is None:
            limiter = self._new(limit if self._rates is None else self._rates.applied_to(limit, whose), name, whose)
            self._found[type(limit), name] = (limit, limiter)
            self._names[limiter] = limit.name or whose, _KINDS[type(limit).__name__]
        return limiter

    def change_rates(self, rates: Rates) -> None:
        """Change the rates of limits, of those that there are and of those to come."""
        from actorwork.policy.limits import RateLimit  # noqa: PLC0415 - rare, and few nodes have a limit

        self._rates = rates
        for declared, limiter in self._found.values():
            if isinstance(declared, RateLimit):
                changed = rates.applied_to(declared, self._names[limiter][0])
                cast("ChangeableRate", limiter).change(changed)

    def limit_of(self, limiter: Limiter) -> Limit | None:
        """Return the limit that a limiter applies."""
        return next((limit for limit, other in self._found.values() if other is limiter), None)

    def note_wait(self, limiter: Limiter) -> None:
        """Count a delivery that has to wait for a limit, where metrics are counted."""
        if self._meter is not None:
            self._meter.limited(*self._names[limiter])

    def _new(self, limit: Limit, name: str, whose: str) -> Limiter:
        from actorwork.actors.limits.limiters import CircuitBreakerState, RateLimiter, Semaphore  # noqa: PLC0415
        from actorwork.policy.limits import Bulkhead, CircuitBreaker, ConcurrencyLimit, RateLimit  # noqa: PLC0415

        match limit:
            case RateLimit(scope="global") | ConcurrencyLimit(scope="global"):
                return self._new_global(limit, name)
            case RateLimit():
                return RateLimiter(limit)
            case ConcurrencyLimit() | Bulkhead():
                return Semaphore(limit)
            case CircuitBreaker():
                return CircuitBreakerState(limit, limit.name or whose, self._environment.emit)

    def _new_global(self, limit: RateLimit | ConcurrencyLimit, name: str) -> Limiter:
        # Imported here: most nodes limit nothing over all nodes.
        from actorwork.actors.limits.shared import GlobalRateLimiter, GlobalSemaphore  # noqa: PLC0415
        from actorwork.policy.limits import RateLimit  # noqa: PLC0415

        if isinstance(limit, RateLimit):
            return GlobalRateLimiter(limit, f"rate:{name}", self._environment)
        return GlobalSemaphore(limit, f"room:{name}", self._environment, self._publisher)
