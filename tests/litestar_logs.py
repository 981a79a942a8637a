"""Litestar without its hold on the logging of the process."""

import importlib
import logging
from collections.abc import Generator
from contextlib import contextmanager

import pytest


@contextmanager
def without_logs_of_litestar() -> Generator[None]:
    """Keep Litestar from configuring the logging of the process, which it does whenever an application is made."""

    def configure(_: object) -> object:
        return logging.getLogger

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("litestar.logging.config").LoggingConfig, "configure", configure)
        yield
