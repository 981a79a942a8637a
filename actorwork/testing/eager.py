"""Run a workflow, or one message, to its end: through the codec and the rules of the broker, without any other part.

    assert await run_eagerly(chord([step(Adder, Add(1, 2))], Summer, Sum), [Adder, Summer]) == 3

It opens no socket, thread or file. Time is that of the caller's clock: with the plugin's, or another of Trio's mock
clocks that jumps, delays and backoffs take no real time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, overload

from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.tree.spec import Child
from actorwork.errors import AskTimeout, MessageRefused
from actorwork.message import Status
from actorwork.testing.system import open_test_system
from actorwork.workflows.flow import Flow, flow_of
from actorwork.workflows.steps import Group, Step

if TYPE_CHECKING:
    from actorwork.abc import FunctionActor
    from actorwork.clients.runs import Run

R = TypeVar("R")
Actors: TypeAlias = "Sequence[type[Actor] | FunctionActor[..., Any] | Child]"


@overload
async def run_eagerly(work: Flow[R] | Step[R], actors: Actors, /) -> R: ...
@overload
async def run_eagerly(work: Group[R], actors: Actors, /) -> list[R]: ...
@overload
async def run_eagerly(work: object, actors: Actors, /) -> Any: ...
async def run_eagerly(work: Any, actors: Actors, /) -> Any:
    """Run a flow, a step or a message with these actors; return its result.

    A message goes to the first actor that takes it. Raises `MessageFailed` as a client would, and `MessageRefused` if
    no actor takes the message, or the message of a step. What would wait for ever raises, too: `ValueError` for a
    signal without a limit of time, which nobody gives here, and `AskTimeout` for a run that is held, which nobody
    retries. When the result is there, messages that were published on the way are still handled.
    """
    if isinstance(actors, (str, type)) or not isinstance(actors, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"run_eagerly wants a list of actors: write [{getattr(actors, '__name__', actors)}]")
    actors = list(actors)
    message: object = work
    flow = flow_of(cast("Step[Any]", work)) if isinstance(work, (Flow, Step, Group)) else None
    if flow is not None:
        _check_ends(flow, actors)
    async with open_test_system(actors) as system:
        if flow is None:
            receipt = await system.client.ref(_actor_for(message, actors)).submit(cast("Any", message))
            value = await receipt.result(timeout=math.inf)
        else:
            value = await _result_of(await system.client.start(flow), has_deadline=flow.deadline is not None)
        await system.drain()
        return value


async def _result_of(run: Run[Any], *, has_deadline: bool) -> Any:
    async with run.watch() as updates:
        async for info in updates:
            if info.status is Status.HELD and not has_deadline:
                raise AskTimeout(
                    f"run {run.id!r} is held ({info.reason}) until run.retry(), which nobody calls in an eager run:"
                    " leave out hold_on_failure, or start it in open_test_system"
                )
    return await run.result(timeout=math.inf)


def _check_ends(flow: Flow[Any], actors: Sequence[object]) -> None:
    """Raise an error if a flow has a step that cannot end here."""
    classes = [_class_of(one) for one in actors]
    read = {source for cls in classes if cls is not None for source in cls.settings.all_sources}
    for one in flow.plan("eager").steps:
        if one.kind == "signal" and one.seconds is None and flow.deadline is None:
            raise ValueError(
                f"nobody gives the signal {one.name!r} in an eager run: give it a limit, as in signal({one.name!r}, …,"
                " within=60), or start the flow in open_test_system, and call run.signal"
            )
        if one.kind == "message" and one.source not in read and None not in classes:
            raise MessageRefused(
                f"step {one.name!r} goes to {one.actor!r}, which is none of the actors of this eager run"
                f" ({_names(actors)}): add it"
            )


def _actor_for(message: object, actors: Sequence[object]) -> type[Actor]:
    for actor in actors:
        cls = _class_of(actor)
        if cls is None or (table := handlers_of(cls)).find(message) is None:
            continue
        if table.is_entity:
            name = cls.__name__
            raise MessageRefused(
                f"a message to the entity {name} needs a key: run_eagerly(step({name}, {message!r:.100}, key=…), …)"
            )
        return cls
    raise MessageRefused(f"none of {_names(actors)} takes {message!r:.100}")


def _class_of(actor: object) -> type[Actor] | None:
    """Return the actor class of a child, None for what is none: a supervisor, or a task."""
    cls: object = actor.actor if isinstance(actor, Child) else actor
    return cls if isinstance(cls, type) and issubclass(cls, Actor) else None


def _names(actors: Sequence[object]) -> str:
    return ", ".join(getattr(_class_of(one), "__name__", repr(one)) for one in actors)
