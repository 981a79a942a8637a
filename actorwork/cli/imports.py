"""Resolve `MODULE:NAME` on a command line; modules are looked up in the current directory first."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import click

from actorwork.cli.failing import user_code

if TYPE_CHECKING:
    from actorwork.actors.actor import Actor

SPEC: Final = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def load(spec: str) -> tuple[ModuleType, object]:
    """Import `MODULE:NAME`; raises a usage error that lists what the module offers."""
    match = SPEC.fullmatch(spec)
    if match is None:
        raise click.UsageError(f"{spec!r} is not of the form MODULE:NAME, such as shop.workers:tree")
    module = import_module(match[1])
    found: object = module
    for name in match[2].split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise click.UsageError(f"the module {match[1]!r} has no {match[2]!r}; it has {offers(module)}") from None
    return module, found


def import_module(name: str) -> ModuleType:
    """Import a module from the current directory or the Python path. An error inside it ends the command."""
    here = _look_here()
    with user_code(f"importing the module {name!r}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise  # A module that this one imports is missing: its traceback explains more.
            missing = error.name
        raise click.UsageError(f"no module named {missing!r}, looked for in {here} and on the Python path")


def _look_here() -> str:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def has_module(spec: str) -> bool:
    """Return whether the module of `MODULE:NAME` exists; only the packages around it are imported."""
    name = spec.partition(":")[0]
    _look_here()
    with user_code(f"importing the package of the module {name!r}"):
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(f"{error.name}."):
                raise
            return False


def load_tree(spec: str) -> Any:
    """Return the tree that `MODULE:TREE` names: an actor class, a tree, a list of these, or what a function returns."""
    module, found = load(spec)
    if callable(found) and not isinstance(found, type) and is_function(found):
        try:
            inspect.signature(found).bind()
        except TypeError:
            raise click.UsageError(f"{spec} wants parameters, but a tree is made by a function without any") from None
        with user_code(f"calling {spec}"):
            found = found()
    if isinstance(found, ModuleType) or not is_tree(found):
        raise click.UsageError(
            f"{spec} is {described(found)}, not a tree: a tree is an actor class, a Child, a Supervisor, a list of"
            f" these, or a function without parameters that returns one. The module has {offers(module)}"
        )
    return found


def load_actor(spec: str) -> type[Actor]:
    """Return the actor class that `MODULE:CLASS` names."""
    try:
        module, found = load(spec)
        if not is_actor(found):
            raise click.UsageError(f"{spec} is {described(found)}, not an actor class; the module has {offers(module)}")
    except click.UsageError as error:
        raise click.UsageError(f"{error.message}. If {spec!r} is the name of a source, add --source") from None
    return found  # type: ignore[return-value] # pyright: ignore[reportReturnType]


def is_function(value: Callable[..., object]) -> bool:
    """Return whether calling it may give a tree; a `Child` or a `Supervisor` is a tree itself."""
    return not type(value).__module__.startswith("actorwork.")


def is_actor(value: object) -> bool:
    from actorwork.actors.actor import Actor

    return isinstance(value, type) and issubclass(value, Actor) and value is not Actor


def is_tree(value: object) -> bool:
    """Return whether something may be a tree; the runtime checks it more closely."""
    if isinstance(value, (list, tuple)):
        parts: list[object] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return bool(parts) and all(is_tree(part) for part in parts)
    return is_actor(value) or (not isinstance(value, type) and type(value).__module__.startswith("actorwork."))


def described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    kind = type(value).__name__  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return f"an empty {kind}" if value in ([], ()) else f"of the type {kind}"


def offers(module: ModuleType) -> str:
    """List the names in a module that the user may have meant."""
    fitting = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and not (isinstance(value, type) and value.__module__.startswith("actorwork."))  # An imported base class.
        and (is_tree(value) or (inspect.isfunction(value) and value.__module__ == module.__name__))
    ]
    return ", ".join(repr(name) for name in fitting) or "none that fits"
