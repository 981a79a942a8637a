"""Applies settlements: batched, fenced, atomic.

    settle(…) ──▶ batch of the stream ──one script──▶ acked and deleted, result, next attempt, dead letter, messages
                                          └─────────▶ or refused: not ours any more (`events.Fenced`)

One flush at a time for each stream and group. The first settlement starts one, which runs in the next tick of the
scheduler and takes all settlements of this tick; those that arrive while it is under way go with the next. So a single
message is settled at once, and a flood in large batches, without a timer.

Flushes of one stream must not overlap: the script keeps only the answer to the last one. A flush whose reply is lost is
sent again under its number, and the script repeats its answer. Errors that may pass (no memory, no permission, a server
that loads or is busy) are tried again for as long as the node lives; a settlement that needs a right which others do
not need waits without holding them up. A delivery whose messages the server refuses to add fails: it becomes a dead
letter. If the script itself fails, each settlement of the batch is tried alone, and one that keeps failing alone is
abandoned: its entry stays pending, and runs again after this node has ended.

Deliveries that were handled together and publish are settled by one script for all their streams. It has a flush of its
own in the queue of the first one's stream, so what an actor publishes keeps its order. If one of them is not ours any
more, none is settled, and the others are released. On a cluster they may be in several slots: joint.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from actorwork import events
from actorwork.abc import EventSink, Subscription, meter_of
from actorwork.errors import BrokerError
from actorwork.message import MARKS, REPLY_TO, Delivery, Envelope, Failure, is_result_wanted
from actorwork.policy.settlement import ACK, Ack, Fail, Reject, Retry, Settlement
from actorwork.streams import keys
from actorwork.streams.in_flight import Counters, InFlightEntries, Item, PublishOnly, Together
from actorwork.streams.isolation import Isolation
from actorwork.streams.notes import Notes
from actorwork.streams.settle_calls import RefusedError, SettleCalls, found_ahead, is_of_run, pause_after
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.redis_py import RedisError

if TYPE_CHECKING:
    from actorwork.policy.shards import Layout

_PLAIN_AT_ONCE: Final = 1000
OTHERS_AT_ONCE: Final = 200
_PUBLISHED_AT_ONCE: Final = 1000
_BARE: Final = 3
"""The length of a token without held keys: the delivery has neither a key nor a unique key."""
_LOST: Final = b"lost"
_UNTOLD: Final = b"untold"
_STALE: Final = b"STALE "
"""How an error of the script begins that names the version of a state instead of the one its handler ran on."""
_MAY_PASS: Final = b"NOPERM"
_NO_STREAM: Final = b"WRONGTYPE"
_MAY_NOT_PUBLISH: Final = b"NOPERM the source "
"""How errors of the script begin that are about a right of this user's (lua/rights.lua), or the right to publish
(lua/targets.lua).
"""
PUBLISH_PATIENCE = 60.0
"""Seconds for which a node waits for the right to publish somewhere. Then the message becomes a dead letter: if the
right was never meant to be there, all messages of the actor would pile up in flight."""
_WAITING_AT_MOST: Final = 1000


def _version_in(problem: bytes) -> int:
    """Return the version of a state that a problem names; 0 for one that others than us have written."""
    version = problem.removeprefix(_STALE)
    return int(version) if version.isdigit() else 0


class _Patience:
    """Which settlements wait for the right to publish somewhere, and since when."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def lasts(self, delivery: Delivery, problem: bytes) -> bool:
        """Whether a settlement that a right is missing for is tried again."""
        if not problem.startswith(_MAY_NOT_PUBLISH):
            return True
        now = trio.current_time()
        if len(self._since) > _WAITING_AT_MOST:
            self._since = {one: since for one, since in self._since.items() if now - since < 2 * PUBLISH_PATIENCE}
        if now - self._since.setdefault(delivery.id, now) < PUBLISH_PATIENCE:
            return True
        del self._since[delivery.id]
        return False


