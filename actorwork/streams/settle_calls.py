"""How settlements reach Redis: the arguments of the scripts, and their call until Redis answers.

    settle           any settlements of one stream: lua/settle.lua, or a shorter script for nothing but plain acks
                     (settle_plain.lua), or acks that reply, free keys and change states (settle_keyed.lua)
    settle_together  settlements of several streams, all or none: lua/settle_together.lua
    hold             deliveries that are settled together with those of another slot: lua/hold.lua

A call is sent again, under the number that its caller gave it, until Redis has answered: the script repeats its answer
to a call that it has carried out. Errors that may pass are tried again for as long as the node lives; any other raises
`RefusedError`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import trio

from actorwork.abc import EventSink
from actorwork.events import BrokerTrouble
from actorwork.failpoints import failpoint
from actorwork.message import FLOW, REPLY_TO, RESULT_TTL, Delivery, Envelope, Failure, Outcome, is_result_wanted
from actorwork.policy.settlement import LOST, Ack, Fail, Reject, Retry, Settlement
from actorwork.streams import entries, keys, scripts
from actorwork.streams.in_flight import InFlightEntries, Item, PublishOnly, Together
from actorwork.streams.notes import take_life
from actorwork.streams.transport.client import RedisClient
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.redis_py import InvalidResponse, RedisError, may_pass

if TYPE_CHECKING:
    from actorwork.policy.entities import StateChange
    from actorwork.policy.runs.values import Expansion, Plan
    from actorwork.policy.shards import Layout
    from actorwork.streams.formats import Formats
    from actorwork.streams.outbox import Outbox
    from actorwork.streams.shards import Layouts

_BARE: Final = 3
"""The length of a token without held keys, a claim among them."""
_GIVE_UP_AFTER: Final = 5
_ANSWERED: Final = 4
"""How many values the scripts return, at least."""
_PAUSES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
_BEFORE: Final = failpoint("settle.before")
_AFTER: Final = failpoint("settle.after")
_BEFORE_STATE: Final = failpoint("state.before")
_AFTER_STATE: Final = failpoint("state.after")
_IS_DRILL: Final = _BEFORE_STATE is not None or _AFTER_STATE is not None


class RefusedError(Exception):
    """The script fails for this batch, or, `is_unwritable`, cannot be called."""

    def __init__(self, text: str, *, is_unwritable: bool = False) -> None:
        super().__init__(text)
        self.is_unwritable = is_unwritable


class SettleCalls:
    """Calls the scripts that settle, for one node. Each call returns the script's answer: four values, or more."""

    def __init__(self, client: RedisClient, emit: EventSink) -> None:
        self.client = client
        self.emit = emit
        self.outbox: Outbox | None = None
        """On a cluster, forwards what is published to sources in other slots."""
        self.layouts: Layouts | None = None
        """Where the shards of sources are."""
        self._formats: Formats | None = None

    async def settle(
        self, in_flight: InFlightEntries, plain: list[Delivery], others: list[Item], *, ahead: int = 0
    ) -> list[Any]:
        """Apply settlements of one stream: plain acks, and any others.

        With others, it may bring as many entries as `ahead` says.
        """
        others = self._placed(others)
        if self.outbox is not None:
            others = [await self._claimed(item) for item in others]
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
            # Those that are in flight besides may be among them: to look for one of these alone takes as long as two.
            max(total, min(2 * total, len(in_flight.deliveries))),
            len(plain),
        ]
        for token in tokens:
            args += token[:2]
        script = scripts.SETTLE_PLAIN
        if others:
            begun: Collection[str] = ()
            try:
                short = _keyed_args(in_flight, others)
                if short is None:
                    begun = self._add_others(args, in_flight, others)
            except (ValueError, RecursionError) as error:
                # A settlement that cannot be encoded must not end the node: the next node would get the same entry.
                raise RefusedError(f"it cannot be written: {error}", is_unwritable=True) from error
            script = scripts.SETTLE if short is None else scripts.SETTLE_KEYED
            args += short or ()
            args.append(ahead)
            if begun:
                await self._wait_for_readers(in_flight, begun)
        script_keys = (
            in_flight.stream,
            in_flight.keys.settled(in_flight.group, in_flight.incarnation, in_flight.level),
        )
        changes_state = _IS_DRILL and any(map(_changes_state, others))
        if changes_state:
            _pass_before_state()
        answer = await self._run(in_flight, script, script_keys, args, total)
        if changes_state:
            _pass_after_state()
        if self.outbox is not None:
            self._forward(self.outbox, in_flight, others)
        return answer

    def _add_others(self, args: list[Any], in_flight: InFlightEntries, others: Iterable[Item]) -> Collection[str]:
        """Add settlements; return the sources to which those send steps that start runs, or add to them."""
        steps = _Steps(args, in_flight)
        begun: set[str] = set()
        for delivery, settlement, published in others:
            if type(settlement) is Ack and steps.add(delivery, settlement, published):
                continue
            steps.end()
            _add_other(args, in_flight, delivery, settlement, published, self.outbox)
            if isinstance(settlement, Ack) and is_of_run(settlement):
                plans = (*settlement.starts, settlement.continues, settlement.expands)
                begun.update(step.source for plan in plans if plan is not None for step in plan.steps if step.source)
        return begun

    async def _wait_for_readers(self, in_flight: InFlightEntries, sources: Collection[str]) -> None:
        """Wait until no node reads these sources that may not know how a step is joined."""
        if self._formats is None:
            from actorwork.streams.formats import FORMAT_OF_RUNS, Formats  # noqa: PLC0415 - only for runs

            self._formats = Formats(self.client, FORMAT_OF_RUNS)
        await self.wait_for_end_of_older(
            partial(self._formats.older_of, sources),
            f"settling a message of {in_flight.source} that sends steps to {', '.join(sorted(sources))}",
            "may not know how to join these",
        )

    async def wait_for_end_of_older(self, look: Callable[[], Awaitable[list[str]]], doing: str, lack: str) -> None:
        """Wait until there are no nodes of an older format; say meanwhile which there are, and what they lack."""
        attempt = 0
        while True:
            attempt += 1
            pause = pause_after(attempt)
            try:
                older = await look()
            except RedisError as error:
                self.emit(BrokerTrouble(doing, str(error), f"again in {pause:g} s"))
            else:
                if not older:
                    return
                text = f"nodes of an older version of actorwork, which {lack}, run: {', '.join(older[:5])}"
                self.emit(BrokerTrouble(doing, text, "it is settled once they have ended"))
            await trio.sleep(pause)

    @property
    def known_layouts(self) -> Mapping[str, Layout]:
        return {} if self.layouts is None else self.layouts.known

    def _placed(self, others: list[Item]) -> list[Item]:
        """Address what is published to the shards of sources that are divided."""
        layouts = self.layouts
        if layouts is None or not layouts.known:
            return others
        return [(delivery, settlement, layouts.placed(published)) for delivery, settlement, published in others]

    async def _claimed(self, item: Item) -> Item:
        """On a cluster, claim the ids of the runs that a settlement starts."""
        delivery, settlement, published = item
        if not isinstance(settlement, Ack) or not (settlement.starts or settlement.continues):
            return item
        from actorwork.streams.forwarding import claimed  # noqa: PLC0415 - only for runs

        attempt = 0
        while True:
            try:
                starts = [await claimed(self.client, plan) for plan in settlement.starts]
                continues = settlement.continues and await claimed(self.client, settlement.continues)
            except RedisError as error:
                attempt += 1
                if not may_pass(error):
                    raise RefusedError(str(error)) from error
                pause = pause_after(attempt)
                self.emit(BrokerTrouble(f"starting a run for {delivery.id}", str(error), f"again in {pause} s"))
            else:
                return delivery, attrs.evolve(settlement, starts=tuple(starts), continues=continues), published
            await trio.sleep(pause)

    def _forward(self, outbox: Outbox, in_flight: InFlightEntries, items: Iterable[Item]) -> None:
        own = in_flight.source
        for delivery, settlement, published in items:
            settled = settlement.settled if isinstance(settlement, Together) else ((delivery, settlement),)
            concerns_run = any(FLOW in one.headers or (isinstance(how, Ack) and is_of_run(how)) for one, how in settled)
            if concerns_run or any(outbox.is_elsewhere(own, envelope.source) for envelope in published):
                outbox.forward_soon(own)
                return

    async def hold(self, in_flight: InFlightEntries, noted: str, deliveries: Sequence[Delivery]) -> list[Any]:
        """Let no other node take deliveries over that are settled together with those of another slot (joint.py)."""
        first, last = entries.bounds(delivery.token[0] for delivery in deliveries)
        args: list[Any] = [in_flight.keys.prefix, in_flight.group, in_flight.incarnation, noted]
        args += (first, last, len(deliveries))
        for delivery in deliveries:
            args += delivery.token[:2]
        script_keys = (in_flight.stream, keys.held(in_flight.source, in_flight.group))
        return await self._run(in_flight, scripts.HOLD, script_keys, args, 1)

    async def settle_together(
        self,
        in_flight: InFlightEntries,
        together: Together,
        published: Sequence[Envelope],
        batch: tuple[str, Sequence[tuple[str, Sequence[Any]]]] | None = None,
    ) -> tuple[list[tuple[Delivery, Settlement]], list[Any]]:
        """Apply settlements of several streams at once; return them in the order in which the script counts them, and
        its answer.

        They may belong to a larger `batch` with deliveries of other slots (joint.py): the key at which the script notes
        that it is settled, and what is put into the outbox then, each with the source for which it is.
        """
        by_stream: dict[InFlightEntries, list[tuple[Delivery, Settlement]]] = {}
        for delivery, settlement in together.settled:
            by_stream.setdefault(delivery.token[2], []).append((delivery, settlement))
        if self.layouts is not None:
            published = self.layouts.placed(published)
        args: list[Any] = [in_flight.number, in_flight.group, in_flight.incarnation, len(published)]
        try:
            _add_published(args, published, in_flight.source, self.outbox)
            decided, ends = batch or ("", ())
            args += (decided, len(ends))
            for source, values in ends:
                args += (source, len(values), *values)
            for stream, some in by_stream.items():
                ends = entries.bounds(delivery.token[0] for delivery, _ in some)
                args += (stream.keys.prefix, *ends, len(some))
                for delivery, settlement in some:
                    args += delivery_args(stream, delivery, outcome_of(settlement))
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"it cannot be written: {error}", is_unwritable=True) from error
        record = in_flight.keys.settled(in_flight.group, in_flight.incarnation, in_flight.level)
        script_keys = (record, *(stream.stream for stream in by_stream))
        answer = await self._run(in_flight, scripts.SETTLE_TOGETHER, script_keys, args, 1)
        if self.outbox is not None and batch is None:
            self._forward(self.outbox, in_flight, [(together.settled[0][0], together, published)])
        return [one for some in by_stream.values() for one in some], answer

    async def _run(
        self, in_flight: InFlightEntries, script: Script, script_keys: Sequence[str], args: list[Any], total: int
    ) -> list[Any]:
        attempt = 0
        if _BEFORE is not None:
            _BEFORE()
        while True:
            try:
                answer = await self.client.run_script(script, script_keys, args, idempotent=True)
                if not isinstance(answer, list) or len(cast("list[Any]", answer)) < _ANSWERED:
                    raise InvalidResponse(f"the settlement got {answer!r:.100} as its reply")
                break
            except ValueError as error:
                raise RefusedError(f"it cannot be sent: {error}") from error
            except RedisError as error:
                attempt += 1
                if not may_pass(error) and (total > 1 or attempt >= _GIVE_UP_AFTER):
                    raise RefusedError(str(error)) from error
                pause = pause_after(attempt)
                self.emit(BrokerTrouble(f"settling {total} of {in_flight.source}", str(error), f"again in {pause} s"))
            await trio.sleep(pause)
        if _AFTER is not None:
            _AFTER()
        return cast("list[Any]", answer)


