"""Pages of the public names, from their docstrings.

What is public is what a module lists: in `__all__`, or else what it re-exports or defines. The names of `actorwork` are
grouped by the modules that they are from; a name that no group has is on a page of its own group, so that a new name
needs no entry here.

Another name of the same object (`actorwork.aio.Receipt`) is an entry that leads to the first one.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from itertools import pairwise
from types import ModuleType
from typing import Any

import attrs

from docs.site.docstrings import as_rst

PAGES: Mapping[str, tuple[str, ...]] = {
    "Actors": ("actors.actor", "actors.handlers", "actors.functions", "actors.decorators", "actors.context"),
    "Refs": ("actors.refs",),
    "Trees": ("actors.tree", "actors.supervision", "policy.restart", "policy.exits", "policy.scaling"),
    "Systems": ("runtime", "hosting", "telemetry"),
    "Clients": ("clients", "policy.sending"),
    "Messages": ("message",),
    "Settings and triggers": ("settings", "durations", "policy.schedule"),
    "Retries and limits": ("policy.retry", "policy.limits"),
    "Shared state": ("state",),
    "Middleware and interfaces": ("abc",),
    "Errors and verdicts": ("errors",),
}
"""The pages of the names of `actorwork`: by title, the modules below `actorwork` that their names are from."""

MODULES: Mapping[str, str] = {
    "actorwork.workflows": "Workflows",
    "actorwork.events": "Events",
    "actorwork.aio": "Clients on asyncio",
    "actorwork.sync": "Clients without a loop",
    "actorwork.testing": "Tools for tests",
    "actorwork.telemetry.otel": "OpenTelemetry",
    "actorwork.web": "The dashboard in an application",
}
"""Modules with a page of their own, and its title."""

REST = "More names"


@attrs.frozen
class Name:
    """A public name: where it is public, what it names, and where that is made."""

    module: str
    name: str
    thing: Any
    made_in: str

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"


@cache
def names_of(module: str) -> tuple[Name, ...]:
    """Return the public names of a module, in the order of the alphabet."""
    loaded = importlib.import_module(module)
    listed: Sequence[str] | None = getattr(loaded, "__all__", None)
    if listed is None:
        listed = [name for name in dir(loaded) if not name.startswith("_") and _is_ours(loaded, name)]
    return tuple(
        Name(module, name, getattr(loaded, name), _made_in(module, name)) for name in sorted(listed, key=str.lower)
    )


@cache
def pages() -> Mapping[str, tuple[Name, ...]]:
    """Return all pages: by title, the names on each."""
    found: dict[str, tuple[Name, ...]] = {}
    left = list(names_of("actorwork"))
    for title, modules in PAGES.items():
        roots = tuple(f"actorwork.{module}" for module in modules)
        here = [name for name in left if any(f"{name.made_in}.".startswith(f"{root}.") for root in roots)]
        left = [name for name in left if name not in here]
        found[title] = tuple(here)
    found[REST] = tuple(left)
    found |= {title: names_of(module) for module, title in MODULES.items()}
    return {title: names for title, names in found.items() if names}


@cache
def targets() -> Mapping[str, str]:
    """Return where the entry of a thing is: by where it was made, and by each of its public names."""
    found: dict[str, str] = {}
    for names in pages().values():
        for name in names:
            first = found.setdefault(_origin(name), name.full)
            found[name.full] = first
    return found


def target_of(name: str, near: str = "actorwork") -> str | None:
    """Return the entry that a name in a docstring means; `near` is the full name of what has the docstring.

    A word in small letters is a parameter or a field more often than a function of that name, so it means none.
    """
    if not name.replace(".", "").isidentifier() or not (name[:1].isupper() or "_" in name or "." in name):
        return None
    modules = [module for module in ("actorwork", *MODULES) if f"{near}.".startswith(f"{module}.")]
    for module in dict.fromkeys([*reversed(modules), "actorwork", *MODULES]):
        whole, _, member = f"{module}.{name}".rpartition(".")
        if f"{whole}.{member}" in targets():
            return targets()[f"{whole}.{member}"]
        if whole in targets() and member in members_of(targets()[whole]):
            return f"{targets()[whole]}.{member}"
    return targets().get(name)


def type_target(name: str, module: str = "actorwork") -> str | None:
    """Return the entry of a type in a signature, by its full name or, where it stands alone, in view of a module."""
    if "." in name:
        return targets().get(name) or (name if _is_member(name) else None)
    return targets().get(f"{module}.{name}") or targets().get(f"actorwork.{name}")


@cache
def members_of(full: str) -> tuple[str, ...]:
    """Return the members of a public class that its entry shows: its own, in their order, and those that it inherits.

    These are what it can do, and values with a docstring; its fields are in its signature.
    """
    module, _, name = full.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    if not isinstance(thing, type):
        return ()
    found: dict[str, None] = {}
    for base in thing.__mro__:
        if base.__module__.startswith("actorwork"):
            found |= {name: None for name, member in vars(base).items() if _is_shown(name, member)}
    return tuple(found)


def _is_shown(name: str, member: Any) -> bool:
    function: Any = getattr(member, "__func__", member)  # What a static or class method wraps.
    is_value = isinstance(member, property) or type(member) is cached_property
    return not name.startswith("_") and (inspect.isfunction(function) or (is_value and bool(inspect.getdoc(function))))


def _is_member(name: str) -> bool:
    owner, _, member = name.rpartition(".")
    return owner in targets() and member in members_of(owner)


def page(title: str) -> str:
    """Return a page as reStructuredText, with the entry of each of its names."""
    names = pages()[title]
    modules = sorted({name.module for name in names})
    lines = [title, "=" * len(title), "", f"From ``{modules[0]}``.", ""]
    if title in MODULES.values():
        story, *_ = (inspect.getdoc(importlib.import_module(modules[0])) or "").split("\n\n")
        example = _example(inspect.getdoc(importlib.import_module(modules[0])) or "")
        lines += as_rst(story) + example
    for name in names:
        lines += entry(name)
    return "\n".join(lines)


def entry(name: Name) -> list[str]:
    """Return the entry of a name."""
    first = targets()[name.full]
    heading = [name.name, "-" * len(name.name), ""]
    if first != name.full:
        return [*heading, f"The same as :py:obj:`{first}`.", ""]
    if isinstance(name.thing, type):
        bases = [":show-inheritance:"] * issubclass(name.thing, BaseException)
        members = ", ".join(members_of(name.full))
        options = [*bases, *([f":members: {members}", ":undoc-members:"] if members else [])]
        return [*heading, f".. autoclass:: {name.full}", *(f"   {option}" for option in options), ""]
    if inspect.isroutine(name.thing):
        return [*heading, f".. autofunction:: {name.full}", ""]
    about = as_rst(_below_assignment(name.made_in, name.name), lambda used: target_of(used, name.full))
    return [*heading, f".. py:data:: {name.full}", "", *(f"   {line}".rstrip() for line in about), ""]


def linked_from(full: str) -> Callable[[str], str | None]:
    """Return what finds the entries that names in a docstring mean."""
    return lambda name: target_of(name, full)


def _is_ours(module: ModuleType, name: str) -> bool:
    thing = getattr(module, name)
    made_in = getattr(thing, "__module__", None) or ""
    if inspect.ismodule(thing) or not made_in.startswith("actorwork"):
        return False
    reexports = module.__file__ is not None and module.__file__.endswith("__init__.py")
    return name in _exports(module.__name__) if reexports else made_in == module.__name__


@cache
def _exports(module: str) -> Mapping[str, tuple[str, str]]:
    """Return what a module re-exports (`X as X`): by name, its module and the name there."""
    body = ast.walk(ast.parse(inspect.getsource(importlib.import_module(module))))
    return {
        alias.asname: (node.module or "", alias.name)
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None
    }


def _made_in(module: str, name: str) -> str:
    """Return the module that makes what a name of another one is."""
    home, there = _exports(module).get(name, ("", ""))
    return _made_in(home, there) if home.startswith("actorwork") else module


def _origin(name: Name) -> str:
    if isinstance(name.thing, type) or inspect.isroutine(name.thing):
        return f"{name.thing.__module__}.{name.thing.__qualname__}"
    return f"{name.made_in}.{name.name}"


def _below_assignment(module: str, name: str) -> str:
    """Return the text below the assignment of a name, where a constant has its docstring."""
    for statement, below in pairwise(ast.parse(inspect.getsource(importlib.import_module(module))).body):
        match statement, below:
            case (
                ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ) if found == name:
                return inspect.cleandoc(text)
            case _:
                pass
    return ""


def _example(story: str) -> list[str]:
    """Return the first indented block of the story of a module, where that is an example."""
    blocks = story.split("\n\n")
    for at, block in enumerate(blocks):
        if block.startswith("    ") and "import" in block:
            end = next((n for n in range(at, len(blocks)) if not blocks[n].startswith("    ")), len(blocks))
            return as_rst("\n\n".join(["", *blocks[at:end]]).replace("\n\n    ", "\n\n    ", 1)) if end else []
    return []
