"""A stage for supervision tests: children that follow a plan, and record how they start and end.

    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("b")], intensity=…) as supervisor:
        await stage.dies("a")                       # it raises; returns when the tree is quiet again
        assert await stage.shown(supervisor) == …

A child is a task. `plan["a"] = ["ok", "fail", …]` says what its starts do: ok, fail, ignore, return (without having
started), slow (two seconds), slow fail. The virtual clock does not move meanwhile.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from actorwork import Child, ChildError, Ignore, Intensity, Shutdown, Supervisor, System, events, open_system
from actorwork.actors.supervision.administration import SupervisorRef
from tests.doubles import FakeBroker, Kept

LENIENT = Intensity(restarts=1000, period=1)


class Boom(Exception):
    """What a child dies of."""


class Own(BaseException):
    """A `BaseException` of the user's own."""


class Stage:
    """Where the children play."""

    def __init__(self) -> None:
        self.plan: dict[str, list[str]] = {}
        self.log: list[str] = []
        self.starts: Counter[str] = Counter()
        self.alive: dict[str, int] = {}
        self.kept = Kept()
        self._cues: dict[str, tuple[trio.Event, list[Callable[[], object]]]] = {}

    # ---- the children ----

    def child(self, name: str, *, ends_after: float = 0.0, shielded: bool = False, **options: Any) -> Child:
        """Return a child; told to stop, it needs `ends_after` seconds (however it is asked, if `shielded`)."""
        options.setdefault("id", name)
        return Child(partial(self.play, name, ends_after, shielded), **options)

    async def play(self, name: str, ends_after: float, shielded: bool, *, task_status: Any) -> None:
        plan = self.plan.get(name, [])
        self.starts[name] += 1
        do = plan.pop(0) if len(plan) > 1 else plan[0] if plan else "ok"
        if "slow" in do:
            await trio.sleep(2)
        if "fail" in do:
            raise Boom(f"{name} does not start")
        if do == "ignore":
            raise Ignore
        if do == "return":
            return
        cue = self._cues[name] = (trio.Event(), [])
        self.log.append(f"+{name}")
        self.alive[name] = self.starts[name]
        task_status.started(f"{name} is up")
        try:
            await cue[0].wait()
            for act in cue[1]:
                result = act()
                if hasattr(result, "__await__"):
                    await result  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
        except trio.Cancelled:
            if shielded:
                with trio.CancelScope(shield=True):
                    await trio.sleep(ends_after)
            raise
        finally:
            self.alive.pop(name, None)
            self.log.append(f"-{name}")

    def tell(self, name: str, act: Callable[[], object]) -> None:
        event, acts = self._cues[name]
        acts.append(act)
        event.set()

    async def does(self, name: str, act: Callable[[], object]) -> None:
        """Have a child do something, and wait until the tree is quiet."""
        self.tell(name, act)
        await quiet()

    async def dies(self, name: str, error: BaseException | None = None) -> None:
        await self.does(name, raising(error or Boom(name)))

    async def ends(self, name: str, how: str) -> None:
        """Let a child end `normal`, `shutdown`, `shutdown info`, `abnormal`."""
        match how:
            case "normal":
                await self.does(name, lambda: None)
            case "shutdown":
                await self.dies(name, Shutdown())
            case "shutdown info":
                await self.dies(name, Shutdown("info"))
            case _:
                await self.dies(name)

    # ---- the tree ----

    @asynccontextmanager
    async def open(self, tree: object, **options: Any) -> AsyncGenerator[System]:
        async with open_system(tree, broker=FakeBroker(), emit=self.kept, grace=math.inf, **options) as system:
            yield system

    @asynccontextmanager
    async def tree(self, children: list[Any], **options: Any) -> AsyncGenerator[SupervisorRef]:
        """Open a static supervisor as the root."""
        options.setdefault("intensity", LENIENT)
        async with self.open(Supervisor(children, **options)) as system:
            yield system.supervisor()

    @property
    def up(self) -> list[str]:
        """The names of those who live, sorted."""
        return sorted(self.alive)

    @property
    def ended(self) -> list[tuple[str, str]]:
        """How children ended, in that order: (kind, error's type)."""
        return [(event.exit.kind.value, type(event.exit.error).__name__) for event in self.kept.of(events.ChildExited)]

    @property
    def restarts(self) -> int:
        return len(self.kept.of(events.ChildRestarting))


async def quiet() -> None:
    """Wait until nothing more happens by itself."""
    await trio.testing.wait_all_tasks_blocked()


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


async def shown(supervisor: SupervisorRef) -> dict[Any, str | None]:
    """Return the children by id: `up`, None or `restarting`."""
    return {
        info.id: info.handle if info.handle in (None, "restarting") else "up"
        for info in await supervisor.which_children()
    }


async def counts(supervisor: SupervisorRef) -> tuple[int, int, int, int]:
    """Return (specs, active, supervisors, workers)."""
    count = await supervisor.count_children()
    return count.specs, count.active, count.supervisors, count.workers


async def problem(request: Any) -> str:
    """Return the problem of a request that is refused."""
    with pytest.raises(ChildError) as caught:
        await request
    return caught.value.problem
