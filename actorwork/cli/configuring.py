"""`actorwork config`: what is set and where it comes from, what may be set, what is wrong with a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import click

from actorwork.cli.imports import load_tree
from actorwork.cli.output import as_json, many, print_json, print_table, printable
from actorwork.cli.running import config_option

if TYPE_CHECKING:
    from actorwork.actors.tree.spec import Child, Process, Supervisor
    from actorwork.runtime.configuration.loading import Configuration
    from actorwork.settings import Settings

Look: TypeAlias = "Callable[[Sequence[str]], tuple[Any, Any] | None]"
"""Finds the value of a setting in the code of a tree, and its default; None if there is no such thing."""
DEFAULT = "default"
CODE = "code"


@attrs.frozen
class Row:
    """One setting as it is shown."""

    name: str
    value: str
    origin: str


@click.group(short_help="Show what is set, and check it.")
def config() -> None:
    """Show what files and variables set, what may be set, and what is wrong with a file.

    A file sets options of `run`, and how actors, processes and limits of the tree run:

    \b
      lease = "30s"
      [actors.email]
      concurrency = 8
    """  # noqa: D301 - click wants the character itself, to leave the lines below it as they are


@config.command(short_help="Show what is set, and where it comes from.")
@click.argument("tree", metavar="[MODULE:TREE]", required=False)
@config_option
@click.option("--all", "everything", is_flag=True, help="Show also what is not set anywhere.", allow_from_autoenv=False)
@as_json
def show(tree: str | None, *, files: Sequence[Path], everything: bool, json_output: bool) -> None:
    """Show what is set, and where each value comes from: a file, a variable, the code of a tree, or a default.

    Secrets are masked. With a tree, what files and variables set is checked against it.
    """
    from actorwork.actors.tree.walking import root_of
    from actorwork.runtime.configuration.loading import load

    configuration = load(files)
    rows = list(_of_program(configuration))
    if tree is None:
        rows += _of_tables(configuration)
    else:
        rows += _of_tree(configuration, configuration.applied_to(root_of(load_tree(tree))))
    rows = [row for row in rows if everything or row.origin != DEFAULT]
    if json_output:
        print_json([attrs.asdict(row) for row in rows])
    elif rows:
        print_table(("SETTING", "VALUE", "FROM"), [(row.name, row.value, row.origin) for row in rows])
    else:
        click.echo("nothing is set: --all shows the defaults", err=True)


@config.command("schema", short_help="Print what may be set, as JSON Schema.")
def print_schema() -> None:
    """Print what may be set, as JSON Schema: editors complete and check a file with it.

    \b
      actorwork config schema > actorwork.schema.json

    In the first line of a file of TOML, `#:schema actorwork.schema.json` names it.
    """  # noqa: D301 - as above
    from actorwork.runtime.configuration.schema import schema

    print_json(schema())


@config.command(short_help="Check files, and print all that is wrong.")
@click.argument("files", metavar="FILE...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--tree", metavar="MODULE:TREE", help="Check also against this tree: titles, names, declared limits.")
def check(*, files: Sequence[Path], tree: str | None) -> None:
    """Check each file by itself, and print all that is wrong. The exit code is 1 if that is anything."""
    from actorwork.actors.tree.walking import root_of
    from actorwork.errors import ConfigurationError
    from actorwork.runtime.configuration.loading import check as check_file

    root = None if tree is None else root_of(load_tree(tree))
    problems: list[str] = []
    for file in files:
        try:
            found = check_file(file)
            if root is not None:
                found.applied_to(root)
        except ConfigurationError as error:
            problems += error.problems
    for problem in problems:
        click.echo(printable(problem), err=True)
    if problems:
        raise click.ClickException(many(len(problems), "problem"))
    click.echo(f"{many(len(files), 'file')}: nothing is wrong")


def _of_program(configuration: Configuration) -> Iterator[Row]:
    from actorwork.runtime.configuration.fields import ProgramFields
    from actorwork.runtime.configuration.sources import kind_of, options_of

    given = {setting.name: setting for setting in configuration.settings}
    for path, option in options_of(ProgramFields).items():
        kind = kind_of(option)
        setting = given.get(path)
        if setting is None:
            yield Row(path, "" if kind.default is None else kind.shown(kind.default), DEFAULT)
        else:
            yield Row(path, kind.shown(setting.value), setting.origin)


def _of_tables(configuration: Configuration) -> Iterator[Row]:
    for setting in configuration.settings:
        if len(setting.path) > 2:
            yield Row(setting.name, setting.kind.shown(setting.value), setting.origin)


def _of_tree(configuration: Configuration, root: Supervisor) -> Iterator[Row]:
    from actorwork.runtime.configuration.changing import actors_in, processes_in
    from actorwork.runtime.configuration.fields import ActorFields, LimitFields, ProcessFields

    actors = {child.title: child for child in actors_in(root)}
    for title, child in actors.items():
        yield from _of_part(configuration, ("actors", title), ActorFields, _of_actor(child))
    for title, process in {process.title: process for process in processes_in(root)}.items():
        yield from _of_part(configuration, ("processes", title), ProcessFields, _of_process(process))
    named: dict[str, list[Any]] = {}
    for limit in (limit for child in actors.values() for limit in child.settings.limits if limit.name):
        named.setdefault(limit.name or "", []).append(limit)
    for name, limits in named.items():
        yield from _of_part(configuration, ("limits", name), LimitFields, _of_limits(limits))


def _of_part(configuration: Configuration, part: tuple[str, str], fields: type, look: Look) -> Iterator[Row]:
    """Yield the settings of one actor, process or limit: those that are set, and what else it has."""
    from actorwork.runtime.configuration.sources import is_same, kind_of, options_of, written

    table, title = part
    given = {
        setting.path[2:]: setting
        for setting in configuration.settings
        if setting.path[0] == table and is_same(setting.path[1], title)
    }
    for path, option in options_of(fields).items():
        kind, parts = kind_of(option), tuple(path.split("."))
        name, setting = written((*part, *parts)), given.get(parts)
        if setting is not None:
            yield Row(name, kind.shown(setting.value), setting.origin)
        elif (found := look(parts)) is not None:
            value, default = found
            yield Row(name, kind.shown(value), DEFAULT if value == default else CODE)


def _of_actor(child: Child) -> Look:
    from actorwork.runtime.configuration.changing import OWN_LIMITS, is_entity
    from actorwork.settings import Settings

    default = Settings(title=child.title)

    def look(parts: Sequence[str]) -> tuple[Any, Any] | None:
        if parts[0] in OWN_LIMITS or (parts[0] == "entities" and not is_entity(child)):
            return None
        return _within(child.settings, parts), _within(default, parts)

    return look


def _of_process(process: Process) -> Look:
    from actorwork.policy.scaling import Scale

    def look(parts: Sequence[str]) -> tuple[Any, Any] | None:
        is_scaled = isinstance(process.replicas, Scale)
        if is_scaled != (parts[0] == "scale") and parts[0] in ("scale", "replicas"):
            return None
        of: Any = process.replicas if parts[0] == "scale" else process
        return getattr(of, parts[-1]), _fields_of(of)[parts[-1]].default

    return look


def _fields_of(value: Any) -> Mapping[str, attrs.Attribute[Any]]:
    return {field.name: field for field in attrs.fields(type(value))}  # pyright: ignore[reportUnknownArgumentType]


def _of_limits(limits: Sequence[Any]) -> Look:
    """Look at the limits of one name, which may be of several kinds."""

    def look(parts: Sequence[str]) -> tuple[Any, Any] | None:
        (field,) = parts
        for limit in limits:
            known = _fields_of(limit)
            if field in known:
                return getattr(limit, field), known[field].default
        return None

    return look


def _within(settings: Settings, parts: Sequence[str]) -> Any:
    from actorwork.settings import Entities

    value: Any = settings
    for part in parts:
        value = getattr(value, part)
        if value is None and part == "entities":
            value = Entities()  # The defaults of an entity whose class sets none.
    return value
