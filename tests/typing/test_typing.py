"""Type checkers refuse a foreign message at a ref, and know what `ask` returns."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[2]
REFS = Path(__file__).with_name("refs.py")
IGNORE = re.compile(r"  # type: ignore\[.*\]$")

REFUSED = [number for number, line in enumerate(REFS.read_text().splitlines(), 1) if IGNORE.search(line)]


def without_ignores(folder: Path) -> Path:
    """Write the same file with every error laid open; no line moves."""
    bare = folder / "refs_without_ignores.py"
    bare.write_text("".join(f"{IGNORE.sub('', line)}\n" for line in REFS.read_text().splitlines()))
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


def test_there_is_something_to_refuse() -> None:
    assert len(REFUSED) >= 10


def test_mypy_understands_refs(tmp_path: Path) -> None:
    bare = without_ignores(tmp_path)
    said = check("mypy", "--no-error-summary", "--hide-error-context", str(REFS), str(bare))
    errors = re.findall(r"^(.*?):(\d+): error: .*$", said, re.MULTILINE)
    assert [int(line) for file, line in errors if file.endswith(bare.name)] == REFUSED, said
    assert len(errors) == len(REFUSED), said


def test_pyright_understands_refs(tmp_path: Path) -> None:
    bare = without_ignores(tmp_path)
    (tmp_path / "refs.py").write_text(REFS.read_text())
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(HOUSE)], "pythonVersion": "3.11"})
    )
    said = json.loads(check("basedpyright", "--pythonpath", sys.executable, "--outputjson", "--project", str(tmp_path)))
    errors = [(Path(found["file"]).name, found["range"]["start"]["line"] + 1) for found in said["generalDiagnostics"]]
    assert sorted(set(errors)) == [(bare.name, line) for line in REFUSED], said["generalDiagnostics"]
