"""What a supervisor is told about a child."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import attrs

from actorwork.actors.actor import Actor
from actorwork.errors import SettingsError
from actorwork.settings import Settings

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]


def _actor_class(factory: object) -> type[Actor]:
    inner = factory
    while isinstance(inner, partial):
        inner = inner.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(inner, type) and issubclass(inner, Actor):
        return inner
    raise SettingsError(f"Child wants an actor class, or a functools.partial of one, got {factory!r}")


@attrs.frozen(eq=False)
class Child:
    """An actor in a tree: how to make it, whether to restart it, how long it may take to stop.

    `factory` is run for every incarnation. `restart` is OTP's: a permanent child is always restarted, a transient one when
    it crashed, a temporary one never. `shutdown` bounds the actor's `shutdown` in seconds, `"brutal_kill"` leaves it out;
    `startup_timeout` bounds its `startup`.
    """

    factory: Callable[[], Actor]
    restart: Restart = attrs.field(default="permanent", kw_only=True)
    shutdown: float | Literal["brutal_kill"] = attrs.field(default=5.0, kw_only=True)
    startup_timeout: float = attrs.field(default=30.0, kw_only=True)

    @property
    def actor(self) -> type[Actor]:
        return _actor_class(self.factory)

    @property
    def settings(self) -> Settings:
        return self.actor.settings

    def __attrs_post_init__(self) -> None:
        actor = _actor_class(self.factory)
        if not isinstance(getattr(actor, "settings", None), Settings):
            raise SettingsError(
                f"{actor.__qualname__} has no settings; declare settings = Settings(title=…) in the class"
            )
        if self.restart not in ("permanent", "transient", "temporary"):
            raise SettingsError(f"Child.restart wants 'permanent', 'transient' or 'temporary', got {self.restart!r}")
        if self.shutdown != "brutal_kill" and not self._is_time(self.shutdown):
            raise SettingsError(f"Child.shutdown wants seconds >= 0, inf or 'brutal_kill', got {self.shutdown!r}")
        if not self._is_time(self.startup_timeout):
            raise SettingsError(f"Child.startup_timeout wants seconds >= 0 or inf, got {self.startup_timeout!r}")

    @staticmethod
    def _is_time(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= math.inf


def as_child(node: object) -> Child:
    """Return what stands in a tree as a `Child`; raises `SettingsError` for what cannot stand there."""
    if isinstance(node, Child):
        return node
    if isinstance(node, type) and issubclass(node, Actor):
        return Child(node)
    hint = "; write the class itself, or Child(partial(…)) for one with arguments" if isinstance(node, Actor) else ""
    raise SettingsError(f"a tree is made of actor classes and Child(…), got {node!r}{hint}")


def children_of(tree: object) -> list[Child]:
    """Return the children that a tree stands for; raises `SettingsError`, also where two titles are the same."""
    nodes: list[object] = list(tree) if isinstance(tree, (list, tuple)) else [tree]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if not nodes:
        raise SettingsError("a tree wants at least one actor, got an empty list")
    children = [as_child(node) for node in nodes]
    seen: dict[str, type] = {}
    for child in children:
        title = child.settings.title
        if title in seen:
            raise SettingsError(
                f"two actors are titled {title!r} ({seen[title].__qualname__} and {child.actor.__qualname__}); a title must be"
                " unique, since the actor's identity is made from it. For more at once, raise Settings.concurrency"
            )
        seen[title] = child.actor
    return children
