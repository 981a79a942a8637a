"""The bridge: an actor that takes tasks from Celery's queues, and writes their results.

    queue ──move──▶ moving ──publish──▶ the actor's source ──▶ its outcome ──▶ celery-task-meta-<task>
                       │
                       └──▶ the queue `pass_on`, or the list of what is refused

A task is never popped: one script moves it to the list `moving`, and it leaves that list when our broker has its
message, or in the script that puts it elsewhere. A bridge that dies leaves tasks in `moving`; the next one, or another
that runs, publishes them again. The id of the task is the id of the message, so the broker stores it once, also if
Celery itself delivers it twice.

A task whose result is wanted is noted in the hash `waiting` before its message is published, and forgotten when its
result is written. So the results of the tasks of a bridge that has died are written by another one, which looks their
outcomes up: those are sent to the address of the dead one.

Two bridges at one queue need not know each other: whatever both of them do has the same effect as if one did it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final, Protocol, cast

import trio

from actorwork.abc import Broker, Changes, Replies
from actorwork.actors.actor import Actor
from actorwork.bridges.celery import wire
from actorwork.bridges.celery.outcomes import Followed, StoredOutcome
from actorwork.bridges.celery.tasks import KEPT, CeleryQueue, taker_of
from actorwork.bridges.celery.wire import NotTaken, TaskMessage
from actorwork.clients.client import Client
from actorwork.errors import BrokerError
from actorwork.message import Envelope, Failure, Outcome
from actorwork.streams.transport.client import RedisClient, open_client
from actorwork.streams.transport.commands import Script
from actorwork.streams.transport.redis_py import RedisError, checked

_NAME: Final = "actorwork-celery"
_AT_ONCE: Final = 100
"""How many tasks are moved at once."""
_SHORTEST_REST: Final = 0.02
_LONGEST_REST: Final = 0.25
"""Seconds between two looks at an empty queue: at first, and after a while."""
_LOOK_EVERY: Final = 10.0
"""Seconds between two looks for what another bridge has left."""
_REST_AFTER_ERROR: Final = 1.0
_FORGOTTEN_AFTER: Final = 2 * 86_400.0
"""Seconds after which a task is forgotten of which the broker knows nothing: results are kept for a day."""

# RPOPLPUSH and not LMOVE, which older servers do not have: Celery runs on those.
_MOVE: Final = Script(
    "celery_move",
    """-- Moves up to ARGV[1] messages from the lists KEYS[1..n-1], in turn, to the list KEYS[n]; returns them.
