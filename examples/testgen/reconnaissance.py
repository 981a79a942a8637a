"""Reads a package without importing it: its public functions, and the examples in their docstrings."""

import ast
import doctest
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """One `>>>` of a docstring: source, and what it prints; `want` is empty for a statement."""

    source: str
    want: str


@dataclass(frozen=True)
class Function:
    """A public function at the top level of a module; `required` counts its parameters without a default."""

    module: str
    name: str
    parameters: list[str]
    required: int
    examples: list[Example]


def find_modules(package: str) -> Sequence[tuple[str, Path]]:
    """Return names and files of a package's modules, tests left out.

    Raises `LookupError` if there is no such package, or if it is not written in Python.
    """
    spec = PathFinder.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise LookupError(f"there is no package {package!r} on this machine")
    if spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        return [(_dotted(package, root, file), file) for file in sorted(root.rglob("*.py")) if not _is_test(root, file)]
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise LookupError(f"{package!r} is not written in Python")
    return [(package, Path(spec.origin))]


def _is_test(root: Path, file: Path) -> bool:
    parts = file.relative_to(root).parts
    return any(part in {"test", "tests", "__main__.py"} or part.startswith("test_") for part in parts)


def _dotted(package: str, root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join((package, *parts[: -1 if parts[-1] == "__init__" else None]))


def functions_of(module: str, source: bytes) -> Iterator[Function]:
    """Yield the public functions of a module. Raises `SyntaxError` or `ValueError` for what is not Python."""
    for node in _definitions(ast.parse(source)):
        if not node.name.startswith("_"):
            yield Function(module, node.name, *_parameters(node.args), list(_examples(ast.get_docstring(node) or "")))


def _definitions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions at the top level, and those that are defined there under a condition."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        match waiting.pop():
            case ast.FunctionDef() as function:
                yield function
            case ast.If(body=body, orelse=other):
                waiting += reversed([*body, *other])
            case ast.Try(body=body, handlers=handlers, orelse=other):
                waiting += reversed([*body, *(each for handler in handlers for each in handler.body), *other])
            case _:
                pass


def _parameters(arguments: ast.arguments) -> tuple[list[str], int]:
    positional = [*arguments.posonlyargs, *arguments.args]
    named = [argument.arg for argument in positional]
    named += [arguments.vararg.arg] if arguments.vararg else []
    named += [argument.arg for argument in arguments.kwonlyargs]
    named += [arguments.kwarg.arg] if arguments.kwarg else []
    return named, len(positional) - len(arguments.defaults) + arguments.kw_defaults.count(None)


def _examples(docstring: str) -> Iterator[Example]:
    try:
        found = doctest.DocTestParser().get_examples(docstring)
    except ValueError:  # Prose that looks like an example, badly indented.
        return
    for example in found:
        # Options of doctest (an ellipsis, say) and errors have no form in a plain assertion.
        if example.exc_msg is None and not example.options and "..." not in example.want:
            yield Example(example.source.strip(), example.want.strip())
