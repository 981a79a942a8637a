"""Type checkers refuse what does not fit a ref or a workflow, and know the types of replies and results."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
IGNORE = re.compile(r"  # type: ignore\[.*\]$")
FILES = [Path(__file__).with_name(name) for name in ("refs.py", "flows.py", "functions.py", "words.py")]


def refused(file: Path) -> list[int]:
    return [number for number, line in enumerate(file.read_text().splitlines(), 1) if IGNORE.search(line)]


def without_ignores(file: Path, folder: Path) -> Path:
    """Write the same file with every error laid open; no line moves."""
    bare = folder / f"{file.stem}_without_ignores.py"
    bare.write_text("".join(f"{IGNORE.sub('', line)}\n" for line in file.read_text().splitlines()))
    return bare


def check(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=HOUSE,
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("file", "at_least"), [(FILES[0], 10), (FILES[1], 5), (FILES[2], 8), (FILES[3], 7)])
def test_there_is_something_to_refuse(file: Path, at_least: int) -> None:
    assert len(refused(file)) >= at_least


def test_mypy_refuses_what_has_to_be_refused(tmp_path: Path) -> None:
    bares = [without_ignores(file, tmp_path) for file in FILES]
    said = check("mypy", "--no-incremental", "--no-error-summary", "--hide-error-context", *map(str, (*FILES, *bares)))
    found = {(Path(path).name, int(line)) for path, line in re.findall(r"^(.*?):(\d+): error: .*$", said, re.MULTILINE)}
    assert found == {(bare.name, line) for file, bare in zip(FILES, bares, strict=True) for line in refused(file)}, said


@pytest.mark.long  # It is larger than all that the other tests want together, so it is in an extra of its own.
def test_pyright_refuses_what_has_to_be_refused(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright", reason="basedpyright is in the extra `check`")
    bares = [without_ignores(file, tmp_path) for file in FILES]
    for file in FILES:
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(HOUSE)], "pythonVersion": "3.11"})
    )
    said = json.loads(check("basedpyright", "--pythonpath", sys.executable, "--outputjson", "--project", str(tmp_path)))
    errors = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in said["generalDiagnostics"]}
    assert errors == {(bare.name, line) for file, bare in zip(FILES, bares, strict=True) for line in refused(file)}, (
        said["generalDiagnostics"]
    )
