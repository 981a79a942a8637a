"""A system in memory for tests: what was sent, how it ended, and when everything is done.

async with open_test_system([Shop, Mailer]) as system:
    await system.client.ref(Shop).tell(Order("tea"))
    await system.drain()
    system.assert_sent(Mailer, to="ann")
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar, Unpack, overload

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from actorwork.abc import FunctionActor
from actorwork.actors.actor import Actor
from actorwork.actors.refs.ref import ActorRef
from actorwork.clients.client import Client
from actorwork.clients.entities import EntityRef
from actorwork.clients.opening import open_client
from actorwork.codec import encode_value, wire_name
from actorwork.durations import Duration, seconds_of
from actorwork.events import Event
from actorwork.message import Envelope, Json
from actorwork.records import DeadLetter
from actorwork.runtime.options import SystemOptions, TreeOptions, refuse_unknown
from actorwork.runtime.outline import Branch
from actorwork.runtime.system import System, open_system
from actorwork.testing.clock import pass_time, wait_until
from actorwork.testing.faults import Faults
from actorwork.testing.memory import MemoryBroker

A = TypeVar("A", bound=Actor)
E = TypeVar("E")
Target: TypeAlias = str | type[Actor] | FunctionActor[..., Any]
"""An actor, by its class, or a source."""

ROUNDS: Final = 300
"""How often `drain(scheduled=True)` waits for more than was scheduled before: what schedules itself never ends."""


@attrs.frozen
class Sent:
    """A message that was sent through the broker; `message` is its JSON."""

    message: Json
    envelope: Envelope

    def fits(self, target: Target, kind: type | None, partial: dict[str, Json]) -> bool:
        """Return whether it was sent to that actor or source, is of that kind, and has these fields."""
        envelope, message = self.envelope, self.message
        if isinstance(target, str):
            addressed = envelope.source == target
        else:
            addressed = envelope.source in target.settings.all_sources and envelope.group in (None, target.settings.id)
        if not addressed or (kind is not None and envelope.type != wire_name(kind)):
            return False
        if not isinstance(message, dict):
            return not partial
        return all(name in message and message[name] == value for name, value in partial.items())


class TestSystem:
    """A running system, and what a test may ask of it; made by `open_test_system`."""

    __test__ = False  # pytest would take a class of this name for a test

    def __init__(self, system: System, broker: MemoryBroker, client: Client, events: Sequence[Event]) -> None:
        self.system = system
        """The system itself."""
        self.broker = broker
        self.client = client
        """Sends messages the durable way: `client.ref(Greeter)`, `client.publish("orders", …)`."""
        self.events = events
        """All events so far."""

    def __repr__(self) -> str:
        return f"<TestSystem {self.system!r}>"

    @property
    def faults(self) -> Faults:
        """The faults that are to happen."""
        return self.broker.faults

    @overload
    def ref(self, actor: type[A], *, key: str) -> EntityRef[A]: ...
    @overload
    def ref(self, actor: type[A]) -> ActorRef[A]: ...
    @overload
    def ref(self, actor: FunctionActor[..., Any]) -> ActorRef[Any]: ...
    def ref(self, actor: Any, *, key: str | None = None) -> Any:
        """Return the local ref of an actor of this system; with a key, the ref to that key of an entity."""
        return self.system.ref(actor) if key is None else self.client.ref(actor, key=key)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    # ---- waiting for it ----

    async def drain(self, *, scheduled: bool = False, within: Duration = 3600.0) -> None:
        """Wait until no message is in flight, waits, or is due now; with `scheduled`, nor will be due later.

        Time passes as needed. Raises `AssertionError` after `within` seconds, with what is not done by then. Timers and
        helper tasks of actors are not waited for.
        """
        rounds, limit = ROUNDS + len(self.broker.delayed), seconds_of("within", within)
        for _ in range(rounds):
            with trio.move_on_after(limit) as scope:
                await wait_all_tasks_blocked()
                while _at_work(self.system.tree()) or self.broker.waiting():
                    await pass_time()
                    await wait_all_tasks_blocked()
            if scope.cancelled_caught:
                raise AssertionError(f"not done within {limit:g} s: {'; '.join(self._unfinished())}")
            due = self.broker.next_due
            if not scheduled or due == math.inf:
                return
            await wait_until(due)
        raise AssertionError(f"after {rounds} delayed messages there is still one more: does one schedule the next?")

    def _unfinished(self) -> list[str]:
        found = list(_at_work(self.system.tree()))
        waiting = self.broker.waiting()
        if waiting:
            found.append(f"{len(waiting)} deliveries not taken, the first is {waiting[0]!r}")
        return found

    # ---- what was sent, and what came of it ----

    @property
    def dead_letters(self) -> Sequence[DeadLetter]:
        """The messages that could not be handled."""
        return self.broker.dead_letters.all

    def sent(self, target: Target, kind: type | None = None, /, **partial: object) -> list[Sent]:
        """Return what was sent through the broker to an actor or a source, by clients and actors, in order.

        With `kind` (an attrs class or a dataclass), and with the values of some fields, only what has these.
        """
        wanted: dict[str, Json] = {name: json.loads(encode_value(value)) for name, value in partial.items()}
        everything = (Sent(_read(envelope.data), envelope) for envelope in self.broker.sent)
        return [one for one in everything if one.fits(target, kind, wanted)]

    def assert_sent(self, target: Target, kind: type | None = None, /, **partial: object) -> Sent:
        """Assert that such a message was sent, and return the first one."""
        found = self.sent(target, kind, **partial)
        if not found:
            raise AssertionError(f"nothing was sent {_described(target, kind, partial)}; {self._sent_to(target)}")
        return found[0]

    def refute_sent(self, target: Target, kind: type | None = None, /, **partial: object) -> None:
        """Assert that no such message was sent."""
        found = self.sent(target, kind, **partial)
        if found:
            raise AssertionError(f"{len(found)} sent {_described(target, kind, partial)}: {found[0].message!r}")

    def _sent_to(self, target: Target) -> str:
        there = [f"{one.envelope.type or ''}{one.message}" for one in self.sent(target)]
        return f"sent there: {', '.join(there)}" if there else f"sent elsewhere: {len(self.broker.sent)} messages"


@asynccontextmanager
async def open_test_system(
    tree: object,
    *,
    broker: MemoryBroker | None = None,
    faults: Faults | None = None,
    **options: Unpack[TreeOptions],
) -> AsyncGenerator[TestSystem]:
    """Start a tree at a broker in memory, as `open_system` does, with its other options.

    Several systems may share one broker, as nodes do. `faults` are those that are to happen from the first start on.
    """
    refuse_unknown("open_test_system", options, {*TreeOptions.__optional_keys__, "broker", "faults"})
    broker = broker if broker is not None else MemoryBroker(faults=faults)
    if faults is not None:
        broker.faults = faults
    events: list[Event] = []
    emit = options.get("emit")

    def keep(event: Event) -> None:
        events.append(event)
        if emit is not None:
            emit(event)

    # Real time is no part of a test in virtual time, so no stall is reported.
    chosen: SystemOptions = {**options, "broker": broker, "emit": keep, "loop_stall": math.inf}
    with broker.faults.installed():
        async with open_system(tree, **chosen) as system, open_client(broker) as client:
            yield TestSystem(system, broker, client, events)


def _at_work(branch: Branch) -> list[str]:
    facts = [f"handling {item.what}" for item in branch.in_hand]
    if branch.waiting:
        facts.append(f"{branch.waiting} waiting")
    found = [f"{branch.title} ({', '.join(facts)})"] if facts else []
    for child in branch.children:
        found += _at_work(child)
    return found


def _read(data: bytes) -> Json:
    try:
        message: Json = json.loads(data)
    except ValueError:
        return data.decode("utf-8", "backslashreplace")
    return message


def _described(target: Target, kind: type | None, partial: dict[str, Any]) -> str:
    whom = repr(target) if isinstance(target, str) else getattr(target, "__qualname__", target)
    what = f" of {kind.__qualname__}" if kind is not None else ""
    fields = f" with {', '.join(f'{name}={value!r}' for name, value in partial.items())}" if partial else ""
    return f"to {whom}{what}{fields}"
