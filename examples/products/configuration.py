"""What the environment says, or the file `.env` in this folder, which `.env.example` shows."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

HERE: Final = Path(__file__).parent

Seconds = Annotated[float, Field(ge=0)]


class Configuration(BaseSettings):
    """Every value has a default: the example runs without any configuration."""

    model_config = SettingsConfigDict(env_prefix="PRODUCTS_", env_file=HERE / ".env", frozen=True)

    broker: str = f"sqlite:///{HERE / 'broker.sqlite3'}"
    database: Path = HERE / "products.sqlite3"

    host: str = "127.0.0.1"
    port: int = 8000

    attempts: Annotated[int, Field(ge=1)] = 3
    attempt_pause: Seconds = 5
    lease: Seconds = 10
    """After so many seconds without a sign of life, the work of a worker is another one's."""

    messenger_seconds: Seconds = 2
    messenger_failures: Annotated[int, Field(ge=0)] = 1
    """How many attempts of each notification the simulated messenger refuses, before it takes one."""


CONFIGURATION: Final = Configuration()
