"""A thread that reports and answers in place of a loop that is blocked.

A blocked loop can neither write its report nor answer. Once it has been blocked for a second, this thread opens the
broker for itself, in a loop of its own, says in the report that the loop is blocked and where, and answers commands:
with the stacks of all threads, or that a blocked loop cannot do it. It closes the broker when the loop runs again.

While no loop is blocked there is no such thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork.brokers import open_broker
from actorwork.policy.reports import written
from actorwork.runtime.reporting.answering import packed, stacks
from actorwork.stacks import stack_of_thread

if TYPE_CHECKING:
    from actorwork.abc import Broker
    from actorwork.policy.reports import Ask, NodeReport

BEGIN_AFTER: Final = 1.0
LOOK_EVERY: Final = 0.25
REPORT_EVERY: Final = 2.0


class StandIn:
    """Stands in for the loop of one node; made in the loop."""

    def __init__(self, url: str, node: Callable[[], str], report: Callable[[], NodeReport]) -> None:
        self._url = url
        self._node = node
        self._report = report
        self._watched = threading.get_ident()
        self._root = trio.lowlevel.current_root_task()

    def __repr__(self) -> str:
        return f"<StandIn at {self._url.rpartition('@')[2]}>"

    @contextmanager
    def __call__(self, since: float) -> Generator[None]:
        """Stand in for the loop, which has been blocked since a moment of the monotonic clock, during the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(since, over), name="actorwork stand-in", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _run(self, since: float, over: threading.Event) -> None:
        if over.wait(max(0.0, since + BEGIN_AFTER - time.monotonic())):
            return
        # The watch over the loop logs the stall, too; so nothing is lost but this report.
        with suppress(Exception):
            trio.run(self._stand_in, since, over)

    async def _stand_in(self, since: float, over: threading.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, since)
            while not over.is_set():  # noqa: ASYNC110 - the event is of another thread
                await trio.sleep(LOOK_EVERY / 2)
            nursery.cancel_scope.cancel(reason="the loop runs again")

    async def _serve(self, since: float) -> None:
        async with open_broker(self._url) as broker:
            write_at = time.monotonic()
            while True:
                node = self._node()
                if time.monotonic() >= write_at:
                    write_at = time.monotonic() + REPORT_EVERY
                    await self._write(broker, node, since)
                for ask in (await broker.commands.take(node)).asks:
                    await broker.commands.answer(ask.id, self._answer(ask, time.monotonic() - since))
                await trio.sleep(LOOK_EVERY)

    async def _write(self, broker: Broker, node: str, since: float) -> None:
        seconds = time.monotonic() - since
        report = self._report()
        changed = attrs.evolve(
            report, state="blocked", loop_lag=seconds, blocked=stack_of_thread(self._watched), interval=REPORT_EVERY
        )
        mail = await broker.reports.write(node, written(changed), now=report.at, ttl=report.lease + 3 * REPORT_EVERY)
        for ask in mail.asks:
            await broker.commands.answer(ask.id, self._answer(ask, seconds))

    def _answer(self, ask: Ask, seconds: float) -> bytes:
        text = f"its loop has been blocked for {seconds:.0f} s"
        facts: dict[str, Any] = {"done": False, "text": text, "blocked": seconds}
        if b'"stacks"' in ask.data:
            facts = {"blocked": seconds, **self._stacks()}
        return packed(facts)

    def _stacks(self) -> dict[str, Any]:
        # The tasks stand still while one of them keeps the loop, but a callback might change them.
        with suppress(RuntimeError):
            return stacks(self._root)
        return stacks(None)
