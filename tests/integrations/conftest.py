"""Actors at work, for applications that send to them: in a thread beside the tests, at the embedded broker."""

from collections.abc import Iterator

import pytest

from actorwork import SystemThread
from examples.frameworks.actors import Counter
from tests.litestar_logs import without_logs_of_litestar


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker at which the examples' actor runs."""
    url = f"sqlite:///{tmp_path_factory.mktemp('counter') / 'messages.db'}"
    with SystemThread(Counter, broker=url):
        yield url


@pytest.fixture
def no_litestar_logs() -> Iterator[None]:
    with without_logs_of_litestar():
        yield
