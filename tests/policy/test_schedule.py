"""When triggers fire: cron against an evaluator that knows no shortcut, intervals against their definition."""

import random
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from actorwork import Cron, Interval, SettingsError, next_times
from actorwork.policy.schedule import (
    fires,
    milliseconds,
    moment,
    newest_fires,
    schedule_as_json,
    schedule_from_json,
)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # its winter time is the exception
    "America/New_York",
    "America/Sao_Paulo",  # turned its clocks at midnight
    "America/St_Johns",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",  # half an hour
    "Africa/Casablanca",  # back and forth around Ramadan
    "Antarctica/Troll",  # two hours
    "Pacific/Apia",  # left out a whole day
    "America/Havana",
    "Asia/Gaza",
)

# ---- a naive evaluator ----

NAMES = {
    3: ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    4: ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7), (0, 59))
LAST = 99


def number(text: str, position: int) -> int:
    if text in NAMES.get(position, ()):
        return NAMES[position].index(text) + (position == 3)
    return LAST if text == "l" else int(text)


def members(field: str, position: int) -> set[int]:
    low, high = BOUNDS[position]
    found: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        if span in ("*", "?"):
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = number(start, position)
            last = number(end, position) if dash else (6 if position == 4 else high) if step else first
        found |= {LAST} if first == LAST else set(range(first, last + 1, int(step or 1)))
    if position == 4:
        found = {day % 7 for day in found}
    return found


