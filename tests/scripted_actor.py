"""An actor that does what a test tells it to, so that the test can speak through its context."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from actorwork import Actor, ActorRef, Child, Settings, System, receive


@attrs.frozen
class Do:
    """Have the actor run a function of itself, and answer with what that returns."""

    what: Callable[[Any], Any]


@attrs.frozen
class Note:
    """Have the actor write it down."""

    text: str


class Scripted(Actor):
    """Writes its life down in `said`, which outlives it."""

    settings = Settings(title="scripted")

    def __init__(self, said: list[Any] | None = None, up: Callable[[Any], Any] | None = None) -> None:
        self.said: list[Any] = said if said is not None else []
        self.up = up

    async def startup(self) -> None:
        if self.up is not None:
            await finished(self.up(self))

    @receive
    async def do(self, message: Do) -> Any:
        return await finished(message.what(self))

    @receive
    async def note(self, message: Note) -> str:
        self.said.append(message.text)
        return message.text


async def finished(value: Any) -> Any:
    """Return a value, or what comes out of it where it must be awaited."""
    return await value if inspect.isawaitable(value) else value


def titled(title: str, base: type[Actor] = Scripted, **settings: Any) -> type[Any]:
    """Return an actor class of another title."""
    return type(title, (base,), {"settings": Settings(title=title, **settings)})


def scripted(
    title: str = "scripted",
    said: list[Any] | None = None,
    *,
    up: Callable[[Any], Any] | None = None,
    base: type[Actor] = Scripted,
    name: str | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Child:
    """Return a child of that title; `up` is what its `startup` does. By default it has the title as its name, too."""
    return Child(partial(titled(title, base, **(settings or {})), said, up), name=name or title, **options)


def ref_of(system: System, name: str) -> ActorRef[Any]:
    """Return the ref of the actor with a name."""
    ref = system.whereis(name)
    assert ref is not None, f"nobody has the name {name!r}"
    return ref


async def do(system: System, name: str, what: Callable[[Any], Any]) -> Any:
    """Have the actor with a name run a function of itself; return or raise what comes of it."""
    return await ref_of(system, name).ask(Do(what))


def sleeping(seconds: float) -> Callable[[Any], Any]:
    """Return what keeps an actor busy for so long."""

    async def sleep(_: Any) -> None:
        await trio.sleep(seconds)

    return sleep


def fail(_: Any) -> None:
    """What ends an actor abnormally."""
    raise ValueError("boom")


def stop(actor: Any) -> None:
    """What ends an actor in order."""
    actor.context.stop()
