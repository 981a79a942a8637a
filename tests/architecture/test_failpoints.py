"""The table of crash points is the truth: each stands in the code once, and a drill goes through it."""

import ast
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from actorwork import failpoints
from actorwork.failpoints import POINTS, VARIABLE

HOUSE = Path(__file__).parents[2]


@cache  # And not at import: each worker imports every test.
def trees() -> dict[Path, ast.Module]:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((HOUSE / "actorwork").rglob("*.py"))}
    return {
        path: ast.parse(text) for path, text in texts.items() if "failpoint(" in text and path.name != "failpoints.py"
    }


def called(tree: ast.AST, name: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def test_the_story_of_the_module_tells_of_every_point():
    told = re.findall(r"^    ([a-z_]+\.[a-z]+)  ", failpoints.__doc__ or "", re.MULTILINE)
    assert Counter(told) == Counter(POINTS)


def test_each_point_stands_in_the_code_once():
    """Those of states stand in each broker."""
    asked = Counter(ast.literal_eval(call.args[0]) for tree in trees().values() for call in called(tree, "failpoint"))
    assert asked == Counter(POINTS) + Counter(["state.before", "state.after"])


def test_each_point_is_passed_in_one_place_behind_a_comparison_with_none():
    for path, tree in trees().items():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and node.value is not None and called(node.value, "failpoint"):
                assert isinstance(node.target, ast.Name)
                name = node.target.id
                assert len(called(tree, name)) == 1, (path, name)
                assert len(re.findall(rf"if {name} is not None:\n +{name}\(\)\n", text)) == 1, (path, name)


def test_a_drill_goes_through_each_point():
    files = [HOUSE / "tests" / "drills" / name for name in ("test_windows.py", "test_joins.py")]
    drills = "".join(file.read_text(encoding="utf-8") for file in files)
    drilled = re.findall(r'"([a-z_]+\.[a-z]+)[":]', drills)
    assert POINTS - set(drilled) == set()


def test_without_the_variable_there_is_nothing_to_call():
    assert VARIABLE not in os.environ
    assert {failpoints.failpoint(name) for name in POINTS} == {None}


def pass_by(text: str, times: int) -> int:
    program = (
        "from actorwork.failpoints import failpoint\n"
        "point = failpoint('settle.before')\n"
        f"for _ in range({times}):\n"
        "    point()\n"
    )
    environment = {**os.environ, VARIABLE: text, "PYTHONPATH": str(HOUSE)}
    return subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode


def test_the_process_dies_as_it_passes_for_the_third_time():
    assert pass_by("settle.before:3", 2) == 0
    assert pass_by("lease.renew,settle.before:3", 3) == -signal.SIGKILL


@pytest.mark.parametrize(
    "text", ["settle", "settle.before:0", "settle.before:x", "settle.before:1:pause", "settle.before:-1"]
)
def test_what_names_no_point_is_refused(text: str):
    with pytest.raises(ValueError, match=r"wanted <point>.*settle\.before"):
        failpoints.parse(text)


def test_a_point_can_stop_the_process_instead():
    (point,) = failpoints.parse("lease.renew:2:stop").values()
    assert (point.left, point.signal) == (2, signal.SIGSTOP)


def test_a_process_that_is_to_kill_itself_says_so_at_its_start_and_when_it_does():
    program = "from actorwork.failpoints import failpoint; print('began', flush=True); failpoint('settle.before')()"
    environment = {**os.environ, VARIABLE: "settle.before", "PYTHONPATH": str(HOUSE)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    first, second = done.stderr.splitlines()
    assert f"{VARIABLE}=settle.before is set" in first
    assert "unset it, unless this is a drill" in first
    assert second.endswith("gets SIGKILL at settle.before")