class Expression:
    """An expression as sets of numbers: does a clock's time fit, field by field?"""

    def __init__(self, text: str) -> None:
        minute, hour, day, month, self.weekday, *rest = text.split()
        self.minutes, self.hours, self.months = members(minute, 0), members(hour, 1), members(month, 3)
        self.seconds = members(rest[0], 5) if rest else {0}
        self.days = members(day, 2)
        self.repeats = any(sign in field for field in (minute, hour) for sign in "*?/")
        self.is_special = "#" in self.weekday or "L" in self.weekday
        self.weekdays = set[int]() if self.is_special else members(self.weekday, 4)
        # A field that names every day restricts all the same: only a star leaves the choice to the other field.
        self.takes_any_day = not {day, self.weekday}.isdisjoint({"*", "?"})

    def matches(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours or wall.second not in self.seconds:
            return False
        if wall.month not in self.months:
            return False
        in_month = wall.day in self.days or (LAST in self.days and (wall + timedelta(days=1)).day == 1)
        in_week = self._in_week(wall)
        return (in_month and in_week) if self.takes_any_day else (in_month or in_week)

    def _in_week(self, wall: datetime) -> bool:
        weekday = wall.isoweekday() % 7
        if "#" in self.weekday:
            which, _, nth = self.weekday.partition("#")
            return weekday == number(which, 4) % 7 and (wall.day - 1) // 7 + 1 == int(nth)
        if self.is_special:
            return weekday == int(self.weekday[1:]) % 7 and (wall + timedelta(days=7)).month != wall.month
        return weekday in self.weekdays


def naive_fires(text: str, zone: ZoneInfo, after: datetime, until: datetime, step: timedelta) -> list[datetime]:
    """Look at every minute (or second): does the clock show a time that fits, for the first time?

    Where the minute or the hour is a wildcard or a step, the second time counts too. Times that the clock leaves out
    are noticed where it jumps, and count for the moment after the gap.
    """
    expression = Expression(text)
    found: list[datetime] = []
    # From before, so that what was shown already is known: a clock is turned back by less than that.
    now = after - timedelta(hours=3)
    latest = (now - step).astimezone(zone).replace(tzinfo=None)
    while now <= until:
        wall = now.astimezone(zone).replace(tzinfo=None)
        fits = False
        while latest < wall:
            latest += step
            fits = expression.matches(latest) or fits
        if expression.repeats and wall <= latest and now.astimezone(zone).fold:
            fits = expression.matches(wall)
        if fits and now > after:
            found.append(now)
        now += step
    return found


def our_fires(expression: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    found: list[datetime] = []
    for nominal in fires(Cron(expression, zone), milliseconds(after), anchor=0):
        if moment(nominal) > until:
            break
        found.append(moment(nominal))
    return found


@cache
def turns(name: str) -> list[datetime]:
    """Return the days within the years 2009 to 2029 on which a zone turns its clocks, or a day if it never does."""
    zone, day, found = ZoneInfo(name), datetime(2009, 1, 1, tzinfo=UTC), list[datetime]()
    while day.year < 2030:
        following = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            found.append(day)
        day = following
    return found or [datetime(2024, 2, 28, tzinfo=UTC)]


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high)
    span = st.tuples(one, one).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}")
    stepped = st.tuples(span, st.integers(1, 5)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    part = st.one_of(one.map(str), span, stepped)
    return st.lists(part, min_size=1, max_size=3).map(",".join)


minutes = st.one_of(st.sampled_from(["*", "0", "30", "*/7", "*/20", "59", "5/25"]), numbers(0, 59))
hours = st.one_of(st.sampled_from(["*", "0", "1", "2", "3", "23", "*/2", "1-3", "0-4/2"]), numbers(0, 23))
days = st.one_of(st.sampled_from(["*", "?", "L", "1,L", "28-31", "1-7"]), numbers(1, 31))
months = st.one_of(st.sampled_from(["*", "mar-oct", "feb,nov", "*/2"]), numbers(1, 12))
weekdays = st.one_of(
    st.sampled_from(["*", "?", "sun", "7", "mon-fri", "sat,sun", "fri#2", "0#1", "L5", "L0"]), numbers(0, 6)
)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    while True:
        found = [draw(part) for part in (minutes, hours, st.just("*") | days, st.just("*") | months, weekdays)]
        if "#" in found[4] or "L" in found[4]:
            found[2] = "*"
        text = " ".join(found)
        try:
            Cron(text)
        except SettingsError:
            continue  # Such as 30 February.
        return text


@pytest.mark.parametrize("expression", ["0 0 L * 0-6", "0 0 1-31 * wed", "0 0 * * *"])
def test_days_that_are_all_named_are_every_day(expression: str):
    assert our_fires(expression, "UTC", datetime(2024, 2, 26, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)) == [
        datetime(2024, 2, 27, tzinfo=UTC) + timedelta(days=day) for day in range(5)
    ]


@given(expressions(), st.sampled_from(ZONES), st.data())
@settings(max_examples=25, deadline=None)
def test_cron_fires_when_an_evaluator_minute_by_minute_says_so(expression: str, zone: str, data: st.DataObject):
    turn = data.draw(st.sampled_from(turns(zone)))
    after = turn + timedelta(minutes=data.draw(st.integers(-120, 26 * 60)))
    until = after + timedelta(hours=12)
    expected = naive_fires(expression, ZoneInfo(zone), after, until, timedelta(minutes=1))
    assert our_fires(expression, zone, after, until) == expected


@given(st.tuples(minutes, hours, st.sampled_from(["*", "0", "*/13", "30-34", "59"])), st.sampled_from(ZONES), st.data())
@settings(max_examples=8, deadline=None)
def test_cron_with_seconds_fires_when_an_evaluator_second_by_second_says_so(
    parts: tuple[str, str, str], zone: str, data: st.DataObject
):
    minute, hour, second = parts
    expression = f"{minute} {hour} * * * {second}"
    turn = data.draw(st.sampled_from(turns(zone)))
    after = turn + timedelta(seconds=data.draw(st.integers(0, 24 * 3600)))
    until = after + timedelta(minutes=10)
    expected = naive_fires(expression, ZoneInfo(zone), after, until, timedelta(seconds=1))
    assert our_fires(expression, zone, after, until) == expected


@pytest.mark.parametrize("zone", ZONES)
def test_over_years_of_turned_clocks_each_day_has_its_fire(zone: str):
    found = our_fires("30 2 * * *", zone, datetime(2010, 1, 1, tzinfo=UTC), datetime(2014, 12, 31, tzinfo=UTC))
    local = [at.astimezone(ZoneInfo(zone)).date() for at in found]
    gaps = {(later - earlier).days for earlier, later in pairwise(local)}
    # Apia went from the 29th to the 31st of December, and what the 30th had left to do was done on the 31st.
    assert gaps <= ({0, 1, 2} if zone == "Pacific/Apia" else {1})


# ---- gaps and folds, as documented ----

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # The gap: from 2:00 to 3:00 on 2026-03-29.
        ("30 2 * * *", "2026-03-28 12:00", ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]),
        ("*/30 * * * *", "2026-03-29 01:10", ["2026-03-29 01:30+01:00", "2026-03-29 03:00+02:00"]),
        # The fold: from 3:00 back to 2:00 on 2026-10-25.
        ("30 2 * * *", "2026-10-24 12:00", ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"]),
        ("30 2 * * *", "2026-10-25 02:45", ["2026-10-26 02:30+01:00"]),
        ("0,30 2,3 * * *", "2026-10-25 02:10", ["2026-10-25 02:30+02:00", "2026-10-25 03:00+01:00"]),
    ],
)  # fmt: skip
def test_what_the_clock_leaves_out_fires_after_the_gap_and_what_it_shows_twice_fires_once(
    expression: str, after: str, expected: list[str]
):
    found = next_times(Cron(expression, BERLIN), at(after), len(expected))
    assert [time.isoformat(" ", "minutes") for time in found] == expected


