"""The sources merged into one configuration: a flag before a variable, a variable before a file, a later file before an
earlier one. All that is wrong is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs
from typed_settings.dict_utils import merge_settings
from typed_settings.types import LoadedSettings

from actorwork.policy.restart import Intensity
from actorwork.runtime.configuration.changing import TreeChanges
from actorwork.runtime.configuration.fields import TABLES, ProgramFields
from actorwork.runtime.configuration.kinds import Kind, Unfit
from actorwork.runtime.configuration.problems import Problems, as_written
from actorwork.runtime.configuration.sources import (
    Layer,
    Origin,
    Text,
    VariableName,
    is_same,
    kind_of,
    of_environment,
    of_file,
    options_of,
    written,
)
from actorwork.telemetry.resources import ResourceBounds

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Supervisor

Files: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"


@attrs.frozen
class Setting:
    """One setting that is given: its path, its value, and where it comes from."""

    path: tuple[str, ...]
    value: object = attrs.field(repr=False)
    origin: str
    kind: Kind = attrs.field(repr=False)

    @property
    def name(self) -> str:
        """The path as TOML writes it."""
        return written(self.path)


@attrs.frozen
class Configuration:
    """What an operator has set: `options` of `run`, by their names, and changes of the tree.

    `load_configuration` makes it; `run`, `open_system` and `serve` take it as `config=`.
    """

    settings: Sequence[Setting]
    """All that is set, in the order of the documentation."""
    options: Mapping[str, Any] = attrs.field(repr=False)
    """The options of `run` that are set."""
    changes: TreeChanges = attrs.field(repr=False)
    read_again: Callable[[], Configuration] | None = attrs.field(default=None, repr=False)
    """Reads the same files and variables again; None if there are no files."""

    def applied_to(self, root: Supervisor) -> Supervisor:
        """Return a tree with the changed settings of actors, limits and processes.

        Raises `ConfigurationError`, also for the name of something that is not in the tree.
        """
        return self.changes.applied_to(root)


def load(
    files: Files = (), *, environment: Mapping[str, str] | None = None, flags: Iterable[Layer] = ()
) -> Configuration:
    """Read the configuration from files, later ones first, and from the environment, which precedes them.

    The format of a file is that of its name: .toml, .json, or .yaml (with the extra `yaml`). `environment` are the
    variables, by default those of this process. Raises `ConfigurationError`, with all that is wrong, and
    `MissingExtra`.
    """
    problems = Problems()
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    layers = [of_file(Path(path), problems) for path in paths]
    layers += of_environment(os.environ if environment is None else environment, problems)
    flags = tuple(flags)
    found = merged([*layers, *flags], problems)
    problems.check()
    again = partial(load, paths, environment=environment, flags=flags) if paths else None
    return attrs.evolve(found, read_again=again)


def check(file: Path) -> Configuration:
    """Read a file alone; raises `ConfigurationError` with all that is wrong with it."""
    problems = Problems()
    found = merged([of_file(file, problems)], problems)
    problems.check()
    return found


def merged(layers: Sequence[Layer], problems: Problems) -> Configuration:
    """Merge layers, the strongest last; what is wrong with their values goes to `problems`."""
    settings = _merged(ProgramFields, [(layer, layer.program) for layer in layers], (), problems)
    options = _options(settings)
    tables: dict[str, dict[str, Mapping[str, Any]]] = {}
    places: dict[tuple[str, str], str] = {}
    for table, fields in TABLES.items():
        tables[table] = {}
        for name, values in _by_name([(layer, layer.tables[table]) for layer in layers]).items():
            mine = _merged(fields, values, (table, name), problems)
            settings += mine
            tables[table][name] = {".".join(setting.path[2:]): setting.value for setting in mine}
            places[table, name] = values[0][0].place((table, name))
    return Configuration(settings, options, TreeChanges(places=places, **tables))


def _by_name(
    layers: Iterable[tuple[Layer, Mapping[str, dict[str, Any]]]],
) -> Mapping[str, list[tuple[Layer, dict[str, Any]]]]:
    """Sort the tables of one kind by their names; a variable finds the name that a file has."""
    found: dict[str, list[tuple[Layer, dict[str, Any]]]] = {}
    for layer, tables in layers:
        for name, values in tables.items():
            known = [one for one in found if isinstance(name, VariableName) and is_same(name, one)]
            found.setdefault(known[0] if len(known) == 1 else name, []).append((layer, values))
    return found


def _merged(
    fields: type, layers: Iterable[tuple[Layer, dict[str, Any]]], above: tuple[str, ...], problems: Problems
) -> list[Setting]:
    options = options_of(fields)
    loaded = [LoadedSettings(values, Origin(layer)) for layer, values in layers]
    settings: list[Setting] = []
    for path, (value, meta) in merge_settings(tuple(options.values()), loaded).items():
        kind, layer, whole = kind_of(options[path]), cast("Origin", meta).layer, (*above, *path.split("."))
        try:
            read = kind.parsed(value) if isinstance(value, Text) else kind(value)
        except Unfit as error:
            shown = "what is not shown here" if kind.is_secret else as_written(value)
            problems.add(layer.place(whole), f"{written(whole)} wants {error}, got {shown}{layer.trap(whole)}")
        else:
            settings.append(Setting(whole, read, layer.origin, kind))
    return settings


def _options(settings: Iterable[Setting]) -> dict[str, Any]:
    """Return settings of the program as the options of `run`: those of a table together are one value."""
    options: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for setting in settings:
        if len(setting.path) == 1:
            options[setting.path[0]] = setting.value
        else:
            tables.setdefault(setting.path[0], {})[setting.path[1]] = setting.value
    if "intensity" in tables:
        options["intensity"] = Intensity(**tables["intensity"])
    if "resource_bounds" in tables and options.get("resources", True):
        options["resources"] = ResourceBounds(**tables["resource_bounds"])
    return options
