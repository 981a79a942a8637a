"""Dividing a source into shards, and into another number of them.

    declare    the source is empty ──▶ its streams are replaced ──▶ the layout is stored
    reshard    groups ──▶ drain ──▶ move ──▶ (again, until each old shard is empty, and replaced) ──▶ marks, and lives
               that are over ──▶ the new layout is stored ──▶ what is left of the old shards is deleted

On a cluster a shard has a slot of its own, so no script moves a message from one to another. Instead a script takes
messages out of an old shard and puts them into its `leaving`, a stream (lua/drain.lua). From there they are added to
the new shards, each of which notes the last entry that has arrived from each old one (lua/arrive.lua), and are then
deleted. So a program that dies at any point loses and doubles nothing, the next one continues, and two that run at the
same time do no harm. Everything goes in the order of `leaving`.

Nodes read the old layout until the new one is stored, and the source is paused, so nothing is handled meanwhile.
Senders go on sending to an old shard until it is replaced; then they wait for the new layout (shards.py). Each is
replaced only when little is left in any of them, so they wait for moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from actorwork.abc import Pauses, Shards
from actorwork.errors import BrokerError
from actorwork.failpoints import failpoint
from actorwork.message import Priority
from actorwork.policy.shards import Layout, differs, placing_field
from actorwork.state.shards import change_layout, check_paused, read_layouts
from actorwork.streams import keys, scripts
from actorwork.streams.shards import Layouts
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import ResponseError, cannot, checked

_AT_ONCE: Final = 200
"""How many messages one script takes out of a shard."""
_LAST: Final = 5000
"""The same of the script that is to leave it empty, for which the server takes some 100 ms."""
_KEYS_AT_ONCE: Final = 50
_AGAIN_AFTER: Final = 0.2
"""Seconds between two looks at what is in flight."""
_DRAINED: Final = failpoint("reshard.drained")
_ARRIVED: Final = failpoint("reshard.arrived")
_MOVED: Final = failpoint("reshard.moved")
_REPLACED: Final = failpoint("reshard.replaced")
_STORED: Final = failpoint("reshard.stored")


class RedisShards(Shards):
    """Implements `actorwork.abc.Shards`."""

    def __init__(self, client: Commands, layouts: Layouts, pauses: Pauses) -> None:
        self._client = client
        self._values = layouts.values
        self._layouts = layouts
        self._pauses = pauses

    def __repr__(self) -> str:
        return f"<RedisShards at {self._client!r}>"

    async def declare(self, source: str, shards: int) -> None:
        known = self._layouts.known.get(source)
        if known is None or known.shards != shards:
            known = await self._declared(source, shards)
        if known.becomes is not None and shards == known.becomes:
            return  # A program that is newer than the layout: it is being moved.
        if known.shards != shards:
            raise BrokerError(differs(source, known.shards, shards))

    async def _declared(self, source: str, shards: int) -> Layout:
        await self._layouts.refresh()
        known = self._layouts.known.get(source)
        if known is not None:
            return known
        new = Layout(source, shards, 0 if shards == 1 else 1)
        if new.number:
            await self._refuse_older(source, (source,))
            await self._replace_empty(source, shards)
        known = await change_layout(self._values, source, lambda known: known or new)
        await self._layouts.refresh()
        return known

    async def _replace_empty(self, source: str, shards: int) -> None:
        """Replace the stream of a source that has not been divided so far."""
        with cannot(f"divide {source!r}"):
            _, in_flight, left, is_replaced = await self._drain(source, 0, may_replace=True)
        if not is_replaced:
            raise BrokerError(
                f"the source {source!r} holds {left} messages, {in_flight} of them in flight, in one stream, and"
                f" Source({source!r}, shards={shards}) wants it divided: declare it without a number, pause it, and"
                f" move them: actorwork sources reshard {source} --shards {shards}"
            )

    async def _refuse_older(self, source: str, names: Sequence[str]) -> None:
        """Refuse to divide a source that is read by nodes which know nothing of shards: they would find no stream."""
        from actorwork.streams.formats import FORMAT_OF_SHARDS, older_readers  # noqa: PLC0415 - few sources are divided

        with cannot(f"look for older nodes that read {source!r}"):
            older = await older_readers(self._client, names, FORMAT_OF_SHARDS)
        if older:
            raise BrokerError(
                f"the source {source!r} is read by nodes of an older version, which would not find its shards"
                f" ({', '.join(older[:5])}): end them first"
            )

    async def list(self) -> Mapping[str, int]:
        layouts, _ = await read_layouts(self._values)
        return {name: layouts[name].shards for name in sorted(layouts)}

    async def reshard(self, source: str, shards: int, *, progress: Callable[[int], object] = int) -> int:
        await check_paused(self._pauses, source)
        await self._layouts.refresh()
        await self._refuse_older(source, self._layouts.names(source))

        def begun(known: Layout | None) -> Layout:
            now = known or Layout(source, 1, 0)
            if now.becomes not in (None, shards):
                raise BrokerError(
                    f"the source {source!r} is being divided into {now.becomes} shards, which was not finished:"
                    f" actorwork sources reshard {source} --shards {now.becomes}"
                )
            return now if now.shards == shards and now.becomes is None else attrs.evolve(now, becomes=shards)

        layout = await change_layout(self._values, source, begun)
        if layout.becomes is None:
            await self._delete_rest(source, layout)
            return 0
        moving = _Moving(self._client, layout, progress)
        with cannot(f"move {source!r} to {shards} shards"):
            await moving.make_groups()
            await self._empty(moving)
            await moving.copy_rest()
            await moving.make_groups()
        stored = await change_layout(self._values, source, lambda known: _ended(known, layout))
        if _STORED is not None:
            _STORED()
        await self._layouts.refresh()
        await self._delete_rest(source, stored)
        return moving.moved

    async def _empty(self, moving: _Moving) -> None:
        """Move all that the old shards hold, and replace these."""
        open_yet = set(moving.old.names)
        enough = -1
        may_replace = False
        while open_yet:
            await check_paused(self._pauses, moving.old.source)
            taken = in_flight = left = 0
            for name in sorted(open_yet):
                if self._client.is_of_cluster:
                    from actorwork.streams.forwarding import forward_all  # noqa: PLC0415 - only on a cluster

                    await forward_all(self._client, name)
                dead = await moving.dead_owners(name)
                most = _LAST if may_replace else _AT_ONCE
                some, held, more, is_replaced = await self._drain(name, most, dead, may_replace=may_replace)
                if _DRAINED is not None:
                    _DRAINED()
                await moving.move(name)
                taken, in_flight, left = max(taken, some), in_flight + held, left + more
                if is_replaced:
                    open_yet.discard(name)
                    if _REPLACED is not None:
                        _REPLACED()
            if enough < 0:
                enough = moving.moved + left
            # Once one of them is replaced, senders wait: not before what was there is moved, and little has come since.
            may_replace = may_replace or (in_flight == 0 and (taken < _AT_ONCE or moving.moved >= enough))
            if taken == 0 and in_flight:
                await self._layouts.sleep(_AGAIN_AFTER)

    async def _drain(
        self, name: str, most: int, dead: Sequence[bytes] = (), *, may_replace: bool
    ) -> tuple[int, int, int, int]:
        args = (keys.prefix(name), most, int(may_replace), *dead)
        # After a lost reply it is sent again, and takes the next ones.
        return tuple(await self._client.run_script(scripts.DRAIN, (name,), args, idempotent=True))

    async def _delete_rest(self, source: str, layout: Layout) -> None:
        """Delete what is left of the shards of the layout before this one, but for the strings in their places."""
        if layout.number == 0:
            return
        with cannot(f"delete the old shards of {source!r}"):
            for name in await self._client.names(f"{_all_of(source, layout.number - 1)}*"):
                if _is_left(name.partition(b"}:")[2]):
                    await self._client.call("DEL", name, idempotent=True)


class _Moving:
    """One run of moving a source from one layout to the next."""

    def __init__(self, client: Commands, old: Layout, progress: Callable[[int], object]) -> None:
        self._client = client
        self.old = old
        self.new = old.following
        self._progress = progress
        self.moved = 0

    def __repr__(self) -> str:
        return f"<_Moving {self.old.source} from {self.old.shards} shards to {self.new.shards}>"

    async def make_groups(self) -> None:
        """Have the new shards keep what they get for all actors that read the old ones."""
        asked = [("SMEMBERS", keys.SourceKeys.of(name).groups) for name in self.old.names]
        found: list[Any] = checked(await self._client.call_many(asked, idempotent=True))
        groups = sorted({group for reply in found for group in reply})
        if not groups:
            return
        for name in self.new.names:
            commands: list[tuple[Any, ...]] = [("SADD", keys.SourceKeys.of(name).groups, *groups)]
            commands += [("XGROUP", "CREATE", name, group, "0", "MKSTREAM") for group in groups]
            for reply in await self._client.call_many(commands, idempotent=True):
                if isinstance(reply, Exception) and not (
                    isinstance(reply, ResponseError) and "BUSYGROUP" in str(reply)
                ):
                    raise reply

    async def dead_owners(self, name: str) -> Sequence[bytes]:
        """Return the consumers of an old shard that have entries and whose nodes are dead.

        On a cluster, what these have left undecided is decided first (joint.py).
        """
        of = keys.SourceKeys.of(name)
        groups = await self._client.call("SMEMBERS", of.groups, idempotent=True)
        asked = [("XPENDING", of.at(level), group) for level in Priority for group in groups]
        owners: set[bytes] = set()
        for reply in await self._client.call_many(asked, idempotent=True):
            if not isinstance(reply, Exception):  # Else there is no such stream, or group.
                owners.update(owner for owner, _ in reply[3] or ())
        names = sorted(owners - {keys.RELEASED.encode()})
        leases = await self._client.call_many(
            [("EXISTS", keys.LEASES.encode() + one) for one in names], idempotent=True
        )
        dead = [one for one, lease in zip(names, leases, strict=True) if lease == 0]
        if dead and self._client.is_of_cluster:
            await self._decide(name, groups, dead)
        return dead

    async def _decide(self, name: str, groups: Sequence[bytes], dead: Sequence[bytes]) -> None:
        from actorwork.streams.joint import drop_undecided, nodes_of  # noqa: PLC0415 - only on a cluster

        for group in groups:
            noted = await self._client.call("HVALS", keys.held(name, group.decode()), idempotent=True)
            for node, some in nodes_of(noted).items():
                for one in some if node in dead else ():
                    await drop_undecided(self._client, name, group.decode(), one)

    async def move(self, name: str) -> None:
        """Add to the new shards what has left an old one, and delete it there."""
        leaving = f"{keys.prefix(name)}leaving"
        while True:
            page: Any = await self._client.call("XRANGE", leaving, "-", "+", "COUNT", _AT_ONCE, idempotent=True)
            if not page:
                return
            by_target: dict[str, list[Any]] = {}
            known: list[bytes] = []
            for entry, fields in page:
                facts = dict(zip(fields[::2], fields[1::2], strict=True))
                place = self.new.place(placing_field(facts))
                args = by_target.setdefault(place, [keys.prefix(place), "messages", name])
                # A program of an older version left without their lives.
                args += (entry, *(facts[one] for one in _LEAVING), life := facts.get(b"life", b""))
                known += [facts[b"id"]] if life else []
            for target, args in by_target.items():
                await self._client.run_script(scripts.ARRIVE, (target,), args, idempotent=True)
                if _ARRIVED is not None:
                    _ARRIVED()
            await self._forget(name, known)
            self.moved += await self._client.call("XDEL", leaving, *(entry for entry, _ in page), idempotent=True)
            if _MOVED is not None:
                _MOVED()
            self._progress(self.moved)

    async def _forget(self, name: str, moved: Sequence[bytes]) -> None:
        """Delete what an old shard knows of messages that have arrived in new ones."""
        of = keys.prefix(name).encode()
        commands: list[tuple[bytes | str, ...]] = []
        for one in moved:
            commands += (("DEL", of + b"state:" + one, of + b"claim:" + one), ("HDEL", of + b"cancelled", one))
        checked(await self._client.call_many(commands, idempotent=True))

    async def copy_rest(self) -> None:
        """Mark the ids that the old shards have seen as seen by all new ones: a sender may send one again. Note what
        the old shards know of messages that are over in the new ones.
        """
        by_kind: dict[bytes, list[bytes]] = {}
        for name in sorted(await self._client.names(f"{_all_of(self.old.source, self.old.number)}*")):
            by_kind.setdefault(name.partition(b"}:")[2].partition(b":")[0], []).append(name)
        await self._copy_marks(by_kind.get(b"seen", ()))
        for kind in (b"state", b"result", b"claim"):
            await self._copy_of_ended(kind, by_kind.get(kind, ()))

    async def _copy_marks(self, names: Sequence[bytes]) -> None:
        for start in range(0, len(names), _KEYS_AT_ONCE):
            some = names[start : start + _KEYS_AT_ONCE]
            marks: list[Any] = []
            for name, data, left in await self._read(some, "GET"):
                marks += (name.partition(b"}:seen:")[2], data, left)
            for target in self.new.names if marks else ():
                args = (keys.prefix(target), "seen", *marks)
                await self._client.run_script(scripts.ARRIVE, (target,), args, idempotent=True)

    async def _copy_of_ended(self, kind: bytes, names: Sequence[bytes]) -> None:
        """Each goes to the shard of its id: who looks for one looks in all shards."""
        for start in range(0, len(names), _KEYS_AT_ONCE):
            by_target: dict[str, list[Any]] = {}
            some = names[start : start + _KEYS_AT_ONCE]
            for name, data, left in await self._read(some, "HGETALL" if kind == b"state" else "GET"):
                message = name.partition(b"}:" + kind + b":")[2]
                values: list[bytes] = [part for pair in data.items() for part in pair] if kind == b"state" else [data]
                place = self.new.place(message.decode(errors="surrogateescape"))
                by_target.setdefault(place, [keys.prefix(place), "over"]).extend(
                    (kind, message, left, len(values), *values)
                )
            for target, args in by_target.items():
                await self._client.run_script(scripts.ARRIVE, (target,), args, idempotent=True)

    async def _read(self, names: Sequence[bytes], how: str) -> Sequence[tuple[bytes, Any, int]]:
        """Return keys that run out, with what they hold, and after how many ms they do."""
        asked = [command for name in names for command in ((how, name), ("PTTL", name))]
        replies = await self._client.call_many(asked, idempotent=True)
        found = zip(names, replies[::2], replies[1::2], strict=True)
        return [one for one in found if not isinstance(one[1], Exception | None) and one[2] > 0]


_LEAVING: Final = (
    b"kind",
    b"at",
    b"holds",
    b"ttl",
    b"replaceable",
    b"member",
    b"id",
    b"key",
    b"unique",
    b"fields",
)
"""What is in an entry of `leaving`, in the order in which lua/arrive.lua takes it."""


def _all_of(source: str, number: int) -> str:
    """Return the beginning of the names of all keys of a layout's shards, but for their streams, as a pattern."""
    return f"actorwork:{{{source}}}:" if number == 0 else f"actorwork:{{{source}.{number}.*}}:"


_LEFT: Final = (
    b"acked",
    b"arrived",
    b"cancelled",
    b"claim",
    b"dead",
    b"groups",
    b"held",
    b"kept",
    b"key",
    b"keys",
    b"leaving",
    b"lost",
    b"outbox",
    b"priorities",
    b"result",
    b"seen",
    b"settled",
    b"state",
    b"swept",
    b"tended",
    b"tracked",
    b"unique",
    b"waiting",
)
"""What a shard leaves behind when it is empty; a source that was not divided before has more keys, which stay."""


def _is_left(tail: bytes) -> bool:
    first, _, rest = tail.partition(b":")
    # Beside the stream of a priority, which is a string by now, are keys of its own.
    return first in _LEFT or (first == b"priority" and b":" in rest) or tail == b"delayed:messages"


def _ended(known: Layout | None, old: Layout) -> Layout:
    """Return the layout that follows, unless another program has stored it."""
    if known is not None and known.number == old.number and known.becomes == old.becomes:
        return old.following
    if known is None or known.number <= old.number:
        raise BrokerError(f"the layout of {old.source!r} was changed by another program meanwhile: look at it")
    return known
