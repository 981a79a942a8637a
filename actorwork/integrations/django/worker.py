"""The actor that runs tasks, one for each queue.

    a function         in a thread; its connections to databases are looked after as those of a request are
    a coroutine        on the asyncio loop of the actor, and cancelled past `execution_timeout`
    what it raises     fails the message, and is a dead letter once its attempts are spent: by default there is one

Signals of Django's are sent at the beginning and the end of every attempt.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs

from actorwork import codec
from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import receive
from actorwork.errors import CodecError
from actorwork.integrations.django import results
from actorwork.integrations.django.calls import Call, CoroutineCall, FunctionCall, Returned
from actorwork.integrations.django.interface import close_old_connections, sync_to_async, tasks
from actorwork.message import Failure, Status
from actorwork.records import MessageInfo

if TYPE_CHECKING:
    from actorwork.integrations.django.backend import ActorworkBackend


class TaskRunner(Actor):
    """Runs the tasks of one queue."""

    @receive
    def run_function(self, call: FunctionCall) -> Returned:
        """Run a function in a thread."""
        close_old_connections()
        try:
            attempt = Attempt(self, call)
            attempt.begin()
            try:
                value = attempt.task.func(*attempt.arguments, **call.kwargs)
                return attempt.succeeded(value)
            except Exception as error:
                attempt.failed(error)
                raise
        finally:
            close_old_connections()

    @receive(loop="asyncio")
    async def run_coroutine(self, call: CoroutineCall) -> Returned:
        """Run a coroutine on asyncio. What it calls by `sync_to_async` has connections of a thread of its own."""
        await sync_to_async(close_old_connections)()
        try:
            attempt = Attempt(self, call)
            await sync_to_async(attempt.begin)()
            try:
                value = await attempt.task.func(*attempt.arguments, **call.kwargs)
                return await sync_to_async(attempt.succeeded)(value)
            except Exception as error:
                await sync_to_async(attempt.failed)(error)
                raise
        finally:
            await sync_to_async(close_old_connections)()


class Attempt:
    """One attempt to run a task, as Django's signals see it."""

    def __init__(self, runner: TaskRunner, call: Call) -> None:
        delivery = runner.context.delivery
        self.task = results.task_of(call)
        self._runner = runner
        self._call = call
        self._info = MessageInfo(
            id=delivery.id,
            status=Status.STARTED,
            attempt=delivery.attempt,
            node=f"{socket.gethostname()}:{os.getpid()}",
            started=time.time(),
        )
        self._result = results.result_of(call, self._info, task=self.task)
        self._sender: Any = type(self.task.get_backend())

    def __repr__(self) -> str:
        return f"<Attempt {self._info.attempt} of {self._call.path}>"

    @property
    def arguments(self) -> Sequence[Any]:
        """The positional arguments; the context first if the task takes it."""
        if not self.task.takes_context:
            return self._call.args
        return [tasks().TaskContext(task_result=self._result), *self._call.args]

    def begin(self) -> None:
        tasks("signals").task_started.send(sender=self._sender, task_result=self._result)

    def succeeded(self, value: object) -> Returned:
        """Return the reply; raises `CodecError` for a value that is no JSON, which fails the task."""
        value = codec.loads(codec.encode_value(value))
        self._end(results.result_of(self._call, self._ended(Status.SUCCESS), task=self.task, value=value))
        return Returned(call=self._call, value=value)

    def failed(self, error: Exception) -> None:
        """Leave a report, since the message may be gone when the result is asked for."""
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        failure = Failure(path, str(error), "".join(traceback.format_exception(error)))
        info = attrs.evolve(self._ended(Status.FAILURE), failure=failure)
        report: dict[str, Any] = {results.REPORT: self._call, results.ERROR: path}
        with suppress(ValueError, CodecError):  # It is too large: then the dead letter has to do.
            self._runner.context.progress(state=Status.FAILURE, **report)
        self._end(results.result_of(self._call, info, task=self.task, errors=results.errors_of(info)))

    def _ended(self, status: Status) -> MessageInfo:
        return attrs.evolve(self._info, status=status, ended=time.time())

    def _end(self, result: Any) -> None:
        tasks("signals").task_finished.send(sender=self._sender, task_result=result)


def runner_of(backend: ActorworkBackend, queue: str) -> type[TaskRunner]:
    """Return the actor of a queue."""
    return type("TaskRunner", (TaskRunner,), {"settings": backend.chosen.settings_of(queue), "__module__": __name__})


def tree_of(backend: ActorworkBackend, queues: Sequence[str] = ()) -> list[type[TaskRunner]]:
    """Return the actors of some queues of a backend, or of all; raises `LookupError` for one that it does not have."""
    for queue in queues:
        if queue not in backend.queues:
            raise LookupError(f"the backend {backend.alias!r} has no queue {queue!r}, but {', '.join(backend.queues)}")
    return [runner_of(backend, queue) for queue in sorted(queues or backend.queues)]
