"""Fixtures of the clients' tests."""

import pytest

from actorwork.testing import MemoryBroker


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> MemoryBroker | str:
    return MemoryBroker() if request.param == "memory" else request.getfixturevalue("redis_url")
