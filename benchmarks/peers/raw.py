"""The physical limit: a plain loop on a socket with hiredis; no framework, and no promise but at-least-once.

Every worker decodes JSON, calls a handler, and records. The variants:

    raw-1000         XREADGROUP COUNT 1000; one XACK + one XDEL per batch, sent in one write with the next read
    raw-100          the same with COUNT 100
    raw-perjob       COUNT 100, but XACK + XDEL for each job, awaited: one round trip a job
    raw-trio-inline  raw-1000 over a Trio socket, handlers awaited one after the other
    raw-trio-task    the same with one nursery task per job, at most 500, and acks that gather for a millisecond
"""

import json
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis

from benchmarks.benchkit import env, recorder

KEY, GROUP = "raw:q", "g"
VARIANT = env.PEER or "raw-1000"
COUNT = 100 if VARIANT in {"raw-100", "raw-perjob"} else 1000
TRIO = VARIANT.startswith("raw-trio")
TASKS = VARIANT == "raw-trio-task"
LIMIT = 500
CREATE = ("XGROUP", "CREATE", KEY, GROUP, "0", "MKSTREAM")


def describe() -> dict[str, Any]:
    cases = ["drain", "drain2", "cold", "latency"]
    if TASKS:
        cases += ["io"]
    elif VARIANT != "raw-perjob":
        cases += ["enqueue"]
    return {
        "name": VARIANT,
        "cmds": [[sys.executable, "-m", "benchmarks.peers.raw", f"w{k}"] for k in range(env.PROCS)],
        "cases": cases,
        "conc": LIMIT if TASKS else COUNT,
        "n": {"drain": 200000, "drain2": 200000, "enqueue": 20000},
        "settings": f"a plain loop on a socket with hiredis, COUNT {COUNT}",
        "versions": {"hiredis": hiredis.__version__},
    }


pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def read_command(consumer: str) -> tuple[str, ...]:
    return ("XREADGROUP", "GROUP", GROUP, consumer, "COUNT", str(COUNT), "BLOCK", "1000", "STREAMS", KEY, ">")


def acks(ids: list[bytes]) -> list[tuple[Any, ...]]:
    return [("XACK", KEY, GROUP, *ids), ("XDEL", KEY, *ids)]


def packed(*commands: tuple[Any, ...]) -> bytes:
    return b"".join([pack(command) for command in commands])


def handle(p: dict[str, Any]) -> None:
    recorder.hit(p["i"], p["ts"])


# ------------------------------------------------------------------------------------------------- on a plain socket


class Connection:
    def __init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", env.PORT))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = hiredis.Reader()

    def send(self, *commands: tuple[Any, ...]) -> None:
        self.socket.sendall(packed(*commands))

    def receive(self) -> Any:
        while True:
            reply = self.parser.gets()
            if reply is not False:
                return reply
            data = self.socket.recv(1 << 18)
            if not data:
                raise SystemExit("redis closed the connection")
            self.parser.feed(data)

    def call(self, *command: Any) -> Any:
        self.send(command)
        return self.receive()


def work(consumer: str) -> None:
    connection = Connection()
    connection.call(*CREATE)
    read = read_command(consumer)
    loads = json.loads
    connection.send(read)
    while True:
        got = connection.receive()
        if not got:
            connection.send(read)
            continue
        ids: list[bytes] = []
        for entry_id, fields in got[0][1]:
            handle(loads(fields[1]))
            ids.append(entry_id)
        connection.send(*acks(ids), read)
        connection.receive()
        connection.receive()


def work_one_by_one(consumer: str) -> None:
    connection = Connection()
    connection.call(*CREATE)
    read = read_command(consumer)
    while True:
        got = connection.call(*read)
        for entry_id, fields in got[0][1] if got else ():
            handle(json.loads(fields[1]))
            connection.send(*acks([entry_id]))
            connection.receive()
            connection.receive()


