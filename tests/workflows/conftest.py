"""A stage for workflows: a client, and a system that is started when the test wants it, at each of the brokers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Unpack

import attrs
import pytest

from actorwork import Client, System, open_client, open_system
from actorwork.brokers import open_broker
from actorwork.runtime.options import TreeOptions
from actorwork.testing import MemoryBroker
from actorwork.testing.redis_cluster import RedisCluster, open_redis_cluster
from tests.workflows.shop import Calculator, Clerk


@attrs.frozen
class Stage:
    client: Client
    broker: Any
    open_system: Callable[..., AbstractAsyncContextManager[System]]


OpenStage = Callable[[], AbstractAsyncContextManager[Stage]]


@pytest.fixture(scope="session")
def servers() -> Generator[RedisCluster]:
    with open_redis_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(servers: RedisCluster) -> RedisCluster:
    servers.flush()
    return servers


@pytest.fixture(params=["memory", "sqlite", "redis", "cluster"])
def open_stage(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStage:
    """Open a broker of each kind, and a client of it; the tree is the calculator and the clerk."""
    Clerk.book.clear()
    url: object
    if request.param == "memory":
        url = MemoryBroker()
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'messages.db'}"
    elif request.param == "cluster":
        url = request.getfixturevalue("cluster").url
    else:
        url = request.getfixturevalue("redis_url")

    @asynccontextmanager
    async def open_stage() -> AsyncGenerator[Stage]:
        async with open_broker(url) as broker, open_client(broker) as client:  # type: ignore[arg-type]

            @asynccontextmanager
            async def start(
                tree: Sequence[object] = (Calculator, Clerk), **options: Unpack[TreeOptions]
            ) -> AsyncGenerator[System]:
                async with open_system(list(tree), broker=broker, **options) as system:
                    yield system

            yield Stage(client, broker, start)

    return open_stage
