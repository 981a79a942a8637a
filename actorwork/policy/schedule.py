"""When a trigger fires. The only importer of croniter, and only once a cron expression is declared.

    Interval    a length of time, counted from the trigger's first registration: anchor + n * length, without drift
    Cron        an expression read on the clock of a timezone

A *nominal time* is a moment that a schedule names. It is a whole number of milliseconds since the epoch, because nodes
compare nominal times for equality. A trigger that fires late still reports its nominal time.

Cron expressions have five fields, or six: the sixth is the last one and is the second, as in croniter.

    minute (0-59)  hour (0-23)  day of month (1-31, L)  month (1-12, jan-dec)  day of week (0-7, sun-sat)
    [second (0-59)]

`@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually` are short for the usual ones. `L` is
the last day of the month, `fri#2` the second Friday of the month, `L5` its last Friday. If both days are restricted,
either of them matches.

The clock of a timezone sometimes skips an hour, and sometimes shows one twice. croniter computes on a naive clock that
does neither, and this module maps its answers into the timezone (with a timezone, croniter fires twice where the clock
shows a time twice):

    a time that the clock skips            fires at the first moment after the gap (several of them: once)
    a time that the clock shows twice      fires the first time; both times if the minute or the hour is a wildcard
                                           or a step
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from itertools import islice
from typing import Any, Final, TypeAlias

import attrs

from actorwork.errors import SettingsError
from actorwork.policy.bounds import FINITE, instance_of, number
from actorwork.shown import Value

SHORTEST: Final = 0.001
"""The least number of seconds between two nominal times."""
LONGEST: Final = 100 * 365 * 86_400.0
"""Seconds: a century. Anything longer is a mistake in the unit, and exceeds the calendar."""
_NICKNAMES: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_FIELDS: Final = (
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31, or L for the last"),
    ("month", "1-12 or jan-dec"),
    ("day of the week", "0-7 or sun-sat, fri#2 for the second Friday, L5 for the last one"),
    ("second", "0-59"),
)
# croniter draws random numbers for R and needs a hash for H: nodes could not agree on either.
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NUMBERS: Final = {
    3: {name: str(number) for number, name in enumerate(_MONTHS, 1)},
    4: {name: str(number) for number, name in enumerate(_WEEKDAYS)},
}
_span_of_one: Final = re.compile(r"\b(\d+)-\1(?:/\d+)?(?=,|$)")
_random: Final = re.compile(r"(?<![a-z])[rh](?![a-z])", re.IGNORECASE).search


_PART: Final = number(0, FINITE, "a finite number")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Interval(Value):
    """A length of time; every part is >= 0 and not all of them are 0."""

    weeks: float = attrs.field(default=0, validator=_PART)
    days: float = attrs.field(default=0, validator=_PART)
    hours: float = attrs.field(default=0, validator=_PART)
    minutes: float = attrs.field(default=0, validator=_PART)
    seconds: float = attrs.field(default=0, validator=_PART)

    def __attrs_post_init__(self) -> None:
        if self.total_seconds == 0:
            raise SettingsError(
                "Interval wants at least one part above 0, got 0 for all; for example Interval(minutes=5)"
            )
        if self.total_seconds < SHORTEST:
            raise SettingsError(f"Interval wants at least {SHORTEST:g} seconds in all, got {self.total_seconds:g}")
        if self.total_seconds > LONGEST:
            raise SettingsError(
                f"Interval wants at most {LONGEST:.10g} seconds (a century), got {self.total_seconds:g}"
            )

    @property
    def total_seconds(self) -> float:
        return (((self.weeks * 7 + self.days) * 24 + self.hours) * 60 + self.minutes) * 60 + self.seconds


@attrs.frozen(eq=False, repr=False)
class Cron(Value):
    """A cron expression, read in `timezone` (an IANA name).

    A `custom` one has a syntax of its own, which only the system's `cron_schedule` reads.
    """

    expression: str
    timezone: str = "UTC"
    custom: bool = attrs.field(default=False, kw_only=True, validator=instance_of(bool, "True or False"))

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.expression, str) or not self.expression.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SettingsError(f"Cron.expression wants a str such as '0 3 * * *', got {self.expression!r}")
        _zone(self.timezone)
        if not self.custom:
            _check_expression(self.expression)

    @property
    def zone(self) -> tzinfo:
        """The timezone itself."""
        return _zone(self.timezone)


Schedule: TypeAlias = Interval | Cron


def fires(schedule: Schedule, after: int, *, anchor: int) -> Iterator[int]:
    """Yield the nominal times after a moment, in order; `anchor` is the trigger's first registration.

    Ends if a cron expression does not match for fifty years.
    """
    if isinstance(schedule, Interval):
        return _interval_fires(schedule, after, anchor)
    return _cron_fires(schedule, after)


def newest_fires(schedule: Schedule, after: int, until: int, *, anchor: int, most: int) -> list[int]:
    """Return the nominal times after one moment and up to another, oldest first; of many the newest `most`."""
    if isinstance(schedule, Interval):
        length = schedule.total_seconds * 1000
        newest = int((until - anchor) / length)
        after = max(after, anchor + int((newest - most - 1) * length))
        found = _until(_interval_fires(schedule, after, anchor), until)
        return found[-most:]
    # How far back the newest ones reach is unknown in advance, and computing all of a long span would take long.
    span = most * 1000
    while True:
        start = max(after, until - span)
        found = _until(_cron_fires(schedule, start), until)
        if len(found) >= most or start == after:
            return found[-most:]
        span *= 4


def next_times(
    schedule: Schedule, after: datetime, count: int = 5, *, anchor: datetime | None = None
) -> list[datetime]:
    """Return the next times at which a schedule fires, in its timezone.

    An interval is counted from `anchor`, the first registration of its trigger; without one, from `after`.
    """
    for name, value in (("after", after), ("anchor", anchor)):
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{name} wants a time with a timezone, got {value!r}")
    zone = schedule.zone if isinstance(schedule, Cron) else UTC
    start = milliseconds(after)
    found = fires(schedule, start, anchor=start if anchor is None else milliseconds(anchor))
    return [moment(nominal).astimezone(zone) for nominal in islice(found, count)]


def milliseconds(time: datetime) -> int:
    """Return a time in milliseconds since the epoch, as nominal times are stored."""
    return (time - _EPOCH) // _MILLISECOND


def moment(nominal: int) -> datetime:
    """Return a nominal time as a datetime in UTC."""
    return _EPOCH + nominal * _MILLISECOND


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


# ---- as it is stored ----


def schedule_as_json(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as a JSON object."""
    if isinstance(schedule, Interval):
        return {"every": schedule.total_seconds}
    return {"cron": schedule.expression, "timezone": schedule.timezone}


