"""What is used of Django, of whichever package has its tasks: `django.tasks`, or else `django_tasks`, the backport.

Django has no annotations, so all of this is `Any`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from actorwork.integrations.extras import missing


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise missing("django", error) from error


_module("django")
TASKS: Final = "django.tasks" if find_spec("django.tasks") is not None else "django_tasks"
"""The package that has the tasks."""

AppConfig: Any = _module("django.apps").AppConfig
checks: Any = _module("django.core.checks")
settings: Any = _module("django.conf").settings
timezone: Any = _module("django.utils.timezone")
import_string: Any = _module("django.utils.module_loading").import_string
close_old_connections: Any = _module("django.db").close_old_connections
ImproperlyConfigured: Any = _module("django.core.exceptions").ImproperlyConfigured
BaseCommand: Any = _module("django.core.management.base").BaseCommand
CommandError: Any = _module("django.core.management.base").CommandError
sync_to_async: Any = _module("asgiref.sync").sync_to_async


def tasks(module: str = "") -> Any:
    """Return the package of tasks, or a module of it."""
    return _module(f"{TASKS}.{module}" if module else TASKS)