def found_ahead(answer: list[Any]) -> tuple[Sequence[Any], bool]:
    """Return what an answer has brought of the next entries, and whether any are lost: it was given before."""
    given = answer[_ANSWERED] if len(answer) > _ANSWERED else 0
    entries_of: Any = answer[_ANSWERED + 1] if len(answer) > _ANSWERED + 1 else ()
    found = cast("Sequence[Any]", entries_of) if isinstance(entries_of, (list, tuple)) else None
    return found or (), found is None or len(found) != given


def is_of_run(settlement: Ack) -> bool:
    """Whether a settlement starts a run, or adds steps to one."""
    return bool(settlement.starts or settlement.continues or settlement.expands)


def outcome_of(settlement: Settlement) -> Outcome | None:
    """Return the outcome of one of several deliveries that are settled together."""
    return Outcome("done", settlement.result or b"null") if isinstance(settlement, Ack) else None


def pause_after(attempt: int) -> float:
    """Return how many seconds to wait after this many attempts in vain."""
    return _PAUSES[min(attempt, len(_PAUSES)) - 1]


def _add_other(
    args: list[Any],
    in_flight: InFlightEntries,
    delivery: Delivery,
    settlement: Settlement | PublishOnly | Together,
    published: Sequence[Envelope],
    outbox: Outbox | None,
) -> None:
    outcome: Outcome | None = None
    extras: tuple[str | int | bytes, ...] = ()
    change: StateChange | None = None
    match settlement:
        case Ack(result=result, starts=starts, continues=continues, expands=expands, state=change):
            kind = "ack"
            if continues is None:
                outcome = Outcome("done", b"null" if result is None else result)
            else:
                starts = (*starts, continues)
            if starts:
                kind = "start"
                claim = entries.claim_in(delivery.token)
                extras = (len(starts), *(_encoded(plan, claim) for plan in starts))
            if expands is not None:
                kind = kind if starts else "expand"
                extras = (len(starts) + 1, *extras[1:], _encoded_expansion(expands))
        case Retry(delay=delay, failure=failure, headers=added):
            kind = "retry"
            # Stored only if the entry is gone by now.
            outcome = Outcome("rejected", failure=LOST)
            # This node's clock is only noted in the history, for people; the delay counts by the server's clock.
            extras = (round(delay * 1000), entries.headers_of_retry(delivery, failure, time.time(), added))
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
                entries.encoded_failure(failure) if in_flight.subscription.is_told_failures else "",
            )
        case PublishOnly(change=change):
            kind = "keep"
        case Together():
            raise TypeError("deliveries that are settled together have a script of their own")
    if change is not None:
        kind = f"={kind}"
        extras = (*extras, *_change_args(change))
    tried = settlement.failure if isinstance(settlement, Retry) else None
    args += (kind, *delivery_args(in_flight, delivery, outcome, tried), len(published))
    _add_published(args, published, in_flight.source, outbox)
    args += extras