def schedule_from_json(kept: Mapping[str, Any]) -> Schedule:
    """Return the schedule that `schedule_as_json` wrote."""
    if "every" in kept:
        return Interval(seconds=kept["every"])
    return Cron(kept["cron"], kept["timezone"])


# ---- intervals ----


def _interval_fires(interval: Interval, after: int, anchor: int) -> Iterator[int]:
    length = interval.total_seconds * 1000

    def nominal(number: int) -> int:
        # Each is computed from the anchor, so that rounding errors do not add up.
        return anchor + round(number * length)

    number = max(1, int((after - anchor) / length))
    while nominal(number) <= after:
        number += 1
    while number > 1 and nominal(number - 1) > after:
        number -= 1
    while True:
        yield nominal(number)
        number += 1


def _until(found: Iterator[int], until: int) -> list[int]:
    taken: list[int] = []
    for nominal in found:
        if nominal > until:
            break
        taken.append(nominal)
    return taken


# ---- cron ----


def _zone(name: str) -> tzinfo:
    # Imported here so that only programs that declare a cron expression pay for it.
    import zoneinfo  # noqa: PLC0415

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError) as error:
        raise SettingsError(
            f"Cron.timezone wants an IANA name such as 'Europe/Berlin', got {name!r}"
            " (on a system without timezone data: pip install tzdata)"
        ) from error


def _check_expression(expression: str) -> None:
    """Raise `SettingsError`, which names the wrong field, if the expression is not valid."""
    text = expression.strip().lower()
    if text.startswith("@"):
        if text not in _NICKNAMES:
            raise SettingsError(f"Cron.expression wants one of {', '.join(_NICKNAMES)}, got {expression!r}")
        return
    fields = text.split()
    if len(fields) not in (5, 6):
        raise SettingsError(
            f"Cron.expression {expression!r} has {len(fields)} fields, wants five (minute, hour, day of the month,"
            " month, day of the week), or six with the second at the end; for a cron_schedule with a syntax of its own"
            " write Cron(…, custom=True)"
        )
    if any(map(_random, fields)) or not _is_understood(text):
        for position, (field, (name, range_of)) in enumerate(zip(fields, _FIELDS, strict=False)):
            alone = ["*"] * len(fields)
            alone[position] = field
            if _random(field) or not _is_understood(" ".join(alone)):
                raise SettingsError(f"Cron.expression {expression!r}: the {name} wants {range_of}, got {field!r}")
        raise SettingsError(f"Cron.expression {expression!r}: its fields do not fit together")
    day, weekday = fields[2], fields[4]
    if "*" not in (day, weekday) and "?" not in (day, weekday) and ("w" in day or "#" in weekday or "l" in weekday):
        # For all other combinations of days, croniter matches either of them.
        raise SettingsError(
            f"Cron.expression {expression!r} has the day of the month {day!r} beside the day of the week {weekday!r}:"
            " write one of the two as *"
        )
    croniter = _croniter()
    try:
        # Any starting moment will do: an expression that never matches is refused.
        croniter.croniter(_for_croniter(expression), datetime(2000, 1, 1)).get_next(datetime)  # noqa: DTZ001 - a naive clock on purpose
    except croniter.CroniterBadDateError as error:
        raise SettingsError(
            f"Cron.expression {expression!r} never matches: no month that it allows has such a day"
        ) from error


