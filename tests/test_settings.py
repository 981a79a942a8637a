"""Every field, bound and derived value of what is declared; an error names the field, the value and the bound."""

import hashlib
import math
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from actorwork import (
    Cron,
    DeadLetterSettings,
    EventSettings,
    Exponential,
    Fixed,
    Intensity,
    Interval,
    Linear,
    MailboxSettings,
    Priority,
    RetryPolicy,
    Settings,
    SettingsError,
    Trigger,
    Uniform,
)
from actorwork.policy.retry import DefaultRetryPolicy

HOURLY = Interval(hours=1)


def test_everything_but_the_title_has_a_default():
    settings = Settings(title="greeter")
    assert {field.name: getattr(settings, field.name) for field in attrs.fields(Settings)} == {
        "title": "greeter",
        "description": "",
        "sources": frozenset(),
        "execution_timeout": 180,
        "soft_timeout": None,
        "concurrency": 1,
        "status_check_interval": 60,
        "status_cache_ttl": 5,
        "event_settings": EventSettings(max_events_in_memory=5000, max_batch_size=500),
        "triggers": (),
        "retry": DefaultRetryPolicy(attempts=1),
        "middleware": (),
        "publish_middleware": (),
        "priority": Priority.NORMAL,
        "results_ttl": 86_400,
        "max_result_bytes": 16 * 2**20,
        "mailbox": MailboxSettings(capacity=1000),
        "dead_letters": DeadLetterSettings(max_count=10_000, max_age=30 * 86_400),
        "limits": (),
        "on_failure": None,
        "entities": None,
        "max_crashes": 3,
        "loop": "trio",
        "decode": None,
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_the_identity_comes_from_the_title_alone(title: str):
    settings = Settings(title=title, description="x", concurrency=7)
    assert settings.id == hashlib.sha256(title.encode()).hexdigest()[:16]
    assert settings.default_source == f"worker:{settings.id}:source"
    assert settings.all_sources == (settings.default_source,)
    assert Trigger(title=title, schedule=HOURLY).id == settings.id


def test_the_default_source_is_always_among_the_sources():
    settings = Settings(title="greeter", sources=["zoo", "alpha", "zoo"])
    assert settings.sources == {"alpha", "zoo"}
    assert settings.all_sources == ("alpha", settings.default_source, "zoo")
    own = Settings(title="greeter", sources={settings.default_source})
    assert own.all_sources == (settings.default_source,)


def bool_of(fields: object) -> object:
    return bool(fields)


async def waits(fields: object) -> object:
    return bool(fields)


class Waits:
    async def __call__(self, fields: object) -> object:
        return bool(fields)


FINE: list[tuple[str, list[Any]]] = [
    ("title", ["a", "a" * 300, "Ünïcode ✓"]),
    ("description", ["", "d" * 1000]),
    ("sources", [[], {"a"}, ("a", "b"), {"A-z_0:9"}, ["s" * 300], [f"s{n}" for n in range(100)]]),
    ("execution_timeout", [0.1, 1, 86_400]),
    ("soft_timeout", [None, 0.01, 179.9]),
    ("concurrency", [1, 100_000]),
    ("status_check_interval", [0.1, 3600]),
    ("status_cache_ttl", [0, None, 1e9]),
    ("results_ttl", [1, 31_536_000]),
    ("max_crashes", [0, 1_000_000]),
    ("on_failure", [None, "resume", "restart", "stop", "escalate"]),
    ("priority", list(Priority)),
    ("middleware", [[], [print], (print,)]),
    ("loop", ["trio", "asyncio"]),
    ("decode", [None, bool_of, partial(bool_of), {}, {Settings(title="greeter").default_source: bool_of}]),
    ("triggers", [[], [Trigger(title="a", schedule=HOURLY), Trigger(title="b", schedule=HOURLY)]]),
]


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in FINE for value in values])
def test_a_value_within_its_bounds_is_taken(field: str, value: Any):
    options: dict[str, Any] = {"title": "greeter", field: value}
    Settings(**options)


