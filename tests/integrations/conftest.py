"""Actors at work, for applications that send to them: in a thread beside the tests, at the embedded broker."""

import importlib
import logging
from collections.abc import Iterator

import pytest

from actorwork import SystemThread
from examples.frameworks.actors import Counter


@pytest.fixture(scope="session")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker at which the examples' actor runs."""
    url = f"sqlite:///{tmp_path_factory.mktemp('counter') / 'messages.db'}"
    with SystemThread(Counter, broker=url):
        yield url


@pytest.fixture
def no_litestar_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Litestar from configuring the logging of the process, which it does whenever an application is made."""
    config = importlib.import_module("litestar.logging.config").LoggingConfig

    def configure(_: object) -> object:
        return logging.getLogger

    monkeypatch.setattr(config, "configure", configure)
