"""`@retry`, `@timeout`, `@rate_limit`, `@circuit_breaker`: for handlers, and for any other async function.

                       on a handler                                      on any other async function
    retry              the handler's own policy: the broker holds        called again, here, after a sleep
                       the message back, and any node runs it again
    rate_limit         the handler's own limit: its messages wait        calls wait here, in their order
                       in the admission queue, nothing else does
    circuit_breaker    the same; its messages wait while it is open      raises `CircuitOpen` while it is open
    timeout            cancelled after that many seconds, in both cases: `ExecutionTimeout`

The state belongs to the decorator: functions with the same decorator share its rate or its circuit. It starts afresh
with each run of the loop, since the clocks of two runs cannot be compared.
"""

from __future__ import annotations

import functools
import inspect
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar, cast

import trio

from actorwork import events
from actorwork.actors.handlers import rules
from actorwork.actors.limits.limiters import CircuitBreakerState, Limiter, RateLimiter
from actorwork.actors.wakeups import on_loop
from actorwork.durations import IN_WORDS, Duration, as_seconds
from actorwork.errors import CircuitOpen, ExecutionTimeout, SettingsError
from actorwork.policy.bounds import is_number
from actorwork.policy.limits import CircuitBreaker, RateLimit
from actorwork.policy.retry import BackoffFunction, Exponential, RetryPolicy
from actorwork.policy.settlement import decisive, delay_before_next

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def retry(
    policy: RetryPolicy | None = None,
    /,
    *,
    attempts: int = 3,
    backoff: BackoffFunction | None = None,
    on: Mapping[type[Exception], RetryPolicy | None] | None = None,
) -> Callable[[F], F]:
    """Try again after errors, by the given `RetryPolicy` or by one made of these parts.

    On a handler it takes the place of `Settings.retry`. On another async function it also heeds `Retry(delay)`; once
    the attempts are spent, the last error comes out.
    """
    if callable(policy):
        raise SettingsError("@retry wants brackets: @retry() or @retry(attempts=5)")
    rule = RetryPolicy(attempts=attempts, backoff=backoff or Exponential(), on=on or {}) if policy is None else policy
    if not isinstance(rule, RetryPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingsError(f"@retry wants a RetryPolicy, or its parts by name, got {rule!r}")

    def wrap(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def again(*args: P.args, **kwargs: P.kwargs) -> T:
            attempt = 1
            while True:
                try:
                    return await function(*args, **kwargs)
                except Exception as error:
                    delay = delay_before_next(decisive(error), attempt=attempt, retry=rule, dice=random.random)
                    if delay is None:
                        raise
                await trio.sleep(delay)
                attempt += 1

        return again

    return _decorator("retry", rule, wrap)


def rate_limit(
    rate: float | RateLimit, per: Duration = 1.0, *, burst: int | None = None, name: str | None = None
) -> Callable[[F], F]:
    """Let at most `rate` begin in `per` seconds, by the given `RateLimit` or by one made of these parts.

    One that is divided (`by`) or counts all nodes together is for handlers alone.
    """
    if callable(rate):
        raise SettingsError("@rate_limit wants a rate: @rate_limit(10), or a RateLimit")
    limit = rate if isinstance(rate, RateLimit) else RateLimit(rate, per, burst=burst, name=name)
    limiters = _OwnLimiter(lambda: RateLimiter(limit))

    def wrap(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        if limit.by is not None or limit.scope != "node":
            raise SettingsError("@rate_limit with by=… or scope='global' goes on a handler: only messages have that")

        async def in_turn(*args: P.args, **kwargs: P.kwargs) -> T:
            await limiters.wait_through()
            return await function(*args, **kwargs)

        return in_turn

    return _decorator("rate_limit", limit, wrap)


def circuit_breaker(
    name: str | CircuitBreaker | None = None,
    /,
    *,
    failures: int = 5,
    within: Duration = 60.0,
    reset: Duration = 30.0,
    share: float = 0.5,
    on: tuple[type[Exception], ...] = (Exception,),
) -> Callable[[F], F]:
    """Begin nothing for a while after too many failures, by the given `CircuitBreaker` or by one made of these parts.

    On a handler, messages wait while it is open. Elsewhere calls raise `CircuitOpen`, whose `retry_after` is the
    time until the next one may try: a retry policy waits for that.
    """
    if callable(name):
        raise SettingsError("@circuit_breaker wants brackets: @circuit_breaker() or @circuit_breaker('database')")
    if isinstance(name, CircuitBreaker):
        rule = name
    else:
        rule = CircuitBreaker(name, failures=failures, within=within, reset=reset, share=share, on=on)
    limiters = _OwnLimiter(lambda: CircuitBreakerState(rule, rule.name or "", _ignore))

    def wrap(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            limiter = limiters.get()
            grant = limiter.take("", trio.current_time())
            if grant is None:
                wait = limiter.wait("", trio.current_time())
                called = rule.name or getattr(function, "__qualname__", repr(function))
                when = "one call tries it now" if math.isinf(wait) else f"the next call may try it in {wait:g} s"
                raise CircuitOpen(
                    f"the circuit {called!r} is open: {when}", name=called, retry_after=min(wait, rule.reset)
                )
            failure: BaseException | None = None
            done = False
            try:
                value = await function(*args, **kwargs)
                done = True
                return value
            except Exception as error:
                failure = decisive(error)
                raise
            finally:
                limiter.leave("", grant, trio.current_time(), failure, done=done)

        return guarded

    return _decorator("circuit_breaker", rule, wrap)


def timeout(seconds: Duration) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Cancel an async function or a handler after `seconds`: it raises `ExecutionTimeout`.

    A handler ends after its actor's `execution_timeout` at the latest.
    """
    within = as_seconds(seconds)
    if not is_number(within) or not within > 0:
        raise SettingsError(f"@timeout wants seconds > 0, or {IN_WORDS}, got {seconds!r}")

    def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        if not inspect.iscoroutinefunction(function):
            raise SettingsError(
                f"@timeout goes on an async function, got {function!r}: what runs in a thread cannot be cancelled"
            )

        @functools.wraps(function)
        async def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
            if on_loop.get() is None:
                with trio.move_on_after(within):
                    return await function(*args, **kwargs)
            else:
                import asyncio  # noqa: PLC0415 - it is there, since its loop runs this

                scope = asyncio.timeout(within)
                try:
                    async with scope:
                        return await function(*args, **kwargs)
                except TimeoutError:
                    if not scope.expired():
                        raise
            raise ExecutionTimeout(f"{function.__qualname__} ran past its timeout of {within:g} s")

        rules.wrapped(function, bounded, decorate)
        return bounded

    return decorate


def _decorator(name: str, rule: rules.Rule, wrap: Callable[..., Callable[..., Any]]) -> Callable[[F], F]:
    """Return a decorator that notes a rule on a handler, and wraps any other async function."""

    def decorate(function: F) -> F:
        if getattr(function, rules.HANDLER, None):
            rules.note(function, rule)
            return function
        if not inspect.iscoroutinefunction(function):
            raise SettingsError(f"@{name} goes on an async function, or above @receive on a handler, got {function!r}")
        wrapper = functools.wraps(function)(wrap(function))
        rules.wrapped(function, wrapper, rule)
        return cast("F", wrapper)

    return decorate


class _OwnLimiter:
    """The limiter of a decorator, made anew for each clock."""

    def __init__(self, make: Callable[[], Limiter]) -> None:
        self._make = make
        self._clock: object = None
        self._limiter: Limiter | None = None
        self._fifo = trio.StrictFIFOLock()

    def get(self) -> Limiter:
        clock = trio.lowlevel.current_clock()
        if self._limiter is None or self._clock is not clock:
            self._clock, self._limiter, self._fifo = clock, self._make(), trio.StrictFIFOLock()
        return self._limiter

    async def wait_through(self) -> None:
        """Wait until the limiter admits this call, after all earlier ones. Cancelled: nothing was taken."""
        limiter = self.get()
        async with self._fifo:
            while limiter.take("", trio.current_time()) is None:  # noqa: ASYNC110 - it sleeps until the next chance
                await trio.sleep(limiter.wait("", trio.current_time()))


def _ignore(_: events.Event) -> None:
    """Drop an event: there is no sink outside of a system."""
