"""What type checkers make of functions that are actors: their parameters and replies are those of the function.

Never run, only checked: by mypy and basedpyright, both strict. Each `ignore` here stands on a line that has to be
refused; `test_typing.py` takes them away and looks for exactly those errors.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedVariable=false

from typing import Any, assert_type

from actorwork.actors.actor import Actor
from actorwork.actors.context.current import current_context
from actorwork.actors.functions import actor
from actorwork.actors.handlers.table import receive
from actorwork.actors.refs.ref import ActorRef
from actorwork.actors.tree.spec import Child, Process
from actorwork.clients.client import Client
from actorwork.clients.receipts import Receipt
from actorwork.clients.refs import StreamRef
from actorwork.message import Message
from actorwork.policy.retry import RetryPolicy
from actorwork.runtime.system import System
from actorwork.settings import Settings
from actorwork.sync import Client as SyncClient, Receipt as SyncReceipt
from actorwork.testing import run_eagerly
from actorwork.workflows import Step, group, step


@actor(title="mailer", retry=RetryPolicy(attempts=3), sources={"mails"}, execution_timeout="30s")
async def send_mail(to: str, *, subject: str = "", copies: int = 1) -> int:
    current_context().log.info("to %s", to)
    current_context().publish(send_mail, send_mail.message("ben"), delay=5)
    return len(to) + len(subject) * copies


@actor(title="totals")
def add(numbers: list[int]) -> int:
    return sum(numbers)


class Greeter(Actor):
    settings = Settings(title="greeter")

    @receive
    async def greet(self, *, name: str) -> None:
        assert_type(await self.context.client.call(send_mail, to=name), int)
        await self.context.client.tell(add, [1])
        assert_type(await (await self.context.client.submit(add, [1])).result(), int)
        await self.context.client.call(add, numbers=name)  # type: ignore[arg-type]


assert_type(add([1]), int)
assert_type(send_mail.message("ann"), Message[Any, int])
sizes = [step(send_mail, to=name, subject="hello") for name in ("ann", "ben")]
assert_type(sizes, list[Step[int]])
assert_type(step(add, group(sizes).results), Step[int])
assert_type(step(send_mail, send_mail.message("ann"), name="a", after=sizes), Step[int])
tree = [send_mail, Child(add, restart="transient"), Process([send_mail], replicas=2)]


async def sent(client: Client, sync: SyncClient, system: System) -> None:
    assert_type(await send_mail("ann"), int)
    assert_type(await client.call(send_mail, to="ann"), int)
    assert_type(await client.call(send_mail, "ann", copies=2), int)
    assert_type(await client.call(add, [1, 2]), int)
    assert_type(await client.submit(send_mail, to="ann"), Receipt[int])
    assert_type(client.receipt("1", send_mail), Receipt[int])
    assert_type(client.receipt("1"), Receipt[Any])
    assert_type(sync.receipt("1", send_mail), SyncReceipt[int])
    assert_type(client.ref(send_mail), StreamRef[Any])
    assert_type(await client.ref(send_mail).ask(send_mail.message("ann"), timeout=5, delay=1), int)
    assert_type(sync.call(send_mail, to="ann"), int)
    assert_type(sync.submit(add, [1]), SyncReceipt[int])
    assert_type(system.ref(add), ActorRef[Any])
    assert_type(await system.ref(add).ask(add.message([1])), int)
    assert_type(await run_eagerly(step(add, [1]), [add, send_mail]), int)

    await client.call(send_mail)  # type: ignore[call-arg]
    await client.call(send_mail, to=5)  # type: ignore[arg-type]
    await client.tell(send_mail, to="ann", subjects="hello")  # type: ignore[call-arg]
    await client.submit(add, ["a"])  # type: ignore[list-item]
    sync.call(send_mail, "ann", "hello")  # type: ignore[call-arg]
    send_mail.message(to=5)  # type: ignore[arg-type]
    step(add, sizes[0].result)  # type: ignore[call-overload]
    step(send_mail, name="ann")  # type: ignore[call-overload]
    actor(titel="mailer")  # type: ignore[call-arg]
