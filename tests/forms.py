"""Which forms of a test always run, and which only among the long ones."""

from collections.abc import Sequence
from typing import Any, Final

import pytest

AT_REDIS: Final = pytest.mark.parametrize(
    "url", ["redis", pytest.param("embedded", marks=pytest.mark.long)], indirect=True
)
"""For what is alike whichever the broker is: always at Redis, and at a file in the long tests."""
AT_A_FILE: Final = pytest.mark.parametrize(
    "url", ["embedded", pytest.param("redis", marks=pytest.mark.long)], indirect=True
)
"""Always at a file, and at Redis in the long tests."""


def forms(*always: object, more: Sequence[object]) -> list[Any]:
    """Return values of a parameter: those that always run, and more for the long tests."""
    return [*always, *(pytest.param(value, marks=pytest.mark.long) for value in more)]
