"""The recipes that contributors call, and the example programs that one of them runs."""

import re
import subprocess
import sys
from pathlib import Path

from tests.examples.programs import ROOT

UNTIL_STOPPED = {"clock", "dashboard", "quickstart"}
"""Programs that serve until they are stopped."""


def test_the_recipes_that_the_documents_name_exist() -> None:
    # Beside the interpreter: the README's command does not put the environment on the PATH.
    just = Path(sys.executable).with_name("just")
    listed = subprocess.run([just, "--summary"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    wanted = "install install-dev test test-all test-cov lint types architecture format examples check all"
    assert set(wanted.split()) <= set(listed.stdout.split())


def test_the_programs_that_the_recipe_examples_runs_are_there() -> None:
    (named,) = re.findall(r"^examples:\n    for example in ([\w ]+);", (ROOT / "justfile").read_text(), re.MULTILINE)
    programs = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert {"bank", "crawler", "embedding", "everwork", "pool"} <= set(named.split()) <= programs - UNTIL_STOPPED
