"""What the tests of clients share: actors at work, and programs of each kind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from actorwork import SystemThread
from tests.workflows.shop import Calculator, Clerk, double


def node(url: str) -> SystemThread:
    """Return a block with the calculator and the clerk at a broker."""
    return SystemThread([Calculator, Clerk, double], broker=url)


def run_asyncio(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await main()

    return asyncio.run(bounded())
