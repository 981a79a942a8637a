"""Runs of workflows, as a client sees them.

run = await client.start(flow, id="words-17")       the same id again: the same run
run = client.run("words-17")                        in another process
print(await run.result(timeout=60))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from actorwork import codec
from actorwork.clients.driver import OutOfTime
from actorwork.clients.sender import Sender
from actorwork.durations import Duration, timeout_of
from actorwork.errors import AskTimeout, CodecError, MessageFailed
from actorwork.policy.bounds import check_name
from actorwork.policy.runs.values import RunInfo, Status, StepInfo
from actorwork.workflows.flow import Flow, check_run_id, flow_of
from actorwork.workflows.steps import Group, Step

if TYPE_CHECKING:
    from actorwork.abc import Runs, Watch

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

SHORTEST_PAUSE: Final = 0.05
"""Seconds between two looks at a run that changes all the time."""


async def send_signal(runs: Runs, run: str, name: str, data: bytes) -> bool:
    """Give a run the JSON of a signal, if that is of the signal's type; else raise `CodecError`."""
    shape = await runs.shape_of_signal(run, name)
    if shape is not None:
        from actorwork.codec.shapes import misfit  # noqa: PLC0415 - most programs send no signals

        problem = misfit(codec.loads(data), codec.loads(shape.encode()))
        if problem:
            raise CodecError(f"the value of signal {name!r} of run {run!r}: {problem}; the run was not given it")
    return await runs.signal(run, name, data)


async def retry_steps(runs: Runs, run: str, known: Sequence[StepInfo], steps: Iterable[str | int]) -> bool:
    """Run some of the `known` steps of a run again, as `Run.retry` does."""
    from actorwork.policy.runs.choosing import to_retry  # noqa: PLC0415 - few programs choose

    chosen = to_retry(run, known, steps)
    if await runs.retry(run, chosen):
        return True
    info = await runs.info(run)
    if info is not None and info.status in (Status.HELD, Status.FAILURE):
        raise ValueError(
            f"run {run!r}: a step of {sorted(chosen)} needs the result of one that has not succeeded and is not"
            " given, or has been retried meanwhile: see run.steps(), and name that as well"
        )
    return False