class SyncClient:
    def open(self) -> None:
        self.connection = Connection()
        self.connection.call(*CREATE)

    def enqueue(self, _task: str, p: dict[str, Any]) -> None:
        self.connection.call("XADD", KEY, "*", "d", json.dumps(p))

    def enqueue_many(self, _task: str, ps: list[dict[str, Any]]) -> None:
        self.connection.send(*[("XADD", KEY, "*", "d", json.dumps(p)) for p in ps])
        for _ in ps:
            self.connection.receive()

    def close(self) -> None:
        self.connection.socket.close()


# -------------------------------------------------------------------------------------------------- on a Trio socket
# Trio is imported where it is needed: the plain loops start in a fifth of the time that it takes.


class TrioConnection:
    async def open(self) -> None:
        import trio

        self.stream = await trio.open_tcp_stream("127.0.0.1", env.PORT)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = hiredis.Reader()

    async def send(self, *commands: tuple[Any, ...]) -> None:
        await self.stream.send_all(packed(*commands))

    async def receive(self) -> Any:
        while True:
            reply = self.parser.gets()
            if reply is not False:
                return reply
            self.parser.feed(await self.stream.receive_some(1 << 18))

    async def call(self, *commands: tuple[Any, ...]) -> None:
        await self.send(*commands)
        for _ in commands:
            await self.receive()


async def trio_handle(p: dict[str, Any]) -> None:
    handle(p)


async def trio_sleep(p: dict[str, Any]) -> None:
    import trio

    recorder.begin(p["i"], p["ts"])
    await trio.sleep(env.IO_SLEEP)
    recorder.end(p["i"])


async def trio_work_inline(consumer: str) -> None:
    connection = TrioConnection()
    await connection.open()
    await connection.call(CREATE)
    read = read_command(consumer)
    loads = json.loads
    await connection.send(read)
    while True:
        got = await connection.receive()
        ids: list[bytes] = []
        for entry_id, fields in got[0][1] if got else ():
            await trio_handle(loads(fields[1]))
            ids.append(entry_id)
        if ids:
            await connection.send(*acks(ids), read)
            await connection.receive()
            await connection.receive()
        else:
            await connection.send(read)


async def trio_work_in_tasks(consumer: str) -> None:
    import trio

    connection, settling = TrioConnection(), TrioConnection()
    await connection.open()
    await settling.open()
    await connection.call(CREATE)
    read = read_command(consumer)
    limit = trio.Semaphore(LIMIT)
    handler = trio_sleep if env.CASE == "io" else trio_handle
    done: list[bytes] = []
    wake = trio.Event()

    async def one(entry_id: bytes, p: dict[str, Any], handler: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        try:
            await handler(p)
            done.append(entry_id)
            wake.set()
        finally:
            limit.release()

    async def settle() -> None:
        nonlocal wake, done
        while True:
            await wake.wait()
            await trio.sleep(0.001)  # let a batch of acks gather
            wake = trio.Event()
            ids, done = done, []
            await settling.call(*acks(ids))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(settle)
        while True:
            await connection.send(read)
            got = await connection.receive()
            for entry_id, fields in got[0][1] if got else ():
                await limit.acquire()
                nursery.start_soon(one, entry_id, json.loads(fields[1]), handler)


class TrioClient:
    """A call awaits its reply; a batch is pipelined."""

    async def open(self) -> None:
        self.connection = TrioConnection()
        await self.connection.open()
        await self.connection.call(CREATE)

    async def enqueue(self, _task: str, p: dict[str, Any]) -> None:
        await self.connection.call(("XADD", KEY, "*", "d", json.dumps(p)))

    async def enqueue_many(self, _task: str, ps: list[dict[str, Any]]) -> None:
        await self.connection.call(*[("XADD", KEY, "*", "d", json.dumps(p)) for p in ps])

    async def close(self) -> None:
        await self.connection.stream.aclose()


Client = TrioClient if TRIO else SyncClient
if TRIO:

    def run_client(start: Callable[[], Awaitable[Any]]) -> Any:
        import trio

        return trio.run(start)


if __name__ == "__main__":
    if TRIO:
        import trio

        trio.run(trio_work_in_tasks if TASKS else trio_work_inline, sys.argv[1])
    elif VARIANT == "raw-perjob":
        work_one_by_one(sys.argv[1])
    else:
        work(sys.argv[1])
