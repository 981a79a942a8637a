"""The lives of tracked messages at Redis; lua/state.lua writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from actorwork.abc import States
from actorwork.message import Failure, MessageInfo, Progress, Status
from actorwork.streams import keys
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot


class RedisStates(States):
    """The lives of the messages of all sources."""

    def __init__(self, client: Commands) -> None:
        self._client = client

    def __repr__(self) -> str:
        return f"<RedisStates at {self._client!r}>"

    async def find(self, source: str, id: str) -> MessageInfo | None:
        with cannot(f"look at message {id}"):
            found: Any = await self._client.call("HGETALL", keys.SourceKeys.of(source).state(id), idempotent=True)
        return info_from(source, id, found) if b"status" in found else None

    async def locate(self, id: str) -> str | None:
        with cannot(f"look for message {id}"):
            return await self._sent_by_run(id) if "/" in id else await self._sent_by_client(id)

    async def _sent_by_client(self, id: str) -> str | None:
        at = await self._client.call("GET", keys.submitted(id), idempotent=True)
        if at is not None:
            return at.decode()
        publisher = id.rpartition("-")[0]
        sources = [
            one.decode() for one in await self._client.call("SMEMBERS", keys.publisher(publisher), idempotent=True)
        ]
        commands = [("EXISTS", keys.SourceKeys.of(source).state(id)) for source in sources]
        for source, reply in zip(sources, await self._client.call_many(commands, idempotent=True), strict=True):
            if reply == 1:
                return source
        return None

    async def _sent_by_run(self, id: str) -> str | None:
        """Return the source of the step whose message has this id: `<run>/<number>`, or `<run>/<number>.<attempt>`."""
        run, _, step = id.rpartition("/")
        home = await self._client.call("GET", keys.flow(run), idempotent=True)
        if home is None:
            return None
        number = step.partition(".")[0]
        plan = await self._client.call("HGET", f"{keys.run(home.decode(), run)}:steps", number, idempotent=True)
        return None if plan is None else json.loads(plan).get("source")

    async def forget(self, source: str, id: str) -> bool:
        info = await self.find(source, id)
        if info is None or not info.status.is_final:
            return False
        of = keys.SourceKeys.of(source)
        with cannot(f"forget message {id}"):
            return bool(await self._client.call("DEL", of.state(id), of.result(id), idempotent=True))


def info_from(source: str, id: str, found: Mapping[bytes, bytes]) -> MessageInfo:
    """Make what is known of a message of its hash."""

    def text(name: bytes) -> str:
        return found.get(name, b"").decode(errors="replace")

    def number(name: bytes) -> int:
        value = text(name)
        return int(value) if value.isdecimal() else 0

    def moment(name: bytes) -> float | None:
        return number(name) / 1000 or None

    failure, progress = text(b"failure"), text(b"progress")
    return MessageInfo(
        id=id,
        source=source,
        status=Status(text(b"status")),
        attempt=number(b"attempt"),
        deliveries=number(b"count"),
        actor=text(b"actor"),
        node=text(b"node"),
        sent=moment(b"sent"),
        received=moment(b"received"),
        started=moment(b"started"),
        ended=moment(b"ended"),
        progress=Progress(**json.loads(progress)) if progress else None,
        failure=Failure(**json.loads(failure)) if failure else None,
        reason=text(b"reason"),
        version=number(b"version"),
    )
