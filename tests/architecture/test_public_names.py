"""Every public name is exported exactly once, and says what it is.

The public names are those that `actorwork/__init__.py` binds. A class or function says what it is in its docstring; a
type alias or a constant in a string below its assignment, where editors look for it too.
"""

import ast
import importlib
import inspect
from collections import Counter
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path

import actorwork
from actorwork import testing

PACKAGE = Path(__file__).parents[2] / "actorwork"


def exports(package: Path = PACKAGE) -> list[tuple[str, str, str]]:
    """Return (module, name there, name here) of each re-export."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    return [
        (node.module or "", alias.name, alias.asname or alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actorwork")
        for alias in node.names
        if not (alias.asname or alias.name).startswith("_")
    ]


def documented_assignments(module: str) -> set[str]:
    """Return the names in `module` that are assigned directly above a string."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    names: set[str] = set()
    for statement, below in pairwise(body):
        match statement, below:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str())):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                names.add(name)
            case _:
                pass
    return names


def module_that_assigns(name: str, module: str) -> str:
    """Follow re-exports of `name` from `module` to where it is made."""
    for node in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return module_that_assigns(alias.name, node.module)
    return module


def own_docstring(thing: object) -> str:
    text = vars(thing).get("__doc__") if isinstance(thing, type) else inspect.getdoc(thing)
    if isinstance(thing, type) and is_dataclass(thing) and text and text.startswith(f"{thing.__name__}("):
        return ""  # What dataclass makes up.
    return text or ""


def test_the_package_tells_its_story() -> None:
    assert (actorwork.__doc__ or "").strip()


def test_every_public_name_is_exported_exactly_once() -> None:
    counted = Counter(name for _, _, name in exports())
    assert [name for name, times in counted.items() if times > 1] == []
    declared: list[str] | None = getattr(actorwork, "__all__", None)
    if declared is not None:
        assert [name for name, times in Counter(declared).items() if times > 1] == []
        assert {name for name in declared if not name.startswith("__")} == set(counted)


def test_every_public_name_is_there() -> None:
    assert [name for _, _, name in exports() if not hasattr(actorwork, name)] == []


def test_every_public_name_says_what_it_is() -> None:
    for module, original, name in exports():
        thing: object = getattr(actorwork, name)
        if isinstance(thing, type) or inspect.isroutine(thing) or inspect.ismodule(thing):
            assert own_docstring(thing).strip(), f"{name} has no docstring"
        else:
            assert original in documented_assignments(module_that_assigns(original, module)), (
                f"{name} is neither a class nor a function: it wants a string below its assignment that says what it is"
            )


def test_what_type_checkers_find_in_the_tools_for_tests_is_there() -> None:
    for module, original, name in exports(PACKAGE / "testing"):
        assert getattr(testing, name) is getattr(importlib.import_module(module), original), name
        assert name in dir(testing)
