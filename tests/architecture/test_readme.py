"""What a visitor tries first works: the README's commands are lines to paste, and its example runs."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

import actorwork
from tests.patience import PATIENCE

HOUSE = Path(__file__).parents[2]
README = (HOUSE / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    parts = re.split(r"^## ", README, flags=re.MULTILINE)
    (found,) = [part for part in parts if part.startswith(f"{title}\n")]
    return found


def test_the_readme_is_under_150_lines() -> None:
    assert len(README.splitlines()) < 150


def test_the_quickstart_has_two_commands_each_one_line_and_nothing_else_to_paste() -> None:
    commands = blocks("sh", section("Quickstart"))
    assert [command.count("\n") for command in commands] == [1, 1]
    assert len(blocks(r"\w*", section("Quickstart"))) == 2


def test_the_commands_of_the_quickstart_need_nothing_but_python_with_venv_and_pip() -> None:
    for command in blocks("sh", section("Quickstart")):
        for step in command.strip().split(" && "):
            assert step.split()[0] in {"python3", ".venv/bin/pip", ".venv/bin/python", ".venv/bin/pytest"}


def test_the_second_command_of_the_quickstart_runs_the_tests_as_just_test_does() -> None:
    justfile = (HOUSE / "justfile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^test \*arguments:\n    (.*) {{ arguments }}$", justfile, re.MULTILINE)
    assert blocks("sh", section("Quickstart"))[1].strip().endswith(f"&& .venv/bin/{recipe}")


def test_the_programs_of_the_quickstart_are_there() -> None:
    for program in re.findall(r"[\w/]+\.py", section("Quickstart")):
        assert (HOUSE / program).is_file()


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example: Any = ModuleType("readme_example")
    monkeypatch.setitem(
        sys.modules, example.__name__, example
    )  # Annotations are looked up in the module of their class.
    monkeypatch.chdir(tmp_path)  # The embedded broker keeps its file here.
    exec(compile(blocks("python", README)[0], "README.md", "exec"), example.__dict__)

    async def greet() -> object:
        with trio.fail_after(PATIENCE):
            async with actorwork.open_system([example.Greeter, example.Cleaner]) as system:
                return await system.ref(example.Greeter).ask(example.Greet("Ann"))

    assert trio.run(greet) == "Hello Ann"