@pytest.mark.parametrize("expression", ["*/30 * * * *", "0,30 * * * *", "0/30 * * * *", "*/30 2-3 * * *"])
def test_a_rhythm_goes_on_through_both_runs_of_an_hour(expression: str):
    found = next_times(Cron(expression, BERLIN), at("2026-10-25 01:45"), 5)
    assert [time.isoformat(" ", "minutes") for time in found] == [
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:30+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 02:30+01:00",
        "2026-10-25 03:00+01:00",
    ]


def test_every_hour_is_every_hour_also_when_the_clock_is_turned_back():
    for expression in ("@hourly", "0 * * * *"):
        found = list(islice(fires(Cron(expression, BERLIN), milliseconds(at("2026-10-24 22:30")), anchor=0), 8))
        assert {later - earlier for earlier, later in pairwise(found)} == {3_600_000}


def test_within_the_second_run_of_an_hour_a_fixed_time_does_not_fire_again():
    second_run = at("2026-10-25 02:10").replace(fold=1)
    (found,) = next_times(Cron("30 2,3 * * *", BERLIN), second_run, 1)
    assert found.isoformat() == "2026-10-25T03:30:00+01:00"
    (found,) = next_times(Cron("*/5 * * * *", BERLIN), second_run, 1)
    assert found.isoformat() == "2026-10-25T02:15:00+01:00"


@given(expressions(), st.sampled_from(ZONES), st.integers(1_200_000_000, 1_900_000_000))
@settings(max_examples=25, deadline=None)
def test_fires_go_forwards_and_do_not_depend_on_where_one_looks_from(expression: str, zone: str, after: int):
    cron = Cron(expression, zone)
    found = list(islice(fires(cron, after * 1000, anchor=0), 5))
    assert found == sorted(set(found))
    for earlier, later in pairwise(found):
        assert next(fires(cron, earlier, anchor=0)) == later
        assert next(fires(cron, later - 1, anchor=0)) == later


