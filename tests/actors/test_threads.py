"""A handler in a thread cannot be ended: past its deadline its delivery ends without it, and it is reported.

In real time: a thread has no other.
"""

import threading

import pytest
import trio

from actorwork import Actor, ActorCrashed, Settings, open_system, receive
from actorwork.actors.execution import threads
from actorwork.events import Event, Overdue, Settled
from actorwork.policy.settlement import Ack
from actorwork.testing.memory import MemoryBroker
from tests.patience import PATIENCE


class Pump(Actor):
    settings = Settings(title="pump", execution_timeout=0.2)

    def __init__(self) -> None:
        self.go_on = go_on

    @receive
    def run(self, *, waits: bool) -> str:
        if waits:
            assert self.go_on.wait(20)
        return "done"


go_on = threading.Event()


async def until(seen: list[Event], kind: type[Event], count: int = 1) -> list[Event]:
    with trio.fail_after(PATIENCE):
        while len(found := [event for event in seen if isinstance(event, kind)]) < count:  # noqa: ASYNC110 - a thread tells nobody
            await trio.sleep(0.01)
    return found


async def test_one_that_does_not_end_is_reported_until_it_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "REPORT_EVERY", 0.05)
    go_on.clear()
    seen: list[Event] = []
    broker = MemoryBroker()
    async with open_system(Pump, broker=broker, emit=seen.append) as system:
        try:
            broker.put(Pump, b'{"waits": true}', id="stuck")
            # Its delivery has ended, and the next one is handled: on a busy machine not the first one within 0.2 s.
            await until(seen, Settled)
            last: Event | None = None
            for number in range(20):
                broker.put(Pump, b'{"waits": false}', id=f"after {number}")
                last = (await until(seen, Settled, 2 + number))[-1]
                if isinstance(last, Settled) and isinstance(last.settlement, Ack):
                    break
            assert isinstance(last, Settled)
            assert isinstance(last.settlement, Ack)
            of_stuck = [one for one in await until(seen, Overdue, 2) if isinstance(one, Overdue)]
            report = next(one for one in of_stuck if one.message_id == "stuck")
            assert (report.title, report.message_id, report.timeout, report.is_settled) == ("pump", "stuck", 0.2, True)
            assert report.seconds > 0.2
            first, *_, innermost = report.where.split("\n")
            assert first.startswith(f"{__file__}:"), "the handler's own frame first"
            assert first.endswith(" in run")
            assert innermost.endswith(" in wait")
        finally:
            go_on.set()
        with trio.fail_after(PATIENCE):
            while "0 busy" not in repr(system._services.watchdog):  # noqa: ASYNC110 - it tells nobody
                await trio.sleep(0.01)


class Patient(Pump):
    settings = Settings(title="patient")


async def test_one_that_ends_in_time_is_not_looked_at():
    go_on.set()
    seen: list[Event] = []
    async with open_system(Patient, broker=MemoryBroker(), emit=seen.append) as system:
        assert await system.ref(Patient).ask({"waits": True}, timeout=20) == "done"
        assert "0 busy" in repr(system._services.watchdog)
    assert not [event for event in seen if isinstance(event, Overdue)]


class Idle(Actor):
    """Waits for messages: its executor would have to be woken."""

    settings = Settings(title="idle")

    async def startup(self) -> None:
        self.context.register("idle")

    @receive
    async def take(self, *, n: int) -> int:
        return n


class Threaded(Actor):
    settings = Settings(title="threaded")

    @receive
    def call(self, *, what: str) -> object:
        idle = self.context.whereis("idle")
        assert idle is not None
        match what:
            case "tell_nowait":
                idle.tell_nowait({"n": 1})
            case "forward":
                self.context.forward(idle)
            case "give":
                self.context.defer().give(1)
            case "unstash":
                self.context.unstash()
            case "timer":
                self.context.timers.start("key", 0, {"what": ""})
            case "helper":
                self.context.nursery.start_soon(trio.sleep, 0)
            case "properly":
                trio.from_thread.run_sync(idle.tell_nowait, {"n": 1})
            case _:
                pass
        return what


@pytest.mark.parametrize("what", ["tell_nowait", "forward", "give", "unstash", "timer", "helper"])
async def test_what_belongs_to_the_loop_is_refused_in_a_thread_before_it_changes_anything(what: str):
    with trio.fail_after(PATIENCE):
        async with open_system([Idle, Threaded], broker=MemoryBroker()) as system:
            with pytest.raises(ActorCrashed, match=r"was called in a thread.*trio\.from_thread\.run_sync"):
                await system.ref(Threaded).ask({"what": what})
            assert await system.ref(Threaded).ask({"what": "properly"}) == "properly"
            assert await system.ref(Idle).ask({"n": 2}) == 2
