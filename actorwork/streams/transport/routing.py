"""How a client of a cluster sends commands: each to the primary that has the slot of its keys.

    command ──▶ slot of its keys ──▶ primary of the slot ──▶ the client of that primary
                   ▲                                             ├── reply
                   └── the layout is put right ◀── MOVED ────────┤
                   └── after a pause ◀── CLUSTERDOWN, TRYAGAIN ──┤
                           with ASKING, once, at the other primary ◀── ASK

Scripts and slots that move. While the keys of a slot are moved one by one, some of them are at either primary. A script
that finds only some of its keys would do the wrong thing, and one that fails half-way cannot be undone. So each script
begins by asking for a key that does not exist in the slot of its keys: the primary that the slot is moved away from
refuses that, before the script has done anything, and the script is tried again until the slot has moved. Scripts
never follow ASK. (Atomic migration, in Redis 8.4 and Valkey 9, has no such time.)

Commands without a key go to one primary, or along with those that are sent in the same call. Those that wait there
when it is lost go to the one that takes its place: they need not wait until it is back.

What carries the commands to a primary, and keeps the layout, is up to the client: on Trio `cluster.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from random import SystemRandom
from typing import Any, ClassVar, Final, TypeVar

from actorwork.streams.transport.address import Address
from actorwork.streams.transport.cluster_layout import MOST_REDIRECTIONS, Layout, Place, shown, target_of
from actorwork.streams.transport.commands import Commands, CommonCommands, Link, MayHaveExecuted, Replies, Script
from actorwork.streams.transport.redis_py import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    ConnectionError,  # noqa: A004
    MovedError,
    NoScriptError,
    RedisError,
    TimeoutError,  # noqa: A004
    is_of_moving_slot,
)
from actorwork.streams.transport.slots import key_slot, keys_of, slots_of

R = TypeVar("R")

LOST: Final = (ConnectionError, TimeoutError, OSError)
ANSWERS_WITHIN: Final = 3.0
"""Seconds for a primary that is asked for what need not be known of all of them."""
PAUSES: Final = (0.02, 0.05, 0.1, 0.25)
"""Seconds before a command is tried again, the first time, the second time and so on."""
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})
_SUMMED: Final = frozenset({"DEL", "UNLINK", "EXISTS", "TOUCH"})

_chance: Final = SystemRandom()
_UNSENT: Final = object()

_GUARD: Final = """\
if KEYS[1] then
  KEYS.tag = string.match(KEYS[1], '{([^}]+)}') or KEYS[1]
  redis.call('EXISTS', '{' .. KEYS.tag .. '}actorwork:none')
