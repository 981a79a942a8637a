"""Habits nobody remembers: no exception without its reason, no trace of somebody's machine, tidy fragments."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[2]
PYPROJECT = (HOUSE / "pyproject.toml").read_text(encoding="utf-8")
CONFIGURATION: dict[str, Any] = tomllib.loads(PYPROJECT)
FRAGMENTS = [path for path in sorted((HOUSE / "changelog.d").iterdir()) if path.name != "README.md"]


def project_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, text=True, check=False)
    if listed.returncode:  # Not a clone, but an unpacked archive: there, everything is the project's.
        return [path for path in HOUSE.rglob("*") if path.is_file()]
    return [path for name in listed.stdout.split("\0") if name and (path := HOUSE / name).is_file()]


def test_no_file_of_the_project_names_a_place_on_somebodys_machine() -> None:
    places = [re.escape(str(place)) for place in (HOUSE, Path(sys.prefix)) if len(place.parts) > 2]
    pattern = re.compile("|".join([*places, r"/home/\w+/", r"/Users/\w+/", r"/root/\w+"]).encode())
    named = {
        str(path.relative_to(HOUSE)): found.group().decode()
        for path in project_files()
        if path != Path(__file__) and (found := pattern.search(path.read_bytes()))
    }
    assert named == {}


def test_every_exception_from_the_rules_has_its_reason() -> None:
    lint = PYPROJECT[PYPROJECT.index("[tool.ruff.lint]") : PYPROJECT.index("[tool.ruff.lint.isort]")]
    codes = [line for line in lint.splitlines() if re.match(r'\s+"[A-Z]+\d*",', line)]
    assert codes
    assert [line for line in codes if not re.search(r"# .{5,}", line)] == []


def test_the_version_stands_in_one_place() -> None:
    version = CONFIGURATION["project"]["version"]
    sources = [
        path for path in (HOUSE / "actorwork").rglob("*.py") if f'"{version}"' in path.read_text(encoding="utf-8")
    ]
    assert sources == []


def test_every_dependency_of_the_package_is_declared() -> None:
    project = CONFIGURATION["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {re.split(r"[\[>=<; ]", requirement)[0].replace("-", "_") for requirement in wanted}
    declared |= {name.removesuffix("_api") for name in declared}  # opentelemetry-api brings opentelemetry.
    declared |= {"attr", "actorwork"} | sys.stdlib_module_names | ({"hiredis"} if "redis" in declared else set())
    declared |= {"yaml"} if "pyyaml" in declared else set()
    imported = {
        name.partition(".")[0]: str(path.relative_to(HOUSE))
        for path in (HOUSE / "actorwork").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imports(node)
    }
    assert {name: path for name, path in imported.items() if name not in declared} == {}


def imports(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


def test_a_fragment_is_one_paragraph_for_the_user() -> None:
    kinds = "|".join(kind["directory"] for kind in CONFIGURATION["tool"]["towncrier"]["type"])
    for fragment in FRAGMENTS:
        assert re.fullmatch(rf"\+[a-z0-9-]+\.({kinds})\.md", fragment.name)
        text = fragment.read_text(encoding="utf-8")
        assert re.fullmatch(r"[A-Z`][^\n]+(\n[^\n]+)*\.\n", text), (
            f"{fragment.name}: wanted one paragraph, from a capital to a full stop"
        )
