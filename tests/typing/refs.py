"""What type checkers make of refs: a foreign message is refused, and the reply of `ask` is inferred.

Never run, only checked: by mypy and basedpyright, both strict. Each `ignore` here stands on a line that has to be
refused; `test_typing.py` takes them away and looks for exactly those errors.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedVariable=false

from functools import partial
from typing import Any, assert_type

import attrs
from pydantic import BaseModel

from actorwork.actors.actor import Actor
from actorwork.actors.context.context import Context
from actorwork.actors.handlers.table import receive
from actorwork.actors.refs.pool import PoolRef
from actorwork.actors.refs.ref import ActorRef
from actorwork.actors.tree.spec import Child
from actorwork.clients.client import Client
from actorwork.clients.receipts import Receipt
from actorwork.clients.refs import Prepared, StreamRef
from actorwork.message import Message, Priority
from actorwork.settings import Settings


@attrs.frozen
class Greet(Message["Greeter", str]):
    name: str


@attrs.frozen
class Count(Message["Counter", int]):
    step: int = 1


@attrs.frozen
class Plain:
    name: str


class Bow(BaseModel, Message["Greeter", int]):
    depth: int


class Greeter(Actor):
    settings = Settings(title="greeter")

    @receive
    async def greet(self, message: Greet) -> str:
        return message.name


class PoliteGreeter(Greeter):
    settings = Settings(title="polite greeter")


class Counter(Actor):
    settings = Settings(title="counter")

    @receive
    async def count(self, message: Count) -> int:
        return message.step


async def a_local_ref(greeter: ActorRef[Greeter], counter: ActorRef[Counter]) -> None:
    assert_type(await greeter.ask(Greet("Ann")), str)
    assert_type(await counter.ask(Count(), timeout=1), int)
    assert_type(await greeter.ask(Plain("Ann")), Any)
    assert_type(await greeter.ask({"name": "Ann"}), Any)
    await greeter.tell(Greet("Ann"))
    await greeter.tell(Plain("Ann"))
    await greeter.tell({"name": "Ann"})
    greeter.tell_nowait(Greet("Ann"))

    assert_type(await greeter.ask(Bow(depth=1)), int)

    await counter.tell(Bow(depth=1))  # type: ignore[arg-type]
    await greeter.tell(Count())  # type: ignore[arg-type]
    greeter.tell_nowait(Count())  # type: ignore[arg-type]
    await counter.ask(Greet("Ann"))  # type: ignore[arg-type]
    _length: int = await greeter.ask(Greet("Ann"))  # type: ignore[arg-type]


async def a_durable_ref(greeter: StreamRef[Greeter], counter: StreamRef[Counter]) -> None:
    assert_type(await greeter.ask(Greet("Ann")), str)
    assert_type(await counter.ask(Count(), timeout=1), int)
    assert_type(await greeter.ask(Plain("Ann")), Any)
    assert_type(await greeter.ask({"name": "Ann"}), Any)
    await greeter.tell(Greet("Ann"), delay=1, headers={"lang": "en"}, id="1")
    await greeter.tell(Plain("Ann"))
    await greeter.tell(["Ann"])
    await greeter.tell_many([Greet("Ann"), Greet("Ben")])
    await greeter.tell_many([Plain("Ann"), Plain("Ben")])
    await greeter.tell_many({"name": name} for name in ("Ann", "Ben"))

    receipt = await greeter.submit(Greet("Ann"))
    assert_type(receipt, Receipt[str])
    assert_type(await receipt.result(timeout=5), str)
    assert_type(await greeter.submit({"name": "Ann"}), Receipt[Any])
    assert_type(greeter.receipt("1", Greet), Receipt[str])
    assert_type(greeter.receipt("1"), Receipt[Any])
    assert_type(await greeter.prepare(Greet("Ann")).send(), Receipt[str])
    assert_type(greeter.prepare({"name": "Ann"}), Prepared[Any])

    await greeter.tell(Count())  # type: ignore[arg-type]
    await greeter.tell_many([Count()])  # type: ignore[list-item]
    await counter.ask(Greet("Ann"))  # type: ignore[arg-type]
    await counter.submit(Greet("Ann"))  # type: ignore[arg-type]
    counter.receipt("1", Greet)  # type: ignore[arg-type]
    _length: int = await greeter.ask(Greet("Ann"))  # type: ignore[arg-type]


async def a_client(client: Client) -> None:
    assert_type(client.ref(Greeter), StreamRef[Greeter])
    assert_type(client.ref("greeter"), StreamRef[Any])
    assert_type(await client.ref(Greeter).ask(Greet("Ann")), str)
    assert_type(await client.ref("greeter").ask({"name": "Ann"}), Any)
    assert_type(await client.publish("greetings", Greet("Ann")), str)

    client.ref(Plain)  # type: ignore[type-var]


async def a_spawned_actor(context: Context) -> None:
    assert_type(await context.spawn(Greeter), ActorRef[Greeter])
    assert_type(await context.spawn(partial(Greeter)), ActorRef[Greeter])
    assert_type(await context.spawn(Child(Greeter)), ActorRef[Greeter])
    greeter = await context.spawn(Child(partial(Greeter), restart="temporary"))
    assert_type(greeter, ActorRef[Greeter])

    await greeter.tell(Count())  # type: ignore[arg-type]


async def a_pool(pool: PoolRef[Greeter]) -> None:
    assert_type(await pool.ask(Greet("Ann"), timeout="1s", priority=Priority.HIGH), str)
    await pool.tell(Greet("Ann"), priority=Priority.LOW)

    await pool.tell(Count())  # type: ignore[arg-type]


async def what_a_base_takes_its_subclass_takes(polite: StreamRef[PoliteGreeter]) -> None:
    assert_type(await polite.ask(Greet("Ann")), str)
    await polite.tell(Greet("Ann"))
    as_greeter: StreamRef[Greeter] = polite
    await as_greeter.tell(Greet("Ann"))
