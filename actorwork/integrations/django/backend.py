"""`ActorworkBackend`: sends tasks as messages, and looks for their results.

    the queue      the actor `django:<queue>`
    priority       from 50 on CRITICAL, above 0 HIGH, 0 NORMAL, below 0 LOW
    run_after      `at`
    the id         that of the message

`enqueue` sends at once: within a transaction, call it by `transaction.on_commit`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any, Final

from actorwork import codec
from actorwork.blocking.client import Client
from actorwork.blocking.driver import run
from actorwork.errors import MessageFailed, SettingsError
from actorwork.integrations.django import results
from actorwork.integrations.django.calls import Call, CoroutineCall, FunctionCall, Returned
from actorwork.integrations.django.clients import client_of
from actorwork.integrations.django.interface import ImproperlyConfigured, checks, settings, tasks, timezone
from actorwork.integrations.django.options import Options
from actorwork.message import Priority, Status
from actorwork.records import MessageInfo, TrackedMessage

LOOKS: Final = 5
"""How often a message is looked at that ends in between: what is known of it is read in two steps."""


class ActorworkBackend(tasks("backends.base").BaseTaskBackend):
    """A backend of Django's tasks over a broker of actorwork; `OPTIONS` are those of `options.Options`."""

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    alias: str
    queues: set[str]
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<ActorworkBackend {self.alias!r}>"

    @cached_property
    def chosen(self) -> Options:
        """The options, checked; raises `ImproperlyConfigured`."""
        try:
            return Options.of(self.options, self.alias, self.queues)
        except SettingsError as error:
            raise ImproperlyConfigured(str(error)) from error

    @property
    def client(self) -> Client:
        """The client of this process, opened by the first call; raises `BrokerError`."""
        return client_of(self.chosen.broker, self.chosen.patience)

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Send a task; the broker has it when this returns.

        Raises `BrokerError` if the broker is not reached within the `patience` of the options; then it may have been
        stored all the same. Raises `TypeError` for arguments that are no JSON.
        """
        self.validate_task(task)
        kind = CoroutineCall if iscoroutinefunction(task.func) else FunctionCall
        run_after = task.run_after
        if run_after is not None and not run_after.tzinfo:
            run_after = timezone.make_aware(run_after)
        call = kind(
            path=task.module_path,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            queue=task.queue_name,
            priority=task.priority,
            run_after=None if run_after is None else run_after.timestamp(),
        )
        # Made before anything is sent: it refuses arguments that are no JSON.
        draft = results.result_of(call, MessageInfo(id="", status=Status.PENDING), task=task)
        of_queue = self.chosen.settings_of(task.queue_name)
        prepared = self.client.ref(of_queue.title).prepare(
            kind(**{**_fields(call), "args": draft.args, "kwargs": draft.kwargs}),
            priority=_priority_of(task.priority),
            at=run_after,
            results_ttl=of_queue.results_ttl,
        )
        prepared.send()
        info = MessageInfo(id=prepared.id, status=Status.PENDING, sent=time.time())
        result = results.result_of(call, info, task=task)
        tasks("signals").task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """Return what is known of a task; raises `TaskResultDoesNotExist`, also when it is kept no longer.

        A task that is over is kept for the `results_ttl` of its queue, by default a day. One that was cancelled, or
        expired, before it began is not known from then on.
        """
        for _ in range(LOOKS):
            info = self.client.receipt(result_id).info()
            if info.status is Status.UNKNOWN:
                break
            if info.status is Status.SUCCESS:
                try:
                    returned = codec.decode_value(codec.encode_value(self.client.receipt(result_id).result()), Returned)
                except (LookupError, MessageFailed):
                    continue
                return results.result_of(returned.call, info, value=returned.value)
            call = self._call_of(info)
            if call is not None:
                return results.result_of(call, info, errors=results.errors_of(info))
            if info.status.is_final:
                break
        raise tasks("exceptions").TaskResultDoesNotExist(result_id)

    def _call_of(self, info: MessageInfo) -> Call | None:
        """Return the call in a message that is open, or has failed."""
        if info.progress is not None and (call := results.call_from(info.progress.meta.get(results.REPORT))):
            return call
        (found,) = run(self.client.broker.states.with_payloads([TrackedMessage(info=info)]))
        return None if found.payload is None else results.call_from(codec.loads(found.payload))

    def check(self, **_: Any) -> list[Any]:
        """Return what is wrong in the settings of this backend; reaches no broker."""
        found: list[Any] = []
        try:
            Options.of(self.options, self.alias, self.queues)
        except SettingsError as error:
            found.append(checks.Error(str(error), id="actorwork.E001"))
        if "actorwork.integrations.django" not in settings.INSTALLED_APPS:
            hint = "add it, if tasks are to be run from this project"
            text = "'actorwork.integrations.django' is not in INSTALLED_APPS: there is no `manage.py actorwork`"
            found.append(checks.Warning(text, hint=hint, id="actorwork.W001"))
        return found


def _fields(call: Call) -> dict[str, Any]:
    return {name: getattr(call, name) for name in ("path", "backend", "queue", "priority", "run_after")}


def _priority_of(number: int) -> Priority:
    if number >= 50:
        return Priority.CRITICAL
    if number > 0:
        return Priority.HIGH
    return Priority.NORMAL if number == 0 else Priority.LOW
