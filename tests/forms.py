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


def each_at_a_broker(name: str, at_redis: object, at_a_file: object, *, ids: tuple[str, str] | None = None) -> Any:
    """Run a test with the one value at Redis and with the other one at a file; in the long tests the other way, too.

    For what has two values and is alike whichever the broker is.
    """
    first, second = ids or (str(at_redis), str(at_a_file))
    return pytest.mark.parametrize(
        ("url", name),
        [
            pytest.param("redis", at_redis, id=f"redis-{first}"),
            pytest.param("embedded", at_a_file, id=f"embedded-{second}"),
            pytest.param("redis", at_a_file, id=f"redis-{second}", marks=pytest.mark.long),
            pytest.param("embedded", at_redis, id=f"embedded-{first}", marks=pytest.mark.long),
        ],
        indirect=["url"],
    )


def forms(*always: object, more: Sequence[object]) -> list[Any]:
    """Return values of a parameter: those that always run, and more for the long tests."""
    return [*always, *(pytest.param(value, marks=pytest.mark.long) for value in more)]