if TYPE_CHECKING:

    class ReadsAhead(Protocol):
        """Takes what settlements bring besides their answer: `RunAhead`."""

        is_allowed: bool

        def ask(self, most: int) -> int:
            """Return how many entries a settlement of `most` deliveries may bring; if any, `end` has to follow."""
            ...

        def end(self, in_flight: InFlightEntries, asked: int, found: Sequence[Any], *, is_lost: bool) -> None: ...
        async def wait_none_asked(self) -> None: ...


class Settler:
    """Settles for one node. `spawn` starts a task in the node's nursery, and does not wait; so does `release`."""

    def __init__(
        self,
        client: RedisClient,
        spawn: Callable[[Callable[..., Any], InFlightEntries], None],
        release: Callable[[Sequence[Delivery]], None],
        emit: EventSink,
        counters: Counters,
        isolation: Isolation,
        notes: Notes,
    ) -> None:
        self.isolation = isolation
        self.notes = notes
        self.calls = SettleCalls(client, emit)
        self.ahead: dict[tuple[Subscription, str], ReadsAhead] = {}
        """Of the sources of those whose settlements may bring what is read next."""
        self._spawn = spawn
        self._release = release
        self._emit = emit
        self._meter = meter_of(emit)
        self._counters = counters
        self._waiters = trio.lowlevel.ParkingLot()
        self._patience = _Patience()
        self._active: set[InFlightEntries] = set()

    def __repr__(self) -> str:
        return f"<Settler, {len(self._active)} batches under way>"

    def settle(
        self, delivery: Delivery, settlement: Settlement | PublishOnly, published: Sequence[Envelope] = ()
    ) -> None:
        """Queue a settlement. Never waits."""
        in_flight: InFlightEntries = delivery.token[2]
        if in_flight.is_over:
            self._refuse(in_flight, delivery, settlement)
            return
        in_flight.begun += 1
        if delivery.headers and not MARKS.isdisjoint(delivery.headers) and is_result_wanted(delivery.headers):
            if REPLY_TO in delivery.headers:
                _refuse_address(self._emit, delivery, settlement)
            if type(settlement) is not PublishOnly:
                self.notes.settled(delivery)
            in_flight.others.append((delivery, settlement, published))
        elif (settlement is ACK or _is_no_more(settlement)) and not published and len(delivery.token) == _BARE:
            in_flight.plain.append(delivery)
        else:
            in_flight.others.append((delivery, settlement, published))
        if not in_flight.is_flushing:
            self.start(in_flight)

    def settle_together(self, settled: Sequence[tuple[Delivery, Settlement]], published: Sequence[Envelope]) -> None:
        """Queue settlements that are applied together with what was published, or not at all. Never waits."""
        first = settled[0][0]
        in_flight: InFlightEntries = first.token[2]
        if in_flight.is_over:  # All of them are over then: they end with the lease of their node.
            self._refuse(in_flight, first, Together(settled))
            return
        in_flight.begun += 1
        in_flight.others.append((first, Together(settled), published))
        self.start(in_flight)

    def start(self, in_flight: InFlightEntries) -> None:
        """Start to apply the queued settlements of a stream, unless a flush is under way."""
        if not in_flight.is_flushing and (in_flight.plain or in_flight.others):
            in_flight.is_flushing = True
            self._active.add(in_flight)
            self._spawn(self._flush_all, in_flight)

    def give_up(self, in_flight: InFlightEntries) -> None:
        """End in-flight entries whose lease is lost: refuse queued settlements, and leave a flush in progress to the
        fence.
        """
        plain, others = in_flight.end()
        in_flight.done += len(plain) + len(others)
        for delivery in plain:
            self._refuse(in_flight, delivery, Ack())
        for delivery, settlement, _ in others:
            self._refuse(in_flight, delivery, settlement)
        self._waiters.unpark_all()

    async def wait_settled(self) -> None:
        """Wait until every settlement so far is applied or refused."""
        goals = [(in_flight, in_flight.begun) for in_flight in self._active]
        for in_flight, goal in goals:
            while in_flight.done < goal:
                await self._waiters.park()
        await trio.lowlevel.checkpoint()

    # -------------------------------------------------------------------------------------------------------- flushing

    async def _flush_all(self, in_flight: InFlightEntries) -> None:
        alone = 0
        """How many settlements are still to be tried one by one."""
        in_vain = 0
        """How many batches in a row consisted of settlements that are to be tried again."""
        try:
            while in_flight.plain or in_flight.others:
                began = 0.0 if self._meter is None else trio.current_time()
                plain, others = _batch_from(in_flight, limit=1 if alone > 0 else _PLAIN_AT_ONCE)
                in_flight.number += 1
                in_flight.lag.settling = len(others)
                again: list[Item] = []
                try:
                    again = await self._flush(in_flight, plain, others)
                except RefusedError as refusal:
                    size = len(plain) + len(others)
                    if size > 1:
                        in_flight.plain[:0] = plain
                        in_flight.others[:0] = others
                        alone = size
                        in_flight.lag.is_refused = True
                        continue
                    self._abandon(in_flight, plain, others, refusal)
                if self._meter is not None:
                    self._meter.settled_batch(len(plain) + len(others) - len(again), trio.current_time() - began)
                alone = max(0, alone - 1)
                in_flight.done += len(plain) + len(others) - len(again)
                in_flight.lag.settling = 0
                in_flight.lag.is_refused = bool(again) or alone > 0
                in_flight.lag.on_settled()
                self._waiters.unpark_all()
                # Those that others do not wait for go on meanwhile: a batch with any of them is followed by the next.
                in_vain = in_vain + 1 if len(again) == len(plain) + len(others) else 0
                if in_vain:
                    await trio.sleep(pause_after(in_vain))
        finally:
            in_flight.is_flushing = in_flight.lag.is_refused = False
            in_flight.lag.settling = 0
            in_flight.lag.on_settled()
            self._active.discard(in_flight)

    async def _flush(self, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item]) -> list[Item]:
        """Apply a batch; return those of it that were refused for a reason that may pass. They are queued again."""
        if others and type(others[0][1]) is Together:
            return await self._flush_together(in_flight, others[0][1], others[0][2])
        used = self.calls.known_layouts
        ahead = self.ahead.get((in_flight.subscription, in_flight.source)) if self.ahead and others else None
        answer = await _settle_and_read(self.calls, in_flight, plain, others, ahead)
        refused = await self._with_renewed(answer[2], dict(enumerate(others, len(plain))), used)
        _report(self._emit, in_flight, [item[0] for item in others], answer[3], len(plain))
        return self._conclude(in_flight, plain, others, answer[1], refused)

    async def _with_renewed(
        self, refused: list[Any], items: Mapping[int, Item], used: Mapping[str, Layout]
    ) -> list[Any]:
        """Return what was refused, marked as what may pass where a source has other shards by now, or is moved."""
        layouts = self.calls.layouts
        if layouts is None or not any(problem.startswith(_NO_STREAM) for problem in refused[1::2]):
            return refused
        told = list(refused)
        for place in range(0, len(refused), 2):
            problem = refused[place + 1]
            if problem.startswith(_NO_STREAM):
                sources = {envelope.source for envelope in items[refused[place]][2]}
                try:
                    if await layouts.are_renewed(sources, used, waits=False):
                        told[place + 1] = _MAY_PASS + b" " + problem
                except BrokerError as error:
                    told[place + 1] = b"%b (%b)" % (problem, str(error).encode())
        return told

    async def _flush_together(
        self, in_flight: InFlightEntries, together: Together, published: Sequence[Envelope]
    ) -> list[Item]:
        used = self.calls.known_layouts
        if (outbox := self.calls.outbox) is None:
            in_order, answer = await self.calls.settle_together(in_flight, together, published)
        else:
            from actorwork.streams.joint import settle_jointly  # noqa: PLC0415 - only on a cluster

            in_order, answer = await settle_jointly(self.calls, outbox, in_flight, together, published)
        if answer[2]:
            item: Item = (together.settled[0][0], together, published)
            told = await self._with_renewed([0, answer[2][1]], {0: item}, used)
            if told[1].startswith(_MAY_PASS) and not in_flight.is_over:
                in_flight.others.insert(0, item)
                return [item]
        _report(self._emit, in_flight, [delivery for delivery, _ in in_order], answer[3], 0)
        self._conclude_together(in_flight, in_order, set(answer[1]), answer[2])
        return []

    def _conclude(
        self,
        in_flight: InFlightEntries,
        plain: list[Delivery],
        others: list[Item],
        fenced: list[int],
        refused: list[Any],
    ) -> list[Item]:
        deliveries = in_flight.deliveries
        lost = set(fenced)
        if not lost:
            for delivery in plain:
                deliveries.pop(delivery.token[0], None)
            self._counters.settled += len(plain)
        else:
            for which, delivery in enumerate(plain):
                in_flight.release(delivery)
                if which in lost:
                    self._refuse(in_flight, delivery, Ack())
                else:
                    self._counters.settled += 1
        if self.isolation.is_watching:
            self.isolation.ended(in_flight)
        if not lost and not refused and all(type(item[1]) is Ack for item in others):
            in_flight.release_all([item[0] for item in others])
            self._counters.settled += len(others)
            return []
        problems: dict[int, bytes] = dict(zip(refused[::2], refused[1::2], strict=True))
        again: list[Item] = []
        for which, item in enumerate(others, len(plain)):
            delivery, settlement, _ = item
            problem = problems.get(which)
            is_fenced = which in lost
            if problem is not None:
                if problem.startswith(_STALE):
                    self._hand_back(in_flight, delivery, settlement, _version_in(problem))
                    continue
                if problem.startswith(_MAY_PASS) and not in_flight.is_over and self._patience.lasts(delivery, problem):
                    again.append(item)
                    continue
                problem = problem.removeprefix(b"NOPERM ")
                self._could_not_publish(in_flight, delivery, settlement, problem.decode(errors="replace"))
                continue
            if type(settlement) is PublishOnly:
                settlement.report(not is_fenced)
                if not is_fenced:
                    continue
            in_flight.release(delivery)
            if is_fenced:
                self._refuse(in_flight, delivery, settlement)
                continue
            self._counters.settled += 1
            if type(settlement) is Retry and settlement.delay > 0:
                in_flight.maintain_within(settlement.delay)
        if again:
            in_flight.others += again
            _report_again(self._emit, in_flight, len(again), problems.values())
        return again

    def _hand_back(
        self,
        in_flight: InFlightEntries,
        delivery: Delivery,
        settlement: Settlement | PublishOnly | Together,
        found: int,
    ) -> None:
        """Release a delivery that was handled on another version of the state of its key."""
        if isinstance(settlement, PublishOnly):
            from actorwork.policy.entities import stale  # noqa: PLC0415 - most nodes have no entities

            settlement.report(stale(delivery.key, found))
            return
        if in_flight.is_over:
            self._refuse(in_flight, delivery, settlement)
            return
        change = settlement.state if isinstance(settlement, Ack) else None
        self._emit(events.StaleState(delivery, in_flight.group, 0 if change is None else change.version, found))
        self._release([delivery])

    def _conclude_together(
        self,
        in_flight: InFlightEntries,
        settled: Sequence[tuple[Delivery, Settlement]],
        fenced: Collection[int],
        refused: list[Any],
    ) -> None:
        if refused:
            problem = refused[1].decode(errors="replace")
            next_step = f"the {len(settled)} messages that were handled with it become dead letters"
            self._emit(events.BrokerTrouble(f"publishing for a batch of {in_flight.source}", problem, next_step))
            for delivery, settlement in settled:
                self._fail(delivery.token[2], delivery, settlement, problem)
            return
        ours: list[Delivery] = []
        for which, (delivery, settlement) in enumerate(settled):
            if which in fenced:
                delivery.token[2].release(delivery)
                self._refuse(in_flight, delivery, settlement)
            elif fenced:
                ours.append(delivery)
            else:
                delivery.token[2].release(delivery)
                self._counters.settled += 1
        if ours:
            self._release(ours)

    def _could_not_publish(
        self,
        in_flight: InFlightEntries,
        delivery: Delivery,
        settlement: Settlement | PublishOnly | Together,
        problem: str,
    ) -> None:
        """Make the delivery fail: it is still in flight, and cannot end as its handler wanted."""
        if type(settlement) is PublishOnly:
            settlement.report(RedisError(problem))
            return
        if not in_flight.is_over:
            self._emit(
                events.BrokerTrouble(f"publishing for {delivery.id}", problem, "the message becomes a dead letter")
            )
        self._fail(in_flight, delivery, settlement, problem)

    def _fail(
        self,
        in_flight: InFlightEntries,
        delivery: Delivery,
        settlement: Settlement | PublishOnly | Together,
        problem: str,
    ) -> None:
        if in_flight.is_over:
            self._refuse(in_flight, delivery, settlement)
            return
        in_flight.begun += 1
        in_flight.others.append((delivery, Fail(Failure("BrokerError", problem)), ()))
        self.start(in_flight)

    def _abandon(
        self, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item], refusal: RefusedError
    ) -> None:
        if others and refusal.is_unwritable and type(others[0][1]) is Retry:
            # Its next attempt cannot be encoded. A dead letter keeps the fields of the entry as they are.
            _report_dead(self._emit, others[0][0], refusal)
            self._fail(in_flight, *others[0][:2], str(refusal))
            return
        _report_abandoned(self._emit, in_flight, plain, others, refusal)
        self.isolation.abandon(in_flight, len(plain))
        for item in others:
            if type(item[1]) is PublishOnly:
                item[1].report(RedisError(str(refusal)))
                continue
            for delivery in _deliveries_of(item):
                self.isolation.abandon(delivery.token[2], 1)

    def _refuse(
        self, in_flight: InFlightEntries, delivery: Delivery, settlement: Settlement | PublishOnly | Together
    ) -> None:
        if isinstance(settlement, Together):
            for one in settlement.settled:
                self._refuse(in_flight, *one)
            return
        if isinstance(settlement, PublishOnly):
            settlement.report(False)  # noqa: FBT003 - the argument is whether the delivery was still ours
            return
        self._counters.fenced += 1
        self._emit(events.Fenced(delivery, in_flight.group, settlement))


