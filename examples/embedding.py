"""A Trio application with actors in it: an auction by TCP.

It shows how actors live beside ordinary Trio tasks. The program opens its own nursery, serves connections, and has a
system of actors in a block of its own:

- `Auction` keeps the state. It handles one bid at a time, so forty bidders need no lock. A timer of its own closes the
  auction when nobody has bid for a moment.
- `Crier` hears of every bid by a topic, and prints it.
- `Notary` is fed by a broker, the embedded one: a sale is stored there before the auction answers, and would be handled
  after a restart of the program, too.

When the block is left, everything in it has ended, in order.

    python examples/embedding.py                 eight bidders
    python examples/embedding.py --bidders 40    more of them
"""

from __future__ import annotations

import argparse
import random
import tempfile
from functools import partial

import attrs
import trio

from actorwork import Actor, ActorRef, Child, Message, Settings, open_system, receive

QUIET = 0.3
"""Seconds without a bid after which the auction closes."""


@attrs.frozen
class Bid(Message["Auction", str]):
    bidder: str
    amount: int


@attrs.frozen
class Taken:
    """Told to everybody who has subscribed: a bid that leads."""

    bidder: str
    amount: int
    bids: int


@attrs.frozen
class Close:
    """A timer's message: nobody has bid for a moment."""


@attrs.frozen
class Sale(Message["Notary", int]):
    """Is answered by the number under which the sale is entered."""

    lot: str
    buyer: str
    price: int


class Auction(Actor):
    def __init__(self, lot: str, closed: trio.Event) -> None:
        self.lot = lot
        self.closed = closed
        self.leader = ""
        self.amount = 0
        self.bids = 0

    @receive
    async def bid(self, bid: Bid) -> str:
        if self.closed.is_set():
            return f"sold to {self.leader} for {self.amount}"
        self.bids += 1
        if bid.amount <= self.amount:
            return f"too low: {self.leader} offers {self.amount}"
        self.leader, self.amount = bid.bidder, bid.amount
        self.context.broadcast("bids", Taken(bid.bidder, bid.amount, self.bids))
        self.context.timers.start("close", QUIET, Close())  # Replaces the timer that runs.
        return "you lead"

    @receive
    async def close(self, _: Close) -> None:
        number = await self.context.client.ref(Notary).ask(Sale(self.lot, self.leader, self.amount), timeout=10)
        print(f"sold to {self.leader} for {self.amount} after {self.bids} bids; entered as no. {number}")
        self.closed.set()


class Crier(Actor):
    async def startup(self) -> None:
        self.context.subscribe("bids")

    @receive
    async def cry(self, taken: Taken) -> None:
        print(f"{taken.bids:>4} bids  {taken.amount:>4} {'▒' * (taken.amount // 10)} {taken.bidder}", flush=True)


class Notary(Actor):
    settings = Settings(title="notary", sources={"sales"})

    def __init__(self) -> None:
        self.sales: list[Sale] = []

    async def shutdown(self) -> None:
        print(f"the notary closes its book: {len(self.sales)} sale")

    @receive
    async def enter(self, sale: Sale) -> int:
        self.sales.append(sale)
        return len(self.sales)


async def serve_bidder(auction: ActorRef[Auction], stream: trio.SocketStream) -> None:
    """Answer the lines of one connection. This is an ordinary Trio task: it asks an actor as it awaits all else."""
    received = b""
    async for chunk in stream:
        received += chunk
        while b"\n" in received:
            line, received = received.split(b"\n", 1)
            bidder, amount = line.decode().split()
            answer = await auction.ask(Bid(bidder, int(amount)))
            await stream.send_all(f"{answer}\n".encode())


async def bid(name: str, port: int, limit: int) -> None:
    """Bid over the network, ten more than what another offers, until that is too much."""
    dice = random.Random(name)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        amount = 10
        while amount <= limit:
            await stream.send_all(f"{name} {amount}\n".encode())
            answer = (await stream.receive_some()).decode()
            if answer.startswith("sold"):
                return
            if answer.startswith("too low"):
                _, _, leader, _, offered = answer.split()
                amount = int(offered) + 10 * (leader != name)
            await trio.sleep(dice.uniform(0.01, 0.08))


async def main(bidders: int, store: str) -> None:
    closed = trio.Event()
    tree = [Notary, Child(partial(Auction, "a lamp", closed)), Crier]
    async with open_system(tree, broker=f"sqlite:///{store}/notary.sqlite3") as system, trio.open_nursery() as nursery:
        handler = partial(serve_bidder, system.ref(Auction))
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port: int = listeners[0].socket.getsockname()[1]
        print(f"an auction on 127.0.0.1:{port}, with {bidders} bidders")
        dice = random.Random(3)
        for number in range(1, bidders + 1):
            nursery.start_soon(bid, f"bidder-{number}", port, dice.randint(10, 25) * 10)
        await closed.wait()
        nursery.cancel_scope.cancel()
    print("the block is left: the actors and all tasks have ended")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bidders", type=int, default=8)
    with tempfile.TemporaryDirectory() as directory:
        trio.run(main, options.parse_args().bidders, directory)
