"""API and worker in one program, for a first look.

python -m examples.products
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from actorwork import SystemThread

from .api import lifespan, make_app
from .configuration import CONFIGURATION
from .notifier import Notifier


@asynccontextmanager
async def with_worker(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
    """Host the actor in a thread, where Trio runs, from before the first request until after the last."""
    async with (
        SystemThread(Notifier, broker=CONFIGURATION.broker, lease=CONFIGURATION.lease),
        lifespan(app) as state,
    ):
        yield state


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    uvicorn.run(make_app(with_worker), host=CONFIGURATION.host, port=CONFIGURATION.port)
