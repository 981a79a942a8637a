"""When a trigger fires. The only importer of croniter, and that only once a cron expression is declared.

An `Interval` is a length of time; a `Cron` is an expression (five fields, or six with seconds at the end,
or `@hourly` and its like) read in a timezone.
"""

from __future__ import annotations

import attrs

from actorwork.errors import SettingsError


@attrs.frozen(kw_only=True)
class Interval:
    """A length of time; each part is >= 0 and not all of them are 0."""

    weeks: float = 0
    days: float = 0
    hours: float = 0
    minutes: float = 0
    seconds: float = 0

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise SettingsError(f"Interval.{field.name} wants a finite number >= 0, got {value!r}")
        if self.total_seconds == 0:
            raise SettingsError(
                "Interval wants at least one part above 0, got 0 for all; for example Interval(minutes=5)"
            )

    @property
    def total_seconds(self) -> float:
        return (((self.weeks * 7 + self.days) * 24 + self.hours) * 60 + self.minutes) * 60 + self.seconds


@attrs.frozen
class Cron:
    """A cron expression, read in `timezone` (an IANA name)."""

    expression: str
    timezone: str = "UTC"

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.expression, str) or not self.expression.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"Cron.expression wants text such as '0 3 * * *', got {self.expression!r}")
        # Both are imported here: only those who declare a cron expression pay their 40 ms.
        import zoneinfo  # noqa: PLC0415

        import croniter  # noqa: PLC0415

        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
            raise SettingsError(
                f"Cron.timezone wants an IANA name such as 'Europe/Berlin', got {self.timezone!r}"
                " (on a system without timezone data: pip install tzdata)"
            ) from error
        try:
            # From any one moment: an expression that never comes true ("0 0 31 2 *") is none.
            croniter.croniter(self.expression, 0.0).get_next(float)
        except (croniter.CroniterError, ValueError, KeyError) as error:
            raise SettingsError(f"Cron.expression {self.expression!r} is none: {error}") from error
