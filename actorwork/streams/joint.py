"""Settles deliveries of several slots of a cluster together, with what the handler of all of them published.

    hold ──in each slot──▶ held ──settle, in the slot of the first──▶ decided ──through its outbox──▶ settled in each
                             └── one is not ours any more, or cannot be settled ──▶ dropped: nothing is settled

What was published may come from all of these messages, so it must be sent if all of them end, and only then. No script
reaches them all. So the deliveries in other slots are held first: while one is held, no node takes it over. Then one
script, in the slot of the first delivery (the home), decides: it settles the deliveries that are there, sends what was
published, and puts into the outbox that the others are settled. What is in the outbox is done, whichever nodes die.

If the node dies before that script, what it held stays held until another node, which finds its lease gone, has noted
at the home that the batch is dropped. Of this note and the script the first to come decides. A decision is kept for a
day, and what is in the outbox is done before a batch is dropped, so a decision that was forgotten is not taken again.

Held is noted by the place of an entry, with the node, the batch and the home. An entry is settled from the outbox, and
not held any more, only if it is still held for that batch, so to do that twice changes nothing.

A node of an older version does not know what is held, and would take it over from one that has died: the messages would
be in two batches. So as long as one runs, in the same group, such a batch waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio

from actorwork.message import Delivery, Envelope
from actorwork.policy.settlement import Settlement
from actorwork.streams import keys, scripts
from actorwork.streams.forwarding import forward
from actorwork.streams.in_flight import InFlightEntries, Together
from actorwork.streams.outbox import Outbox
from actorwork.streams.settle_calls import SettleCalls, delivery_args, outcome_of, pause_after
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import RedisError, checked

_DECIDED_SECONDS: Final = 86400
_DROPPED: Final = b"dropped"

Pair = tuple[Delivery, Settlement]


@attrs.frozen
class Batch:
    """Names a batch: `<node>/<number>/<home>`, as it is noted of what is held for it."""

    node: str
    number: str
    home: str

    @classmethod
    def read(cls, noted: bytes) -> Batch | None:
        parts = noted.decode(errors="replace").split("/", 2)
        return None if len(parts) < len(attrs.fields(cls)) else cls(*parts)

    def __str__(self) -> str:
        return f"{self.node}/{self.number}/{self.home}"

    @property
    def decided(self) -> str:
        return keys.decided(self.home, f"{self.node}/{self.number}")


async def settle_jointly(
    calls: SettleCalls, outbox: Outbox, in_flight: InFlightEntries, together: Together, published: Sequence[Envelope]
) -> tuple[list[Pair], list[Any]]:
    """Settle them, or none of them. Return what `SettleCalls.settle_together` does, which settles those of one slot.

    When this returns, all of them are settled, or none is held any more. Cancelled: another node finishes it.
    """
    home = in_flight.source
    batch = Batch(in_flight.incarnation, os.urandom(8).hex(), home)
    here: list[Pair] = []
    away: dict[InFlightEntries, list[Pair]] = {}
    for delivery, settlement in together.settled:
        stream: InFlightEntries = delivery.token[2]
        if outbox.is_elsewhere(home, stream.source):
            away.setdefault(stream, []).append((delivery, settlement))
        else:
            here.append((delivery, settlement))
    if not away:
        return await calls.settle_together(in_flight, together, published)
    in_order = [*here, *(one for some in away.values() for one in some)]
    await calls.wait_for_end_of_older(
        partial(outbox.formats.older, [stream.stream for stream in away], in_flight.group),
        f"settling a batch of {home} and sources in other slots",
        "would not respect it",
    )
    fenced: list[int] = []
    begin = len(here)
    for stream, some in away.items():
        answer = await calls.hold(stream, str(batch), [delivery for delivery, _ in some])
        fenced += (begin + which for which in answer[1])
        begin += len(some)
    if fenced:
        await _unhold(calls, outbox, batch, away)
        return in_order, [in_flight.number, fenced, [], []]
    ends = [end for stream, some in away.items() for end in _ends(stream, batch, some)]
    decided, answer = await calls.settle_together(
        in_flight, Together(tuple(here)), published, batch=(batch.decided, ends)
    )
    in_order[: len(here)] = decided
    if answer[1] or answer[2]:
        await _unhold(calls, outbox, batch, away)
        return in_order, answer
    await _wait_settled(calls.client, outbox, home, {stream.source for stream in away})
    return in_order, answer


def _ends(stream: InFlightEntries, batch: Batch, some: Sequence[Pair]) -> list[tuple[str, list[Any]]]:
    """Return what lua/effects.lua is to do for deliveries of one stream."""
    found: list[tuple[str, list[Any]]] = []
    for delivery, settlement in some:
        # The delivery count does not matter there: no other node takes what is held.
        entry, _, message_id, key, unique, record, ttl, claim, reply_to, _, count, *life = delivery_args(
            stream, delivery, outcome_of(settlement)
        )
        notes = keys.held(stream.source, stream.group)
        values = ["settle", notes, str(batch), stream.group, stream.stream, entry, message_id, key, unique]
        found.append((stream.source, [*values, record, ttl, claim, reply_to, count, *life]))
    return found


async def _unhold(
    calls: SettleCalls, outbox: Outbox, batch: Batch, away: Mapping[InFlightEntries, Sequence[Pair]]
) -> None:
    for source, group in {(stream.source, stream.group) for stream in away}:
        attempt = 0
        while True:
            try:
                await unhold(calls.client, source, group, str(batch).encode())
                break
            except RedisError as error:
                outbox.trouble(batch.home, source, error)
                attempt += 1
            await trio.sleep(pause_after(attempt))


async def unhold(client: Commands, source: str, group: str, noted: bytes) -> None:
    await client.run_script(scripts.UNHOLD, (keys.held(source, group),), (noted,), idempotent=True)


async def _wait_settled(client: RedisClient, outbox: Outbox, home: str, targets: set[str]) -> None:
    """Forward until the deliveries are settled: until then, they are pending under our name."""
    attempt = 0
    while True:
        troubled: set[str] = set()

        def on_trouble(target: str, error: RedisError, troubled: set[str] = troubled) -> None:
            troubled.add(target)
            outbox.trouble(home, target, error)

        try:
            for source in await forward(client, home, on_trouble):
                outbox.forward_soon(source)
        except RedisError as error:
            on_trouble(home, error)
        if troubled.isdisjoint({home, *targets}):
            return
        attempt += 1
        await trio.sleep(pause_after(attempt))


async def drop_undecided(client: Commands, source: str, group: str, noted: bytes) -> None:
    """Decide what a dead node has left undecided: what it held for a batch is free, unless that is settled.

    Raises `RedisError` if that cannot be known at the moment.
    """
    batch = Batch.read(noted)
    if batch is None:
        await unhold(client, source, group, noted)
        return
    troubled: set[str] = set()
    await forward(client, batch.home, lambda target, _error: troubled.add(target))
    if source in troubled:
        return
    commands = [("SET", batch.decided, _DROPPED, "NX", "EX", _DECIDED_SECONDS), ("GET", batch.decided)]
    _, decision = checked(await client.call_many(commands, idempotent=True))
    if decision == _DROPPED:
        await unhold(client, source, group, noted)


def nodes_of(noted: Iterable[bytes]) -> dict[bytes, set[bytes]]:
    """Return what is noted, by the node that has noted it."""
    found: dict[bytes, set[bytes]] = {}
    for one in noted:
        found.setdefault(one.partition(b"/")[0], set()).add(one)
    return found
