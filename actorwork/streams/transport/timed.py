"""A client that reports how long each command took, for metrics; without them the plain client is used.

A script counts under its name, several commands in one write under the first one's. Blocking reads have connections of
their own, and are not among them: they last as long as there is nothing to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from actorwork.streams.transport.client import RedisClient


def timed(on_answer: Callable[[str, float], None]) -> Callable[..., RedisClient]:
    """Return what makes a timed client; `on_answer` is called with the name of each command, and its seconds."""

    def make(*arguments: Any) -> RedisClient:
        client = TimedClient(*arguments)
        client.on_answer = on_answer
        return client

    return make


class TimedClient(RedisClient):
    """Made by `timed`."""

    on_answer: Callable[[str, float], None]
    """Called with the name of a command, or of a script, and the seconds until its answer, or its error."""

    async def call(self, *args: Any, idempotent: bool = False) -> Any:
        began = time.perf_counter()
        try:
            return await super().call(*args, idempotent=idempotent)
        finally:
            self.on_answer(self._name_of(args), time.perf_counter() - began)

    async def call_many(self, commands: Sequence[Sequence[Any]], *, idempotent: bool = False) -> list[Any]:
        began = time.perf_counter()
        try:
            return await super().call_many(commands, idempotent=idempotent)
        finally:
            if commands:
                self.on_answer(self._name_of(commands[0]), time.perf_counter() - began)

    async def transact(self, *commands: Sequence[Any]) -> list[Any]:
        began = time.perf_counter()
        try:
            return await super().transact(*commands)
        finally:
            self.on_answer("MULTI", time.perf_counter() - began)

    def _name_of(self, command: Sequence[Any]) -> str:
        verb = command[0]
        if verb == "EVALSHA":
            script = self._scripts.get(command[1])
            return verb if script is None else script.name
        return verb if isinstance(verb, str) else bytes(verb).decode("ascii", "replace")
