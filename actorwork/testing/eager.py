"""Run a workflow, or one message, to its end: through the codec and the rules of the broker, without any other part.

    assert await run_eagerly(chord([step(Adder, Add(1, 2))], Summer, Sum), [Adder, Summer]) == 3

It opens no socket, thread or file. Time is that of the caller's clock: with the plugin's, or another of Trio's mock
clocks that jumps, delays and backoffs take no real time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast, overload

from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import handlers_of
from actorwork.actors.tree.spec import Child
from actorwork.errors import MessageRefused
from actorwork.testing.system import open_test_system
from actorwork.workflows.flow import Flow
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
    no actor takes the message. When the result is there, messages that were published on the way are still handled.
    """
    async with open_test_system(list(actors)) as system:
        if not isinstance(work, (Flow, Step, Group)):
            receipt = await system.client.ref(_actor_for(work, actors)).submit(work)
            value = await receipt.result(timeout=math.inf)
        else:
            run: Run[Any] = await system.client.start(cast("Step[Any]", work))
            value = await run.result(timeout=math.inf)
        await system.drain()
        return value


def _actor_for(message: object, actors: Actors) -> type[Actor]:
    for actor in actors:
        cls = actor.actor if isinstance(actor, Child) else actor
        if isinstance(cls, type) and issubclass(cls, Actor) and handlers_of(cls).find(message) is not None:
            return cls
    raise MessageRefused(
        f"none of {', '.join(getattr(one, '__name__', repr(one)) for one in actors)} takes {message!r:.100}"
    )
