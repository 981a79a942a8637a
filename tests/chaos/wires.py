"""The network of a cluster on this machine: whatever its members are sent passes through a proxy that can fail.

    clients ──▶ to[member] ──▶ member ◀── between[other, member] ◀── other          the bus, and replication

Each member listens at an address of its own, and announces another one, at the same ports: there the wires begin. What
a member sends comes from its own address, so it is known which two of them a connection is between; all others are
clients'. Without root, and with nothing that a network namespace would be needed for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from actorwork.testing.proxy import FaultProxy
from actorwork.testing.redis_cluster import BUS, RedisCluster, free_pair
from actorwork.testing.redis_sentinel import Member, PortTaken

from .environment import major_version

_OWN: Final = "127.0.1."
_SHOWN: Final = "127.0.2."
_STARTS: Final = 5


class Wires:
    """Made by `open_wired_cluster`."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.to = {member: _proxy(member, 0) for member in members}
        """Between all clients and a member."""
        self.between: Mapping[tuple[Member, Member], tuple[FaultProxy, FaultProxy]] = {
            (sender, member): (_proxy(member, 0), _proxy(member, BUS))
            for sender in members
            for member in members
            if sender is not member
        }
        """What the first member sends to the second one, with the answers: replication, and the bus."""
        self._by_address = {member.place[0]: member for member in members}
        self._scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Wires of {len(self.to)} members>"

    def part(self, one: Member, other: Member) -> None:
        """Let nothing pass between two members, in silence."""
        for proxy in self._both_ways(one, other):
            proxy.black_hole()

    def slow(self, one: Member, other: Member, seconds: float) -> None:
        """Hold back each answer between two members."""
        for proxy in self._both_ways(one, other):
            proxy.delay(seconds)

    def join(self, one: Member, other: Member) -> None:
        """End both."""
        for proxy in self._both_ways(one, other):
            proxy.heal()

    def heal(self) -> None:
        for proxy in (*self.to.values(), *(one for pair in self.between.values() for one in pair)):
            proxy.heal()

    def _both_ways(self, one: Member, other: Member) -> Sequence[FaultProxy]:
        return (*self.between[one, other], *self.between[other, one])

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Forward until `close`; started once the wires can be used. Raises `OSError` if an address is taken."""
        with ExitStack() as stack, self._scope:
            listeners: list[tuple[trio.socket.SocketType, Member, int]] = []
            for member in self.to:
                for which, port in enumerate((member.port, member.port + BUS)):
                    listener = stack.enter_context(trio.socket.socket())
                    listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                    await listener.bind((shown(member), port))
                    listener.listen(64)
                    listeners.append((listener, member, which))
            async with trio.open_nursery() as nursery:
                for one in listeners:
                    nursery.start_soon(self._serve, *one)
                task_status.started()

    def close(self) -> None:
        self._scope.cancel()

    async def _serve(self, listener: trio.socket.SocketType, member: Member, which: int) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                connection, (address, *_) = await listener.accept()
                sender = self._by_address.get(address)
                proxy = self.to[member] if sender is None else self.between[sender, member][which]
                nursery.start_soon(proxy.take, connection)


def _proxy(member: Member, above: int) -> FaultProxy:
    address, port = member.place
    return FaultProxy(f"redis://{address}:{port + above}", f"redis://{shown(member)}:{port + above}")


def shown(member: Member) -> str:
    """Return the address that a member announces."""
    return _SHOWN + member.place[0].removeprefix(_OWN)


@asynccontextmanager
async def open_wired_cluster(
    config: Mapping[str, str], node_timeout: float
) -> AsyncGenerator[tuple[RedisCluster, Wires]]:
    """Run three primaries with a replica each, behind wires, for the duration of a block."""
    directory = Path(tempfile.mkdtemp(prefix="actorwork-wired-"))
    try:
        async with trio.open_nursery() as nursery:
            cluster, wires = await _started(directory, config, node_timeout, nursery)
            try:
                yield cluster, wires
            finally:
                cluster.kill()
                wires.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _started(
    directory: Path, config: Mapping[str, str], node_timeout: float, nursery: trio.Nursery
) -> tuple[RedisCluster, Wires]:
    attempt = 0
    while True:
        (folder := directory / str(attempt)).mkdir()
        attempt += 1
        cluster = RedisCluster(partial(_member, folder), 3, 1, config, node_timeout)
        wires = Wires(cluster.members)
        try:
            await nursery.start(wires.run)
            # In a thread: its members talk to each other through this one.
            await trio.to_thread.run_sync(cluster.start)
        except (PortTaken, OSError):
            cluster.kill()
            wires.close()
            if attempt == _STARTS:
                raise
        except BaseException:
            cluster.kill()
            raise
        else:
            return cluster, wires


def _member(directory: Path, name: str, config: Mapping[str, str]) -> Member:
    kind, _, number = name.partition("-")
    address = f"{_OWN}{int(number) + (1 if kind == 'primary' else 101)}"
    settings = {**config, "protected-mode": "no", "cluster-announce-ip": address.replace(_OWN, _SHOWN)}
    if major_version() >= 7:
        settings["bind-source-addr"] = address
    return Member(directory / name, settings, port=free_pair(), address=address)
