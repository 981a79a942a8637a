"""A bank of local actors under supervisors, without a broker.

It shows what a supervisor is for. Every account is an actor of its own, started while the program runs. A bug crashes
an account in the middle of some transfers; its supervisor starts it again, and it reads its balance from the ledger, so
no money is lost. At the end the ledger itself fails for good, its supervisor gives up, and one exception says why.

    python examples/bank.py                    three hundred transfers
    python examples/bank.py --transfers 5000   more of them
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter

import attrs
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    ActorRef,
    Child,
    DynamicSupervisor,
    Intensity,
    MaxRestartsExceeded,
    Message,
    Supervisor,
    System,
    events,
    open_system,
    receive,
)

OWNERS = ("Ann", "Ben", "Cleo", "Dan", "Eve")
OPENING_BALANCE = 1000
BUG_EVERY = 23
"""An account crashes at every message with this number: the bug that the supervisor has to live with."""


@attrs.frozen
class Book(Message["Ledger", int]):
    """Enters an amount for an account, once for each transfer; is answered by the balance."""

    account: str
    amount: int
    transfer: str


@attrs.frozen
class Balance(Message["Ledger | Account", int]):
    """Asks for the balance of an account."""

    account: str


@attrs.frozen
class Move(Message["Account", bool]):
    """Changes a balance; is answered by whether the account has enough."""

    amount: int
    transfer: str


class Ledger(Actor):
    """Keeps all entries. It is the only actor whose state must survive, so it does nothing that could fail."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], int] = {}

    @receive
    async def book(self, entry: Book) -> int:
        # An entry is known by account and transfer: booked twice, it counts once.
        self.entries[entry.account, entry.transfer] = entry.amount
        return self.total(entry.account)

    @receive
    async def balance(self, question: Balance) -> int:
        return self.total(question.account)

    @receive
    async def lose(self, reason: str) -> None:
        raise OSError(reason)

    def total(self, account: str) -> int:
        return sum(amount for (name, _), amount in self.entries.items() if name == account)


class Account(Actor):
    """Moves the money of one owner: one message at a time, so a balance needs no lock."""

    def __init__(self, ledger: ActorRef[Ledger], owner: str) -> None:
        self.ledger = ledger
        self.owner = owner
        self.messages = 0

    async def startup(self) -> None:
        self.balance = await self.ledger.ask(Balance(self.owner))

    @receive
    async def move(self, message: Move) -> bool:
        self.messages += 1
        if self.balance + message.amount < 0:
            return False
        if self.messages % BUG_EVERY == 0:
            raise ZeroDivisionError("the bug")
        self.balance = await self.ledger.ask(Book(self.owner, message.amount, message.transfer))
        return True


async def move(account: ActorRef[Account], message: Move) -> bool:
    """Ask an account until it answers; a crash has used the message up, so it is sent again."""
    while True:
        try:
            return await account.ask(message)
        except ActorCrashed:
            continue


async def transfer(accounts: dict[str, ActorRef[Account]], number: int, dice: random.Random) -> bool:
    payer, payee = dice.sample(OWNERS, 2)
    amount = dice.randint(1, 300)
    if not await move(accounts[payer], Move(-amount, f"transfer {number}")):
        return False
    return await move(accounts[payee], Move(amount, f"transfer {number}"))


async def do_business(system: System, transfers: int, happened: Counter[str]) -> None:
    ledger = system.ref(Ledger)
    accounts: dict[str, ActorRef[Account]] = {}
    for owner in OWNERS:
        await ledger.ask(Book(owner, OPENING_BALANCE, "opening"))
        accounts[owner] = await system.supervisor("accounts").start_child(ledger, owner)

    dice = random.Random(7)
    refused = 0
    for first in range(0, transfers, 50):
        for number in range(first, min(first + 50, transfers)):
            refused += not await transfer(accounts, number, dice)
        done = min(first + 50, transfers)
        print(f"  {done:>5} of {transfers} transfers, {refused} refused, {happened['restarts']} restarts", flush=True)

    print("\nthe tree:")
    print(system.tree())
    print("\nthe balances:")
    balances = {owner: await ledger.ask(Balance(owner)) for owner in OWNERS}
    for owner, balance in balances.items():
        print(f"  {owner:<6}{balance:>6} {'█' * (balance // 60)}")
    total = sum(balances.values())
    print(f"  {'all':<6}{total:>6}, as at the beginning")
    assert total == OPENING_BALANCE * len(OWNERS)

    print("\nthe ledger's disk fails, again and again:")
    while True:
        try:
            await ledger.ask("the disk is full")
        except ActorCrashed as error:
            print(f"  {error.__cause__!r}", flush=True)


async def main(transfers: int) -> None:
    happened: Counter[str] = Counter()

    def note(event: events.Event) -> None:
        if isinstance(event, events.ChildRestarting) and event.delay == 0:
            happened["restarts"] += 1

    tree = Supervisor(
        [
            Ledger,
            # A bug in an account is no reason to give up on it, however often it comes.
            DynamicSupervisor(Child(Account), name="accounts", intensity=Intensity(restarts=1_000_000, period=1)),
        ],
        # The accounts know their balance from the ledger: if that starts again, so do they.
        strategy="rest_for_one",
        intensity=Intensity(restarts=2, period=60),
    )
    try:
        async with open_system(tree, emit=note) as system:
            await do_business(system, transfers, happened)
    except MaxRestartsExceeded as error:
        print("\nits supervisor gives up, and the system ends in order:")
        cause: BaseException | None = error
        while cause is not None:
            print(f"  {type(cause).__name__}: {cause}")
            cause = cause.__cause__
    else:
        sys.exit("the supervisor did not give up")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--transfers", type=int, default=300)
    trio.run(main, options.parse_args().transfers)
