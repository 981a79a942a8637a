"""What is to be done in other slots of a cluster: forwarded from the outbox of the source in whose slot it came up.

    settle ──one script──▶ acked, and in the outbox ──▶ done in the other slot ──▶ deleted from the outbox

A script reaches the keys of one slot. So what a handler publishes to a source in another slot is put into the outbox of
its delivery's source, a stream, in the script that settles the delivery: both happen, or neither. From there it is
published by its id, as any message is, and then deleted. If a node dies in between, it is published once more, and its
mark says that it is there already. A mark lives for a day; if no node forwards for longer, the note of what came last
from this outbox says so (lua/forwarded.lua). The effects of runs go the same way (lua/away.lua): the end
of a step whose run is in another slot, a message that the run sends, a run that a handler starts. None of them changes
anything when it is done again (lua/effects.lua).

The caller of the script forwards at once: a node (`outbox.py`), or a client (`forward_all`). What it left behind is
forwarded by the node that maintains the source (`survey.py`), within a second. Several may forward at the same time:
each goes in the order of the outbox, so nothing arrives before what was sent to the same source before it. A source
that cannot be reached, or published to (it is no stream, a right is missing), keeps its messages in the outbox, and
does not hold up the others.

An entry of a kind that this version does not know was put there by a newer one. It is kept, with all behind it for the
same source: nodes of that version forward it. Nothing of it is guessed. So a new kind, or another order of the values
of one, needs a new name.

The id of a run is claimed before the run is started, since the key that says where a run is (`actorwork:flow:<run>`)
has a slot of its own. The claim lasts a minute, unless the run begins: then its home confirms it through the outbox. If
an id is claimed for another home, the run is started there: a home may be any source, and a script of its slot decides
which of two runs with one id is the first.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.failpoints import failpoint
from actorwork.policy.shards import placing_field, whole_source
from actorwork.streams import keys, scripts
from actorwork.streams.entries import mark_of
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import (
    ConnectionError,  # noqa: A004
    RedisError,
    is_wrong_type,
)

if TYPE_CHECKING:
    from actorwork.policy.runs.values import Plan

AT_ONCE: Final = 100
_CLAIMED_FOR: Final = 60_000
_BEFORE: Final = failpoint("outbox.before")
_SENT: Final = failpoint("outbox.sent")
_AFTER: Final = failpoint("outbox.after")

Entry = tuple[bytes, Sequence[Any]]
_START: Final = b"start"
_OF_MESSAGE: Final = (b"to", b"mark", b"bit", b"terms")
_EFFECTS: Final = frozenset(
    {b"end", _START, b"expand", b"adopt", b"cancel", b"drop", b"outcome", b"settle", b"index", b"home"}
)
"""What lua/effects.lua does."""


class Kind(enum.Enum):
    """What an entry of an outbox is."""

    MESSAGE = enum.auto()
    EFFECT = enum.auto()
    UNKNOWN = enum.auto()

    @classmethod
    def of(cls, entry: Entry) -> Kind:
        _, values = entry
        if tuple(values[:7:2]) == _OF_MESSAGE and len(values) > len(_OF_MESSAGE) * 2:
            return cls.MESSAGE
        is_effect = values[:3:2] == [b"to", b"do"] and values[3] in _EFFECTS
        return cls.EFFECT if is_effect else cls.UNKNOWN


async def forward_all(client: Commands, source: str) -> None:
    """Forward what is in the outbox of a source, and what follows from it elsewhere, for a client.

    What cannot be forwarded stays there: the nodes that maintain the source try it again.
    """
    todo = [source]
    while todo:
        with suppress(RedisError):
            todo += await forward(client, todo.pop(), lambda _target, _error: None)


async def forward(
    client: Commands,
    source: str,
    on_trouble: Callable[[str, RedisError], None],
    until_given_up: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Sequence[str]:
    """Forward what is in the outbox of a source; return the sources whose outboxes have to be forwarded next.

    Raises `RedisError` if the outbox cannot be read; calls `on_trouble` for each source for which something is left
    there: it refuses it, its primary is away, or it takes too long. Each source is forwarded to within a block of
    `until_given_up`, which may be cancelled.
    """
    box = keys.outbox(source)
    after = "-"
    stuck: set[bytes] = set()
    following: set[str] = set()
    while True:
        if _BEFORE is not None:
            _BEFORE()
        page: list[Entry] = await client.call("XRANGE", box, after, "+", "COUNT", AT_ONCE, idempotent=True)
        by_target: dict[bytes, list[Entry]] = {}
        for entry in page:
            by_target.setdefault(entry[1][1] if entry[1][0] == b"to" else b"", []).append(entry)
        for target, some in by_target.items():
            # Those behind one that could not be published would overtake it.
            if target in stuck:
                continue
            stuck.add(target)
            try:
                if not client.reaches(target):
                    raise ConnectionError("its primary cannot be reached")
                with until_given_up():
                    for kind, alike in groupby(some, key=Kind.of):
                        done = list(alike)
                        await _deliver(client, source, target.decode(), done, following, kind)
                        if _SENT is not None:
                            _SENT()
                        await client.call("XDEL", box, *(entry for entry, _ in done), idempotent=True)
                        if _AFTER is not None:
                            _AFTER()
                    stuck.discard(target)
                if target in stuck:
                    raise ConnectionError("its primary does not answer")
            except RedisError as error:
                on_trouble(target.decode(errors="replace"), error)
        if len(page) < AT_ONCE:
            return sorted(following)
        after = f"({page[-1][0].decode()}"


async def claimed(client: Commands, plan: Plan) -> Plan:
    """Claim the id of a run; return the plan of the run at the home that the id has by then."""
    home = await _claim(client, plan.id, plan.home)
    return plan if home == plan.home else attrs.evolve(plan, home=home)


async def is_claimed(client: Commands, run: str) -> bool:
    """Whether a run that is not at its home may begin yet."""
    at: bytes | None = await client.call("GET", keys.flow(run), idempotent=True)
    return at is not None and at.endswith(keys.CLAIMED)


async def _claim(client: Commands, run: str, home: str) -> str:
    """Claim the id of a run for a home, unless it has one; return the home that it has."""
    key = keys.flow(run)
    while True:
        commands = [("SET", key, home.encode() + keys.CLAIMED, "NX", "PX", _CLAIMED_FOR), ("GET", key)]
        reply_to_claim, at = await client.call_many(commands, idempotent=True)
        for reply in (reply_to_claim, at):
            if isinstance(reply, Exception):
                raise reply
        if at is not None:  # Else another claim has ended just now.
            return keys.home_from(at)


async def _deliver(
    client: Commands, source: str, target: str, some: Sequence[Entry], following: set[str], kind: Kind
) -> None:
    """Do what some entries of the outbox of a source say, which are of one kind.

    If something is left to do elsewhere then, note in `following` whose outbox has it.
    """
    match kind:
        case Kind.MESSAGE:
            try:
                await _publish(client, source, target, some)
            except RedisError as error:
                if not (is_wrong_type(error) and await _is_sent_elsewhere(client, source, target, some)):
                    raise
        case Kind.EFFECT:
            args: list[Any] = [source]
            for entry, (_, _, _, what, *values) in some:
                if what != _START or await _may_start(client, values[0]):
                    args += (entry, 1 + len(values), what, *values)
            if len(args) > 1 and await client.run_script(scripts.EFFECTS, (target,), args, idempotent=True):
                following.add(target)
        case Kind.UNKNOWN:
            raise RedisError(
                f"the entry {some[0][0].decode()} is of a kind that this version of actorwork does not know: nodes of "
                "the newer version that has put it there forward it, so start one, or end the upgrade"
            )


async def _publish(client: Commands, source: str, target: str, some: Sequence[Entry]) -> None:
    of = keys.SourceKeys.of(target)
    names: list[Any] = [of.stream, of.delayed, of.delayed_messages]
    args: list[Any] = [of.prefix, source]
    for entry, values in some:
        _, _, _, mark, _, bit, _, terms, *fields = values
        names.append(mark)
        args += (entry, len(names), bit, terms, len(fields), *fields)
    await client.run_script(scripts.FORWARD, names, args, idempotent=True)


async def _is_sent_elsewhere(client: Commands, source: str, target: str, some: Sequence[Entry]) -> bool:
    """Publish to the shards that a source has by now what is in an outbox for one that it has no more."""
    from actorwork.streams.shards import layouts_now  # noqa: PLC0415 - few sources are divided again

    layout = (await layouts_now(client)).get(whole_source(target))
    if layout is None or target in layout.names:
        return False
    by_place: dict[str, list[Entry]] = {}
    for entry, values in some:
        named = dict(zip(values[8::2], values[9::2], strict=True))
        place = layout.place(placing_field(named))
        mark, bit = mark_of(keys.prefix(place), named[b"id"].decode())
        by_place.setdefault(place, []).append(
            (entry, (b"to", place, b"mark", mark, b"bit", bit, b"terms", values[7], *values[8:]))
        )
    for place, entries in by_place.items():
        await _publish(client, source, place, entries)
    return True


async def _may_start(client: Commands, plan: bytes) -> bool:
    """Whether the run of a plan is at its home, or nowhere yet. Another run may have its id, at another home.

    Raises `RedisError` as long as that is not known: the other run was about to be started.
    """
    new = json.loads(plan)
    run, home = new["run"], new["home"]
    at = await _claim(client, run, home)
    if at == home:
        return True
    if await client.call("EXISTS", keys.run(at, run), idempotent=True):
        return False
    raise RedisError(f"the run {run!r} is about to be started at {at}")
