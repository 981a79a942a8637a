"""A probe: an actor whose messages the test receives and answers.

    probe = TestProbe()                  takes any message
    probe = TestProbe(Mailer)            replaces `Mailer`: its title, its sources, its messages

    async with open_test_system([Orders, probe.actor]) as system:
        ...
        letter = await probe.expect(Letter)

It is an actor of the tree like any other: tests can tell, ask and watch it, give it a name
(`Child(probe.actor, name="mailer")`), and have the broker feed it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, overload

import attrs
import trio

from actorwork.actors.actor import Actor
from actorwork.actors.handlers import rules
from actorwork.actors.handlers.declared import STANDS_FOR
from actorwork.actors.handlers.table import receive
from actorwork.actors.refs.ref import ActorRef
from actorwork.actors.tree.hooks import settings_of
from actorwork.durations import Duration, seconds_of
from actorwork.errors import NotRunning
from actorwork.message import REPLY_TO
from actorwork.settings import Settings

T = TypeVar("T")

PATIENCE: Final = 3.0
"""Seconds that `expect` waits by default."""
MANY: Final = 1000
"""How many durable `ask` calls may wait for a reply at once."""


@attrs.frozen(eq=False)
class _Received:
    message: Any
    reply: Callable[[object], object] | None
    """Replies to the caller; None if no caller waits."""


class TestProbe:
    """Replaces an actor in tests; put `probe.actor` into a tree.

    `stands_for` is the actor class to replace; without it, the probe takes any message, under the title `name`.
    """

    __test__ = False  # pytest would take a class of this name for a test

    def __init__(self, stands_for: type[Actor] | None = None, *, name: str = "probe") -> None:
        self._name = name if stands_for is None else settings_of(stands_for).title
        self._all: list[Any] = []
        self._waiting: deque[_Received] = deque()
        self._last: _Received | None = None
        self._arrived = trio.Event()
        self._running: Actor | None = None
        self._until: float | None = None
        self.actor: type[Actor] = _actor_of(self, stands_for, name)
        """The actor to put into a tree."""

    def __repr__(self) -> str:
        return f"<probe {self._name!r}: {len(self._waiting)} messages of {len(self._all)} not expected yet>"

    @property
    def ref(self) -> ActorRef[Any]:
        """The probe's ref; raises `NotRunning` until a system has started it."""
        return self._instance.context.ref

    @property
    def messages(self) -> list[Any]:
        """All messages that came so far, including those already expected."""
        return list(self._all)

    @overload
    async def expect(self, wanted: type[T], *, within: Duration | None = None) -> T: ...
    @overload
    async def expect(self, wanted: T, *, within: Duration | None = None) -> T: ...
    async def expect(self, wanted: Any, *, within: Duration | None = None) -> Any:
        """Return the next message; it must be of this type, or equal to this value.

        Waits `within` seconds (3, or the rest of the `within` block around it), then raises `AssertionError`.
        """
        what = wanted.__qualname__ if isinstance(wanted, type) else repr(wanted)
        limit = PATIENCE if within is None else seconds_of("within", within)
        if within is None and self._until is not None:
            limit = max(0.0, self._until - trio.current_time())
        with trio.move_on_after(limit):
            while not self._waiting:
                await self._arrived.wait()
        await trio.lowlevel.checkpoint()
        if not self._waiting:
            raise AssertionError(f"{self._name}: nothing came within {limit:g} s, expected {what}{self._before}")
        self._last = self._waiting.popleft()
        message = self._last.message
        fits = isinstance(message, wanted) if isinstance(wanted, type) else message == wanted
        if not fits:
            raise AssertionError(f"{self._name}: expected {what}, got {message!r}")
        return message

    async def expect_none(self, within: Duration = 0.1) -> None:
        """Check that no message comes within `within` seconds, and that none is left over."""
        with trio.move_on_after(seconds_of("within", within)):
            while not self._waiting:
                await self._arrived.wait()
        if self._waiting:
            raise AssertionError(f"{self._name}: expected nothing, got {self._waiting[0].message!r}")

    def reply(self, value: object) -> None:
        """Reply to the message that was expected last."""
        last = self._last
        if last is None:
            raise AssertionError(f"{self._name}: expect a message first, then reply to it")
        if last.reply is None:
            raise AssertionError(f"{self._name}: {last.message!r} was told or published; no caller waits for a reply")
        last.reply(value)

    @asynccontextmanager
    async def within(self, seconds: Duration) -> AsyncGenerator[None]:
        """Bound a whole block: all messages expected in it must come within `seconds` together."""
        seconds = seconds_of("seconds", seconds)
        before, self._until = self._until, trio.current_time() + seconds
        try:
            yield
        finally:
            took = trio.current_time() - (self._until - seconds)
            self._until = before
        if took > seconds:
            raise AssertionError(f"{self._name}: the block took {took:g} s, expected at most {seconds:g} s")

    def watch(self, ref: ActorRef[Any]) -> None:
        """Watch an actor: its end arrives here as `Terminated`, if the probe takes any message."""
        self._instance.context.watch(ref)

    # ---- for its actor ----

    @property
    def _instance(self) -> Actor:
        if self._running is None:
            raise NotRunning(f"the probe {self._name!r} is not running; put probe.actor into the tree of a system")
        return self._running

    @property
    def _before(self) -> str:
        return f"; before came {', '.join(map(repr, self._all[-3:]))}" if self._all else ""

    def started(self, instance: Actor) -> None:
        """Learn of a new incarnation."""
        self._running = instance

    async def record(self, message: object) -> object:
        """Take a message from the actor. Waits for the reply only if a caller at the broker waits for it."""
        context = self._instance.context
        answer = _Answer()
        reply: Callable[[object], object] | None = None
        waits = False
        try:
            waits = REPLY_TO in context.delivery.headers
            reply = answer.give if waits else None
        except NotRunning:
            reply = _local_reply(context)
        self._all.append(message)
        self._waiting.append(_Received(message, reply))
        self._arrived.set()
        self._arrived = trio.Event()
        return await answer.wait() if waits else None