async def _settle_and_read(
    calls: SettleCalls,
    in_flight: InFlightEntries,
    plain: list[Delivery],
    others: list[Item],
    ahead: ReadsAhead | None,
) -> list[Any]:
    """Return the answer of the script, after what it has brought is offered.

    That is pending under the name of this node, and lost if the answer does not arrive.
    """
    asked = 0 if ahead is None else ahead.ask(len(others))
    if ahead is None or not asked:
        return await calls.settle(in_flight, plain, others)
    found: Sequence[Any] = ()
    is_lost = True
    try:
        answer = await calls.settle(in_flight, plain, others, ahead=asked)
        found, is_lost = found_ahead(answer)
    finally:
        ahead.end(in_flight, asked, found, is_lost=is_lost)
    return answer


def _is_no_more(settlement: Settlement | PublishOnly) -> bool:
    """Whether a settlement is an ack whose result no caller waits for, and nothing else."""
    return type(settlement) is Ack and not is_of_run(settlement)


def _report(
    emit: EventSink, in_flight: InFlightEntries, deliveries: Sequence[Delivery], notes: Sequence[Any], begin: int
) -> None:
    """Report what the script has noted of some settlements, the first of which has the number `begin`."""
    for which, note in zip(notes[::2], notes[1::2], strict=True):
        delivery = deliveries[int(which) - begin]
        if note == _LOST:
            emit(events.MessageLost(in_flight.name, in_flight.group, delivery.id))
        elif note == _UNTOLD:
            doing = f"telling {in_flight.subscription.actor} of the failure of {delivery.id}"
            emit(events.BrokerTrouble(doing, f"nothing can be added to {in_flight.stream}", "its hook is not called"))
        else:
            doing = f"storing the result of {delivery.id} of {delivery.source}"
            error = "no client of actorwork has asked for it: the entry was written by another producer"
            emit(events.BrokerTrouble(doing, error, "not stored"))


