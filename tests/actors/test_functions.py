"""`@actor` makes an actor of a function: one class, one handler, the function's own parameters."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio.testing

from actorwork import (
    Actor,
    Child,
    DynamicSupervisor,
    Fail,
    Interval,
    MessageFailed,
    MessageRefused,
    NotRunning,
    RateLimit,
    Retry,
    RetryPolicy,
    Settings,
    SettingsError,
    Trigger,
    actor,
    current_context,
    rate_limit,
    receive,
    retry,
)
from actorwork.actors.handlers.table import handlers_of
from actorwork.cli.imports import load_tree
from actorwork.policy.backoffs import Fixed
from actorwork.testing import open_test_system, run_eagerly
from actorwork.workflows import Flow, group, step


@actor(title="mailer", sources={"mails"}, description="Sends mails.")
async def send_mail(to: str, *, subject: str = "", when: Moment | None = None) -> str:
    """Send a mail."""
    return f"{subject or 'no subject'} to {to}{when.at if when else ''}"


@attrs.frozen
class Moment:
    """Defined below the function whose parameter it is."""

    at: datetime


@actor(title="totals")
async def add(numbers: list[int]) -> int:
    return sum(numbers)


@actor(title="sizes")
async def size(text: str) -> int:
    return len(text)


async def test_a_function_is_called_directly_as_if_it_were_none():
    assert await send_mail("ann", subject="hello") == "hello to ann"
    assert await add([1, 2]) == 3
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'to'"):
        await send_mail()  # type: ignore[call-arg]


async def test_its_messages_carry_its_arguments(mock_clock: trio.testing.MockClock):
    async with open_test_system([send_mail, Child(add, restart="transient")]) as system:
        client = system.client
        assert await client.call(send_mail, to="ann") == "no subject to ann"
        assert await client.call(send_mail, "ann", subject="hello") == "hello to ann"
        now = datetime.now(UTC)
        assert await client.call(send_mail, "ann", when=Moment(now)) == f"no subject to ann{now}"
        assert await client.call(add, [1, 2]) == 3
        assert await (await client.submit(send_mail, "ben")).result() == "no subject to ben"
        await client.tell(send_mail, "cid")
        await client.ref(send_mail).tell(send_mail.message("dan"), delay=60)
        await system.drain()
        sent = [one.message for one in system.sent(send_mail)]
        assert sent[-1] == {"to": "dan", "subject": "", "when": None}
        assert system.assert_sent(send_mail, to="cid").envelope.type is None


async def test_its_messages_come_from_programs_that_do_not_know_it(mock_clock: trio.testing.MockClock):
    async with open_test_system(send_mail) as system:
        assert await system.client.ref("mailer").ask({"to": "ann"}) == "no subject to ann"
        await system.client.publish("mails", {"to": "ann"})
        await system.drain()
        assert system.dead_letters == []


async def test_a_local_message_is_the_object_itself(mock_clock: trio.testing.MockClock):
    @actor(title="keeper")
    async def keep(thing: Any) -> Any:
        return thing

    async with open_test_system(keep) as system:
        thing = object()
        assert await system.ref(keep).ask(keep.message(thing)) is thing


async def test_what_does_not_fit_its_parameters_is_refused_where_it_is_sent():
    with pytest.raises(MessageRefused, match=r"send_mail: missing a required argument: 'to'; it takes \(to, \*, sub"):
        send_mail.message()  # type: ignore[call-arg]
    with pytest.raises(MessageRefused, match="got an unexpected keyword argument 'copy'"):
        step(send_mail, to="ann", copy="ben")  # type: ignore[call-overload]


async def test_an_argument_of_a_wrong_type_fails_the_message_and_is_named(mock_clock: trio.testing.MockClock):
    async with open_test_system([send_mail, add]) as system:
        with pytest.raises(MessageFailed, match=r"not a send_mail: at to: wants a string, got 5"):
            await system.client.call(send_mail, to=5)  # type: ignore[arg-type]
        with pytest.raises(MessageFailed, match=r"at numbers\[1\]: wants a whole number, got 'x'"):
            await system.client.call(add, [1, "x"])  # type: ignore[list-item]
        with pytest.raises(MessageFailed, match="not a send_mail: at to: missing"):
            await system.client.ref("mailer").ask({"subject": "hello"})


async def test_it_takes_part_in_workflows(mock_clock: trio.testing.MockClock):
    sizes = group(step(size, text) for text in ("a", "bb", "ccc"))
    assert await run_eagerly(step(add, sizes.results), [add, size]) == 6
    first = step(size, "abc")
    last = step(add, add.message([1]), name="last", after=[first])
    assert last.name == "last"
    assert await run_eagerly(Flow(last), [add, size]) == 1
    assert await run_eagerly(size.message("abc"), [add, size]) == 3
    with pytest.raises(TypeError, match=r"size\.text wants str, but step 'sizes' returns int"):
        Flow(step(size, first.result)).plan("run")  # type: ignore[call-overload]


async def test_a_plain_def_runs_in_a_thread():
    @actor(title="threads")
    def where() -> list[object]:
        return [threading.get_ident(), current_context().delivery.attempt]

    assert where.settings.title == "threads"
    async with open_test_system(where) as system:
        there = await system.client.call(where)
        assert there[0] != threading.get_ident()
        assert there[1] == 1


async def test_it_asks_for_the_context_of_its_actor(mock_clock: trio.testing.MockClock):
    @actor(title="forwarder")
    async def forward(to: str) -> str:
        context = current_context()
        context.publish(send_mail, send_mail.message(to=to))
        run = context.start(step(size, to))
        await context.client.tell(add, [1])
        return f"{run.id} {await context.client.call(size, to)} {context.ref.title}"

    async with open_test_system([forward, send_mail, size, add]) as system:
        assert (await system.client.call(forward, "ann")).endswith(" 3 forwarder")
        await system.drain()
        system.assert_sent(send_mail, to="ann")
        system.assert_sent(add, numbers=[1])
        assert len(system.sent(size)) == 2


async def test_a_helper_of_any_handler_finds_the_context(mock_clock: trio.testing.MockClock):
    def helper() -> str:
        return current_context().ref.title

    class Classic(Actor):
        settings = Settings(title="classic")

        @receive
        async def handle(self, *, name: str) -> str:
            return helper()

    async with open_test_system(Classic) as system:
        assert await system.client.ref(Classic).ask({"name": "x"}) == "classic"
    with pytest.raises(NotRunning, match="belongs to a handler that runs in a system"):
        current_context()


async def test_rules_of_decorators_are_those_of_its_handler(mock_clock: trio.testing.MockClock):
    attempts: list[int] = []

    @actor(title="flaky", retry=RetryPolicy(attempts=1))
    @retry(attempts=3, backoff=Fixed(seconds=60))
    @rate_limit(RateLimit(10, per=1))
    async def flaky() -> int:
        attempts.append(current_context().delivery.attempt if attempts else 1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return len(attempts)

    (handler,) = handlers_of(flaky)  # type: ignore[arg-type]
    assert handler.retry is not None
    assert len(handler.limits) == 1
    async with open_test_system(flaky) as system:
        assert await system.client.ref(flaky).ask(flaky.message(), timeout=1000) == 3
    assert attempts == [1, 2, 3]


async def test_verdicts_and_settings_are_as_for_every_actor(mock_clock: trio.testing.MockClock):
    @actor(title="slow", execution_timeout=5)
    async def slow(seconds: float) -> None:
        if not seconds:
            raise Fail("nothing to do")
        if current_context().delivery.attempt == 1:
            raise Retry(1)
        await trio.sleep(seconds)

    async with open_test_system(slow) as system:
        with pytest.raises(MessageFailed, match="nothing to do"):
            await system.client.call(slow, 0)
        with pytest.raises(MessageFailed, match="ExecutionTimeout"):
            await system.client.ref(slow).ask(slow.message(9), timeout=1000)


async def test_triggers_call_it_and_give_it_their_times(mock_clock: trio.testing.MockClock):
    called: list[tuple[str, bool]] = []

    @actor(
        title="nightly",
        triggers=[Trigger(title="clean", schedule=Interval(seconds=60), kwargs={"what": "all"})],
    )
    async def clean(what: str, time_point: datetime | None = None) -> None:
        called.append((what, time_point is not None))

    async with open_test_system(clean) as system:
        await trio.sleep(61)
        await system.client.call(clean, "some")
        with pytest.raises(MessageRefused, match="unexpected keyword argument 'time_point'"):
            await system.client.call(clean, "some", time_point=datetime.now(UTC))
    assert set(called) == {("all", True), ("some", False)}


async def test_it_can_be_a_template_whose_arguments_come_with_messages(mock_clock: trio.testing.MockClock):
    async with open_test_system(DynamicSupervisor(Child(size, reads=False), name="pool")) as system:
        ref = await system.system.supervisor("pool").start_child()
        assert await ref.ask(size.message("abc")) == 3
    with pytest.raises(SettingsError, match="whose arguments come with its messages"):
        Child(partial(size, text="abc"))


def test_it_is_found_on_a_command_line():
    assert load_tree(f"{__name__}:send_mail") is send_mail
    assert send_mail.__doc__ == "Send a mail."
    assert repr(send_mail) == "<function send_mail as an actor>"
    assert repr(send_mail.message("ann")) == "send_mail(to='ann', subject='', when=None)"


loosely: Any = actor(title="x")


def several(*names: str) -> None: ...
def named(**names: str) -> None: ...
def unnamed(name: str, /) -> None: ...
def method(self: str) -> None: ...
def generator() -> Generator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (several, r"names, so \*names cannot be a parameter"),
        (named, r"names, so \*\*names cannot be a parameter"),
        (unnamed, "names, so name cannot be a parameter"),
        (method, "'self' is a parameter of methods"),
        (generator, "a generator cannot be an actor"),
        (Moment, "goes on a function"),
    ],
)
def test_what_cannot_be_an_actor_is_refused_where_it_is_decorated(function: Any, text: str):
    with pytest.raises(SettingsError, match=text):
        loosely(function)


def test_the_decorator_wants_settings_by_name():
    anyhow: Any = actor
    with pytest.raises(SettingsError, match="wants brackets with settings by name"):
        anyhow(unnamed)
    with pytest.raises(SettingsError, match="title"):
        actor(title="")


async def test_a_parameter_that_json_cannot_hold_is_refused_at_the_start():
    @actor(title="sockets")
    async def listen(socket: trio.SocketStream) -> None: ...

    assert handlers_of(listen)  # type: ignore[arg-type]
    assert next(iter(handlers_of(listen))).local_only  # type: ignore[arg-type]


PROGRAM = """
import sys
import trio
from actorwork import Process, actor, open_client, open_system

@actor(title="squares")
async def square(number: int) -> int:
    return number * number

async def main():
    async with open_system(Process([square]), broker=sys.argv[1]), open_client(sys.argv[1]) as client:
        print(await client.call(square, 7))

if __name__ == "__main__":
    trio.run(main)
"""


def test_it_travels_to_other_processes_by_its_name():
    assert pickle.loads(pickle.dumps(send_mail)) is send_mail
    assert pickle.loads(pickle.dumps([Child(add)]))[0].actor is add


def test_it_runs_in_a_process_of_a_program_that_defines_it_itself(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, program, f"sqlite:///{tmp_path}/messages.db"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "49\n"), done.stderr


def test_its_settings_are_those_of_every_actor():
    assert send_mail.settings.sources == {"mails"}
    assert send_mail.settings.description == "Sends mails."
    assert timedelta(seconds=send_mail.settings.execution_timeout) == timedelta(minutes=3)