NUMBERS = [None, True, "10", math.nan]
WRONG: list[tuple[str, list[Any], str]] = [
    ("title", ["", "a" * 301, None, 7, b"x"], "a str of 1 to 300 characters"),
    ("title", ["half \ud800"], "a str that can be written as UTF-8"),
    ("description", ["d" * 1001, None], "a str of at most 1000 characters"),
    ("sources", ["orders", b"orders", 7, None], "a set of names"),
    ("sources", [{""}, {"a b"}, {"ü"}, {"a\n"}, {"s" * 301}, {7}, {"a*"}, {"a{b}"}], "names of 1 to 300 characters"),
    ("sources", [[f"s{n}" for n in range(101)]], "at most 100 names, got 101"),
    ("execution_timeout", [0.09, 0, -1, 86_401, math.inf, *NUMBERS], "seconds from 0.1 to 86400"),
    ("soft_timeout", [0, -1, math.inf, *NUMBERS[1:]], "seconds from 0.01 to 86400, or None"),
    ("soft_timeout", [180, 200], "less than execution_timeout (180 s)"),
    ("concurrency", [0, -1, 100_001, 1.0, *NUMBERS], "a whole number from 1 to 100000"),
    ("status_check_interval", [0.09, 3601, *NUMBERS], "seconds from 0.1 to 3600"),
    ("status_cache_ttl", [-0.1, *NUMBERS[1:]], "seconds >= 0, or None"),
    ("results_ttl", [0.5, 31_536_001, *NUMBERS], "seconds from 1 to 31536000"),
    ("max_crashes", [-1, 1_000_001, *NUMBERS], "a whole number from 0 to 1000000"),
    ("on_failure", ["explode", 7, True], "'resume', 'restart', 'stop', 'escalate' or None"),
    ("priority", [2, "NORMAL", None], "a Priority"),
    ("middleware", [print, None, [7]], "a list of callables"),
    ("event_settings", [None, {"max_batch_size": 7}], "an EventSettings"),
    ("mailbox", [None, 100], "a MailboxSettings"),
    ("retry", [None, 3], "a RetryPolicy, such as RetryPolicy(attempts=5)"),
    ("triggers", [None, ["x"], Trigger(title="a", schedule=HOURLY)], "a list of Trigger"),
    ("triggers", [[Trigger(title="a", schedule=HOURLY)] * 2], "unique titles, got 'a' 2 times"),
    ("loop", [None, "uvloop", True], "'trio' or 'asyncio'"),
    ("decode", ["json", 7, {"orders": 7}, lambda: None], "a callable that takes the fields of an entry"),
    ("decode", [waits, partial(waits), Waits(), {"orders": waits}], "(not async)"),
    ("decode", [{"orders": bool_of}], "sources of the actor, worker:"),
]


@pytest.mark.parametrize(
    ("field", "value", "bound"), [(field, value, bound) for field, values, bound in WRONG for value in values]
)
def test_a_value_out_of_its_bounds_is_refused_by_name(field: str, value: Any, bound: str):
    options: dict[str, Any] = {"title": "greeter", field: value}
    with pytest.raises(SettingsError) as caught:
        Settings(**options)
    text = str(caught.value)
    assert text.startswith(f"Settings.{field} wants ")
    assert bound in text
    assert "got " in text
    assert len(text) < 400


def test_the_error_shows_the_value():
    with pytest.raises(SettingsError, match=r"^Settings.execution_timeout wants seconds from 0.1 to 86400, got -3$"):
        Settings(title="greeter", execution_timeout=-3)
    with pytest.raises(ValueError, match=r"got 'aaaa.*… \(303 characters\)$"):
        Settings(title="a" * 301)


def test_settings_cannot_be_changed():
    settings = Settings(title="greeter")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings.title = "other"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("field", ["max_events_in_memory", "max_batch_size"])
