"""The clients of actorwork for other programs: actorwork-aio (asyncio) and actorwork-sync; the worker is the same."""

from collections.abc import Awaitable, Callable
from typing import Any

from actorwork import aio, sync
from actorwork.workflows import Flow, group
from benchmarks.benchkit import env
from benchmarks.peers.actorwork_app import MESSAGES, Typed, chord_of, describe as describe_worker, members

VARIANT = env.PEER or "actorwork-aio"
ASYNCIO = VARIANT == "actorwork-aio"


def describe() -> dict[str, Any]:
    client = "asyncio" if ASYNCIO else "sync"
    return describe_worker() | {
        "name": VARIANT,
        "cases": ["enqueue", "submit", "rpc", "group", "chord"],
        "settings": f"the {client} client; all else by default",
    }


class AsyncioClient:
    async def open(self) -> None:
        self.opened = aio.open_client(env.URL)
        self.client = await self.opened.__aenter__()
        self.ref = self.client.ref(Typed)

    async def enqueue(self, task: str, p: dict[str, Any]) -> None:
        await self.ref.tell(MESSAGES[task](**p))

    async def submit(self, p: dict[str, Any]) -> None:
        await self.ref.submit(MESSAGES["echo"](**p))

    async def rpc(self, p: dict[str, Any]) -> object:
        return await self.ref.ask(MESSAGES["echo"](**p), timeout=30)

    async def group(self, ps: list[dict[str, Any]]) -> list[int]:
        return await (await self.client.start(Flow(group(members(ps))))).result(timeout=100)

    async def chord(self, ps: list[dict[str, Any]], body: dict[str, Any]) -> None:
        await self.client.start(chord_of(ps, body))

    async def close(self) -> None:
        await self.opened.__aexit__(None, None, None)


class SyncClient:
    def open(self) -> None:
        self.client = sync.open_client(env.URL)
        self.ref = self.client.ref(Typed)

    def enqueue(self, task: str, p: dict[str, Any]) -> None:
        self.ref.tell(MESSAGES[task](**p))

    def submit(self, p: dict[str, Any]) -> None:
        self.ref.submit(MESSAGES["echo"](**p))

    def rpc(self, p: dict[str, Any]) -> object:
        return self.ref.ask(MESSAGES["echo"](**p), timeout=30)

    def group(self, ps: list[dict[str, Any]]) -> list[int]:
        return self.client.start(Flow(group(members(ps)))).result(timeout=100)

    def chord(self, ps: list[dict[str, Any]], body: dict[str, Any]) -> None:
        self.client.start(chord_of(ps, body))

    def close(self) -> None:
        self.client.close()


Client = AsyncioClient if ASYNCIO else SyncClient


def run_client(start: Callable[[], Awaitable[Any]]) -> Any:
    import asyncio

    async def main() -> Any:
        return await start()

    return asyncio.run(main())