class Run(Generic[R_co]):
    """One run of a workflow; store its `id` to find it later. Everything else is kept at the broker."""

    def __init__(self, id: str, sender: Sender, reply: Any) -> None:
        self.id = id
        self._sender = sender
        self._reply = reply

    def __repr__(self) -> str:
        return f"<Run {self.id!r} at {self._sender.url}>"

    async def info(self) -> RunInfo:
        """Return the run as it is now; its status is UNKNOWN if there is none, or if it is kept no longer."""
        found = await (await self._sender.reached()).runs.info(self.id)
        return RunInfo(id=self.id) if found is None else found

    async def status(self) -> Status:
        """Return the status of the run: STARTED, PAUSED, HELD or RETRY while it is open, then how it ended."""
        return (await self.info()).status

    async def steps(self) -> Sequence[StepInfo]:
        """Return its steps, each with its status and how it ended; raise `LookupError` if there is no such run."""
        found = await (await self._sender.reached()).runs.steps(self.id)
        if not found and (await self.info()).status is Status.UNKNOWN:
            raise self._unknown()
        return found

    async def result(self, *, timeout: Duration = 30) -> R_co:
        """Wait for the end of the run and return its result; may be called again, and from many tasks.

        Raises `MessageFailed`, which names the step that failed, `AskTimeout`, and `LookupError` for a run that does
        not exist or is kept no longer. If cancelled, nothing is lost.
        """
        timeout = timeout_of(timeout)
        driver = self._sender.driver
        info = RunInfo(id=self.id)

        async def wait() -> RunInfo:
            nonlocal info
            watch: Watch | None = None
            pause = 0.0
            try:
                while True:
                    info = await self.info()
                    if info.status is Status.UNKNOWN:
                        raise self._unknown()
                    if info.status.is_final:
                        return info
                    if watch is None:
                        watch = await (await driver.changes()).watch("", self.id)
                        continue  # It may have ended before the watch began.
                    await watch.changed()
                    # The more often it changes, the longer the pause: of all its changes only the last one counts here.
                    await driver.sleep(pause)
                    pause = min(SHORTEST_PAUSE, pause + 0.005)
            finally:
                if watch is not None:
                    await watch.aclose()

        try:
            return cast("R_co", self._read(await driver.within(timeout, wait)))
        except OutOfTime:
            pass
        raise AskTimeout(f"run {self.id!r} has not ended within {timeout:g} s; {_state(info)}")

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[AsyncIterator[RunInfo]]:
        """Follow the run: `async with run.watch() as updates: async for update in updates`.

        The first update is the present, the last one the end. Between two looks several changes may become one update.
        """
        updates = self._updates()
        try:
            yield updates
        finally:
            await self._sender.driver.aclose(updates)

    async def _updates(self) -> AsyncGenerator[RunInfo]:
        last: RunInfo | None = None
        driver = self._sender.driver
        watch = await (await driver.changes()).watch("", self.id)
        try:
            while True:
                looked = driver.now()
                info = await self.info()
                if info.status is Status.UNKNOWN:
                    raise self._unknown()
                if info != last:
                    last = info
                    yield info
                    if info.status.is_final:
                        return
                await watch.changed()
                left = looked + SHORTEST_PAUSE - driver.now()
                if left > 0:
                    await driver.sleep(left)
        finally:
            await watch.aclose()

    # ---- what can be done with it ----

    async def cancel(self, reason: str = "") -> bool:
        """End the run; return whether it was open.

        Steps that have not begun never run. What a handler works on continues, but counts no more. Steps that are done
        are undone, if they say how.
        """
        return await (await self._sender.reached()).runs.cancel(self.id, reason)

    async def pause(self) -> bool:
        """Send no further steps; what was sent is handled. Return whether this changed anything."""
        return await (await self._sender.reached()).runs.pause(self.id)

    async def resume(self) -> bool:
        """Continue after `pause`; return whether the run was paused."""
        return await (await self._sender.reached()).runs.resume(self.id)

    async def retry(self, *, steps: Iterable[str | int] | None = None) -> bool:
        """Run again what has not succeeded; return whether the run was held or had failed.

        Steps that are done keep their results. A deadline does not apply any more. While the steps of a large run are
        put back its status is RETRY, and nothing is sent; if this is cancelled meanwhile, the nodes do the rest.

        With `steps`, only these run again, with the steps that were cancelled because of them; the other failures stay
        what they are. A step is given by its name (all of that name), its number, or the id of its message. Raises
        `LookupError` for one that the run does not have, and `ValueError` for one that has not failed, that was
        cancelled because of another one, or that needs another one which is not given.
        """
        runs = (await self._sender.reached()).runs
        if steps is None:
            return await runs.retry(self.id)
        return await retry_steps(runs, self.id, await self.steps(), steps)

    async def signal(self, name: str, value: object = None) -> bool:
        """Give the run the value of a signal; it may come before the run waits for it.

        Return False if the run is over, has no such signal, or has its value already. Raises `CodecError` for a value
        that is not of the signal's type; the run goes on waiting then.
        """
        check_name("the name of a signal", name)
        return await send_signal((await self._sender.reached()).runs, self.id, name, codec.encode_value(value))

    async def forget(self) -> bool:
        """Delete the run with its results, now and not after its `results_ttl`; return whether it was over."""
        return await (await self._sender.reached()).runs.forget(self.id)

    async def to_mermaid(self) -> str:
        """Return the graph of the run as it is now, in the language of Mermaid."""
        lines = ["graph TD"]
        for step in await self.steps():
            name = step.name.replace('"', "#quot;")
            lines.append(f'    s{step.number}["{name}"]:::{step.status.lower()}')
            lines += [f"    s{need} --> s{step.number}" for need in step.needs]
        lines += [f"    classDef {status} {style}" for status, style in _STYLES.items()]
        return "\n".join(lines) + "\n"

    async def to_svg(self) -> str:
        """Return the graph of the run as it is now, as a picture: SVG that needs nothing else, in light and dark.

        Groups of more than twelve are drawn as one node, which says how many of its steps have which status; so the
        picture stays small whatever the size of the run.
        """
        from actorwork.policy.runs.drawing import svg  # noqa: PLC0415 - most programs draw nothing

        info = await self.info()
        return svg(info, await self.steps())

    def _read(self, info: RunInfo) -> object:
        if info.status is Status.SUCCESS:
            data = (info.result or "null").encode()
            try:
                return codec.decode_value(data, self._reply)
            except CodecError as error:
                raise CodecError(f"the result of run {self.id!r}: {error}", error.problems) from error
        verb = "was cancelled" if info.status is Status.CANCELLED else "failed"
        why = f" ({info.reason})" if info.reason else ""
        kind, reason = info.status.capitalize(), info.reason
        if info.failures:
            failure = info.failures[0][1].failure
            if failure is not None:
                kind, reason = failure.type, failure.reason
        raise MessageFailed(f"run {self.id!r} {verb}{why}", type=kind, reason=reason)

    def _unknown(self) -> LookupError:
        return LookupError(
            f"there is no run {self.id!r} at {self._sender.url}: it was never started, or is kept no longer"
        )


def _state(info: RunInfo) -> str:
    """Return what is known of a run that has not ended in time, and what it may want."""
    if info.status is Status.UNKNOWN:
        return "the broker did not say how far it is: is it reachable?"
    ended = f"{info.done} of its {info.total} steps have ended"
    if info.status is Status.PAUSED:
        return f"it is paused until run.resume(), and {ended}"
    if info.status is Status.HELD:
        return f"it is held until run.retry() ({info.reason}), and {ended}"
    if info.waits_for:
        return f"it waits for the signal {' and '.join(map(repr, info.waits_for))}, and {ended}"
    return f"it continues, and {ended}. Does a node run with their actors? See: actorwork runs show {info.id}"


_STYLES: Final = {
    "success": "fill:#d7f0dd,stroke:#2f7d47",
    "failure": "fill:#f8d7d5,stroke:#a33a33",
    "rejected": "fill:#f8d7d5,stroke:#a33a33",
    "expired": "fill:#f8d7d5,stroke:#a33a33",
    "cancelled": "fill:#e4e4e4,stroke:#777",
    "held": "fill:#fbe8c8,stroke:#a8741a",
    "started": "fill:#d6e6f7,stroke:#2b6299",
    "pending": "fill:#fff,stroke:#999",
}


async def start(sender: Sender, flow: Flow[R] | Step[R] | Group[Any], id: str | None) -> Run[Any]:
    """Store a run at the broker; with the id of one that exists, return that."""
    whole = flow_of(flow)
    chosen = sender.next_id() if id is None else id
    await (await sender.reached()).runs.start(whole.plan(chosen, sender.headers()))
    return Run(chosen, sender, whole.reply)


def find(sender: Sender, id: str) -> Run[Any]:
    """Return the run with an id; whether it exists is known when it is asked."""
    check_run_id(id)
    return Run(id, sender, Any)
