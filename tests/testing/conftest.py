"""Tests of users, run by a pytest of their own within this one."""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeAlias

import pytest

from actorwork.testing import pytest_plugin

Outcomes: TypeAlias = tuple[int, int, list[str]]


@pytest.fixture
def outcomes(pytester: pytest.Pytester) -> Callable[..., Outcomes]:
    """Run what `pytester` has made; return how many passed, how many were skipped, and why the others failed."""
    # Installed, the plugin comes by its entry point; in a clone it is given.
    installed = any(entry.value == pytest_plugin.__name__ for entry in entry_points(group="pytest11"))
    given = [] if installed else [pytest_plugin]
    runner: Any = pytester

    def run(*others: object) -> Outcomes:
        passed, skipped, failed = runner.inline_run("-p", "no:cacheprovider", plugins=[*given, *others]).listoutcomes()
        return len(passed), len(skipped), [report.longreprtext for report in failed]

    return run
