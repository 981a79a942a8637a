"""Classes stay small enough to be read in one sitting.

Long functions are fine when they tell one story. What made rooms unreadable here were classes in which one object
decides, acts and remembers, so these three sizes have a bound: a class's lines, an instance's attributes, and the
parameters of a constructor (values of configuration, made by attrs, are exempt: they have as many fields as there are
settings).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "actorwork"
MOST_LINES = 350
MOST_ATTRIBUTES = 20
MOST_PARAMETERS = 7


def classes(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield node


def lines_of(node: ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def constructor_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)


def parameters_of(node: ast.ClassDef) -> int:
    constructor = constructor_of(node)
    return 0 if constructor is None else len(constructor.args.args) + len(constructor.args.kwonlyargs) - 1


def attributes_of(node: ast.ClassDef) -> int:
    """Count what a class with a constructor of its own assigns to `self`, in all of its methods."""
    if constructor_of(node) is None:
        return 0
    return len(
        {
            one.attr
            for one in ast.walk(node)
            if isinstance(one, ast.Attribute)
            and isinstance(one.ctx, ast.Store)
            and isinstance(one.value, ast.Name)
            and one.value.id == "self"
        }
    )


def too_large(source: Path, folder: Path = PACKAGE) -> list[str]:
    return [
        f"{source.relative_to(folder)}: {node.name} has {count} {what}, {most} at most"
        for node in classes(source)
        for count, what, most in (
            (lines_of(node), "lines", MOST_LINES),
            (attributes_of(node), "attributes", MOST_ATTRIBUTES),
            (parameters_of(node), "parameters in its constructor", MOST_PARAMETERS),
        )
        if count > most
    ]


def test_no_class_is_too_large_to_be_read_in_one_sitting() -> None:
    sources = sorted(PACKAGE.rglob("*.py"))
    assert len(sources) > 100
    assert [complaint for source in sources for complaint in too_large(source)] == []


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("    pass\n" * (MOST_LINES + 1), "lines"),
        (
            "    def __init__(self):\n" + "".join(f"        self.a{n} = {n}\n" for n in range(MOST_ATTRIBUTES + 1)),
            "attributes",
        ),
        (f"    def __init__(self, {', '.join(f'a{n}' for n in range(MOST_PARAMETERS + 1))}): ...\n", "constructor"),
    ],
)
def test_a_class_that_is_too_large_is_named(tmp_path: Path, body: str, complaint: str) -> None:
    source = tmp_path / "large.py"
    source.write_text(f"class Large:\n{body}")
    (found,) = too_large(source, tmp_path)
    assert found.startswith("large.py: Large has")
    assert complaint in found
