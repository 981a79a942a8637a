"""actorwork. Variants by how the handler takes its message:

    actorwork         an attrs class, structured and checked
    actorwork-noop    the JSON value as it is
    actorwork-kwargs  keyword arguments, structured and checked

Everything has its default: the lease and its fence, the execution timeout, events and their log.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from actorwork import Actor, Message, Settings, open_client, receive, run
from actorwork.workflows import Flow, Step, chord, group, step
from benchmarks.benchkit import env, recorder

VARIANT = env.PEER or "actorwork"
CONCURRENCY = env.conc(default=1, io=500, crash=4)


@attrs.frozen
class Mark:
    """The fields of a message of the benchmark: the job's number, the moment it was sent, and padding."""

    i: int
    ts: float
    pad: str


@attrs.frozen
class Noop(Mark, Message["Typed", None]): ...


@attrs.frozen
class Io(Mark, Message["Typed", None]): ...


@attrs.frozen
class Crash(Mark, Message["Typed", None]): ...


@attrs.frozen
class Echo(Mark, Message["Typed", int]): ...


@attrs.frozen
class Member(Mark, Message["Typed", int]): ...


@attrs.frozen
class Total(Mark, Message["Typed", int]):
    """The last step of a chord."""

    numbers: list[int]


class Typed(Actor):
    settings = Settings(title="typed", concurrency=CONCURRENCY)

    @receive
    async def noop(self, message: Noop) -> None:
        recorder.hit(message.i, message.ts)

    @receive
    async def io(self, message: Io) -> None:
        recorder.begin(message.i, message.ts)
        await trio.sleep(env.IO_SLEEP)
        recorder.end(message.i)

    @receive
    async def crash(self, message: Crash) -> None:
        recorder.begin(message.i, message.ts)
        await trio.sleep(env.CRASH_SLEEP)
        recorder.end(message.i)

    @receive
    async def echo(self, message: Echo) -> int:
        return message.i

    @receive
    async def member(self, message: Member) -> int:
        recorder.hit(message.i, message.ts)
        return message.i

    @receive
    async def total(self, message: Total) -> int:
        if message.numbers == list(range(len(message.numbers))):
            recorder.hit(message.i, message.ts)
        return sum(message.numbers)


class Untyped(Actor):
    settings = Settings(title="untyped", concurrency=CONCURRENCY)

    @receive
    async def noop(self, message: Any) -> None:
        recorder.hit(message["i"], message["ts"])


class Keywords(Actor):
    settings = Settings(title="keywords", concurrency=CONCURRENCY)

    @receive
    async def noop(self, *, i: int, ts: float, pad: str) -> None:
        recorder.hit(i, ts)


ACTOR: type[Actor] = {"actorwork-noop": Untyped, "actorwork-kwargs": Keywords}.get(VARIANT, Typed)
MESSAGES: dict[str, type[Mark]] = {"noop": Noop, "io": Io, "crash": Crash, "echo": Echo}


TYPED_ONLY = ["io", "rpc", "crash", "submit", "members", "group", "chord"]


def members(ps: list[dict[str, Any]]) -> list[Step[int]]:
    return [step(Typed, Member(**p)) for p in ps]


def chord_of(ps: list[dict[str, Any]], body: dict[str, Any]) -> Step[int]:
    return chord(members(ps), Typed, lambda numbers: Total(**body, numbers=numbers))


def describe() -> dict[str, Any]:
    from benchmarks.benchkit.versions import installed

    typed = ACTOR is Typed
    return {
        "name": VARIANT,
        "cmds": [[sys.executable, "-m", "benchmarks.peers.actorwork_app"]] * env.PROCS,
        "cases": ["enqueue", "drain", "drain2", "latency", "cold"] + (TYPED_ONLY if typed else []),
        "conc": CONCURRENCY,
        "n": {"drain": 100000, "drain2": 100000, "chord": 10000},
        "settings": f"concurrency {CONCURRENCY}, {ACTOR.settings.title} handler; all else by default",
        "versions": installed("actorwork", "redis", "hiredis", "trio", "cattrs"),
    }


def run_client(start: Callable[[], Awaitable[Any]]) -> Any:
    return trio.run(start)


class Client:
    async def open(self) -> None:
        self.opened = open_client(env.URL)
        client = await self.opened.__aenter__()
        self.client, self.ref = client, client.ref(ACTOR)

    def message(self, task: str, p: dict[str, Any]) -> Any:
        return MESSAGES[task](**p) if ACTOR is Typed else p

    async def enqueue(self, task: str, p: dict[str, Any]) -> None:
        await self.ref.tell(self.message(task, p))

    async def enqueue_many(self, task: str, ps: list[dict[str, Any]]) -> None:
        await self.ref.tell_many([self.message(task, p) for p in ps])

    async def rpc(self, p: dict[str, Any]) -> object:
        return await self.ref.ask(self.message("echo", p), timeout=30)

    async def submit(self, p: dict[str, Any]) -> None:
        await self.ref.submit(self.message("echo", p))

    async def start_group(self, ps: list[dict[str, Any]]) -> None:
        await self.client.start(Flow(group(members(ps))))

    async def group(self, ps: list[dict[str, Any]]) -> list[int]:
        return await (await self.client.start(Flow(group(members(ps))))).result(timeout=100)

    async def chord(self, ps: list[dict[str, Any]], body: dict[str, Any]) -> None:
        await self.client.start(chord_of(ps, body))

    async def close(self) -> None:
        await self.opened.__aexit__(None, None, None)


if __name__ == "__main__":
    run([ACTOR], broker=env.URL)
