"""The actors of these tests: arithmetic, with failures on request."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from actorwork import Actor, Message, Reject, Retry, Settings, actor, receive
from actorwork.workflows import Done, Failed, group, step


@attrs.frozen
class Square(Message["Calculator", int]):
    number: int


@attrs.frozen
class Sum(Message["Calculator", int]):
    numbers: list[int]


@attrs.frozen
class Text(Message["Calculator", str]):
    value: Any


@attrs.frozen
class Flaky(Message["Calculator", int]):
    """Fails, or is rejected, or is retried, before it answers."""

    number: int
    how: str = "fail"
    times: int = 99


@attrs.frozen
class Wait(Message["Calculator", int]):
    seconds: float


@attrs.frozen
class Look(Message["Calculator", str]):
    outcomes: list[Done[int] | Failed]


@attrs.frozen
class SumOfSquares(Message["Calculator", int]):
    """Continues with a workflow."""

    numbers: list[int]


@attrs.frozen
class Begin(Message["Calculator", str]):
    """Starts a run, and then fails if asked to."""

    run: str
    fails: bool = False


@attrs.frozen
class Alarm(Message["Clerk", None]):
    failures: list[Failed]


@attrs.frozen
class Note(Message["Clerk", str]):
    text: Any


@attrs.frozen
class Undo(Message["Clerk", None]):
    what: Any


@actor(title="doubles")
async def double(number: int) -> int:
    return 2 * number


class Calculator(Actor):
    settings = Settings(title="calculator", sources={"numbers"}, concurrency=4)

    @receive
    async def square(self, message: Square) -> int:
        return message.number**2

    @receive
    async def add(self, message: Sum) -> int:
        return sum(message.numbers)

    @receive
    async def text(self, message: Text) -> Any:
        return message.value

    @receive
    async def flaky(self, message: Flaky) -> int:
        attempt = self.context.delivery.attempt
        if attempt <= message.times:
            if message.how == "reject":
                raise Reject("not wanted")
            if message.how == "retry":
                raise Retry(0.02)
            raise ValueError(f"{message.number} is odd")
        return message.number * 10 + attempt

    @receive
    async def wait(self, message: Wait) -> int:
        await trio.sleep(message.seconds)
        return 1

    @receive
    async def look(self, message: Look) -> str:
        return ", ".join(
            f"done {one.value}" if isinstance(one, Done) else f"{one.kind} {one.step}: {one.reason}"
            for one in message.outcomes
        )

    @receive
    async def sum_of_squares(self, message: SumOfSquares) -> int:
        squares = group(step(Calculator, Square(number)) for number in message.numbers)
        return self.context.continue_with(step(Calculator, Sum(squares.results)))

    @receive
    async def begin(self, message: Begin) -> str:
        run = self.context.start(step(Calculator, Square(9)), id=message.run)
        if message.fails:
            raise ValueError("after the start")
        return run.id


class Clerk(Actor):
    """Writes down what it is told, in the order in which it is told."""

    settings = Settings(title="clerk", sources={"notes"})
    book: list[object] = []  # noqa: RUF012 - of the whole test

    @receive
    async def alarm(self, message: Alarm) -> None:
        self.book.append(message)

    @receive
    async def note(self, message: Note) -> str:
        self.book.append(message.text)
        return f"noted {message.text}"

    @receive
    async def undo(self, message: Undo) -> None:
        self.book.append(("undo", message.what))