class _Answer:
    def __init__(self) -> None:
        self._value: object = None
        self._given = trio.Event()

    def give(self, value: object) -> None:
        self._value = value
        self._given.set()

    async def wait(self) -> object:
        await self._given.wait()
        return self._value


def _local_reply(context: Any) -> Callable[[object], object] | None:
    try:
        return context.defer().give
    except NotRunning:
        return None


def _actor_of(probe: TestProbe, model: type[Actor] | None, name: str) -> type[Actor]:
    """Make the class: it has a recording handler for every handler of the model."""

    async def startup(self: Actor) -> None:
        probe.started(self)

    body: dict[str, Any] = {"startup": startup, "__module__": __name__}
    if model is None:
        body["settings"] = Settings(title=name, concurrency=MANY)

        async def take(_self: Actor, message: object) -> object:
            return await probe.record(message)

        body["take"] = receive(take)
    else:
        body[STANDS_FOR] = model
        body["settings"] = attrs.evolve(settings_of(model), concurrency=MANY, limits=(), middleware=(), triggers=())
        for attribute in dir(model):
            handler = getattr(model, attribute, None)
            if getattr(handler, rules.HANDLER, None):
                body[attribute] = _recorder(probe, handler)
    return type(f"Probe of {name if model is None else model.__qualname__}", (Actor,), body)


def _recorder(probe: TestProbe, handler: Any) -> Any:
    # Has the signature of the handler it replaces, so that it is chosen for the same messages.
    @functools.wraps(handler)
    async def record(_self: Actor, *message: object, **keywords: object) -> object:
        return await probe.record(message[0] if message else keywords)

    vars(record).pop(rules.RULES, None)  # A probe has none of the limits and retries of the handler.

    return record
