"""A shop that never sells what it does not have, while the programs that run it are killed.

Every product is an entity: an instance and a durable state for each key. More orders arrive than there is stock, and
the nodes that handle them are killed without warning (SIGKILL), in the middle of whatever they do. What an order makes
of the state is committed with the order's end, or not at all: so at the end exactly the stock is sold, no order has
been answered twice, and every buyer knows.

    python examples/shop.py                                       two nodes, 300 orders, ten kills; a file as broker
    python examples/shop.py --orders 2000 --kills 50
    python examples/shop.py --broker redis://localhost:6379/0     the same at Redis; give it an empty database
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import attrs
import trio

from actorwork import Client, Entities, Entity, Message, Receipt, Settings, open_client, receive, run

PRODUCTS = ("teapot", "kettle", "cup", "spoon")
STOCK = 40
NODES = 2
LEASE = 2.0
"""Seconds after which the orders of a killed node run elsewhere."""


@attrs.frozen
class Order(Message["Product", bool]):
    """Buys one; is answered by whether there was one left."""

    buyer: str


@attrs.define
class Shelf:
    """The state of a product."""

    stock: int = STOCK
    buyers: list[str] = attrs.field(factory=list[str])


class Product(Entity[Shelf]):
    # An order whose node is killed is not to blame, so it may see many of them die.
    settings = Settings(title="product", concurrency=8, max_crashes=1000, entities=Entities(idle=5))

    @receive
    async def order(self, message: Order) -> bool:
        if not self.state.stock:
            return False
        self.state.stock -= 1
        await trio.sleep(0.01)  # Time to be killed in: the stock in memory is one less already.
        self.state.buyers.append(message.buyer)
        return True


def start_node(broker: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--node", "--broker", broker])


async def kill_nodes(nodes: list[subprocess.Popen[bytes]], broker: str, kills: int, answers: Counter[str]) -> None:
    """Kill one node after another while orders are answered, and start another one in its place."""
    for _ in range(kills):
        before = answers.total()
        await trio.sleep(random.uniform(0.1, 0.5))
        while answers.total() == before:  # noqa: ASYNC110 - an example: shorter than an event that is set and replaced
            await trio.sleep(0.01)
        victim = random.randrange(len(nodes))
        nodes[victim].send_signal(signal.SIGKILL)
        await trio.to_thread.run_sync(nodes[victim].wait)
        print(f"  node {nodes[victim].pid} was killed")
        nodes[victim] = start_node(broker)


async def show(client: Client) -> None:
    """Print the stock every second, as it is committed."""
    while True:
        await trio.sleep(1)
        left = {product: (await client.ref(Product, key=product).state()).value.stock for product in PRODUCTS}
        print("  left: " + ", ".join(f"{product} {stock}" for product, stock in left.items()))


async def trade(broker: str, orders: int, kills: int) -> None:
    nodes = [start_node(broker) for _ in range(NODES)]
    try:
        async with open_client(broker) as client:
            receipts: list[tuple[str, str, Receipt[bool]]] = []
            for number in range(orders):
                product, buyer = PRODUCTS[number % len(PRODUCTS)], f"buyer {number}"
                receipts.append((product, buyer, await client.ref(Product, key=product).submit(Order(buyer))))
            answers: Counter[str] = Counter()
            bought: dict[str, list[str]] = {product: [] for product in PRODUCTS}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(show, client)
                nursery.start_soon(kill_nodes, nodes, broker, kills, answers)
                for product, buyer, receipt in receipts:
                    sold = await receipt.result(timeout=120)
                    answers["sold" if sold else "sold out"] += 1
                    if sold:
                        bought[product].append(buyer)
                nursery.cancel_scope.cancel()
            print(f"{orders} orders: {answers['sold']} sold, {answers['sold out']} came too late")
            for product in PRODUCTS:
                shelf = (await client.ref(Product, key=product).state()).value
                ordered = len([one for one, _, _ in receipts if one == product])
                assert shelf.stock == max(0, STOCK - ordered), f"{product}: {shelf.stock} are left"
                assert shelf.buyers == bought[product], f"{product}: other buyers than were told so"
                assert len(shelf.buyers) == len(set(shelf.buyers)) == STOCK - shelf.stock, f"{product}: sold twice"
            print("nothing was sold twice, nothing that was not there, and all buyers know")
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--broker", help="its URL; without it, a file that is deleted at the end")
    parser.add_argument("--node", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.node:
        run(Product, broker=arguments.broker, lease=LEASE, log_level="ERROR")
    elif arguments.broker:
        trio.run(trade, arguments.broker, arguments.orders, arguments.kills)
    else:
        with tempfile.TemporaryDirectory() as folder:
            trio.run(trade, f"sqlite:///{Path(folder) / 'shop.db'}", arguments.orders, arguments.kills)


if __name__ == "__main__":
    main()
