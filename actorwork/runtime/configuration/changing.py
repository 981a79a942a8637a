"""What a configuration changes in a tree: actors by their titles, processes and limits by their names.

Each change is plain values, which travel to the processes of the tree with the description of its actor; there they are
applied to the settings that the class declares.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

import attrs

from actorwork.actors.tree.pool import Pool
from actorwork.actors.tree.spec import Child, DynamicSupervisor, Process, Spec, Supervisor
from actorwork.errors import SettingsError
from actorwork.policy.limits import CircuitBreaker, ConcurrencyLimit, Limit, RateLimit
from actorwork.policy.scaling import Scale
from actorwork.runtime.configuration.problems import Problems, suggestion
from actorwork.runtime.configuration.sources import is_same, written
from actorwork.settings import Entities, Settings
from actorwork.shown import Value

OWN_LIMITS: Final[Mapping[str, type[RateLimit | ConcurrencyLimit | CircuitBreaker]]] = {
    "rate_limit": RateLimit,
    "concurrency_limit": ConcurrencyLimit,
    "circuit_breaker": CircuitBreaker,
}
"""The limits of an actor that have no name, by their tables."""
NESTED: Final = ("mailbox", "dead_letters", "event_settings")


@attrs.frozen(eq=False, repr=False)
class ActorChanges(Value):
    """What is changed in the settings of one actor: `values` by dotted paths, `limits` by the names of limits."""

    values: Mapping[str, Any]
    limits: Mapping[str, Mapping[str, Any]]

    def applied_to(self, settings: Settings) -> Settings:
        """Return the changed settings; raises `SettingsError` for what does not fit together."""
        tables: dict[str, dict[str, Any]] = {}
        changes: dict[str, Any] = {}
        for path, value in self.values.items():
            table, _, field = path.rpartition(".")
            if table:
                tables.setdefault(table, {})[field] = value
            else:
                changes[field] = value
        changes |= {name: attrs.evolve(getattr(settings, name), **tables[name]) for name in NESTED if name in tables}
        if "entities" in tables:
            changes["entities"] = attrs.evolve(settings.entities or Entities(), **tables["entities"])
        limits = [changed_limit(limit, self.limits) for limit in settings.limits]
        for table, kind in OWN_LIMITS.items():
            if table in tables:
                _change_own(limits, table, kind, tables[table])
        return attrs.evolve(settings, limits=limits, **changes)


def changed_limit(limit: Limit, changes: Mapping[str, Mapping[str, Any]]) -> Limit:
    """Return a limit with what is changed in those of its name, as far as it has such fields."""
    values = changes.get(limit.name or "", {})
    mine = {name: value for name, value in values.items() if name in attrs.fields_dict(type(limit))}
    return attrs.evolve(limit, **mine) if mine else limit


def _change_own(limits: list[Limit], table: str, kind: type[Any], values: Mapping[str, Any]) -> None:
    mine = [index for index, limit in enumerate(limits) if type(limit) is kind and limit.name is None]
    if len(mine) > 1:
        raise SettingsError(f"{table}: the actor has {len(mine)} of these without a name; name them, and use [limits]")
    if mine:
        limits[mine[0]] = attrs.evolve(limits[mine[0]], **values)
        return
    missing = [
        field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING and field.name not in values
    ]
    if missing:
        raise SettingsError(f"{table} wants {' and '.join(missing)} too: the actor has none of these to change")
    limits.append(kind(**values))


@attrs.frozen(eq=False, repr=False)
class TreeChanges(Value):
    """All that is changed in a tree: by the titles of actors, and the names of processes and limits."""

    actors: Mapping[str, Mapping[str, Any]]
    processes: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, Mapping[str, Any]]
    places: Mapping[tuple[str, str], str]
    """Where the table of a name begins, for errors."""

    def applied_to(self, root: Supervisor) -> Supervisor:
        """Return the changed tree; raises `ConfigurationError` with all that does not fit."""
        if not (self.actors or self.processes or self.limits):
            return root
        problems = Problems()
        children = list(actors_in(root))
        titles = {child.title for child in children}
        processes = {process.title for process in processes_in(root)}
        limits = [limit for child in children for limit in child.settings.limits]
        self._match("actors", self.actors, titles, problems)
        self._match("processes", self.processes, processes, problems)
        self._match("limits", self.limits, {limit.name for limit in limits if limit.name}, problems)
        self._check_limits(limits, problems)
        changed = _Changed(self, problems).tree(root)
        problems.check()
        return cast("Supervisor", changed)

    def _match(self, table: str, given: Iterable[str], there: set[str], problems: Problems) -> None:
        words = {"actors": "actor", "processes": "process", "limits": "limit"}
        for name in given:
            found = [one for one in there if is_same(name, one)]
            if not found:
                hint = suggestion(name, there)
                problems.add(self.place(table, name), f"no {words[table]} of this tree is called {name!r}{hint}")
            elif len(found) > 1:
                both = " and ".join(map(repr, sorted(found)))
                problems.add(self.place(table, name), f"{name} may be each of {both}: set it in a file")

    def _check_limits(self, limits: Iterable[Limit], problems: Problems) -> None:
        for name, values in self.limits.items():
            kinds = {type(limit) for limit in limits if limit.name and is_same(name, limit.name)}
            for field in values:
                if kinds and not any(field in attrs.fields_dict(kind) for kind in kinds):
                    what = " and ".join(sorted(kind.__name__ for kind in kinds))
                    problems.add(
                        self.place("limits", name), f"{written(('limits', name))} is a {what}: it has no {field}"
                    )

    def place(self, table: str, name: str) -> str:
        return self.places.get((table, name), "")


class _Changed:
    """Walks through a tree, and changes its parts; what does not fit goes to `problems`."""

    def __init__(self, changes: TreeChanges, problems: Problems) -> None:
        self._changes = changes
        self._problems = problems

    def tree(self, spec: Spec) -> Spec:
        match spec:
            case Child():
                return self._child(spec)
            case Pool():
                # Its members are made from its arguments: the description is copied, not made anew.
                pool = copy.copy(spec)
                object.__setattr__(pool, "children", tuple(self.tree(child) for child in spec.children))
                return pool
            case Supervisor():
                return attrs.evolve(spec, children=[self.tree(child) for child in spec.children])
            case Process():
                return self._process(spec)
            case DynamicSupervisor():
                return spec if spec.template is None else attrs.evolve(spec, template=self._child(spec.template))

    def _child(self, child: Child) -> Child:
        if child.actor is None:
            return child
        values: dict[str, Any] = {}
        place = ""
        for name, more in self._changes.actors.items():
            if is_same(name, child.title):
                values |= more
                place = place or self._changes.place("actors", name)
        names = {limit.name for limit in child.settings.limits if limit.name}
        limits = {
            actual: more for name, more in self._changes.limits.items() for actual in names if is_same(name, actual)
        }
        if not values and not limits:
            return child
        changes = ActorChanges(values, limits)
        try:
            if any(path.startswith("entities.") for path in values) and not is_entity(child):
                raise SettingsError("entities: it is no Entity, so it has no states; remove these settings")
            changes.applied_to(child.settings)
        except SettingsError as error:
            self._problems.add(place, f"{written(('actors', child.title))}: {error}")
            return child
        return attrs.evolve(child, changes=changes)

    def _process(self, process: Process) -> Process:
        process = attrs.evolve(process, children=[self.tree(child) for child in process.children])
        for name, values in self._changes.processes.items():
            if not is_same(name, process.title):
                continue
            changes = {path: value for path, value in values.items() if "." not in path}
            scale = {path.partition(".")[2]: value for path, value in values.items() if "." in path}
            try:
                if scale:
                    if "replicas" in changes:
                        raise SettingsError("replicas and scale are both set: one of them says how many there are")
                    declared = process.replicas if isinstance(process.replicas, Scale) else Scale()
                    changes["replicas"] = attrs.evolve(declared, **scale)
                process = attrs.evolve(process, **changes)
            except SettingsError as error:
                self._problems.add(
                    self._changes.place("processes", name), f"{written(('processes', process.title))}: {error}"
                )
        return process


def is_entity(child: Child) -> bool:
    """Whether a child is an `Entity`, which has states."""
    return getattr(child.actor, "__actorwork_entity__", False)


def actors_in(spec: Spec) -> Iterator[Child]:
    """Yield all actors of a tree, those included that no broker feeds, and the templates of those that come later."""
    match spec:
        case Child():
            if spec.actor is not None:
                yield spec
        case Supervisor() | Process():
            for child in spec.children:
                yield from actors_in(child)
        case DynamicSupervisor():
            if spec.template is not None:
                yield from actors_in(spec.template)


def processes_in(spec: Spec) -> Iterator[Process]:
    match spec:
        case Process():
            yield spec
            for child in spec.children:
                yield from processes_in(child)
        case Supervisor():
            for child in spec.children:
                yield from processes_in(child)
        case Child() | DynamicSupervisor():
            pass
