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
more, none is settled, and the others are released.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble, Fenced, MessageLost
from actorwork.failpoints import failpoint
from actorwork.message import FLOW, REPLY_TO, RESULT_TTL, Delivery, Envelope, Failure, Outcome, is_result_wanted
from actorwork.policy.settlement import Ack, Fail, Reject, Retry, Settlement
from actorwork.streams import entries, keys, scripts
from actorwork.streams.in_flight import Counters, InFlightEntries, Item, PublishOnly, Together
from actorwork.streams.isolation import Isolation
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.redis_py import InvalidResponse, RedisError, may_pass

if TYPE_CHECKING:
    from actorwork.policy.runs.values import Plan

_PLAIN_AT_ONCE: Final = 1000
_OTHERS_AT_ONCE: Final = 200
_PUBLISHED_AT_ONCE: Final = 1000
_GIVE_UP_AFTER: Final = 5
_BARE: Final = 3
"""The length of a token without held keys: the delivery has neither a key nor a unique key."""
_ANSWERED: Final = 4
"""How many values the scripts return."""
_LOST: Final = b"lost"
_MAY_PASS: Final = b"NOPERM"
_MAY_NOT_PUBLISH: Final = b"NOPERM the source "
"""How errors of the script begin that are about a right of this user's (lua/rights.lua), or the right to publish
(lua/targets.lua).
"""
PUBLISH_PATIENCE = 60.0
"""Seconds for which a node waits for the right to publish somewhere. Then the message becomes a dead letter: if the
right was never meant to be there, all messages of the actor would pile up in flight."""
_WAITING_AT_MOST: Final = 1000
_PAUSES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_BEFORE: Final = failpoint("settle.before")
_AFTER: Final = failpoint("settle.after")


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
    ) -> None:
        self.isolation = isolation
        self._client = client
        self._spawn = spawn
        self._release = release
        self._emit = emit
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
        is_wanted = delivery.headers and is_result_wanted(delivery.headers)
        if is_wanted:
            _refuse_address(self._emit, delivery, settlement)
        if (
            type(settlement) is Ack
            and not published
            and len(delivery.token) == _BARE
            and not is_wanted
            and not (settlement.starts or settlement.continues)
        ):
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
        in_flight.is_over = True
        plain, others = in_flight.plain, in_flight.others
        in_flight.plain, in_flight.others = [], []
        in_flight.deliveries.clear()
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
                plain, others = _batch_from(in_flight, limit=1 if alone > 0 else _PLAIN_AT_ONCE)
                in_flight.number += 1
                again: list[Item] = []
                try:
                    again = await self._flush(in_flight, plain, others)
                except _RefusedError as refusal:
                    size = len(plain) + len(others)
                    if size > 1:
                        in_flight.plain[:0] = plain
                        in_flight.others[:0] = others
                        alone = size
                        continue
                    self._abandon(in_flight, plain, others, refusal)
                alone = max(0, alone - 1)
                in_flight.done += len(plain) + len(others) - len(again)
                self._waiters.unpark_all()
                # Those that others do not wait for go on meanwhile: a batch with any of them is followed by the next.
                in_vain = in_vain + 1 if len(again) == len(plain) + len(others) else 0
                if in_vain:
                    await trio.sleep(_PAUSES[min(in_vain, len(_PAUSES)) - 1])
        finally:
            in_flight.is_flushing = False
            self._active.discard(in_flight)

    async def _flush(self, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item]) -> list[Item]:
        """Apply a batch; return those of it that were refused for a reason that may pass. They are queued again."""
        if others and type(others[0][1]) is Together:
            await self._flush_together(in_flight, others[0][0], others[0][1], others[0][2])
            return []
        total = len(plain) + len(others)
        tokens = [delivery.token for delivery in plain]
        ends = [token[0] for token in tokens]
        if others:
            ends += [delivery.token[0] for delivery, _, _ in others]
        first, last = entries.bounds(ends)
        args: list[Any] = [
            in_flight.keys.prefix,
            in_flight.group,
            in_flight.incarnation,
            in_flight.number,
            first,
            last,
            total,
            len(plain),
        ]
        for token in tokens:
            args += token[:2]
        try:
            for delivery, settlement, published in others:
                _add_other(args, in_flight, delivery, settlement, published)
        except (ValueError, RecursionError) as error:
            # A settlement that cannot be encoded must not end the node: the next node would get the same entry.
            raise _RefusedError(f"it cannot be written: {error}", is_unwritable=True) from error
        script = scripts.SETTLE if others else scripts.SETTLE_PLAIN
        script_keys = (
            in_flight.stream,
            in_flight.keys.settled(in_flight.group, in_flight.incarnation, in_flight.level),
        )
        answer = await self._run(in_flight, script, script_keys, args, total)
        _report(self._emit, in_flight, [item[0] for item in others], answer[3], len(plain))
        return self._conclude(in_flight, plain, others, answer[1], answer[2])

    async def _flush_together(
        self, in_flight: InFlightEntries, first: Delivery, together: Together, published: Sequence[Envelope]
    ) -> None:
        by_stream: dict[InFlightEntries, list[tuple[Delivery, Settlement]]] = {}
        for delivery, settlement in together.settled:
            by_stream.setdefault(delivery.token[2], []).append((delivery, settlement))
        args: list[Any] = [in_flight.number, in_flight.group, in_flight.incarnation, len(published)]
        try:
            _add_published(args, published)
            for stream, some in by_stream.items():
                ends = entries.bounds(delivery.token[0] for delivery, _ in some)
                args += (stream.keys.prefix, *ends, len(some))
                for delivery, settlement in some:
                    outcome = Outcome("done", settlement.result or b"null") if isinstance(settlement, Ack) else None
                    args += _delivery_args(stream, delivery, outcome)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(f"it cannot be written: {error}", is_unwritable=True) from error
        record = in_flight.keys.settled(in_flight.group, in_flight.incarnation, in_flight.level)
        script_keys = (record, *(stream.stream for stream in by_stream))
        answer = await self._run(in_flight, scripts.SETTLE_TOGETHER, script_keys, args, 1)
        # The script counts in the order of its arguments.
        in_order = [one for some in by_stream.values() for one in some]
        _report(self._emit, in_flight, [delivery for delivery, _ in in_order], answer[3], 0)
        self._conclude_together(in_flight, in_order, set(answer[1]), answer[2])

    async def _run(
        self, in_flight: InFlightEntries, script: Script, script_keys: Sequence[str], args: list[Any], total: int
    ) -> list[Any]:
        attempt = 0
        if _BEFORE is not None:
            _BEFORE()
        while True:
            try:
                answer = await self._client.run_script(script, script_keys, args, idempotent=True)
                if not isinstance(answer, list) or len(cast("list[Any]", answer)) != _ANSWERED:
                    raise InvalidResponse(f"the settlement got {answer!r:.100} as its reply")
                break
            except ValueError as error:
                raise _RefusedError(f"it cannot be sent: {error}") from error
            except RedisError as error:
                attempt += 1
                if not may_pass(error) and (total > 1 or attempt >= _GIVE_UP_AFTER):
                    raise _RefusedError(str(error)) from error
                pause = _PAUSES[min(attempt, len(_PAUSES)) - 1]
                self._emit(BrokerTrouble(f"settling {total} of {in_flight.source}", str(error), f"again in {pause} s"))
            await trio.sleep(pause)
        if _AFTER is not None:
            _AFTER()
        return cast("list[Any]", answer)

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
        problems: dict[int, bytes] = dict(zip(refused[::2], refused[1::2], strict=True))
        again: list[Item] = []
        for which, item in enumerate(others, len(plain)):
            delivery, settlement, _ = item
            problem = problems.get(which)
            is_fenced = which in lost
            if problem is not None:
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
            self._emit(BrokerTrouble(f"publishing for a batch of {in_flight.source}", problem, next_step))
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
            self._emit(BrokerTrouble(f"publishing for {delivery.id}", problem, "the message becomes a dead letter"))
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
        self, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item], refusal: _RefusedError
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
        self._emit(Fenced(delivery, in_flight.group, settlement))