local found, wanted = {}, tonumber(ARGV[1])
for i = 1, #KEYS - 1 do
  while #found < wanted do
    local raw = redis.call('RPOPLPUSH', KEYS[i], KEYS[#KEYS])
    if not raw then
      break
    end
    found[#found + 1] = raw
  end
end
return found
""",
)
_PUT: Final = Script(
    "celery_put",
    """-- Moves the message ARGV[1] from the list KEYS[1] to KEYS[2], where it is ARGV[2]; if it is there, so once.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then
  return redis.call('LPUSH', KEYS[2], ARGV[2])
end
return 0
""",
)


class Log(Protocol):
    """Where the bridge reports what it does not take."""

    def warning(self, text: str, /, *args: object) -> None: ...


class CeleryBridge(Actor):
    """Takes tasks from queues of Celery's and passes them to actors: `Child(partial(CeleryBridge, queue, …))`.

    It reads nothing from the broker, and needs none of Celery. Any number of them may run, in any number of nodes. A
    task is handled at least once, and stored once: it has the id of the task. While the bridge, its Redis or the broker
    is away, tasks wait in their queue.
    """

    def __init__(self, *queues: CeleryQueue) -> None:
        self._queues = queues

    async def startup(self) -> None:
        """Begin to take tasks."""
        broker = cast("Client", self.context.client).broker
        for queue in self._queues:
            await self.context.nursery.start(Mover(queue, broker, self.context.log).run)


class Mover:
    """Moves the tasks of one queue, and waits for their outcomes."""

    def __init__(self, queue: CeleryQueue, broker: Broker, log: Log) -> None:
        self._queue = queue
        self._broker = broker
        self._log = log
        self._takers = {name: taker_of(name, task) for name, task in queue.tasks.items()}
        self._lists = wire.lists_of(queue.name)
        self._moving = f"actorwork:celery:{queue.name}:moving"
        self._waiting = f"actorwork:celery:{queue.name}:waiting"
        self._refused = f"{queue.name}.actorwork-refused"
        self._told: set[str] = set()
        self._in_hand: set[bytes] = set()
        self._followed: dict[str, Followed] = {}
        self._due = 0
        """How many of those have a message that need not wait for its time."""
        self._ended = trio.Event()
        self._redis: RedisClient
        self._results: RedisClient
        self._replies: Replies
        self._changes: Changes
        self._nursery: trio.Nursery

    def __repr__(self) -> str:
        return f"<Mover of {self._queue.name!r}: {len(self._followed)} tasks are followed>"

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Move tasks until it is cancelled; what it has moved by half is moved by the next one."""
        queue = self._queue
        async with AsyncExitStack() as stack:
            self._redis = await stack.enter_async_context(open_client(wire.redis_url(queue.url), name=_NAME))
            self._results = self._redis
            if queue.results:
                self._results = await stack.enter_async_context(open_client(wire.redis_url(queue.results), name=_NAME))
            self._replies = await stack.enter_async_context(self._broker.open_replies())
            self._changes = await stack.enter_async_context(self._broker.open_changes())
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            task_status.started()
            self._nursery.start_soon(self._look_after)
            await self._take()

    async def _take(self) -> None:
        rest = _SHORTEST_REST
        while True:
            room = self._queue.ahead - self._due
            if room <= 0:
                self._ended = trio.Event()
                await self._ended.wait()
                continue
            try:
                # Sent again after a lost connection: what the first one has moved is found by a look for what is left.
                raws: Sequence[bytes] = await self._redis.run_script(
                    _MOVE, (*self._lists, self._moving), (min(room, _AT_ONCE),), idempotent=True
                )
                await self._move(raws)
            except (BrokerError, RedisError) as error:
                await self._rest_after(error, "tasks cannot be moved")  # What is moved by half is found like that, too.
                continue
            if raws:
                rest = _SHORTEST_REST
            else:
                await trio.sleep(rest)
                rest = min(2 * rest, _LONGEST_REST)

    async def _rest_after(self, error: Exception, what: str) -> None:
        """Report an error that may pass (no memory, no right), and wait before the next try."""
        self._log.warning("Celery's queue %r: %s: %s; again in %g s", self._queue.name, what, error, _REST_AFTER_ERROR)
        await trio.sleep(_REST_AFTER_ERROR)

    # ------------------------------------------------------------------------------------------- what others have left

    async def _look_after(self) -> None:
        """Take over what is in `moving` or in `waiting` and not this bridge's: at the beginning, and now and then.

        Another bridge that lives has things there for moments, so later only what was there the last time is taken.
        """
        moving: set[bytes] | None = None
        waiting: Mapping[str, bytes] = {}
        while True:
            try:
                now_moving, now_waiting = await self._left()
                if moving is None:
                    moving, waiting = now_moving, now_waiting
                await self._take_over(
                    now_moving & moving, {task: note for task, note in now_waiting.items() if waiting.get(task) == note}
                )
            except (BrokerError, RedisError) as error:
                await self._rest_after(error, "what another bridge has left cannot be moved")
                continue
            moving, waiting = now_moving, now_waiting
            await trio.sleep(_LOOK_EVERY)

    async def _left(self) -> tuple[set[bytes], dict[str, bytes]]:
        commands = [("LRANGE", self._moving, 0, -1), ("HGETALL", self._waiting)]
        moving, waiting = checked(await self._redis.call_many(commands, idempotent=True))
        notes: Mapping[bytes, bytes] = waiting
        left = {task.decode(errors="replace"): note for task, note in notes.items()}
        return set(moving) - self._in_hand, {task: note for task, note in left.items() if task not in self._followed}

    async def _take_over(self, moving: set[bytes], waiting: Mapping[str, bytes]) -> None:
        if raws := [raw for raw in moving if raw not in self._in_hand]:
            await self._move(raws)
        for task, note in waiting.items():
            if task in self._followed:
                continue
            try:
                source, due, since = json.loads(note)
                is_old = time.time() > max(since, due or 0) + _FORGOTTEN_AFTER
            except (ValueError, TypeError):
                source, due, is_old = "", None, True  # Written by another program.
            if is_old and (not source or await self._broker.states.find(source, task) is None):
                await self._redis.call("HDEL", self._waiting, task, idempotent=True)
            else:
                self._follow(task, source, due, is_sent_here=False)

    # -------------------------------------------------------------------------------------------------------- moving

    async def _move(self, raws: Sequence[bytes]) -> None:
        """Publish what is for an actor, and put all else where it belongs."""
        self._in_hand.update(raws)
        try:
            envelopes: list[Envelope] = []
            notes: list[tuple[Any, ...]] = []
            wanted: list[Envelope] = []
            published: list[tuple[Any, ...]] = []
            for raw in raws:
                task: TaskMessage | None = None
                try:
                    task = wire.task_from(raw)
                    envelope = self._envelope(task)
                except Exception as error:  # noqa: BLE001 - a user's function may raise anything: it is the task's failure
                    await self._put_elsewhere(raw, task, error)
                    continue
                envelopes.append(envelope)
                published.append(("LREM", self._moving, 1, raw))
                if self._is_wanted(task):
                    wanted.append(envelope)
                    note = json.dumps([envelope.source, envelope.at, round(time.time(), 3)])
                    notes.append(("HSETNX", self._waiting, envelope.id, note))
            checked(await self._redis.call_many(notes, idempotent=True))
            for envelope in wanted:
                self._follow(envelope.id, envelope.source, envelope.at, is_sent_here=True)
            if envelopes and await self._broker.publish(envelopes) < len(envelopes):
                # Some of them were stored before. It is not known which, nor by which bridge.
                for envelope in wanted:
                    self._follow(envelope.id, envelope.source, envelope.at, is_sent_here=False)
            checked(await self._redis.call_many(published, idempotent=True))
        finally:
            self._in_hand.difference_update(raws)

    def _envelope(self, task: TaskMessage) -> Envelope:
        taker = self._takers.get(task.name)
        if taker is None:
            raise NotTaken(f"no actor is named for the task {task.name!r}")
        return taker.envelope(task, self._replies.address if self._is_wanted(task) else None, KEPT)

    def _is_wanted(self, task: TaskMessage) -> bool:
        return self._queue.results != "" and not task.is_result_ignored

    async def _put_elsewhere(self, raw: bytes, task: TaskMessage | None, error: Exception) -> None:
        to = self._queue.pass_on or self._refused
        name = task.name if task is not None else "a message"
        if name not in self._told:
            self._told.add(name)
            self._log.warning(
                "%s of Celery's queue %r goes to %r: %s (not reported again)", name, self._queue.name, to, error
            )
        if self._queue.pass_on is not None:
            await self._redis.run_script(
                _PUT, (self._moving, to), (raw, wire.redirected(raw, self._queue.pass_on)), idempotent=True
            )
            return
        if task is not None and self._is_wanted(task):
            # Its caller would wait for ever.
            kind = wire.NOT_REGISTERED if task.name not in self._takers else type(error).__name__
            await self._write(task.id, Outcome("failed", failure=Failure(kind, str(error))))
        await self._redis.run_script(_PUT, (self._moving, to), (raw, raw), idempotent=True)

    # ------------------------------------------------------------------------------------------------------- results

    def _follow(self, id: str, source: str, due: float | None, *, is_sent_here: bool) -> None:
        """Wait for an outcome in a task; one that is held back does not count until it is due.

        With `is_sent_here` its message is published by this bridge, else perhaps by another one: then the outcome is
        looked up, also if it has been awaited here before.
        """
        before = self._followed.get(id)
        if before is not None:
            if is_sent_here:
                return
            before.waiting.cancel()
        due = due or 0.0
        pending = (
            self._replies.expect(source, id, look_from=due)
            if is_sent_here
            else StoredOutcome(self._broker, self._changes, source, id)
        )
        followed = self._followed[id] = Followed(id, pending, due, is_held=due > time.time())
        if not followed.is_held:
            self._due += 1
        self._nursery.start_soon(self._write_outcome, followed)

    async def _write_outcome(self, followed: Followed) -> None:
        try:
            outcome = await self._outcome_of(followed)
            while outcome is not None:
                try:
                    await self._write(followed.id, outcome)
                    await self._redis.call("HDEL", self._waiting, followed.id, idempotent=True)
                    return
                except RedisError as error:
                    await self._rest_after(error, f"the result of the task {followed.id} cannot be written")
        finally:
            followed.outcome.close()
            if not followed.is_held:
                self._due -= 1
            if self._followed.get(followed.id) is followed:
                del self._followed[followed.id]
            self._ended.set()

    async def _outcome_of(self, followed: Followed) -> Outcome | None:
        """Wait for an outcome; return None if another wait has taken the place of this one."""
        with followed.waiting:
            while followed.is_held and (left := followed.due - time.time()) > 0:
                with trio.move_on_after(min(left, 3600.0)):  # The clock may be set meanwhile.
                    return await followed.outcome.outcome()
            if followed.is_held:
                followed.is_held = False
                self._due += 1
            return await followed.outcome.outcome()
        return None

    async def _write(self, id: str, outcome: Outcome) -> None:
        key, record = wire.META + id, wire.encoded_result(id, outcome, datetime.now(UTC))
        commands = [("SET", key, record, "EX", math.ceil(self._queue.results_ttl)), ("PUBLISH", key, record)]
        checked(await self._results.call_many(commands, idempotent=True))
