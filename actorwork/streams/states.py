"""The lives of tracked messages at Redis; lua/state.lua writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.abc import States
from actorwork.message import Failure, Status
from actorwork.policy.shards import whole_source
from actorwork.streams import keys, scripts
from actorwork.streams.entries import dead_letter_from, headers_to_look_at, key_of_letter
from actorwork.streams.shards import Layouts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import cannot, checked

if TYPE_CHECKING:
    from actorwork.records import MessageInfo, TrackedMessage

PAGE: Final = 1000
"""How many lives, or dead letters, are read at once."""
AT_ONCE: Final = 100
"""How many payloads one script reads."""


class RedisStates(States):
    """The lives of the messages of all sources. Of one that is divided, each shard has those of its messages."""

    def __init__(self, client: Commands, layouts: Layouts) -> None:
        self._client = client
        self._layouts = layouts

    def __repr__(self) -> str:
        return f"<RedisStates at {self._client!r}>"

    async def find(self, source: str, id: str) -> MessageInfo | None:
        return None if (found := await self._found(source, id)) is None else info_from(source, id, found[1])

    async def _found(self, source: str, id: str) -> tuple[keys.SourceKeys, Mapping[bytes, bytes]] | None:
        """Return where a message is, and what is known of it."""
        shards = [keys.SourceKeys.of(name) for name in await self._layouts.names_of_tracked(source)]
        with cannot(f"look at message {id}"):
            asked = [("HGETALL", of.state(id)) for of in shards]
            lives: list[Any] = checked(await self._client.call_many(asked, idempotent=True))
        return next(((of, life) for of, life in zip(shards, lives, strict=True) if b"status" in life), None)

    async def locate(self, id: str) -> str | None:
        with cannot(f"look for message {id}"):
            found = await self._sent_by_run(id) if "/" in id else await self._sent_by_client(id)
        return None if found is None else whole_source(found)

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
        plan = await self._client.call("HGET", f"{keys.run(keys.home_from(home), run)}:steps", number, idempotent=True)
        return None if plan is None else json.loads(plan).get("source")

    async def forget(self, source: str, id: str) -> bool:
        found = await self._found(source, id)
        if found is None or not info_from(source, id, found[1]).status.is_final:
            return False
        of = found[0]
        with cannot(f"forget message {id}"):
            return bool(await self._client.call("DEL", of.state(id), of.result(id), idempotent=True))

    async def newest(self, source: str, *, limit: int) -> Sequence[TrackedMessage]:
        found: list[TrackedMessage] = []
        with cannot(f"list the messages of {source!r}"):
            names = await self._layouts.names_of_tracked(source)
            for name in names:
                found += await self._newest_of(keys.SourceKeys.of(name), source, limit)
        return found if len(names) == 1 else sorted(found, key=lambda one: one.info.sent or 0.0, reverse=True)[:limit]

    async def _newest_of(self, of: keys.SourceKeys, source: str, limit: int) -> list[TrackedMessage]:
        from actorwork.records import TrackedMessage  # noqa: PLC0415 - see records.py

        ids = await self._client.call("ZREVRANGE", of.tracked, 0, limit - 1, idempotent=True)
        found: list[TrackedMessage] = []
        for first in range(0, len(ids), PAGE):
            names = [one.decode() for one in ids[first : first + PAGE]]
            commands = [("HGETALL", of.state(name)) for name in names]
            lives = checked(await self._client.call_many(commands, idempotent=True))
            for name, life in zip(names, lives, strict=True):
                if b"status" in life:
                    info = info_from(source, name, life)
                    is_delayed = not info.status.is_final and life.get(b"place", b"").startswith(b"~")
                    found.append(TrackedMessage(info=info, is_delayed=is_delayed))
        return found

    async def with_payloads(self, messages: Sequence[TrackedMessage]) -> Sequence[TrackedMessage]:
        by_source: dict[str, list[TrackedMessage]] = {}
        for one in messages:
            by_source.setdefault(one.info.source, []).append(one)
        known: dict[tuple[str, str], dict[str, Any]] = {}
        with cannot("read the payloads of messages"):
            for source, some in by_source.items():
                has_failed = any(one.info.status is Status.FAILURE for one in some)
                for name in await self._layouts.names_of_tracked(source):
                    of = keys.SourceKeys.of(name)
                    known |= await self._of_open([one.info.id for one in some if not one.info.status.is_final], of)
                    if has_failed:
                        known |= await self._of_dead(of)
        return [attrs.evolve(one, **known.get((one.info.source, one.info.id), {})) for one in messages]

    async def _of_open(self, ids: Sequence[str], of: keys.SourceKeys) -> dict[tuple[str, str], dict[str, Any]]:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for first in range(0, len(ids), AT_ONCE):
            some = ids[first : first + AT_ONCE]
            replies: Any = await self._client.run_script(
                scripts.PAYLOADS, (of.stream,), (of.prefix, *some), idempotent=True
            )
            for name, reply in zip(some, replies, strict=True):
                if reply:
                    payload, *texts, headers = reply
                    kind, key, unique = (None if one is None else one.decode(errors="replace") for one in texts)
                    found[of.name, name] = {
                        "payload": payload,
                        "type": kind,
                        "key": key,
                        "unique": unique,
                        "headers": headers_to_look_at(headers),
                    }
        return found

    async def _of_dead(self, of: keys.SourceKeys) -> dict[tuple[str, str], dict[str, Any]]:
        letters: Any = await self._client.call("XREVRANGE", of.dead, "+", "-", "COUNT", PAGE, idempotent=True)
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for entry, fields in letters:
            letter = dead_letter_from(of.name, entry, fields)
            if isinstance(letter.payload, bytes):
                facts = {"payload": letter.payload, "type": letter.type, "key": key_of_letter(fields)}
                found.setdefault((of.name, letter.id), facts | {"headers": letter.headers})
        return found


def info_from(source: str, id: str, found: Mapping[bytes, bytes]) -> MessageInfo:
    """Make what is known of a message of its hash."""
    from actorwork.records import MessageInfo, Progress  # noqa: PLC0415 - see records.py

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