def _report(
    emit: EventSink, in_flight: InFlightEntries, deliveries: Sequence[Delivery], notes: Sequence[Any], begin: int
) -> None:
    """Report what the script has noted of some settlements, the first of which has the number `begin`."""
    for which, note in zip(notes[::2], notes[1::2], strict=True):
        delivery = deliveries[int(which) - begin]
        if note == _LOST:
            emit(MessageLost(in_flight.source, in_flight.group, delivery.id))
        else:
            doing = f"storing the result of {delivery.id} of {delivery.source}"
            error = "no client of actorwork has asked for it: the entry was written by another producer"
            emit(BrokerTrouble(doing, error, "not stored"))


def _refuse_address(emit: EventSink, delivery: Delivery, settlement: Settlement | PublishOnly) -> None:
    address = delivery.headers.get(REPLY_TO)
    is_ours = not isinstance(address, str) or address.startswith(keys.REPLIES)
    if not is_ours and isinstance(settlement, Ack | Reject | Fail):
        doing = f"replying for {delivery.id} of {delivery.source} to {address!r}"
        emit(BrokerTrouble(doing, f"replies go to channels under {keys.REPLIES}… only", "not sent"))


def _report_again(emit: EventSink, in_flight: InFlightEntries, count: int, problems: Iterable[bytes]) -> None:
    error = next(problem for problem in problems if problem.startswith(_MAY_PASS)).decode(errors="replace")
    emit(BrokerTrouble(f"settling {count} of {in_flight.source}", error, "again in 2 s at the latest"))