def _refuse_address(emit: EventSink, delivery: Delivery, settlement: Settlement | PublishOnly) -> None:
    address = delivery.headers.get(REPLY_TO)
    is_ours = not isinstance(address, str) or address.startswith(keys.REPLIES)
    if not is_ours and isinstance(settlement, Ack | Reject | Fail):
        doing = f"replying for {delivery.id} of {delivery.source} to {address!r}"
        emit(events.BrokerTrouble(doing, f"replies go to channels under {keys.REPLIES}… only", "not sent"))


def _report_again(emit: EventSink, in_flight: InFlightEntries, count: int, problems: Iterable[bytes]) -> None:
    error = next(problem for problem in problems if problem.startswith(_MAY_PASS)).decode(errors="replace")
    emit(events.BrokerTrouble(f"settling {count} of {in_flight.source}", error, "again in 2 s at the latest"))


def _report_dead(emit: EventSink, delivery: Delivery, refusal: RefusedError) -> None:
    emit(events.BrokerTrouble(f"settling {delivery.id} of {delivery.source}", str(refusal), "it becomes a dead letter"))


def _report_abandoned(
    emit: EventSink, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item], refusal: RefusedError
) -> None:
    for delivery in (*plain, *(delivery for item in others for delivery in _deliveries_of(item))):
        emit(
            events.BrokerTrouble(
                f"settling {delivery.id} of {in_flight.source}",
                str(refusal),
                f"given up; the entry {delivery.token[0].decode()} stays pending, and runs again after this node",
            )
        )


