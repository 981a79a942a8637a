"""Writes pytest files: each has one test, so that each can be run, and kept or dropped, by itself."""

import ast
import hashlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .reconnaissance import Function


@dataclass(frozen=True)
class Candidate:
    """A pytest file that may be worth keeping."""

    name: str
    source: str


def candidates_for(function: Function) -> Iterator[Candidate]:
    """Yield a test of the signature, one of a call without arguments, and one for each example that has a result."""
    name = f"test_{function.module.replace('.', '_')}_{function.name}"
    yield _candidate(
        f"{name}_signature",
        ("import inspect", f"from {function.module} import {function.name}"),
        f"assert list(inspect.signature({function.name}).parameters) == {function.parameters!r}",
    )
    if function.required:
        yield _candidate(
            f"{name}_wants_arguments",
            ("import pytest", f"from {function.module} import {function.name}"),
            f"with pytest.raises(TypeError):\n    {function.name}()",
        )
    before: list[str] = []
    for number, example in enumerate(function.examples, 1):
        if example.want and _is_expression(example.source):
            check = f"assert repr({example.source}) == {example.want!r}"
            yield _candidate(
                f"{name}_example_{number}",
                (f"import {function.module}", f"from {function.module} import *"),
                "\n".join([*before, check]),
            )
        elif not example.want:
            before.append(example.source)


def _candidate(name: str, imports: Sequence[str], body: str) -> Candidate:
    lines = ["\n".join(imports), "", "", f"def {name}():", textwrap.indent(body, "    "), ""]
    return Candidate(name, "\n".join(lines))


def _is_expression(source: str) -> bool:
    try:
        ast.parse(source, mode="eval")
    except SyntaxError:
        return False
    return True


def fingerprint(candidate: Candidate) -> str:
    """Return a hash that is the same for tests that do the same under different names."""
    tree = ast.parse(candidate.source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.name = "test"
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def without_duplicates(candidates: Iterable[Candidate]) -> Sequence[Candidate]:
    """Return the first of those that do the same."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        found.setdefault(fingerprint(candidate), candidate)
    return list(found.values())
