"""Where requests are accepted, and asked after: the asyncio side of the example.

What a user asks for, a request or its end, is kept first and handed over to the broker then, so it takes effect at
once, whether or not the broker is there. A request is started as a run under its own id: starting it twice, after a
crash in between, starts it once.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from actorwork import BrokerError, Status
from actorwork.aio import Client, Event, open_client
from actorwork.workflows import StepInfo

from .flow import generation_of_tests
from .store import OPEN, Request, Store, Summary

LONGEST_PAUSE: Final = 5.0
"""Seconds between two looks for requests: another process may have left some behind."""
LOOK: Final = 0.2
"""Seconds between two looks at the progress of a request."""
PATIENCE: Final = 3.0
"""Seconds for which a caller waits for the broker."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A step of the workflow; `done` of `total` and `note` are what its handler has reported."""

    name: str
    status: Status
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a request is; `note` says what is unusual. Without a broker the stages are not known."""

    id: str
    package: str
    status: Status
    note: str
    stages: list[Stage]
    written: int
    validated: int
    passed: int
    summary: Summary | None


class Desk:
    """One asyncio task, `run`, hands over what is requested; any number of tasks may ask."""

    def __init__(self, store: Store, broker: str) -> None:
        self.store = store
        self._broker = broker
        self._news = asyncio.Event()
        self._reached = asyncio.Event()
        self._client: Client | None = None
        self._stopping = asyncio.Event()

    # ---- accepting, starting, cancelling ----

    async def accept(self, package: str) -> str:
        """Keep a request, and return its id."""
        new = uuid4().hex
        await asyncio.to_thread(self.store.add_request, new, package)
        self._news.set()
        return new

    async def cancel(self, id: str, reason: str) -> bool:
        """End a request; return whether it was open. The broker learns of it as soon as it can be reached."""
        was_open = await asyncio.to_thread(self.store.cancel, id, reason)
        self._news.set()
        return was_open

    async def run(self) -> None:
        while True:
            try:
                async with open_client(self._broker) as self._client:
                    self._reached.set()
                    while True:
                        self._news.clear()
                        for request in await asyncio.to_thread(self.store.waiting):
                            await self._hand_over(self._client, request)
                        with suppress(TimeoutError):
                            async with asyncio.timeout(LONGEST_PAUSE):
                                await self._news.wait()
            except BrokerError as error:
                # It was reached, and cannot be used: a wrong URL, a missing right, no memory.
                log.error("requests wait: %s", error)  # noqa: TRY400 - the sentence has it all
                await asyncio.sleep(LONGEST_PAUSE)

    async def _hand_over(self, client: Client, request: Request) -> None:
        if request.status is OPEN:
            await client.start(generation_of_tests(request.id, request.package), id=request.id)
        else:
            await client.run(request.id).cancel(request.reason)
        await asyncio.to_thread(self.store.mark_handed_over, request)

    # ---- asking ----

    async def progress(self, id: str) -> Progress:
        """Return how far a request is. Raises `LookupError` if there is no such request."""
        request = await asyncio.to_thread(self.store.request, id)
        if request is None:
            raise LookupError(f"there is no request {id!r}")
        stages: list[Stage] = []
        note = ""
        if request.status is OPEN and not request.is_handed_over:
            request = replace(request, status=Status.PENDING, reason="waits for the broker")
        else:
            try:
                async with asyncio.timeout(PATIENCE):
                    request, stages = await self._look(request)
            except (BrokerError, TimeoutError):
                note = "the broker does not answer; the request is safe there"
        tally = await asyncio.to_thread(self.store.tally, id)
        return Progress(
            id=id,
            package=request.package,
            status=request.status,
            note=note or request.reason,
            stages=stages,
            written=request.written,
            validated=tally.validated,
            passed=tally.passed,
            summary=request.summary,
        )

    async def _look(self, request: Request) -> tuple[Request, list[Stage]]:
        await self._reached.wait()
        assert self._client is not None
        run = self._client.run(request.id)
        info = await run.info()
        if info.status is Status.UNKNOWN:  # It has ended long ago.
            return request, []
        stages = [_stage(step) for step in await run.steps()]  # Later than `info`, never earlier.
        if request.status is Status.SUCCESS and not info.status.is_final:
            # Its last step has noted the end, and is not settled yet.
            request = replace(request, status=info.status)
        elif request.status is OPEN and info.status.is_final and info.status is not Status.SUCCESS:
            request = replace(request, status=info.status, reason=info.reason)
            if not info.failures:
                # No step has failed, so that no actor will note it: the deadline has passed, or an operator cancelled.
                await asyncio.to_thread(self.store.finish, request.id, request.status, reason=request.reason)
        return request, stages

    async def watch(self, id: str, after: int = 0) -> AsyncGenerator[Event]:
        """Yield the progress of a request whenever it changes, and verdicts with a number above `after`.

        Begins with the present and ends with the end, or with `end_streams`.
        """
        last = None
        while not self._stopping.is_set():
            progress = await self.progress(id)
            for number, verdict in await asyncio.to_thread(self.store.verdicts, id, after):
                yield Event(verdict, "verdict", str(number))
                after = number
            if progress != last:
                yield Event(progress, "progress")
                last = progress
            if progress.status.is_final:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._stopping.wait()

    def end_streams(self) -> None:
        """End all that is followed; a browser connects again, to the next server."""
        self._stopping.set()


def _stage(step: StepInfo) -> Stage:
    if step.progress is None:
        return Stage(step.name, step.status)
    done, total = int(step.progress.done), int(step.progress.total or 0)
    return Stage(step.name, step.status, done, total, step.progress.note)