@given(expressions(), st.sampled_from(ZONES), st.integers(1_200_000_000, 1_900_000_000), st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_the_newest_fires_are_the_end_of_all(expression: str, zone: str, until: int, most: int):
    cron = Cron(expression, zone)
    after = (until - 7200) * 1000
    everything = list(takewhile(lambda at: at <= until * 1000, fires(cron, after, anchor=0)))
    assert newest_fires(cron, after, until * 1000, anchor=0, most=most) == everything[-most:]


# ---- intervals ----


@given(
    st.one_of(st.integers(1, 10**7).map(lambda ms: ms / 1000), st.floats(0.001, 1e6)),
    st.integers(0, 2 * 10**12),
    st.integers(0, 10**11),
)
def test_an_interval_fires_at_multiples_from_its_anchor_without_drift(seconds: float, anchor: int, later: int):
    interval = Interval(seconds=seconds)
    found = list(islice(fires(interval, anchor + later, anchor=anchor), 3))
    first = next(fires(interval, anchor + later - 1, anchor=anchor))
    assert first in (anchor + later, found[0])
    assert found == sorted(set(found))
    for nominal in found:
        assert nominal > anchor + later
        count = round((nominal - anchor) / (seconds * 1000))
        assert count >= 1
        assert nominal == anchor + round(count * seconds * 1000)


def test_an_interval_does_not_fire_at_its_anchor_or_before():
    assert next(fires(Interval(seconds=60), 0, anchor=1_000_000)) == 1_060_000


@given(st.integers(20, 50_000), st.integers(0, 10**5), st.integers(0, 10**5), st.integers(1, 40))
@settings(deadline=None)
def test_the_newest_of_an_interval_are_found_without_going_through_all(length: int, after: int, later: int, most: int):
    interval = Interval(seconds=length / 1000)
    until = after + later
    newest = newest_fires(interval, after, until, anchor=500, most=most)
    assert newest == [at for at in range(500 + length, until + 1, length) if at > after][-most:]


def test_decades_of_short_intervals_are_passed_at_once():
    assert newest_fires(Interval(seconds=0.001), 0, 10**12, anchor=0, most=2) == [10**12 - 1, 10**12]


# ---- the next times ----


def test_the_next_times_are_in_the_timezone_of_the_expression():
    found = next_times(Cron("0 9 * * mon-fri", "America/New_York"), datetime(2026, 3, 6, 15, tzinfo=UTC))
    assert [time.isoformat() for time in found] == [
        "2026-03-09T09:00:00-04:00",
        "2026-03-10T09:00:00-04:00",
        "2026-03-11T09:00:00-04:00",
        "2026-03-12T09:00:00-04:00",
        "2026-03-13T09:00:00-04:00",
    ]


def test_the_next_times_of_an_interval_are_counted_from_its_anchor():
    anchor, now = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
    found = next_times(Interval(hours=4), now, 2, anchor=anchor)
    assert [time.hour for time in found] == [12, 16]
    assert [time.hour for time in next_times(Interval(hours=4), now, 2)] == [14, 18]


def test_times_without_a_timezone_are_refused():
    with pytest.raises(ValueError, match="after wants a time with a timezone"):
        next_times(Interval(hours=1), datetime(2026, 1, 1))


@pytest.mark.parametrize("schedule", [Interval(minutes=5), Interval(seconds=0.25), Cron("0 3 * * *", BERLIN)])
def test_a_schedule_is_the_same_after_it_was_kept(schedule: Interval | Cron):
    again = schedule_from_json(schedule_as_json(schedule))
    assert next_times(again, at("2026-01-01 00:00")) == next_times(schedule, at("2026-01-01 00:00"))


# ---- what is refused ----


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("61 * * * *", r"the minute wants 0-59, got '61'"),
        ("* 24 * * *", r"the hour wants 0-23, got '24'"),
        ("0 0 32 * *", r"the day of the month wants 1-31, or L for the last, got '32'"),
        ("0 0 * 13 *", r"the month wants 1-12 or jan-dec, got '13'"),
        ("0 0 * * 8", r"the day of the week wants 0-7 or sun-sat, .*, got '8'"),
        ("0 0 * * * 60", r"the second wants 0-59, got '60'"),
        ("0 0 30 2 *", r"never matches: no month that it allows has such a day"),
        ("0 0 31 4,6 *", r"never matches"),
        ("* * *", r"has 3 fields, wants five"),
        ("0 0 1 1 * 0 2030", r"has 7 fields, wants five .* or six with the second at the end"),
        ("@reboot", r"wants one of @hourly, .*, got '@reboot'"),
        ("R * * * *", r"the minute wants 0-59, got 'r'"),
        ("0 H * * *", r"the hour wants 0-23, got 'h'"),
        ("0 0 29 2 mon#5", r"has the day of the month '29' beside the day of the week 'mon#5'"),
    ],
)
def test_an_expression_that_is_none_says_what_is_wrong(expression: str, text: str):
    with pytest.raises(SettingsError, match=text):
        Cron(expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 * * fri-fri", 15),
        ("0 0 * * 5-5/2", 15),
        ("0 0 1 jun-jun *", 1),
        ("0 0 1 6-jun *", 1),
        ("0 0-0 15 * *", 15),
    ],
)
def test_a_span_of_one_is_that_one(expression: str, expected: int):
    (found,) = next_times(Cron(expression), datetime(2026, 5, 13, tzinfo=UTC), 1)
    assert (found.month, found.day, found.hour) == (5 if expected == 15 else 6, expected, 0)


@pytest.mark.parametrize("nickname", ["hourly", "daily", "midnight", "weekly", "monthly", "yearly", "annually"])
def test_nicknames_are_taken(nickname: str):
    (found,) = next_times(Cron(f"@{nickname}"), datetime(2026, 5, 13, 7, 20, tzinfo=UTC), 1)
    assert (found.minute, found.second) == (0, 0)


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(SettingsError, match="at least one part above 0"):
        Interval(seconds=0)
    with pytest.raises(SettingsError, match=re.escape("at least 0.001 seconds in all, got 1e-06")):
        Interval(seconds=1e-6)


def test_an_interval_that_leads_out_of_the_calendar_is_refused():
    with pytest.raises(SettingsError, match=re.escape("at most 3153600000 seconds (a century), got 6.048e+14")):
        Interval(weeks=1e9)


def test_a_random_walk_through_years_loses_no_day():
    dice = random.Random(3)
    cron = Cron("30 2 * * *", BERLIN)
    expected = list(islice(fires(cron, milliseconds(at("2024-01-01 00:00")), anchor=0), 800))
    found: list[int] = []
    now = last = milliseconds(at("2024-01-01 00:00"))
    while len(found) < 800:
        now += dice.randrange(1, 3 * 86_400_000)
        due: list[Any] = newest_fires(cron, last, now, anchor=0, most=1000)
        found += due
        last = due[-1] if due else last
    assert found[:800] == expected
