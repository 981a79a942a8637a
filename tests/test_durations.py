"""Wherever the public face takes seconds, it takes a `timedelta` and text such as "30s" too."""

import math
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actorwork import (
    Actor,
    AskTimeout,
    Backoff,
    Child,
    CircuitBreaker,
    DeadLetterSettings,
    Duration,
    ExecutionTimeout,
    Exponential,
    Fixed,
    Intensity,
    Interval,
    Linear,
    LockTimeout,
    Process,
    RateLimit,
    Retry,
    Scale,
    Settings,
    SettingsError,
    Spool,
    Supervisor,
    Trigger,
    Uniform,
    Unique,
    receive,
    timeout,
)
from actorwork.durations import as_seconds, seconds_of, timeout_of
from actorwork.policy.batches import Batching
from actorwork.policy.sending import Sending
from actorwork.runtime.options import Options
from actorwork.testing import TestProbe, advance, open_test_system
from actorwork.workflows import Flow, nap


class Slow(Actor):
    settings = Settings(title="slow")

    @receive
    async def wait(self, message: int) -> int:
        await trio.sleep(100)
        return message


def trigger(**more: Any) -> Trigger:
    return Trigger(title="t", schedule=Interval(hours=1), message=1, **more)


TAKES: list[tuple[str, Callable[..., object]]] = [
    ("execution_timeout", partial(Settings, title="a")),
    ("soft_timeout", partial(Settings, title="a", execution_timeout=86_400)),
    ("results_ttl", partial(Settings, title="a")),
    ("status_check_interval", partial(Settings, title="a")),
    ("status_cache_ttl", partial(Settings, title="a")),
    ("max_age", DeadLetterSettings),
    ("catchup_window", trigger),
    ("jitter", trigger),
    ("lifetime", trigger),
    ("status_check_interval", trigger),
    ("seconds", Fixed),
    ("step", Linear),
    ("cap", Exponential),
    ("base", Exponential),
    ("high", Uniform),
    ("per", partial(RateLimit, 1)),
    ("within", CircuitBreaker),
    ("reset", CircuitBreaker),
    ("period", Intensity),
    ("max", Backoff),
    ("reset_after", Backoff),
    ("target_wait", Scale),
    ("cooldown", Scale),
    ("shutdown", partial(Child, Slow)),
    ("startup_timeout", partial(Child, Slow)),
    ("shutdown", partial(Supervisor, [Slow])),
    ("on_exceeded", partial(Supervisor, [Slow])),
    ("shutdown_timeout", partial(Process, [Slow])),
    ("hang_timeout", partial(Process, [Slow])),
    ("lease", Options),
    ("grace", Options),
    ("loop_stall", Options),
    ("patience", Spool),
    ("within", partial(Batching, 3)),
    ("ttl", partial(Unique, "k")),
    ("delay", Sending),
    ("expires", Sending),
    ("delay", Retry),
]


@pytest.mark.parametrize(("name", "make"), TAKES, ids=[f"{number}-{name}" for number, (name, _) in enumerate(TAKES)])
@pytest.mark.parametrize("given", [90, 90.0, timedelta(minutes=1.5), "90s", "1m30s"], ids=repr)
def test_a_setting_takes_every_form_of_a_duration(name: str, make: Callable[..., object], given: Duration):
    assert getattr(make(**{name: given}), name) == 90


@pytest.mark.parametrize("given", ["90", "soon", "", "1 m"])
@pytest.mark.parametrize(("name", "make"), TAKES, ids=[f"{number}-{name}" for number, (name, _) in enumerate(TAKES)])
def test_text_that_is_no_duration_is_refused(name: str, make: Callable[..., object], given: str):
    with pytest.raises(ValueError, match=r"(?s)(seconds|a number|within|got).*"):
        make(**{name: given})


def test_the_refusal_shows_how_a_duration_is_written():
    with pytest.raises(SettingsError, match=r"wants seconds from 0.1 to 86400, got '30'; text wants units, such as"):
        Settings(title="a", execution_timeout="30")


def test_words_that_are_no_duration_keep_their_meaning():
    assert Child(Slow, shutdown="brutal_kill").shutdown == "brutal_kill"
    assert Options(grace="inf").grace == math.inf
    assert Backoff(reset_after=None).reset_after is None
    assert as_seconds(None) is None


def test_an_argument_that_is_no_duration_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"timeout: '30' is not a duration such as .*; did you mean 30s"):
        seconds_of("timeout", "30")
    given: Any = [1]
    with pytest.raises(TypeError, match=r"timeout wants seconds, a timedelta, or text .* got \[1\]"):
        seconds_of("timeout", given)


@pytest.mark.parametrize("given", [-1, math.nan, timedelta(seconds=-1)], ids=repr)
def test_a_wait_that_could_not_end_in_time_is_refused(given: Duration):
    with pytest.raises(ValueError, match=f"^timeout wants 0 seconds or more, got {re.escape(repr(given))}$"):
        timeout_of(given)


async def test_calls_take_every_form_of_a_duration(mock_clock: MockClock):
    mock_clock.autojump_threshold = 0
    async with open_test_system(Slow) as system:
        ref, durable = system.ref(Slow), system.client.ref(Slow)
        for given in (2, timedelta(seconds=2), "2s"):
            began = trio.current_time()
            with pytest.raises(AskTimeout, match="2 s"):
                await ref.ask(1, timeout=given)
            with pytest.raises(AskTimeout, match="2 s"):
                await durable.ask(1, timeout=given)
            with pytest.raises(AskTimeout, match="2 s"):
                await (await durable.submit(1, delay="1h")).result(timeout=given)
            async with system.client.lock("l", ttl="10s"):
                with pytest.raises(LockTimeout, match="2 s"):
                    async with system.client.lock("l").acquire(timeout=given):
                        pass
            assert trio.current_time() - began == pytest.approx(8, abs=0.2)
        await system.client.shared("x", int, default=0, ttl=timedelta(hours=1)).set(1)
        system.system.stop(within="1s")


async def test_tests_and_workflows_take_every_form_of_a_duration(mock_clock: MockClock):
    probe = TestProbe(name="probe")
    async with open_test_system(probe.actor) as system:
        await system.drain(within="1m")
        mock_clock.autojump_threshold = 0
        began = trio.current_time()
        await probe.expect_none("2s")
        with pytest.raises(AssertionError, match="nothing came within 3 s"):
            await probe.expect(int, within=timedelta(seconds=3))
        async with probe.within("1m"):
            pass
        assert trio.current_time() - began == 5
    flow = Flow(nap("90s"), deadline="2m", results_ttl=timedelta(hours=1))
    assert (flow.deadline, flow.results_ttl) == (120, 3600)


async def test_timers_and_decorators_take_every_form_of_a_duration(mock_clock: MockClock):
    ticks: list[float] = []

    @timeout("1m")
    async def long() -> None:
        await trio.sleep(1000)

    class Ticking(Actor):
        async def startup(self) -> None:
            self.context.timers.start("once", "1m", 1)
            self.context.timers.start_every("often", timedelta(minutes=2), 2)

        @receive
        async def tick(self, message: int) -> None:
            ticks.append(trio.current_time())

    async with open_test_system(Ticking):
        await advance("5m")
    assert ticks == [60, 120, 240]
    mock_clock.autojump_threshold = 0
    began = trio.current_time()
    with pytest.raises(ExecutionTimeout):
        await long()
    assert trio.current_time() - began == 60
