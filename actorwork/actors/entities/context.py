"""The context of an entity: without what would be state that is not durable, or a second way to its messages."""

from __future__ import annotations

from typing import Any, NoReturn

from actorwork.actors.context.context import Context
from actorwork.errors import NotRunning


def _refuse(name: str) -> NoReturn:
    raise NotRunning(
        f"context.{name} is not there in an entity: it would be lost when the instance is passivated, and other nodes"
        " would not know of it. What an entity must remember belongs into its state; what it is to be told later is a"
        " reminder (self.remind)"
    )


def _refused(name: str) -> Any:
    def refuse(_: EntityContext, *__: object, **___: object) -> NoReturn:
        _refuse(name)

    return refuse


class EntityContext(Context):
    """What an entity may use; shared by all instances of one incarnation."""

    __slots__ = ()

    become = _refused("become")
    unbecome = _refused("unbecome")
    stash = _refused("stash")
    unstash = _refused("unstash")
    watch = _refused("watch")
    unwatch = _refused("unwatch")
    link = _refused("link")
    unlink = _refused("unlink")
    register = _refused("register")
    unregister = _refused("unregister")
    subscribe = _refused("subscribe")
    unsubscribe = _refused("unsubscribe")
    pipe = _refused("pipe")
    defer = _refused("defer")
    forward = _refused("forward")
    spawn = _refused("spawn")
    stop = _refused("stop")
    enter = _refused("enter")

    @property
    def timers(self) -> NoReturn:
        _refuse("timers")
