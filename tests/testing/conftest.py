"""Tests of users, run by a pytest of their own within this one."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from actorwork.testing import pytest_plugin

Outcomes: TypeAlias = tuple[int, int, list[str]]


@pytest.fixture
def outcomes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcomes]:
    """Run what `pytester` has made; return how many passed, how many were skipped, and why the others failed."""
    # No plugin but ours: others take a second to load. It is given, since nobody says that it is installed here.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    runner: Any = pytester

    def run(*others: object) -> Outcomes:
        result = runner.inline_run("-p", "no:cacheprovider", plugins=[pytest_plugin, *others])
        passed, skipped, failed = result.listoutcomes()
        return len(passed), len(skipped), [report.longreprtext for report in failed]

    return run
