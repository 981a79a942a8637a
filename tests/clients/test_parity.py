"""The three clients are the same but for `await`: names, parameters, defaults, docstrings, and what they raise."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import pytest
import redis
import trio

import actorwork
from actorwork import Cron, Trigger, Unique, aio, open_client, sync
from actorwork.blocking.triggers import Triggers as SyncTriggers
from actorwork.clients import Client, Prepared, Receipt, StreamRef
from actorwork.clients.runs import Run
from actorwork.clients.triggers import Triggers
from actorwork.state.lock import Held, Lock
from actorwork.state.shared import Shared
from actorwork.workflows import signal, step
from tests.clients.programs import run_asyncio
from tests.workflows.shop import Calculator, Note, Square

PAIRS: Final = [
    (Client, sync.Client),
    (StreamRef, sync.Ref),
    (Prepared, sync.Prepared),
    (Receipt, sync.Receipt),
    (Run, sync.Run),
    (Shared, sync.Shared),
    (Lock, sync.Lock),
    (Held, sync.Held),
    (Triggers, SyncTriggers),
]
ONLY_IN: Final[dict[type, set[str]]] = {
    Client: {"wait_replayed"},  # A spool is replayed by a task.
    StreamRef: {"results_ttl"},
    sync.Client: {"close"},  # The others are closed by their block.
    sync.Held: {"held"},
    Held: {"take", "keep", "free", "loss"},
}
"""The names that one of a pair alone has, and why."""
SET_BY_CONSTRUCTORS: Final[dict[type, set[str]]] = {Held: {"name", "token"}, Run: {"id"}}


def public(cls: type) -> dict[str, Any]:
    names = {*dir(cls), *SET_BY_CONSTRUCTORS.get(cls, ())}
    for one in cls.__mro__:
        names.update(inspect.get_annotations(one), getattr(one, "__slots__", ()))
    kept = {name for name in names if not name.startswith("_")} - ONLY_IN.get(cls, set())
    return {name: getattr(cls, name, None) for name in kept}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.default, one.kind) for one in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda cls: cls.__name__)
def test_the_sync_classes_have_the_names_parameters_and_defaults_of_the_others(ours: type, theirs: type) -> None:
    expected, found = public(ours), public(theirs)
    assert set(found) == set(expected)
    for name, method in expected.items():
        if inspect.isfunction(method):
            assert parameters(found[name]) == parameters(method), name
            assert not inspect.iscoroutinefunction(found[name]), name
            assert bool(found[name].__doc__) == bool(method.__doc__), name


def test_the_clients_on_trio_and_on_asyncio_are_of_the_same_classes() -> None:
    assert aio.Client is actorwork.Client
    names = {"Client", "Prepared", "Receipt", "StreamRef"}
    assert names <= set(aio.__all__)
    assert all(getattr(aio, name) is getattr(actorwork, name) for name in names)


def test_all_clients_are_opened_by_the_same_name_and_parameters() -> None:
    trios = dict(inspect.signature(actorwork.open_client).parameters)
    for other, more in ((aio.open_client, set[str]()), (sync.open_client, {"patience"})):
        found = dict(inspect.signature(other).parameters)
        assert set(found) - more == set(trios) - {"spool"}
        assert all(found[name].default == trios[name].default for name in set(found) - more)


# ---- what they raise ----

Call = Callable[[Any], Any]
"""Something a client is asked for; what it returns is awaited, if it can be."""


WRONG: Final[dict[str, Call]] = {
    "a message that the actor does not take": lambda client: client.ref(Calculator).tell(Note("x")),
    "an option that there is not": lambda client: client.ref(Calculator).tell(Square(1), colour="red"),
    "one id for many": lambda client: client.ref(Calculator).tell_many([Square(1)], id="1"),
    "an actor without a title": lambda client: client.ref(object),
    "a source without a name": lambda client: client.publish("", 1),
    "what JSON cannot hold": lambda client: client.publish("orders", {1, 2}),
    "an ask in vain": lambda client: client.ref("nobody").ask({}, timeout=0.01),
    "a wait in vain": lambda client: client.ref("nobody").receipt("submitted").result(timeout=0.01),
    "the result of none": lambda client: client.ref("nobody").receipt("1").result(timeout=60),
    "a timeout that is none": lambda client: client.ref("nobody").ask({}, timeout="soon"),
    "an ask until no time": lambda client: client.ref("nobody").ask({}, timeout=float("nan")),
    "an ask until before": lambda client: client.ref("nobody").ask({}, timeout=-1),
    "a wait until no time": lambda client: client.ref("nobody").receipt("submitted").result(timeout=float("nan")),
    "a state until before": lambda client: client.ref("nobody").receipt("submitted").info(timeout=timedelta(-1)),
    "a run until no time": lambda client: client.run("waits").result(timeout=float("nan")),
    "a receipt of nothing": lambda client: client.receipt(None),
    "a receipt of bytes": lambda client: client.ref("nobody").receipt(b"submitted"),
    "a receipt of no text": lambda client: client.receipt("\ud800"),
    "a key that is taken": lambda client: client.ref(Calculator).tell(Square(2), unique="taken"),
    "a pause of two things": lambda client: client.pause(actor=Calculator, source="orders"),
    "no message at all": lambda client: client.messages(limit=0),
    "no message looked at": lambda client: client.messages(search=True),
    "less than no run": lambda client: client.runs(limit=-1),
    "a trigger that nobody declared": lambda client: client.run_trigger(Calculator, "nightly"),
    "a trigger of nobody": lambda client: client.triggers.put("nobody", Trigger(title="x", schedule=Cron("* * * * *"))),
    "a message that the actor cannot take": lambda client: client.triggers.put(
        Calculator, Trigger(title="x", schedule=Cron("* * * * *"), message=Note("x"))
    ),
    "a trigger that is none": lambda client: client.triggers.put(Calculator, "nightly"),
    "a schedule that is none": lambda client: client.triggers.change("nobody", "x", schedule="5m"),
    "no part of a trigger": lambda client: client.triggers.change("nobody", "x"),
    "a trigger that is not there": lambda client: client.triggers.change("nobody", "x", is_on=False),
    "a reset of none": lambda client: client.triggers.reset("nobody", "x"),
    "a deletion of none": lambda client: client.triggers.delete("nobody", "x"),
    "a flow that is none": lambda client: client.start(3),
    "a run that is none": lambda client: client.run("none").result(timeout=60),
    "the steps of none": lambda client: client.run("none").steps(),
    "a retry of a step that is none": lambda client: client.run("waits").retry(steps=["squere"]),
    "a retry of a step that has not failed": lambda client: client.run("waits").retry(steps=[0]),
    "a run in vain": lambda client: client.run("waits").result(timeout=0.01),
    "a signal of another type": lambda client: client.run("asks").signal("go", "yes"),
    "a value without a name": lambda client: client.shared("", int),
    "a value of another type": lambda client: client.shared("word", int).get(),
    "a sum of a word": lambda client: client.shared("word", str).increment(),
    "a lock of too short a time": lambda client: client.lock("door", ttl=0),
}


def prepare(client: Any) -> list[Any]:
    """Return what makes the calls above wrong."""
    return [
        client.ref(Calculator).tell(Square(1), unique=Unique("taken"), id="first"),
        client.shared("word", str).set("hello"),
        client.ref("nobody").submit({}, id="submitted"),
        client.start(step(Calculator, Square(1)), id="waits"),
        client.start(step(Calculator, Square(1), after=[signal("go", bool)]), id="asks"),
    ]


async def what_is_raised(client: Client) -> dict[str, str]:
    for each in prepare(client):
        await each
    said: dict[str, str] = {}
    for name, call in WRONG.items():
        try:
            waiting = call(client)
            if inspect.isawaitable(waiting):
                await waiting
        except Exception as error:  # noqa: BLE001 - compared below
            said[name] = shown(error)
    return said


def shown(error: Exception) -> str:
    """Return an error without what differs from one call to the next: its file, ids that were drawn, and what it could
    see in a hundredth of a second.
    """
    text = re.sub(r"(?<=within 0\.01 s; ).*", "…", str(error))
    return re.sub(r"[0-9a-f]{16}-\d+|\w+\.db", "…", f"{type(error).__name__}: {text}")


@pytest.mark.parametrize("broker", ["sqlite", "redis"])
def test_the_clients_raise_the_same_exceptions_in_the_same_words(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: str = request.getfixturevalue("redis_url") if broker == "redis" else ""

    def empty(name: str) -> str:
        """Return the URL of a broker that has no messages."""
        if not server:
            return f"sqlite:///{tmp_path / name}.db"
        admin: Any = cast("Any", redis.Redis).from_url(server, socket_timeout=None)
        admin.flushdb()
        admin.close()
        return server

    async def on_trio() -> dict[str, str]:
        async with open_client(empty("trio")) as client:
            return await what_is_raised(client)

    async def on_asyncio() -> dict[str, str]:
        async with aio.open_client(empty("asyncio")) as client:
            return await what_is_raised(client)

    of_trio, of_asyncio, of_sync = trio.run(on_trio), run_asyncio(on_asyncio), dict[str, str]()
    with sync.open_client(empty("sync")) as client:
        prepare(client)
        for name, call in WRONG.items():
            try:
                call(client)
            except Exception as error:  # noqa: BLE001 - compared below
                of_sync[name] = shown(error)
    assert set(of_trio) == set(WRONG)
    assert of_asyncio == of_trio
    assert of_sync == of_trio
