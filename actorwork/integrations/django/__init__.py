"""A backend for Django's tasks (`django.tasks` of Django 6, or its backport `django-tasks`), and its worker.

    INSTALLED_APPS = [..., "actorwork.integrations.django"]
    TASKS = {
        "default": {
            "BACKEND": "actorwork.integrations.django.ActorworkBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"broker": "redis://localhost:6379/0"},
        }
    }

    python manage.py actorwork

Each queue is an actor, `django:default`, at which the usual things may be done: pause it, look at it, replay its dead
letters.

    interface     what is used of Django, of either package of tasks
    options       `OPTIONS` of a backend, checked; the settings of the actor of a queue
    backend       `ActorworkBackend`: from a task to a message
    results       from what the broker knows of a message to a `TaskResult`
    calls         what a message says, and what is answered
    worker        the actor that runs tasks: functions in threads, coroutines on asyncio
    management/   `manage.py actorwork`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actorwork.integrations.django.backend import ActorworkBackend as ActorworkBackend

__all__ = ["ActorworkBackend"]


def __getattr__(name: str) -> Any:
    # Imported when it is used: Django imports this module, an application, before its settings are ready.
    if name != "ActorworkBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from actorwork.integrations.django.backend import ActorworkBackend  # noqa: PLC0415 - see above

    return ActorworkBackend