def _keyed_args(in_flight: InFlightEntries, others: Iterable[Item]) -> list[Any] | None:
    """Return settlements in the form of lua/settle_keyed.lua; None if there is more to one of them than it does."""
    first: StateChange | None = None
    args: list[Any] = []
    for delivery, settlement, published in others:
        token, headers = delivery.token, delivery.headers
        if (
            type(settlement) is not Ack
            or published
            or (headers and (RESULT_TTL in headers or FLOW in headers))
            or settlement.starts
            or settlement.continues is not None
            or settlement.expands is not None
        ):
            return None
        entry, count, _, *held = token
        key, unique, _ = held[0] if held else (b"", b"", b"")
        change = settlement.state
        end: tuple[bytes | str | int, ...] = ()
        kind = "k"
        if unique:
            kind = "ku"
            end = (unique,)
        if headers and REPLY_TO in headers:
            kind += "r"
            outcome = Outcome("done", b"null" if settlement.result is None else settlement.result)
            address = headers[REPLY_TO]
            record = entries.encoded_outcome(in_flight.name, delivery.id, outcome)
            end = (*end, record, address if isinstance(address, str) else "")
        if change is not None:
            kind += "="
            if first is None:
                first = change
            elif (change.schema, change.ttl, change.history) != (first.schema, first.ttl, first.history):
                return None
            end = (*end, change.version, change.stamp, change.mark, change.data or b"")
        args += (kind, entry, count, delivery.id, key, *end)
    return [*(("", "", "") if first is None else _change_args(first)[2:5]), *args]


