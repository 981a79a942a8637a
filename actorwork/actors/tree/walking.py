"""Walking through a tree: its root, and the actors and processes in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from actorwork.actors.tree.spec import Child, DynamicSupervisor, Process, Spec, Supervisor, same_id
from actorwork.errors import SettingsError
from actorwork.policy.restart import Intensity


def actors_of(spec: Spec, *, everywhere: bool = False) -> Iterator[Child]:
    """Yield the actors in a tree that the broker feeds, in start order: those of this process, or `everywhere`."""
    match spec:
        case Child():
            if spec.actor is not None and spec.reads:
                yield spec
        case Supervisor():
            for child in spec.children:
                yield from actors_of(child, everywhere=everywhere)
        case Process():
            for child in spec.children if everywhere else ():
                yield from actors_of(child, everywhere=True)
        case DynamicSupervisor():
            pass


def processes_of(spec: Spec) -> Iterator[Process]:
    """Yield the processes in a tree that this one starts, in start order."""
    match spec:
        case Process():
            yield spec
        case Supervisor():
            for child in spec.children:
                yield from processes_of(child)
        case Child() | DynamicSupervisor():
            pass


def root_of(tree: object, intensity: Intensity | None = None) -> Supervisor:
    """Return the root supervisor of a tree; raises `SettingsError`, also where two of its actors have the same
    title: other than one class in several processes, which are as replicas of it.
    """
    if isinstance(tree, Supervisor) and intensity is None:
        root = tree
    else:
        specs: list[Any] = list(tree) if isinstance(tree, (list, tuple)) else [tree]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if not specs:
            raise SettingsError("a tree wants at least one actor, got an empty list")
        root = Supervisor(specs, intensity=intensity or Intensity(), name="root")
    _refuse_same_titles(root, {})
    return root


def _refuse_same_titles(spec: Supervisor | Process, elsewhere: dict[str, Child]) -> None:
    """Raise `SettingsError` for two actors of one title in the same process, or of different classes."""
    here: dict[str, Child] = {}
    parts = spec.children if isinstance(spec, Process) else (spec,)
    for child in (child for part in parts for child in actors_of(part)):
        other = here.setdefault(child.title, child)
        if other is child:
            other = elsewhere.setdefault(child.title, child)
            if other.actor is child.actor:
                continue
        raise SettingsError(same_id(attrs.evolve(other, id=None), attrs.evolve(child, id=None)))
    for process in (process for part in parts for process in processes_of(part)):
        _refuse_same_titles(process, elsewhere)