def test_event_settings_are_bounded(field: str):
    for value in (1, 10_000):
        EventSettings(**{field: value})
    for value in (0, 10_001, 1.5, True, None):
        with pytest.raises(SettingsError, match=f"EventSettings.{field} wants a whole number from 1 to 10000, got"):
            EventSettings(**{field: value})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_a_mailbox_is_bounded():
    for value in (1, 1_000_000):
        MailboxSettings(capacity=value)
    for value in (0, 1_000_001, math.inf):
        with pytest.raises(SettingsError, match=r"MailboxSettings.capacity wants a whole number from 1 to 1000000"):
            MailboxSettings(capacity=value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# ---- triggers ----


def test_a_trigger_has_its_defaults():
    trigger = Trigger(title="nightly", schedule=Cron("0 3 * * *"))
    assert {field.name: getattr(trigger, field.name) for field in attrs.fields(Trigger)} == {
        "title": "nightly",
        "schedule": Cron("0 3 * * *", "UTC"),
        "description": "",
        "kwargs": None,
        "message": None,
        "is_catchup": True,
        "catchup": None,
        "catchup_window": 86_400,
        "overlap": "allow",
        "jitter": 0,
        "lifetime": None,
        "status_check_interval": 60,
        "status_cache_ttl": 5,
    }
    assert trigger.policy == "all"


def test_what_becomes_of_missed_times_is_said_by_either():
    assert Trigger(title="t", schedule=HOURLY, is_catchup=False).policy == "skip"
    assert Trigger(title="t", schedule=HOURLY, is_catchup=False, catchup="one").policy == "one"


@pytest.mark.parametrize(
    ("field", "values", "bound"),
    [
        ("title", ["", "a" * 301, None], "a str of 1 to 300 characters"),
        ("description", ["d" * 1001], "a str of at most 1000 characters"),
        ("schedule", ["* * * * *", 60, None], "an Interval or a Cron"),
        ("is_catchup", ["no", None, 1], "True or False"),
        ("catchup", ["some", True, ""], "'all', 'one', 'skip' or None"),
        ("catchup_window", [-1, None, float("nan")], "seconds from 0 to 31536000"),
        ("overlap", ["deny", None], "'allow' or 'skip'"),
        ("jitter", [-0.1, 86_401], "seconds from 0 to 86400"),
        ("lifetime", [-1, 0, "1", math.inf], "seconds above 0 to 3153600000, or None"),
        ("kwargs", [[1], "kind", {1: 2}], "a mapping of names to JSON, or None"),
        ("status_check_interval", [0.05, 3601], "seconds from 0.1 to 3600"),
        ("status_cache_ttl", [-1], "seconds >= 0, or None"),
    ],
)
def test_a_trigger_out_of_bounds_is_refused(field: str, values: list[Any], bound: str):
    for value in values:
        options: dict[str, Any] = {"title": "t", "schedule": HOURLY, field: value}
        with pytest.raises(SettingsError, match=f"^Trigger.{field} wants {bound}, got "):
            Trigger(**options)


def test_a_trigger_sends_arguments_or_a_message():
    with pytest.raises(SettingsError, match="Trigger 't' wants kwargs or a message, not both"):
        Trigger(title="t", schedule=HOURLY, kwargs={}, message="x")


# ---- policies ----


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RetryPolicy(attempts=0), "RetryPolicy.attempts wants a whole number from 1 to 1000000, got 0"),
        (lambda: RetryPolicy(attempts=True), "RetryPolicy.attempts wants a whole number"),
        (lambda: RetryPolicy(backoff=3), "RetryPolicy.backoff wants Fixed, Linear, .* got 3"),  # pyright: ignore[reportArgumentType]
        (lambda: RetryPolicy(backoff=Fixed), "RetryPolicy.backoff wants Fixed, Linear, .* got <class"),  # pyright: ignore[reportArgumentType]
        (lambda: Fixed(seconds=-1), "Fixed.seconds wants finite seconds >= 0, got -1"),
        (lambda: Fixed(seconds=math.inf), "Fixed.seconds wants finite seconds >= 0, got inf"),
        (lambda: Fixed(seconds="1"), "Fixed.seconds wants finite seconds >= 0, got '1'"),  # pyright: ignore[reportArgumentType]
        (lambda: Linear(cap=math.nan), "Linear.cap wants finite seconds >= 0, got nan"),
        (lambda: Exponential(factor=0.5), "Exponential.factor wants a number from 1 to 100, got 0.5"),
        (lambda: Exponential(jitter=1.5), "Exponential.jitter wants a fraction from 0 to 1, got 1.5"),
        (lambda: Uniform(low=3, high=2), "Uniform wants low <= high, got low=3, high=2"),
        (lambda: Intensity(restarts=-1), "Intensity.restarts wants a whole number >= 0, got -1"),
        (lambda: Intensity(restarts=1.5), "Intensity.restarts wants a whole number >= 0, got 1.5"),  # pyright: ignore[reportArgumentType]
        (lambda: Intensity(period=0), "Intensity.period wants finite seconds > 0, got 0"),
        (lambda: Intensity(period="5"), "Intensity.period wants finite seconds > 0, got '5'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_policy_out_of_bounds_is_refused(make: Any, text: str):
    with pytest.raises(SettingsError, match=text):
        make()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_count": 0}, r"max_count wants a whole number from 1 to 10000000, got 0"),
        ({"max_age": 0.5}, r"max_age wants seconds from 1 to 315360000, got 0.5"),
    ],
)
def test_the_bounds_of_dead_letters_are_checked(wrong: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said):
        DeadLetterSettings(**wrong)
