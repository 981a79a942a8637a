"""A program that uses Celery, in a process of its own: one JSON line is what it is to do, one is what came of it.

In the process of the tests Celery's threads, connections and objects would outlive the test that made them.
"""

import importlib
import json
import os
import sys
from typing import Any

from tests.bridges.shop import make_app

# Neither has types.
celery: Any = importlib.import_module("celery")
kombu: Any = importlib.import_module("kombu")
kombu_json: Any = importlib.import_module("kombu.utils.json")

URL = os.environ["SHOP_REDIS"]
app = make_app(URL)
results: dict[str, Any] = {}


def kept(result: Any) -> str:
    results[result.id] = result
    return str(result.id)


def send(task: str, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]) -> str:
    if "link" in options:
        options["link"] = app.signature(options["link"])
    return kept(app.send_task(task, args, kwargs, **options))


def get(id: str, timeout: float) -> dict[str, Any]:
    """Wait for a result, as callers of Celery do."""
    result = results[id]
    try:
        return {"value": result.get(timeout=timeout), "state": result.state, "result": result.result}
    except Exception as error:  # noqa: BLE001 - what it is, is the answer
        kind = type(error)
        return {
            "error": kind.__name__, "module": kind.__module__, "text": str(error), "state": result.state,
            "traceback": result.traceback,
        }  # fmt: skip


def state(id: str) -> str:
    return str(results[id].state)


def take(queue: str, count: int, *, reject_first: bool = False) -> list[dict[str, Any]]:
    """Take messages of a queue, as a worker does."""
    with kombu.Connection(URL) as connection, connection.SimpleQueue(queue) as simple:
        if reject_first:
            simple.get(timeout=10).reject(requeue=True)
        messages = [simple.get(timeout=10) for _ in range(count)]
        for message in messages:
            message.ack()
        return [
            {"headers": one.headers, "properties": one.properties, "payload": list(one.payload)} for one in messages
        ]


def store(id: str, value: Any, state: str, error: str = "") -> None:
    """Store a result, as a worker does."""
    app.backend.store_result(id, ValueError(value) if error else value, state)


def run_chain(first: list[Any], second: list[Any]) -> str:
    add = app.tasks["shop.add"]
    return kept(celery.chain(add.s(*first), add.s(*second)).apply_async())


def run_chord(*members: list[Any]) -> str:
    add = app.tasks["shop.add"]
    return kept(celery.chord([add.s(*one) for one in members])(app.signature("shop.total")))


for line in sys.stdin:
    asked = kombu_json.loads(line)
    answer = globals()[asked["do"]](*asked["args"], **asked["kwargs"])
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    sys.stdout.flush()
