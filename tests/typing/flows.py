"""What type checkers make of workflows: results have the types of replies, and what does not fit is refused.

Never run, only checked: by mypy and basedpyright, both strict. Each `ignore` here stands on a line that has to be
refused; `test_typing.py` takes them away and looks for exactly those errors.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedVariable=false

from typing import Any, assert_type

import attrs

from actorwork.actors.actor import Actor
from actorwork.actors.handlers.table import receive
from actorwork.clients.client import Client
from actorwork.clients.runs import Run
from actorwork.message import Message
from actorwork.settings import Settings
from actorwork.testing import run_eagerly
from actorwork.workflows import Done, Failed, Flow, Group, Step, chord, group, signal, step, together


@attrs.frozen
class Fetch(Message["Fetcher", str]):
    url: str


@attrs.frozen
class Count(Message["Counter", int]):
    text: str


@attrs.frozen
class Add(Message["Counter", int]):
    numbers: list[int]


class Fetcher(Actor):
    settings = Settings(title="fetcher")

    @receive
    async def fetch(self, message: Fetch) -> str:
        return message.url


class Counter(Actor):
    settings = Settings(title="counter")

    @receive
    async def count(self, message: Count) -> int:
        split = step(Fetcher, Fetch(message.text))
        if message.text:
            return self.context.continue_with(step(Counter, Count("x")))
        return self.context.continue_with(split)  # type: ignore[return-value]

    @receive
    async def add(self, message: Add) -> int:
        return sum(message.numbers)


text = step(Fetcher, Fetch("url"))
assert_type(text, Step[str])
assert_type(text.result, str)
assert_type(text.outcome, Done[str] | Failed)
counts = group(step(Counter, Count(one.result)) for one in [text])
assert_type(counts, Group[int])
assert_type(counts.results, list[int])
assert_type(counts.outcomes, list[Done[int] | Failed])
assert_type(group([counts]), Group[list[int]])
assert_type(chord([step(Counter, Count("a"))], Counter, Add), Step[int])
assert_type(together(text, step(Counter, Count("a"))), Step[tuple[str, int]])
assert_type(signal("approval", bool), Step[bool])
assert_type(text.then(Counter, Count), Step[int])
assert_type(Flow(text), Flow[str])
assert_type(Flow(counts), Flow[list[int]])
assert_type(step("fetcher", {"url": "x"}), Step[Any])

Count(counts.results)  # type: ignore[arg-type]
Add(counts.outcomes)  # type: ignore[arg-type]
step(Fetcher, Count("a"))  # type: ignore[misc]
step(Fetcher, Fetch("a"), unique="x")  # type: ignore[call-overload]


async def a_run(client: Client) -> None:
    run = await client.start(Flow(text), id="one")
    assert_type(run, Run[str])
    assert_type(await run.result(), str)
    assert_type(await (await client.start(counts)).result(), list[int])
    assert_type(await run_eagerly(counts, [Fetcher]), list[int])
    assert_type(await run_eagerly(Flow(text), [Fetcher]), str)
