"""The plan of the house holds, and it is a plan that can fail.

The contracts stand in pyproject.toml. A contract that nothing can break looks exactly like one that is kept, so a
scratch house that breaks every one of them is held against them too.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]

CROOKED_HOUSE = {
    "actors/__init__.py": "import actorwork.streams",  # a room that knows another
    "actors/refs/__init__.py": "import actorwork.actors.life",  # the lower sub-room knows the upper one
    "actors/life/__init__.py": "",
    # A circle, though nothing of it is imported while running: one import is for types, the other within a function.
    "actors/life/cell.py": "import typing\nif typing.TYPE_CHECKING:\n    import actorwork.actors.life.stash",
    "actors/life/stash.py": "def later():\n    import actorwork.actors.life.cell",
    "streams/__init__.py": "import actorwork.runtime\nimport sqlite3",  # an arrow that points up
    "streams/broker.py": "",
    "streams/transport/__init__.py": "",
    "streams/transport/client.py": "",
    "streams/transport/connection.py": "import actorwork.streams.transport.client",
    "streams/transport/wire.py": "import actorwork.streams.broker",  # the transport knows no broker
    "runtime/__init__.py": "import actorwork.testing",
    "runtime/engine.py": "import actorwork.runtime.system",  # arrows that point up within a room
    "runtime/system.py": "",
    "runtime/processes/__init__.py": "",
    "runtime/processes/child_node.py": "import actorwork.runtime.processes.process_child",
    "runtime/processes/process_child.py": "",
    "runtime/configuration/__init__.py": "",
    "runtime/configuration/fields.py": "",
    "runtime/configuration/kinds.py": "import actorwork.runtime.configuration.fields",
    "runtime/reporting/__init__.py": "",
    "runtime/reporting/tree.py": "import actorwork.runtime.reporting.reporter",
    "runtime/reporting/reporter.py": "",
    "testing.py": "import redis",
    "telemetry.py": "import subprocess, starlette.requests, django.db, typed_settings, opentelemetry, sentry_sdk",
    "policy.py": "import croniter\nimport celery\nimport psutil\nimport time",
    "events.py": "import actorwork.abc",
    "settings.py": "import actorwork.codec",  # this one is allowed: neighbours on the floor of decisions may talk
    "codec/__init__.py": "import cattrs",  # and this one
    "codec/text.py": "import actorwork.codec.payloads",
    "codec/payloads.py": "",
    "records.py": "",
    "message.py": "import cattrs\nimport multiprocessing.connection",
    "errors.py": "import actorwork",  # around the corner: the front door knows everybody
    "abc.py": "import hiredis",
    "shed.py": "",  # not on the plan
    "__init__.py": "import actorwork.actors",
}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo", "--config", str(HOUSE / "pyproject.toml")],
        cwd=root,
        env={"PATH": "", "PYTHONPATH": str(root), "COLUMNS": "200", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def crooked(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("crooked")
    package = root / "actorwork"
    package.mkdir()
    for name, source in CROOKED_HOUSE.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source + "\n")
    report = lint_imports(root)
    assert report.returncode == 1, report.stdout + report.stderr
    return report.stdout


def test_this_house_follows_its_plan() -> None:
    report = lint_imports(HOUSE)
    assert report.returncode == 0, report.stdout + report.stderr


def test_a_crooked_house_breaks_every_contract(crooked: str) -> None:
    contracts = tomllib.loads((HOUSE / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert crooked.count(" BROKEN") == len(contracts)
    assert " KEPT" not in crooked


@pytest.mark.parametrize(
    "sentence",
    [
        "actorwork.actors is not allowed to import actorwork.streams",
        "actorwork.streams is not allowed to import actorwork.runtime",
        "actorwork.runtime is not allowed to import actorwork.testing",
        "actorwork.runtime.engine is not allowed to import actorwork.runtime.system",
        "actorwork.runtime.processes.child_node is not allowed to import actorwork.runtime.processes.process_child",
        "actorwork.runtime.configuration.kinds is not allowed to import actorwork.runtime.configuration.fields",
        "actorwork.streams.transport is not allowed to import actorwork.streams.broker",
        "actorwork.streams.transport.connection is not allowed to import actorwork.streams.transport.client",
        "actorwork.events is not allowed to import actorwork.abc",
        "actorwork.errors is not allowed to import actorwork.actors",
        "- actorwork.shed",
        "actorwork.actors.refs is not allowed to import actorwork.actors.life",
        "No cycles are allowed in actorwork.actors.life.",
        "actorwork.message -> cattrs",
        "actorwork.policy -> croniter",
        "actorwork.policy -> time",
        "actorwork.testing -> redis",
        "actorwork.abc -> hiredis",
        "actorwork.streams -> sqlite3",
        "actorwork.telemetry -> subprocess",
        "actorwork.telemetry -> starlette",
        "actorwork.telemetry -> django",
        "actorwork.policy -> celery",
        "actorwork.telemetry -> typed_settings",
        "actorwork.telemetry -> opentelemetry",
        "actorwork.telemetry -> sentry_sdk",
        "actorwork.message -> multiprocessing",
    ],
)
def test_what_is_crooked_is_named(crooked: str, sentence: str) -> None:
    assert sentence in crooked


def test_what_is_allowed_is_not_named(crooked: str) -> None:
    assert "actorwork.codec -> cattrs" not in crooked
    assert "actorwork.settings is not allowed" not in crooked
