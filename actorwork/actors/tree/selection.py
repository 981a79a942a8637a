"""Selecting a part of a tree: all nodes share a program, and each kind of node runs a part of it.

    only        the parts with these names, all that is below them, and the supervisors above them
    excluding   everything but the parts with these names and what is below them
    reading     everything but the actors that read other sources than these
    solo        everything, without processes: their children are parts of this one

The name of an actor is its title or the name of its class; of a task, the name of its function; of a pool, its own name
or those of its actor; of anything else, its name. A supervisor or a process without any children left is left out. A
name selects every part that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import cast

import attrs

from actorwork.actors.tree.pool import Pool
from actorwork.actors.tree.spec import Child, DynamicSupervisor, Process, Spec, Supervisor, innermost
from actorwork.actors.tree.walking import actors_of
from actorwork.errors import SettingsError
from actorwork.policy.pauses import OWN


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


def reading(root: Supervisor, sources: Iterable[str]) -> Supervisor:
    """Return a tree without the actors that read none of these sources; `actor:TITLE` is an actor's own.

    An actor that reads one of them reads all of its sources. What reads nothing stays: local actors and tasks. Raises
    `SettingsError` for a source that no actor of the tree reads.
    """
    wanted = _names("sources", sources)
    if not wanted:
        raise SettingsError(f"sources wants the name of one source at least; {_those_read(root)}")
    refuse_unread(root, wanted)
    there = _read_in(root)
    idle = {title for title, names in there.items() if names.isdisjoint(wanted)}
    left = _pruned(root, lambda spec: isinstance(spec, Child) and spec.reads and spec.title in idle)
    return cast("Supervisor", left)


def unread(root: Spec, names: Iterable[str]) -> Sequence[str]:
    """Return those of some sources that no actor of a tree reads; `actor:TITLE` is an actor's own."""
    known = {name for names in _read_in(root).values() for name in names}
    return [name for name in names if name not in known]


def refuse_unread(root: Spec, names: Iterable[str]) -> None:
    """Raise `SettingsError` for a source that no actor of a tree reads."""
    for name in unread(root, names):
        known = sorted({name for names in _read_in(root).values() for name in names})
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else _those_read(root)
        raise SettingsError(f"no actor of this tree reads {name!r}; {hint}")


def _those_read(root: Spec) -> str:
    """Name the sources that the actors of a tree read, an actor's own by its title."""
    own = {child.settings.default_source for child in actors_of(root, everywhere=True)}
    names = sorted({name for names in _read_in(root).values() for name in names} - own)
    return f"the actors of this tree read {', '.join(map(repr, names)) or 'none'}"


def _read_in(root: Spec) -> dict[str, set[str]]:
    """Return the names of the sources that each actor of a tree reads, by its title."""
    there: dict[str, set[str]] = {}
    for child in actors_of(root, everywhere=True):
        own = f"{OWN}{child.title}"
        names = (own if name == child.settings.default_source else name for name in child.settings.all_sources)
        there.setdefault(child.title, set()).update(names, [child.settings.default_source])
    return there


def _pruned(spec: Spec, is_out: Callable[[Spec], bool]) -> Spec | None:
    if is_out(spec):
        return None
    if not _below(spec):
        return spec
    return _with(spec, [_pruned(child, is_out) for child in _below(spec)])


def solo(root: Supervisor) -> Supervisor:
    """Return a tree in which the children of each process are those of a supervisor instead, in this process.

    Of an actor that is in several processes, as replicas of it, the first one is left.
    """
    return cast("Supervisor", _alone(root, set()))


def _alone(spec: Spec, titles: set[str]) -> Spec | None:
    match spec:
        case Child() if spec.actor is not None and spec.reads:
            if spec.title in titles:
                return None
            titles.add(spec.title)
            return spec
        case Process():
            children = [child for child in (_alone(child, titles) for child in spec.children) if child is not None]
            if not children:
                return None
            return Supervisor(
                children,
                name=spec.name,
                id=spec.id,
                restart=spec.restart,
                shutdown=spec.shutdown_timeout,
                significant=spec.significant,
                backoff=spec.backoff,
            )
        case _ if _below(spec):
            return _with(spec, [_alone(child, titles) for child in _below(spec)])
        case _:
            return spec


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