class _Steps:
    """Adds settlements of steps of runs in short: what many that follow each other have in common is said once."""

    def __init__(self, args: list[Any], in_flight: InFlightEntries) -> None:
        self._args = args
        self._in_flight = in_flight
        self._common: tuple[object, ...] | None = None
        self._counted_at = 0
        self._of = ""
        """The home and the run of the step before."""
        self._before_number = ""
        """How the ids of the messages of that run begin."""

    def add(self, delivery: Delivery, settlement: Ack, published: Sequence[Envelope]) -> bool:
        """Add a settlement; return False if it is not of a step, or if there is more to it than what it returned."""
        headers = delivery.headers
        flow = headers.get(FLOW) if headers else None
        if (
            not isinstance(flow, str)
            or published
            or RESULT_TTL in headers
            or REPLY_TO in headers
            or settlement.starts
            or settlement.continues is not None
            or settlement.expands is not None
            or settlement.state is not None
            or len(delivery.token) == _BARE  # An entry of another producer, which names a run.
        ):
            return False
        entry, count, _, (key, unique, claim) = delivery.token
        of, _, number = flow.rpartition("/")
        life = self._in_flight.lives.get(entry)
        if key or unique or (life is not None and life.progress is not None):
            return False
        if of != self._of:
            _, slash, run = of.partition("/")
            if not slash or not run:
                return False
            self._of, self._before_number = of, f"{run}/"
        if not (number.isascii() and number.isdecimal()) or delivery.id != self._before_number + number:
            return False  # A step that was retried, or a header that was copied.
        received, started = ("", "") if life is None else life.times()
        common = (of, delivery.attempt, count, received, started)
        args = self._args
        if common == self._common:
            args[self._counted_at] += 1
        else:
            self._common = common
            actor = self._in_flight.subscription.actor
            self._counted_at = len(args) + 7
            args += ("steps", of, actor, delivery.attempt, count, received, started, 1)
        args += (entry, number, claim, b"null" if settlement.result is None else settlement.result)
        return True

    def end(self) -> None:
        """What is added next follows something else."""
        self._common = None