def _deliveries_of(item: Item) -> Sequence[Delivery]:
    delivery, settlement, _ = item
    return [one for one, _ in settlement.settled] if isinstance(settlement, Together) else (delivery,)


def _steps_of(ack: Ack) -> int:
    """Return how many steps a settlement starts, or adds to a run, besides those that are kept ahead."""
    plans = (*ack.starts, ack.continues)
    begun = sum(len(plan.steps) for plan in plans if plan is not None and plan.ahead is None)
    return begun + (len(ack.expands.steps) if ack.expands is not None else 0)


def _batch_from(in_flight: InFlightEntries, *, limit: int) -> tuple[list[Delivery], list[Item]]:
    if in_flight.others and type(in_flight.others[0][1]) is Together:
        return [], [in_flight.others.pop(0)]  # It has a script of its own.
    plain = in_flight.plain
    if len(plain) <= limit:
        in_flight.plain = []
    else:
        plain, in_flight.plain = plain[:limit], plain[limit:]
    others: list[Item] = []
    if in_flight.others and not (limit == 1 and plain):
        published = 0
        for item in in_flight.others[: min(limit, OTHERS_AT_ONCE)]:
            published += len(item[2])
            if type(item[1]) is Ack and is_of_run(item[1]):
                published += _steps_of(item[1])
            if (others and published > _PUBLISHED_AT_ONCE) or type(item[1]) is Together:
                break
            others.append(item)
        del in_flight.others[: len(others)]
    return plain, others
