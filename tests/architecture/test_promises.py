"""The table of promises is checked: each test that it names exists, always runs, and runs at the brokers of its row."""

import ast
import re
from pathlib import Path

import pytest

from .test_reliability import always_runs, functions

CHAPTER = (Path(__file__).parents[2] / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = [line for line in CHAPTER.splitlines() if line.startswith("| ") and not line.startswith(("| case", "|---"))]
ALL = {"memory", "SQLite", "Redis"}
SIGNS = {
    "memory": r"\bopen_stage\b|\bopen_test_system\b|\brun_eagerly\b|\b(Memory)?Broker\(\)",
    "SQLite": r"\bopen_stage\b|\burl\b|\bat_work\b|sqlite://|\bEmbeddedWorld\b",
    "Redis": r"\bopen_stage\b|\burl\b|\bat_work\b|\bredis_url\b|\bhere\b|\bown_server\b|\bRedisWorld\b",
}
"""What a test mentions if it runs at a broker: fixtures that open it, and what opens it by itself."""


def brokers_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    text = ast.unparse(test)
    return {broker for broker, sign in SIGNS.items() if re.search(sign, text)}


def named_in(row: str) -> list[str]:
    return re.findall(r"`(test_\w+)`", row)


def test_there_is_a_row_for_each_case():
    assert len(ROWS) >= 34
    assert len({row.split(" | ")[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0].removeprefix("| ") for row in ROWS])
def test_each_promise_is_held_by_tests_that_always_run_at_the_brokers_of_its_row(row: str):
    case, _, brokers, _ = row.strip("| ").split(" | ")
    assert named_in(row), f"no test is named for {case!r}"
    assert set(named_in(row)) - functions().keys() == set()
    tests = [functions()[name] for name in named_in(row)]
    assert all(map(always_runs, tests))
    wanted = ALL if brokers == "all" else set(brokers.split(", "))
    assert wanted <= ALL
    assert wanted <= set().union(*map(brokers_of, tests)), f"{case!r} is not tested at all of these: {brokers}"