def delivery_args(
    in_flight: InFlightEntries, delivery: Delivery, outcome: Outcome | None, tried: Failure | None = None
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
        record = entries.encoded_outcome(in_flight.name, delivery.id, outcome, delivery.headers.get(FLOW))
    attempt, life = ("", []) if outcome is None else take_life(delivery, tried)
    return entry, count, delivery.id, key, unique, record, ttl, claim, reply_to, attempt, len(life), *life


def _change_args(change: StateChange) -> tuple[bytes | str | int, ...]:
    ttl = "" if change.ttl is None else max(1, round(change.ttl * 1000))
    kept = "" if change.history is None else change.history
    return change.version, change.stamp, change.schema, ttl, kept, change.mark, change.data or b""


def _pass_before_state() -> None:
    if _BEFORE_STATE is not None:
        _BEFORE_STATE()


def _pass_after_state() -> None:
    if _AFTER_STATE is not None:
        _AFTER_STATE()


def _changes_state(item: Item) -> bool:
    match item[1]:
        case Ack(state=change) | PublishOnly(change=change):
            return change is not None
        case _:
            return False


def _add_published(args: list[Any], published: Sequence[Envelope], own: str, outbox: Outbox | None) -> None:
    for envelope in published:
        prefix = keys.prefix(envelope.source)
        fields = entries.fields_of(envelope)
        mark = entries.mark_of(prefix, envelope.id)
        if outbox is not None and outbox.is_elsewhere(own, envelope.source):
            prefix = f">{prefix}"
        args += (envelope.source, prefix, *mark, entries.terms_of(envelope), len(fields))
        args += fields


def _encoded(plan: Plan, claim: str) -> str:
    from actorwork.streams.plans import encoded  # noqa: PLC0415 - most programs have no workflows

    return encoded(plan, plan.ahead, claim=claim)


def _encoded_expansion(expansion: Expansion) -> str:
    from actorwork.streams.plans import encoded_expansion  # noqa: PLC0415 - most programs have no workflows

    return encoded_expansion(expansion)
