"""What the environment says, or the file `.env` in this folder, which `.env.example` shows."""

import logging
import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

HERE: Final = Path(__file__).parent

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Configuration(BaseSettings):
    """Every value has a default: the example runs without any configuration."""

    model_config = SettingsConfigDict(env_prefix="TESTGEN_", env_file=HERE / ".env", frozen=True)

    broker: str = f"sqlite:///{HERE / 'broker.sqlite3'}"
    database: Path = HERE / "testgen.sqlite3"

    host: str = "127.0.0.1"
    port: int = 8000

    lease: Seconds = 10
    deadline: Seconds = 3600
    """Seconds for a whole request."""

    validators: Count = os.cpu_count() or 1
    """Processes that run generated tests, each of them one at a time."""
    messages_per_process: Count = 50
    test_seconds: Seconds = 5
    """Processor time of one test; it may take twice that by the clock."""
    test_memory: Count = 1 << 30
    survey_seconds: Seconds = 20
    """After this time the survey goes on with the modules that it has read."""


CONFIGURATION: Final = Configuration()

# All processes of the example import this module, those of the validators included: so they log alike.
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s[%(process)d]: %(message)s")
