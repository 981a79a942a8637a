"""Whether a supervisor restarts a child or gives up: OTP's sliding window.

    restarts = [now] + [t for t in restarts if t >= now - period]      # the boundary counts
    more than `intensity.restarts` of them: give up

The rule is `supervisor.erl`'s (add_restart), on seconds as floats; the default of 3 in 5 s is Elixir's.
"""

from __future__ import annotations

import attrs

from actorwork.errors import SettingsError


def _countable(_: object, __: attrs.Attribute[int], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SettingsError(f"Intensity.restarts wants a whole number >= 0, got {value!r}")


def _positive(_: object, __: attrs.Attribute[float], value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        raise SettingsError(f"Intensity.period wants seconds > 0, got {value!r}")


@attrs.frozen(kw_only=True)
class Intensity:
    """At most `restarts` restarts within `period` seconds, for all children of a supervisor together."""

    restarts: int = attrs.field(default=3, validator=_countable)
    period: float = attrs.field(default=5.0, validator=_positive)


@attrs.frozen
class Window:
    """The restarts a supervisor remembers, newest first."""

    restarts: tuple[float, ...] = ()


def restart_allowed(window: Window, intensity: Intensity, now: float) -> tuple[bool, Window]:
    """Count a restart at `now` (monotonic seconds); say whether it is still allowed, and what to remember."""
    kept = (now, *(moment for moment in window.restarts if moment >= now - intensity.period))
    return len(kept) <= intensity.restarts, Window(kept)
