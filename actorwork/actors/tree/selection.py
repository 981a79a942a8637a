"""Selecting a part of a tree: all nodes share a program, and each kind of node runs a part of it.

    only        the parts with these names, all that is below them, and the supervisors above them
    excluding   everything but the parts with these names and what is below them

The name of an actor is its title or the name of its class; of a task, the name of its function; of a pool, its own name
or those of its actor; of anything else, its name. A supervisor or a process without any children left is left out. A
name selects every part that has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import attrs

from actorwork.actors.tree.pool import Pool
from actorwork.actors.tree.spec import Child, DynamicSupervisor, Spec, Supervisor, innermost
from actorwork.errors import SettingsError


def selected(root: Supervisor, *, only: Iterable[str] = (), excluding: Iterable[str] = ()) -> Supervisor:
    """Return the selected part of a tree; the root has no name.

    Raises `SettingsError` for a name that no part has, and if nothing is left.
    """
    wanted, unwanted = _names("only", only), _names("excluding", excluding)
    if not wanted and not unwanted:
        return root
    known = dict.fromkeys(name for spec in _all(root) for name in names_of(spec))
    unknown = [name for name in (*wanted, *unwanted) if name not in known]
    if unknown:
        there = ", ".join(repr(name) for name in known)
        raise SettingsError(f"nothing in this tree is called {', '.join(map(repr, unknown))}; it has {there}")
    left: Spec | None = root
    if wanted:
        left = _with(root, [_only(child, wanted) for child in root.children])
    if left is not None and unwanted:
        left = _with(left, [_without(child, unwanted) for child in _below(left)])
    if left is None:
        raise SettingsError(
            "nothing is left of this tree:"
            f" only {', '.join(map(repr, wanted)) or 'all'}, excluding {', '.join(map(repr, unwanted))}"
        )
    return cast("Supervisor", left)


def names_of(spec: Spec) -> list[str]:
    """Return the names of a part of a tree."""
    match spec:
        case Child():
            return [spec.title, getattr(innermost(spec.factory), "__name__", spec.title)]
        case Pool():
            return [spec.title, *names_of(spec.children[0])]
        case DynamicSupervisor(template=Child() as template):
            return [spec.title, *names_of(template)]
        case _:
            # Without a name of its own its title is that of its kind, which selects nothing in particular.
            return [spec.title] if spec.name or spec.id is not None else []


def _names(word: str, names: Iterable[str]) -> dict[str, None]:
    if isinstance(names, str):
        raise SettingsError(f"{word} wants a list of names, got {names!r}")
    return dict.fromkeys(names)


def _below(spec: Spec) -> tuple[Spec, ...]:
    """Return the children that may be left out one by one."""
    return () if isinstance(spec, (Child, Pool, DynamicSupervisor)) else spec.children


def _all(spec: Spec) -> Iterator[Spec]:
    for child in _below(spec):
        yield child
        yield from _all(child)


def _only(spec: Spec, names: dict[str, None]) -> Spec | None:
    if any(name in names for name in names_of(spec)):
        return spec
    return _with(spec, [_only(child, names) for child in _below(spec)])


def _without(spec: Spec, names: dict[str, None]) -> Spec | None:
    if any(name in names for name in names_of(spec)):
        return None
    if not _below(spec):
        return spec
    return _with(spec, [_without(child, names) for child in _below(spec)])


def _with(spec: Spec, children: list[Spec | None]) -> Spec | None:
    left = [child for child in children if child is not None]
    if not left:
        return None
    return attrs.evolve(spec, children=left)