end
"""
"""Fails in a slot that is being moved away: see the top of this file. Also tells the script that it is on a cluster,
and in which slot (lua/away.lua).
"""


def guarded(script: Script) -> Script:
    """Return a script as it is run on a cluster."""
    return Script(script.name, _GUARD + script.source)


def address_at(address: Address, place: Place) -> Address:
    """Return the address of one member of a cluster, from that of the cluster."""
    assert address.cluster is not None  # noqa: S101 - it is the address of a cluster
    url = f"{address.url.partition('+')[0]}://{shown(place)}"
    return Address(url, address.cluster.connection_class, address.cluster.options_at(place))


def pause_before(times: int) -> float:
    """Return the seconds to wait before a command is tried again, the `times`th time."""
    return PAUSES[min(times, len(PAUSES)) - 1] * _chance.uniform(0.5, 1.0)


class Routing(CommonCommands):
    """The commands of a client of a cluster. `call` and its likes do what those of any client do."""

    is_of_cluster = True

    GONE: ClassVar[tuple[type[Exception], ...]] = ()
    """What the client of a primary raises once it is closed, for what it has not sent."""

    _guarded: dict[str, Script]
    """The scripts that are known, as they are run here, by the digest of what they are elsewhere."""
    _layout: Layout | None
    _home: Place | None
    """The primary to which commands without a key go."""
    _carriers: Mapping[Place, Commands]
    """The clients of the primaries."""

    @staticmethod
    def choose(places: Sequence[Place]) -> Place:
        """Return the primary for subscriptions and for commands without a key: many clients are to use all of them."""
        return _chance.choice(places)

    @abstractmethod
    async def _wait_layout(self) -> None:
        """Wait until the layout is known; return at once if it is. Raises one of `GONE` if this client is closed."""

    @abstractmethod
    async def _pause(self, times: int) -> None:
        """Wait a little before a command is tried again, the `times`th time."""

    @abstractmethod
    def _look_now(self) -> None:
        """Have the layout be asked for again."""

    @abstractmethod
    async def _all(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Do several things, at the same time if that is possible."""

    @abstractmethod
    async def _in_time(self, job: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Do something, and return whether it was done within `ANSWERS_WITHIN` seconds; else it is cancelled."""

    @abstractmethod
    async def _is_tried_again(self, error: Exception, place: Place) -> bool:
        """Return whether a command is tried again whose primary could not be reached, after a pause."""

    # ------------------------------------------------------------------------------------------------------- commands

    async def call(self, *args: Any, idempotent: bool = False) -> Any:
        keys = keys_of(args)
        if len(keys) > 1 and len(slots_of(keys)) > 1:
            return await self._call_of_several(args, keys, idempotent=idempotent)
        return await self._routed(self._on_cluster(args), keys, idempotent=idempotent)

    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]:
        """Send commands, those of one primary in one write, and return their replies in order; error replies are
        exceptions among them.
        """

        async def send(client: Commands, some: list[Sequence[Any]]) -> list[Any]:
            return await client.call_many(some, idempotent=idempotent)

        return await self._spread(commands, send, idempotent=idempotent)

    async def call_in_turn(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        async def send(client: Commands, some: list[Sequence[Any]]) -> list[Any]:
            return await client.call_in_turn(some)

        return await self._spread(list(commands), send, idempotent=True)

    async def transact(self, *commands: Sequence[Any]) -> list[Any]:
        raise TypeError("no transactions are sent to a cluster: `may_transact` says so")

    async def may_transact(self) -> bool:
        """Return False. A connection that was lost could not be found again after its primary has changed."""
        return False

    def at_one_place(self, names: Sequence[str], most: int) -> Sequence[Sequence[str]]:
        by_slot: dict[int, list[str]] = {}
        for name in names:
            by_slot.setdefault(key_slot(name), []).append(name)
        return [some[start : start + most] for some in by_slot.values() for start in range(0, len(some), most)]

    async def link_of(self, key: str) -> Link:
        refusals = 0
        while True:
            await self._wait_layout()
            place = self._place_of((key,))
            carrier = None if place is None else self._carriers.get(place)
            if carrier is not None:
                return place, carrier.generation
            refusals += 1
            await self._pause(refusals)

    async def call_over_links(self, sent: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> Sequence[Replies]:
        found: list[Replies] = [[]] * len(sent)

        async def send(number: int, key: str, commands: Sequence[Sequence[Any]]) -> None:
            place = self._place_of((key,))
            carrier = None if place is None else self._carriers.get(place)
            try:
                if carrier is None:
                    raise ConnectionError(f"no primary has the slot of {key!r}")
                found[number] = await carrier.call_many(commands)
            except (*self.GONE, *LOST) as error:
                found[number] = MayHaveExecuted(str(error), client_id=-1)
            except RedisError as error:
                found[number] = error

        await self._all([partial(send, number, *one) for number, one in enumerate(sent)])
        return found

    async def call_each(self, *args: Any) -> Sequence[Any]:
        await self._wait_layout()
        places = list(self._carriers)
        found: list[Any] = [ConnectionError(f"{shown(place)} does not answer") for place in places]
        refusals: list[RedisError] = []

        async def ask(number: int, client: Commands) -> None:
            try:
                (found[number],) = await client.call_each(*args)
            except (*self.GONE, *LOST):
                return
            except RedisError as error:
                refusals.append(error)

        async def ask_in_time(number: int, client: Commands) -> None:
            await self._in_time(partial(ask, number, client))

        await self._all([partial(ask_in_time, number, self._carriers[place]) for number, place in enumerate(places)])
        for error in refusals:
            raise error
        return found

    async def names(self, pattern: str) -> Collection[bytes]:
        """Return the keys at all primaries that match a pattern, once each."""
        await self._wait_layout()
        return {name for client in list(self._carriers.values()) for name in await client.names(pattern)}

    async def run_script(
        self, script: Script, keys: Sequence[Any], args: Sequence[Any], *, idempotent: bool = False
    ) -> Any:
        if len(slots_of(keys)) > 1:
            raise ClusterCrossSlotError(
                f"the script {script.name} has keys of several slots ({', '.join(map(str, keys[:3]))}, …): a cluster "
                "runs it only if they are in one"
            )
        known = self._guarded.get(script.sha)
        if known is None:
            known = self._guarded[script.sha] = guarded(script)
        call = ("EVALSHA", known.sha, len(keys), *keys, *args)
        try:
            return await self._routed(call, keys, idempotent=idempotent)
        except NoScriptError:
            # Sent whole, so that it is known wherever the slot is by then.
            return await self._routed(("EVAL", known.source, *call[2:]), keys, idempotent=idempotent)

    def _on_cluster(self, command: Sequence[Any]) -> Sequence[Any]:
        """Return a command as it is sent: a script is another one here."""
        if command[0] == "EVALSHA" and (known := self._guarded.get(command[1])) is not None:
            return ("EVALSHA", known.sha, *command[2:])
        return command

    async def _call_of_several(self, args: Sequence[Any], keys: Sequence[Any], *, idempotent: bool) -> Any:
        verb = str(args[0]).upper()
        if verb != "MGET" and verb not in _SUMMED:
            raise ClusterCrossSlotError(f"{verb} has keys of several slots: {', '.join(map(str, keys[:3]))}")
        each = "GET" if verb == "MGET" else verb
        replies = await self.call_many([(each, key) for key in keys], idempotent=idempotent)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies if verb == "MGET" else sum(replies)

    async def _spread(
        self,
        commands: Sequence[Sequence[Any]],
        send: Callable[[Commands, list[Sequence[Any]]], Coroutine[Any, Any, list[Any]]],
        *,
        idempotent: bool,
    ) -> list[Any]:
        """Send commands to their primaries, at the same time, those of each in order; then, in order, again what was
        redirected.
        """
        if not commands:
            return []
        await self._wait_layout()
        sent = [self._on_cluster(command) for command in commands]
        keys = [keys_of(command) for command in commands]
        # Those without a key go along with the others, so the answer waits for one primary less.
        beside = next((some for some in keys if some), ())
        keys = [some or beside for some in keys]
        by_place: dict[Place | None, list[int]] = {}
        for which, some in enumerate(keys):
            by_place.setdefault(self._place_of(some), []).append(which)
        replies: list[Any] = [_UNSENT] * len(sent)

        async def send_to(place: Place | None, which: list[int]) -> None:
            client = None if place is None else self._carriers.get(place)
            if client is None:
                return
            try:
                found = await send(client, [sent[one] for one in which])
            except self.GONE:
                return  # It is no primary any more, and none of them was sent to it.
            except LOST as error:
                if not await self._is_tried_again(error, place or ("", 0)):
                    raise
                return
            for one, reply in zip(which, found, strict=True):
                replies[one] = reply

        if len(by_place) == 1:
            await send_to(*next(iter(by_place.items())))
        else:
            await self._all([partial(send_to, place, which) for place, which in by_place.items()])
        for one, reply in enumerate(replies):
            if reply is _UNSENT or (isinstance(reply, RedisError) and self._is_elsewhere(reply)):
                try:
                    replies[one] = await self._routed(sent[one], keys[one], idempotent=idempotent)
                except LOST:
                    raise
                except RedisError as error:
                    replies[one] = error
        return replies

    def _is_elsewhere(self, error: RedisError) -> bool:
        return isinstance(error, MovedError) or is_of_moving_slot(error)

    async def _routed(self, command: Sequence[Any], keys: Sequence[Any], *, idempotent: bool) -> Any:
        """Send one command to where its keys are, until it is accepted or refused there."""
        is_script = command[0] in _SCRIPTS
        redirections = refusals = 0
        asking: Place | None = None
        while True:
            await self._wait_layout()
            place = asking or self._place_of(keys)
            client = None if place is None else self._carriers.get(place)
            if place is None or client is None:
                # No primary has the slot, or ASK has led to one without slots.
                asking = None
                refusals += 1
                await self._pause(refusals)
                continue
            try:
                if asking is None:
                    return await client.call(*command, idempotent=idempotent)
                asking = None
                _, reply = await client.call_many([("ASKING",), command], idempotent=idempotent)
                if not isinstance(reply, Exception):
                    return reply
                raise reply
            except self.GONE:
                await self._pause(1)  # It is no primary any more, and the command was not sent to it.
            except MovedError as error:
                redirections += 1
                if redirections > MOST_REDIRECTIONS:
                    raise
                self._note_moved(keys, target_of(error, place))
                if redirections > 1:
                    await self._pause(redirections)
            except LOST as error:
                if not await self._is_tried_again(error, place):
                    raise
            except RedisError as error:
                if not is_of_moving_slot(error):
                    raise
                if isinstance(error, AskError) and not is_script:
                    redirections += 1
                    if redirections > MOST_REDIRECTIONS:
                        raise
                    asking = target_of(error, place)
                    continue
                refusals += 1
                if isinstance(error, ClusterDownError):
                    self._look_now()
                await self._pause(refusals)

    def server_of(self, key: Any) -> object:
        return self._place_of((key,))

    def _place_of(self, keys: Sequence[Any]) -> Place | None:
        if self._layout is None:
            return None
        return self._layout.of_slot[key_slot(keys[0])] if keys else self._home

    def _note_moved(self, keys: Sequence[Any], place: Place) -> None:
        if keys:
            self._note_slot(key_slot(keys[0]), place)
        self._look_now()

    def _note_slot(self, slot: int, place: Place) -> None:
        """Note what a primary has said of one slot. If its successor is not known yet, the next layout has it."""
        if self._layout is not None and place in self._carriers:
            self._layout = self._layout.moved(slot, place)


class SubscribedRouting(Routing):
    """With subscriptions, all at one primary, by clients of the primaries that send again by themselves."""

    _channels: set[bytes]

    @abstractmethod
    async def _at_home(self, channel: bytes, *, is_wanted: bool) -> None:
        """Subscribe at the primary where the subscriptions are, or unsubscribe."""

    @abstractmethod
    async def _while_home_stays(self, ask: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Ask the primary where commands without a key go; ask again, elsewhere, when it is another one."""

    async def _is_tried_again(self, error: Exception, place: Place) -> bool:
        return False  # What may be sent again has been, by the client of the primary.

    async def _routed(self, command: Sequence[Any], keys: Sequence[Any], *, idempotent: bool) -> Any:
        routed = super()._routed
        if keys or not idempotent:
            return await routed(command, keys, idempotent=idempotent)
        return await self._while_home_stays(lambda: routed(command, keys, idempotent=True))

    async def _spread(
        self,
        commands: Sequence[Sequence[Any]],
        send: Callable[[Commands, list[Sequence[Any]]], Coroutine[Any, Any, list[Any]]],
        *,
        idempotent: bool,
    ) -> list[Any]:
        spread = super()._spread
        if not idempotent or any(keys_of(command) for command in commands):
            return await spread(commands, send, idempotent=idempotent)
        return await self._while_home_stays(lambda: spread(commands, send, idempotent=True))

    async def subscribe(self, channel: str | bytes) -> None:
        name = channel.encode() if isinstance(channel, str) else channel
        self._channels.add(name)
        try:
            await self._at_home(name, is_wanted=True)
        except RedisError:
            self._channels.discard(name)
            raise

    async def unsubscribe(self, channel: str | bytes) -> None:
        name = channel.encode() if isinstance(channel, str) else channel
        self._channels.discard(name)
        await self._at_home(name, is_wanted=False)
