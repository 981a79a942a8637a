"""Waiting for the outcome of a submitted message: how its handling goes on the screen, in words, and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from actorwork.cli.brokers import Step
from actorwork.cli.output import console, one_line
from actorwork.inspection.words import how_far, progress_in_json

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.message import Outcome
    from actorwork.records import MessageInfo


async def wait_for_outcome(
    broker: Broker,
    step: Step,
    source: str,
    message_id: str,
    wait: float,
    show: Callable[[MessageInfo], object],
    *,
    is_sent: bool,
) -> tuple[MessageInfo | None, Outcome | None]:
    """Wait at most `wait` seconds for the outcome of a message; return what is known of it, and the outcome.

    Both may be None. What is found meanwhile is shown. A message that was not sent for sure, and is not known, is not
    waited for, nor is one that is over without an outcome, as steps of runs are.
    """
    import trio

    began, pause = trio.current_time(), 0.01
    while True:
        with step():
            # In this order: one that ends in between has an outcome.
            info = await broker.states.find(source, message_id)
            outcome = await broker.find_outcome(source, message_id)
        if info is not None:
            show(info)
        left = began + wait - trio.current_time()
        is_open = is_sent if info is None else not info.status.is_final
        if outcome is not None or left <= 0 or not is_open:
            return info, outcome
        await trio.sleep(min(pause, left))
        pause = min(0.5, pause * 1.5)


def in_words(info: MessageInfo) -> str:
    """Return how far an open message is: `STARTED: attempt 1 has begun on node 0f3a (3/10 loading)`."""
    from actorwork.message import Status

    match info.status:
        case Status.PENDING:
            text = "no node has received it"
        case Status.RECEIVED:
            text = f"node {info.node} has received it, and has not begun"
        case Status.STARTED:
            text = f"attempt {info.attempt} has begun on node {info.node}"
            if info.progress is not None:
                text += f" ({how_far(info.progress)})"
        case Status.RETRY:
            text = f"attempt {info.attempt} has failed ({info.reason}), and it is tried again"
        case _:
            text = info.reason
    return one_line(f"{info.status}: {text}" if text else str(info.status), 1000)


def life_in_json(info: MessageInfo | None) -> dict[str, Any]:
    """Return what is known of the life of a message, beside its outcome."""
    if info is None:
        return {"state": "UNKNOWN", "attempt": 0, "node": "", "reason": "", "progress": None}
    return {
        "state": str(info.status),
        "attempt": info.attempt,
        "node": info.node,
        "reason": info.reason,
        "progress": None if info.progress is None else progress_in_json(info.progress),
    }


class LifeBar:
    """How far a message is, on standard error, if that is a terminal; gone when the block ends."""

    def __init__(self, message_id: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        here = console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[how_far]}", markup=False),
            TimeElapsedColumn(),
            console=here,
            disable=not here.is_terminal,
            transient=True,
        )
        self._name = one_line(message_id, 60)
        self._task = self._progress.add_task(self._name, total=None, how_far="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, info: MessageInfo) -> None:
        attempt = f", attempt {info.attempt}" if info.attempt > 1 else ""
        done, total = (0, None) if info.progress is None else (info.progress.done, info.progress.total)
        self._progress.update(
            self._task,
            description=f"{self._name}: {info.status}{attempt}",
            completed=done,
            total=total,
            how_far=one_line(how_far(info.progress), 60),
        )
