"""What a node does when it is asked, and what it answers: JSON objects, both ways.

    {"command": "stacks"}                                           {"stacks": [{"name", "kind", "lines"}, …]}
    {"command": "cancel", "source", "message", "reason", "force"}   {"done": …, "text": …}
    {"command": "stop", "by", "within"}                             {"done": …, "text": …}

A command that is not understood is answered with {"refused": why}. An answer is at most 256 KB.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from actorwork.message import Delivery
from actorwork.stacks import DEEPEST, frame_of_thread, stack_of_task, stack_of_thread

if TYPE_CHECKING:
    import trio

    from actorwork.actors.life.cell import Cell

MOST_STACKS: Final = 300
LARGEST: Final = 256 * 1024


class Host(Protocol):
    """What commands are carried out on."""

    @property
    def cells(self) -> Iterable[Cell]:
        """The actors that the broker feeds."""
        ...

    def stop(self, reason: str, within: float | None) -> None:
        """Begin the staged shutdown."""
        ...


def answer_to(data: bytes, host: Host, root: trio.lowlevel.Task | None) -> tuple[bytes, Callable[[], object] | None]:
    """Carry out a command; return the answer, and what is to be done once that is stored."""
    asked: dict[str, Any] = {}
    with suppress(ValueError, RecursionError):
        read = json.loads(data)
        asked = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    match asked.get("command"):
        case "stacks":
            return packed(stacks(root)), None
        case "cancel":
            return packed(_cancel(host, asked)), None
        case "stop":
            by, within = str(asked.get("by") or "a command"), asked.get("within")
            limit = float(within) if isinstance(within, (int, float)) and 0 <= within < math.inf else None
            reply = {"done": True, "text": "it begins its staged shutdown"}
            return packed(reply), lambda: host.stop(f"asked by {by[:200]}", limit)
        case _:
            return packed({"refused": f"this node knows the commands stacks, cancel and stop, got {data!r:.200}"}), None


def packed(answer: dict[str, Any]) -> bytes:
    """Return an answer as JSON; of too many stacks, the last are left out."""
    data = json.dumps(answer).encode()
    while len(data) > LARGEST and answer.get("stacks"):
        some = answer["stacks"]
        answer = {**answer, "stacks": some[: len(some) // 2], "left_out": answer.get("left_out", 0) + len(some) // 2}
        data = json.dumps(answer).encode()
    return data


def stacks(root: trio.lowlevel.Task | None) -> dict[str, Any]:
    """Return the stacks of all threads, and of Trio's tasks below a root."""
    found = [{"name": name, "kind": "thread", "lines": lines} for name, lines in _threads()]
    left_out = 0
    for task in _tasks(root):
        if len(found) >= MOST_STACKS:
            left_out += 1
            continue
        found.append({"name": task.name, "kind": "task", "lines": stack_of_task(task).splitlines()[-DEEPEST:]})
    return {"stacks": found, "left_out": left_out}


def _threads() -> Iterator[tuple[str, list[str]]]:
    main = threading.main_thread().ident
    for thread in sorted(threading.enumerate(), key=lambda one: one.ident != main):
        if thread.ident is not None and frame_of_thread(thread.ident) is not None:
            yield thread.name, stack_of_thread(thread.ident).splitlines()[-DEEPEST:]


def _tasks(root: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """Yield tasks. From another thread the sets may change meanwhile: each is copied first, in one step."""
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)


def _cancel(host: Host, asked: dict[str, Any]) -> dict[str, Any]:
    source, message = str(asked.get("source") or ""), str(asked.get("message") or "")
    for cell in host.cells:
        if cell.consumer is None or not _has(cell, source, message):
            continue
        cell.consumer.cancel(source, message, str(asked.get("reason") or ""), force=bool(asked.get("force")))
        return {"done": True, "text": f"{cell.title!r} cancels it"}
    return {"done": False, "text": f"message {message} of {source!r} is not running here"}


def _has(cell: Cell, source: str, message: str) -> bool:
    in_flight = (item for item, _ in cell.in_flight_since())
    waiting = (item for holding in cell.holdings() for item in holding)
    return any(
        isinstance(item, Delivery) and item.source == source and item.id == message
        for items in (in_flight, waiting)
        for item in items
    )