def _is_understood(expression: str) -> bool:
    croniter = _croniter()
    try:
        croniter.croniter(expression)
    except (croniter.CroniterError, ValueError, KeyError):
        return False
    return True


def _for_croniter(expression: str) -> str:
    """Return the expression without ranges of one (`fri-fri`), which croniter reads as the full range."""
    fields = expression.lower().split()
    for position, numbers in _NUMBERS.items():
        if position < len(fields):
            fields[position] = re.sub("[a-z]{3}", partial(_number_of, numbers), fields[position])
    return " ".join(_span_of_one.sub(r"\1", field) for field in fields)


def _number_of(numbers: Mapping[str, str], name: re.Match[str]) -> str:
    return numbers.get(name[0], name[0])


def _croniter() -> Any:
    import croniter  # noqa: PLC0415 - see `_zone`

    return croniter


def _cron_fires(cron: Cron, after: int) -> Iterator[int]:
    if cron.custom:
        raise SettingsError(f"{cron!r} is custom: only the cron_schedule of its system knows when it fires")
    croniter = _croniter()
    zone = cron.zone
    repeats = _repeats(cron.expression)
    walls = croniter.croniter(_for_croniter(cron.expression), _wall_before(after // 1000, zone, repeats=repeats))
    # The second moments of times that the clock shows twice, in order: all of them are later than the first ones.
    second_run: deque[int] = deque()
    last = after
    while True:
        try:
            wall: datetime = walls.get_next(datetime)
        except croniter.CroniterBadDateError:
            yield from second_run
            return
        nominal = _moment_of(wall, zone) * 1000
        while second_run and second_run[0] < nominal:
            last = second_run.popleft()
            yield last
        # Several times within one gap map to the same moment.
        if nominal > last:
            last = nominal
            yield nominal
        if repeats:
            again = int(wall.replace(tzinfo=zone, fold=1).timestamp()) * 1000
            if again > max(nominal, after):
                second_run.append(again)


def _repeats(expression: str) -> bool:
    """Whether an expression fires in both runs of an hour that the clock shows twice.

    The rule is that of Vixie cron and its successors: an expression whose minute or hour is a wildcard or a step
    describes a rhythm and follows elapsed time; one with a fixed wall time fires once.
    """
    text = expression.strip().lower()
    if text.startswith("@"):
        return text == "@hourly"
    return any(sign in field for field in text.split()[:2] for sign in "*?/")


def _wall_before(second: int, zone: tzinfo, *, repeats: bool) -> datetime:
    """Return the wall time from which to search for the next nominal time after a moment.

    It is the latest time that the clock has shown by then; while it repeats an hour, the end of the first run. For an
    expression that fires in both runs it is the beginning of the hour, since all times of that hour occur again.
    """
    now = datetime.fromtimestamp(second, zone)
    early, late = (int(now.replace(fold=fold).timestamp()) for fold in (0, 1))
    if early < late and (now.fold or repeats):
        offset = datetime.fromtimestamp(early, zone).utcoffset()
        turned = _first(early, late, lambda at: datetime.fromtimestamp(at, zone).utcoffset() != offset)
        if repeats:
            return datetime.fromtimestamp(turned, zone).replace(tzinfo=None, fold=0) - timedelta(seconds=1)
        now = datetime.fromtimestamp(turned - 1, zone)
    return now.replace(tzinfo=None, fold=0)


def _moment_of(wall: datetime, zone: tzinfo) -> int:
    """Return when the clock first shows a time; for a skipped time, the first moment after the gap."""
    late = int(wall.replace(tzinfo=zone).timestamp())
    if datetime.fromtimestamp(late, zone).replace(tzinfo=None, fold=0) == wall:
        return late
    early = int(wall.replace(tzinfo=zone, fold=1).timestamp())
    return _first(early, late, lambda at: datetime.fromtimestamp(at, zone).replace(tzinfo=None) >= wall)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the first second in (low, high] at which `holds` is true; it must stay true from there on (bisection)."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
