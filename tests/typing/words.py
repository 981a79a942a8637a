"""What type checkers make of a whole program with a workflow: the actors, the flow, and its three clients.

Never run, only checked: by mypy and basedpyright, both strict. Each `ignore` here stands on a line that has to be
refused; `test_typing.py` takes them away and looks for exactly those errors.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedVariable=false

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, assert_type

import attrs
import trio

from actorwork import Actor, Message, Retry, Settings, aio, open_client, receive, sync
from actorwork.aio import Client as AioClient
from actorwork.clients.client import Client
from actorwork.clients.runs import Run
from actorwork.message import Status
from actorwork.policy.runs.values import RunInfo
from actorwork.sync import Run as SyncRun
from actorwork.workflows import Done, Failed, Flow, Group, Step, group, signal, step

URL = "redis://localhost:6379/0"


@attrs.frozen
class Fetch(Message["Fetcher", str]):
    url: str


@attrs.frozen
class Count(Message["Counter", int]):
    text: str


@attrs.frozen
class Add(Message["Counter", int]):
    numbers: list[int]


@attrs.frozen
class Page:
    title: str
    words: int


@attrs.frozen
class Compose(Message["Reporter", Page]):
    title: str
    counts: list[int]
    approved: bool


@attrs.frozen
class Post(Message["Reporter", str]):
    page: Page


@attrs.frozen
class Withdraw(Message["Reporter", None]):
    url: str


@attrs.frozen
class Alarm(Message["Reporter", None]):
    failures: list[Failed]


async def download(url: str) -> AsyncIterator[tuple[str, int]]:
    await trio.lowlevel.checkpoint()
    yield url, len(url)


def cut(text: str) -> list[str]:
    return [text[:1_000_000], text[1_000_000:]]


class Fetcher(Actor):
    settings = Settings(title="fetcher", sources={"fetching"}, soft_timeout=45, execution_timeout=60)

    @receive
    async def fetch(self, message: Fetch) -> str:
        text = ""
        with self.context.soft_limit() as scope:
            async for part, size in download(message.url):
                text += part
                self.context.progress(len(text), size, "loading")
        assert_type(scope, trio.CancelScope)
        if scope.cancelled_caught and not text:
            raise Retry(30)
        return text


class Counter(Actor):
    settings = Settings(title="counter", sources={"counting"})

    @receive
    async def count(self, message: Count) -> int:
        if len(message.text) <= 1_000_000:
            return len(message.text.split())
        parts = group(step(Counter, Count(part)) for part in cut(message.text))
        assert_type(parts, Group[int])
        assert_type(self.context.continue_with(step(Counter, Add(parts.results))), int)
        if message.text:
            return self.context.continue_with(step(Fetcher, Fetch("a text")))  # type: ignore[return-value]
        return self.context.continue_with(step(Counter, Add(parts.results)))

    @receive
    async def add(self, message: Add) -> int:
        return sum(message.numbers)


class Reporter(Actor):
    settings = Settings(title="reporter", sources={"reports"})

    @receive
    async def compose(self, message: Compose) -> Page:
        return Page(message.title, sum(message.counts) if message.approved else 0)

    @receive
    async def post(self, message: Post) -> str:
        return f"https://example.org/{message.page.title}"

    @receive
    async def withdraw(self, message: Withdraw) -> None: ...

    @receive
    async def alarm(self, message: Alarm) -> None: ...


def report(urls: Iterable[str]) -> Flow[str]:
    texts = [step(Fetcher, Fetch(url), name=f"fetch {url}", expires=3600) for url in urls]
    assert_type(texts, list[Step[str]])
    counts = group(step(Counter, Count(text.result)) for text in texts)
    assert_type(counts, Group[int])
    assert_type(counts.results, list[int])
    assert_type(counts.outcomes, list[Done[int] | Failed])
    approval = signal("approval", bool, within=timedelta(days=3))
    assert_type(approval, Step[bool])
    page = step(Reporter, Compose("Words", counts.results, approval.result))
    assert_type(page, Step[Page])
    assert_type(page.result, Page)
    assert_type(page.outcome, Done[Page] | Failed)

    posted = step(Reporter, Post(page.result), undo=lambda url: step(Reporter, Withdraw(url)))
    assert_type(posted, Step[str])

    step(Reporter, Post(counts.results))  # type: ignore[arg-type]
    step(Fetcher, Count("a text"))  # type: ignore[misc]
    step(Counter, Add(counts.outcomes))  # type: ignore[arg-type]
    step(Fetcher, Fetch("a"), unique="once")  # type: ignore[call-overload]
    step(Reporter, Post(page.result), undo=lambda url: step(Counter, Add(url)))  # type: ignore[arg-type]
    Flow(posted, on_error=lambda failures: step(Counter, Add(failures)))  # type: ignore[arg-type]

    flow = Flow(
        posted,
        title="words",
        deadline=timedelta(days=4),
        on_error=lambda failures: step(Reporter, Alarm(failures)),
    )
    assert_type(flow, Flow[str])
    assert_type(Flow(counts), Flow[list[int]])
    return flow


async def main(urls: list[str]) -> None:
    async with open_client(URL) as client:
        assert_type(client, Client)
        run = await client.start(report(urls), id="words-17")
        assert_type(run, Run[str])
        async with run.watch() as updates:
            async for update in updates:
                assert_type(update, RunInfo)
                assert_type(update.status, Status)
                assert_type((update.done, update.total), tuple[int, int])
                if "approval" in update.waits_for:
                    await run.signal("approval", True)
        assert_type(await run.result(timeout=60), str)
        assert_type(client.run("words-17"), Run[Any])
        assert_type(await run.cancel("too late"), bool)
        assert_type(await run.retry(), bool)
        assert_type(await run.to_mermaid(), str)


def in_a_django_view(urls: list[str]) -> str:
    with sync.open_client(URL) as client:
        assert_type(client.start(report(urls)), SyncRun[str])
        return assert_type(client.start(report(urls)).result(timeout=60), str)


async def in_fastapi(urls: list[str]) -> str:
    async with aio.open_client(URL) as client:
        assert_type(client, AioClient)
        assert_type(await client.start(report(urls)), Run[str])
        return assert_type(await (await client.start(report(urls))).result(timeout=60), str)
