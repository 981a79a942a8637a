"""Sends tasks to Celery's workers, and waits for their results: for what has not moved yet."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, Final, cast

import trio

from actorwork import codec
from actorwork.bridges.celery import wire
from actorwork.bridges.celery.wire import CeleryStatus, StoredResult, TaskMessage
from actorwork.durations import Duration, seconds_of, timeout_of
from actorwork.errors import AskTimeout, MessageFailed
from actorwork.message import NO_HEADERS, Json
from actorwork.streams.transport.client import RedisClient, open_client
from actorwork.streams.transport.redis_py import cannot

_NAME: Final = "actorwork-celery"
_LOOK_EVERY: Final = 3.0
"""Seconds between two looks at a result."""


@asynccontextmanager
async def open_celery(url: str, *, results: str | None = None) -> AsyncGenerator[CeleryClient]:
    """Open a client of Celery's at its broker, a Redis; `results` is the Redis of its results (None: the same).

    In an actor: `self.celery = await self.context.enter(open_celery(url))`. While Redis is away its calls wait.
    """
    waiting: dict[bytes, list[trio.Event]] = {}

    def hear(push: list[Any]) -> None:
        if push[0] == b"message":
            for event in waiting.get(push[1], ()):
                event.set()

    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(open_client(wire.redis_url(url), name=_NAME))
        stored = await stack.enter_async_context(open_client(wire.redis_url(results or url), name=_NAME, on_push=hear))
        yield CeleryClient(redis, stored, waiting)


class CeleryClient:
    """Sends tasks to queues of Celery's. Made by `open_celery`; safe to use from any number of Trio tasks."""

    def __init__(self, redis: RedisClient, results: RedisClient, waiting: dict[bytes, list[trio.Event]]) -> None:
        self._redis = redis
        self._stored = results
        self._waiting = waiting

    def __repr__(self) -> str:
        return f"<CeleryClient at {self._redis!r}>"

    async def send(
        self,
        task: str,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] = NO_HEADERS,
        *,
        queue: str = "celery",
        id: str | None = None,
        delay: Duration = 0,
        at: datetime | None = None,
        expires: Duration | None = None,
        priority: int = 0,
        headers: Mapping[str, Json] = NO_HEADERS,
        ignore_result: bool = False,
    ) -> CeleryResult:
        """Send a task by its name; return what waits for its result. It is in the queue when this returns.

        The arguments may be anything that our codec writes as JSON: `CodecError` is raised otherwise. `delay` or `at`
        make it an ETA, which a worker of Celery's holds in its memory; `expires` is in seconds from now; `priority` is
        0 (most urgent, the default) to 9. Celery does not recognise a task that is sent twice: if the connection is
        lost at the wrong moment, or if this is cancelled, the task may have been sent.
        """
        if not 0 <= priority <= 9:
            raise ValueError(f"a priority of Celery's is from 0 to 9, got {priority!r}")
        if at is not None and at.tzinfo is None:
            raise ValueError(f"at wants a datetime with a timezone, got {at!r}")
        now = time.time()
        seconds = seconds_of("delay", delay)
        eta = at.timestamp() if at is not None else now + seconds if seconds else None
        message = TaskMessage(
            name=task,
            id=id or str(uuid.uuid4()),
            args=cast("list[Json]", codec.loads(codec.encode_value(list(args)))),
            kwargs=cast("dict[str, Json]", codec.loads(codec.encode_value(dict(kwargs)))),
            eta=eta,
            expires=None if expires is None else now + seconds_of("expires", expires),
            priority=priority,
            is_result_ignored=ignore_result,
            headers=headers,
        )
        raw = wire.encoded_task(message, queue)
        with cannot(f"send the task {task!r} to Celery's queue {queue!r}"):
            await self._redis.call("LPUSH", wire.list_for(queue, priority), raw)
        return self.result(message.id)

    def result(self, id: str) -> CeleryResult:
        """Return what waits for the result of a task, by the task's id."""
        return CeleryResult(id, self)

    async def look(self, id: str) -> StoredResult:
        """Return what is stored of a task: PENDING if there is nothing."""
        with cannot(f"look at the result of the task {id}"):
            raw: bytes | None = await self._stored.call("GET", wire.META + id, idempotent=True)
        return StoredResult("PENDING") if raw is None else wire.result_from(raw)

    async def wait(self, id: str) -> StoredResult:
        """Wait for the end of a task."""
        channel = (wire.META + id).encode()
        waiting = self._waiting.setdefault(channel, [])
        event = trio.Event()
        waiting.append(event)
        try:
            with cannot(f"wait for the result of the task {id}"):
                await self._stored.subscribe(channel)
            # Looked at after the subscription, and now and then: an announcement is lost if the connection is.
            while (found := await self.look(id)).status not in wire.FINAL:
                with trio.move_on_after(_LOOK_EVERY):
                    await event.wait()
                waiting.remove(event)
                event = trio.Event()
                waiting.append(event)
            return found
        finally:
            waiting.remove(event)
            if not waiting and self._waiting.pop(channel, None) is waiting:
                with trio.move_on_after(1, shield=True):
                    await self._stored.unsubscribe(channel)


class CeleryResult:
    """A task that was sent to Celery, by its id, as Celery's `AsyncResult`."""

    def __init__(self, id: str, client: CeleryClient) -> None:
        self.id = id
        self._client = client

    def __repr__(self) -> str:
        return f"<CeleryResult {self.id}>"

    async def status(self) -> CeleryStatus:
        """Return the state that is stored: PENDING until a worker has stored one, or if the id is unknown."""
        return (await self._client.look(self.id)).status

    async def result(self, *, timeout: Duration = 30) -> Json:
        """Wait for the result, and return it: a JSON value.

        Raises `MessageFailed` with the error of the task (of type `TaskRevokedError` if it was revoked), and
        `AskTimeout`, after which the task may still be handled.
        """
        seconds = timeout_of(timeout)
        with trio.move_on_after(seconds):
            found = await self._client.wait(self.id)
            if found.failure is None:
                return found.value
            failure = found.failure
            raise MessageFailed(
                f"Celery's task {self.id} failed ({failure.type}: {failure.reason})",
                type=failure.type,
                reason=failure.reason,
                traceback=failure.traceback,
            )
        raise AskTimeout(f"no result of Celery's task {self.id} within {seconds:g} s; it may still be handled")
