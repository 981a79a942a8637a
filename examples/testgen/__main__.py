"""API and actors in one program, for a first look: asyncio, and beside it Trio in a thread.

python -m examples.testgen
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from actorwork import SystemThread

from .api import lifespan, make_app
from .configuration import CONFIGURATION
from .program import TREE


@asynccontextmanager
async def with_actors(app: FastAPI) -> AsyncGenerator[dict[str, object]]:
    """Host the actors from before the first request until after the last."""
    async with SystemThread(TREE, broker=CONFIGURATION.broker, lease=CONFIGURATION.lease), lifespan(app) as state:
        yield state


if __name__ == "__main__":
    uvicorn.run(
        make_app(with_actors),
        host=CONFIGURATION.host,
        port=CONFIGURATION.port,
        # A page that follows a request holds its connection for as long as it likes.
        timeout_graceful_shutdown=3,
    )
