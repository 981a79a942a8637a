"""A node's lease at a server whose connections break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import redis
import trio

from actorwork.streams import keys
from actorwork.streams.lease import Lease
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.redis_py import RedisPyConnection
from tests.patience import PATIENCE


class CutLease(Lease):
    """Its connection breaks once, between the two commands that take it."""

    on_cut: Callable[[], object] | None = None

    def _look_at_clock(self, connection: RedisPyConnection) -> None:
        on_cut, self.on_cut = self.on_cut, None
        if on_cut is not None:
            on_cut()
            raise ConnectionError("cut")
        super()._look_at_clock(connection)


def lease_at(url: str, lost: list[tuple[str, str]], on_cut: Callable[[], object]) -> CutLease:
    lease = CutLease(
        Address.parse(url),
        3.0,
        on_lost=lambda old, new, _: lost.append((old, new)),
        on_trouble=lambda _error, _next: None,
    )
    lease.on_cut = on_cut
    return lease


async def test_a_lease_is_taken_though_its_connection_broke_in_between(redis_url: str) -> None:
    lost: list[tuple[str, str]] = []
    lease = lease_at(redis_url, lost, lambda: None)
    with trio.fail_after(PATIENCE):
        await lease.take()
    await lease.release()
    assert lost == []


async def test_a_lease_that_was_gone_before_the_node_knew_of_it_is_replaced_and_taken(redis_url: str) -> None:
    server: Any = cast("Any", redis.Redis).from_url(redis_url, socket_timeout=None)
    lost: list[tuple[str, str]] = []
    lease = lease_at(redis_url, lost, lambda: server.delete(keys.lease(lease.incarnation)))
    with trio.fail_after(PATIENCE):
        await lease.take()
        while not lost:  # noqa: ASYNC110 - it is told by a thread
            await trio.sleep(0.01)
    ((old, new),) = lost
    assert old == lease.incarnation
    assert server.exists(keys.lease(new))
    await lease.release()
    assert not server.exists(keys.lease(new))
    server.close()
