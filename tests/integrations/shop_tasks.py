"""Tasks of a Django project; imported once Django is configured, as any module with tasks."""

from __future__ import annotations

import asyncio
import importlib
import threading
from typing import Any

from actorwork.integrations.django.interface import tasks

task: Any = tasks().task
seen: dict[str, Any] = {}
"""What tasks leave for the tests."""


@task
def add(numbers: list[int], *, start: int = 0) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return sum(numbers, start)


@task(queue_name="mail")
async def greet(name: str) -> str:
    await asyncio.sleep(0)
    return f"Hello {name}"


@task
def refuse(order: str) -> None:
    raise LookupError(f"no {order} here")


@task(queue_name="mail")
async def refuse_later(order: str) -> None:
    await asyncio.sleep(0)
    raise LookupError(f"no {order} here")


@task
def fail_once(value: str) -> str:
    seen["runs"] = seen.get("runs", 0) + 1
    if seen["runs"] == 1:
        raise TimeoutError
    return value


@task(takes_context=True)
def describe(context: Any, word: str) -> list[Any]:
    return [word, context.attempt, context.task_result.id, context.task_result.status]


@task
def return_no_json() -> object:
    return object()


@task
def ask_database() -> int:
    connection = seen["connection"] = importlib.import_module("django.db").connections["file"]
    with connection.cursor() as cursor:
        return cursor.execute("select 17").fetchone()[0]
