"""Actors that wear their process out."""

import os
import time

import trio

from actorwork import Actor, Settings, receive

from .workers import GO_ON, LEDGER, say, wait_said


class Hoarder(Actor):
    """Keeps the memory that each message allocates."""

    settings = Settings(title="hoarder", concurrency=2)

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    async def startup(self) -> None:
        if LEDGER and await trio.Path(f"{LEDGER}.broken").exists():
            raise OSError("no disk")
        say("up")

    @receive
    async def keep(self, *, megabytes: int = 0, waits: bool = False) -> int:
        self.kept.append(b"x" * (megabytes * 1_000_000))
        if waits:
            say("begins")
            await wait_said(GO_ON)
            say("done")
        return os.getpid()


class Sleeper(Actor):
    """Has handlers that block their thread without end."""

    settings = Settings(title="sleeper")

    @receive
    def sleep(self, *, seconds: float) -> int:
        say("sleeps")
        time.sleep(seconds)
        return os.getpid()


class Overdue(Sleeper):
    settings = Settings(title="overdue", execution_timeout=0.3)


class Shielded(Actor):
    """Has handlers that cannot be cancelled."""

    settings = Settings(title="shielded", execution_timeout=0.3, max_crashes=1)

    @receive
    async def sleep(self, *, seconds: float) -> int:
        say("sleeps")
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return os.getpid()