def _report_dead(emit: EventSink, delivery: Delivery, refusal: _RefusedError) -> None:
    emit(BrokerTrouble(f"settling {delivery.id} of {delivery.source}", str(refusal), "it becomes a dead letter"))


def _report_abandoned(
    emit: EventSink, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item], refusal: _RefusedError
) -> None:
    for delivery in (*plain, *(delivery for item in others for delivery in _deliveries_of(item))):
        emit(
            BrokerTrouble(
                f"settling {delivery.id} of {in_flight.source}",
                str(refusal),
                f"given up; the entry {delivery.token[0].decode()} stays pending, and runs again after this node",
            )
        )


def _encoded(plan: Plan, claim: str) -> str:
    from actorwork.streams.plans import encoded  # noqa: PLC0415 - most programs have no workflows

    return encoded(plan, claim=claim)


LOST: Final = Failure("Lost", "its entry was deleted by hand, so it cannot be tried again")


class _RefusedError(Exception):
    """The script fails for this batch, or, `is_unwritable`, cannot be called."""

    def __init__(self, text: str, *, is_unwritable: bool = False) -> None:
        super().__init__(text)
        self.is_unwritable = is_unwritable


def _deliveries_of(item: Item) -> Sequence[Delivery]:
    delivery, settlement, _ = item
    return [one for one, _ in settlement.settled] if isinstance(settlement, Together) else (delivery,)


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
        for item in in_flight.others[: min(limit, _OTHERS_AT_ONCE)]:
            published += len(item[2])
            if (others and published > _PUBLISHED_AT_ONCE) or type(item[1]) is Together:
                break
            others.append(item)
        del in_flight.others[: len(others)]
    return plain, others


def _add_other(
    args: list[Any],
    in_flight: InFlightEntries,
    delivery: Delivery,
    settlement: Settlement | PublishOnly | Together,
    published: Sequence[Envelope],
) -> None:
    outcome: Outcome | None = None
    extras: tuple[str | int, ...] = ()
    match settlement:
        case Ack(result=result, starts=starts, continues=continues):
            kind = "ack"
            if continues is None:
                outcome = Outcome("done", b"null" if result is None else result)
            else:
                starts = (*starts, continues)
            if starts:
                kind = "start"
                claim = entries.claim_in(delivery.token)
                extras = (len(starts), *(_encoded(plan, claim) for plan in starts))
        case Retry(delay=delay, failure=failure):
            kind = "retry"
            # Stored only if the entry is gone by now.
            outcome = Outcome("rejected", failure=LOST)
            # This node's clock is only noted in the history, for people; the delay counts by the server's clock.
            extras = (round(delay * 1000), entries.headers_of_retry(delivery, failure, time.time()))
        case Reject(failure=failure):
            kind = "reject"
            outcome = Outcome("rejected", failure=failure)
        case Fail(failure=failure):
            kind = "fail"
            outcome = Outcome("failed", failure=failure)
            extras = (
                in_flight.subscription.actor,
                failure.type,
                failure.reason,
                failure.traceback,
                delivery.attempt,
                *entries.bounds_of(in_flight.subscription.dead_letters),
            )
        case PublishOnly():
            kind = "keep"
        case Together():
            raise TypeError("deliveries that are settled together have a script of their own")
    args += (kind, *_delivery_args(in_flight, delivery, outcome), len(published))
    _add_published(args, published)
    args += extras


def _delivery_args(
    in_flight: InFlightEntries, delivery: Delivery, outcome: Outcome | None
) -> tuple[bytes | str | int, ...]:
    entry, count, _, *held_keys = delivery.token
    key, unique, claim = held_keys[0] if held_keys else (b"", b"", b"")
    record: bytes | str = ""
    ttl: int | str = ""
    reply_to = ""
    if outcome is not None and is_result_wanted(delivery.headers):
        seconds = delivery.headers.get(RESULT_TTL)
        ttl = max(1, round(float(seconds) * 1000)) if isinstance(seconds, int | float) else ""
        address = delivery.headers.get(REPLY_TO)
        reply_to = address if isinstance(address, str) else ""
        record = entries.encoded_outcome(in_flight.source, delivery.id, outcome, delivery.headers.get(FLOW))
    return entry, count, delivery.id, key, unique, record, ttl, claim, reply_to


def _add_published(args: list[Any], published: Sequence[Envelope]) -> None:
    for envelope in published:
        prefix = keys.prefix(envelope.source)
        fields = entries.fields_of(envelope)
        mark = entries.mark_of(prefix, envelope.id)
        args += (envelope.source, prefix, *mark, entries.terms_of(envelope), len(fields))
        args += fields
