"""The lives of tracked messages at Redis; lua/state.lua writes them.

A life is a hash. A step of a run may have none: then its run has all that is known of it.
"""

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
from actorwork.streams.transport.redis_py import NoPermissionError, cannot, checked

if TYPE_CHECKING:
    from actorwork.records import MessageInfo, TrackedMessage

PAGE: Final = 1000
"""How many lives, or dead letters, are read at once."""
_BEGUN: Final = {b"status": b"PENDING", b"version": b"1"}
_DONE: Final = {b"status": b"SUCCESS", b"version": b"2"}
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
        asked = [(of, id) for of in shards]
        with cannot(f"look at message {id}"):
            lives = await self._lives(asked)
            if self._layouts.is_moved(source) and not any(lives):
                # A new shard may have been asked before the message arrived there, and its old one after that.
                lives = await self._lives(asked)
        return next(((of, life) for of, life in zip(shards, lives, strict=True) if life), None)

    async def _lives(self, of_messages: Sequence[tuple[keys.SourceKeys, str]]) -> list[Mapping[bytes, bytes]]:
        """Return the lives of messages; an empty one of a message that has none.

        What a run has is read before the hash: a step that has left its run by then has one.
        """
        steps = [_step_in(name) for _, name in of_messages]
        commands: list[tuple[str, ...]] = []
        for (of, name), step in zip(of_messages, steps, strict=True):
            if step is not None:
                run, number = step
                state = f"{keys.run(of.stream, run)}:state"
                commands.append(("HMGET", state, *(f"{kind}{number}" for kind in "spl")))
            commands.append(("HGETALL", of.state(name)))
        replies = iter(await self._client.call_many(commands, idempotent=True))
        lives: list[Mapping[bytes, bytes]] = []
        for step in steps:
            in_run: Any = None if step is None else next(replies)
            life: Mapping[bytes, bytes] = checked([next(replies)])[0]
            if b"status" not in life:
                life = {}
                # A user may have the right to read lives, and not runs.
                if in_run is not None and not isinstance(in_run, NoPermissionError):
                    life = _life_in_run(*checked([in_run])[0])
            lives.append(life)
        return lives

    async def locate(self, id: str) -> str | None:
        with cannot(f"look for message {id}"):
            found = await self._sent_by_run(id) if "/" in id else await self._sent_by_client(id)
        return None if found is None else whole_source(found)

    async def _sent_by_client(self, id: str) -> str | None:
        at = await self._client.call("GET", keys.submitted(id), idempotent=True)
        if at is not None:
            return at.decode()
        publisher = id.rpartition("-")[0]
        noted = await self._client.call("SMEMBERS", keys.publisher(publisher), idempotent=True)
        # Of a source that has been moved since, these are the old shards.
        sources = {whole_source(one.decode()) for one in noted}
        places = [name for source in sources for name in await self._layouts.names_of_tracked(source)]
        commands = [("EXISTS", keys.SourceKeys.of(name).state(id)) for name in places]
        for name, reply in zip(places, await self._client.call_many(commands, idempotent=True), strict=True):
            if reply == 1:
                return name
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
        # While a source is moved, two shards may know of it.
        names = await self._layouts.names_of_tracked(source)
        deleted = [("DEL", one.state(id), one.result(id)) for one in map(keys.SourceKeys.of, names)]
        with cannot(f"forget message {id}"):
            forgotten = sum(checked(await self._client.call_many(deleted, idempotent=True)))
            if not forgotten and (step := _step_in(id)) is not None:
                run, number = step
                forgotten = await self._client.call(
                    "HDEL", f"{keys.run(of.stream, run)}:state", f"l{number}", idempotent=True
                )
            return bool(forgotten)

    async def newest(self, source: str, *, limit: int) -> Sequence[TrackedMessage]:
        found: list[TrackedMessage] = []
        with cannot(f"list the messages of {source!r}"):
            names = await self._layouts.names_of_tracked(source)
            for name in names:
                found += await self._newest_of(keys.SourceKeys.of(name), source, limit)
        if len(names) == 1:
            return found
        once = {one.info.id: one for one in found}  # While the source is moved, two shards may know of one.
        return sorted(once.values(), key=lambda one: one.info.sent or 0.0, reverse=True)[:limit]

    async def _newest_of(self, of: keys.SourceKeys, source: str, limit: int) -> list[TrackedMessage]:
        from actorwork.records import TrackedMessage  # noqa: PLC0415 - see records.py

        ids = await self._client.call("ZREVRANGE", of.tracked, 0, limit - 1, idempotent=True)
        found: list[TrackedMessage] = []
        for first in range(0, len(ids), PAGE):
            names = [one.decode() for one in ids[first : first + PAGE]]
            for name, life in zip(names, await self._lives([(of, name) for name in names]), strict=True):
                if life:
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


def _step_in(id: str) -> tuple[str, str] | None:
    """Return the run and the number of a step, of which this may be the message: that of its first attempt."""
    run, _, number = id.rpartition("/")
    return (run, number) if run and number.isascii() and number.isdecimal() else None


def _life_in_run(state: bytes | None, place: bytes | None, kept: bytes | None) -> Mapping[bytes, bytes]:
    """Return the life of a step if its run keeps it; else an empty one."""
    if kept is None or place is None:
        return {}
    sent = {b"sent": place.rpartition(b":")[2].partition(b"-")[0], b"place": place}
    if kept:
        facts: dict[str, str] = json.loads(kept)
        return {name.encode(): value.encode() for name, value in facts.items()} | sent | _DONE
    return sent | _BEGUN if state == b"1" else {}


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
