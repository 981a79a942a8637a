"""A shop in which something is always wrong, to look at in the dashboard.

    python examples/dashboard.py --listen 127.0.0.1:8080

Four processes run its actors: mails fail now and then, one thumbnail never ends, newsletters are paused, triggers fire,
workflows run, fail and wait for a person, and carts have states, one of which cannot be read. Without `--broker`
everything is kept in a folder that is deleted at the end.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from functools import partial
from pathlib import Path

import attrs
import trio

from actorwork import (
    Actor,
    Client,
    Cron,
    Entities,
    Entity,
    Interval,
    Message,
    Process,
    Retry,
    Settings,
    Supervisor,
    Trigger,
    open_client,
    open_system,
    receive,
)
from actorwork.web import app
from actorwork.web.serving import place_of, serve_pages
from actorwork.workflows import Flow, group, signal, step


@attrs.frozen
class Mail(Message["Mailer", None]):
    to: str
    subject: str
    smtp_password: str = "hunter2"  # noqa: S105 - so that there is something to mask


@attrs.frozen
class Picture(Message["Thumbnailer", str]):
    path: str
    is_stuck: bool = False


@attrs.frozen
class Invoice(Message["Billing", str]):
    order: int


@attrs.frozen
class Put(Message["Cart", None]):
    article: str
    pieces: int


@attrs.define
class Contents:
    articles: dict[str, int] = attrs.field(factory=dict[str, int])
    voucher_token: str = "SUMMER-7781"  # noqa: S105 - so that there is something to mask


class Cart(Entity[Contents]):
    settings = Settings(title="cart", concurrency=8, entities=Entities(history=20, ttl="90d"))

    @receive
    async def put(self, message: Put) -> None:
        await trio.sleep(random.uniform(0.0, 0.02))
        found = self.state.articles
        found[message.article] = found.get(message.article, 0) + message.pieces


class Mailer(Actor):
    settings = Settings(
        title="mailer",
        description="Sends mail to customers",
        sources={"mails", "newsletters"},
        concurrency=4,
        triggers=[
            Trigger(title="digest", schedule=Interval(seconds=20), kwargs={"kind": "digest"}),
            Trigger(title="nightly newsletter", schedule=Cron("30 2 * * *", "Europe/Berlin"), kwargs={"kind": "news"}),
        ],
    )

    @receive
    async def send(self, message: Mail) -> None:
        await trio.sleep(random.uniform(0.02, 0.3))
        if message.to.endswith("@example.invalid"):
            raise ConnectionRefusedError(f"no mail server for {message.to}")
        if "@" not in message.to:
            raise ValueError(f"{message.to!r} is no address")
        if random.random() < 0.05:
            raise Retry(60, reason="the server is busy")

    @receive
    async def send_to_all(self, *, kind: str) -> None:
        await trio.sleep(0.5)


class Thumbnailer(Actor):
    settings = Settings(title="thumbnailer", sources={"pictures"}, concurrency=2, execution_timeout="1h")

    @receive
    async def shrink(self, message: Picture) -> str:
        if message.is_stuck:
            await trio.sleep_forever()
        for done in range(10):
            await trio.sleep(random.uniform(0.05, 0.4))
            self.context.progress(done + 1, 10, "scaling")
        return f"{message.path}.small"


class Billing(Actor):
    settings = Settings(title="billing", sources={"invoices"}, results_ttl="1d")

    @receive
    async def bill(self, message: Invoice) -> str:
        await trio.sleep(random.uniform(0.1, 0.6))
        if message.order % 7 == 0:
            raise LookupError(f"order {message.order} has no customer")
        return f"invoice-{message.order}.pdf"


ARTICLES = ("tea", "coffee", "cups", "a pot")
CARTS = (Cart.settings.default_source, Cart.settings.id)


def shop() -> Supervisor:
    return Supervisor(
        [
            Process([Mailer, Thumbnailer], replicas=2),
            Process([Billing]),
            Process([Cart]),
        ],
        strategy="one_for_one",
    )


def closing(day: int) -> Flow[None]:
    """Bill the orders of a day, then wait for a person, then tell the owner."""
    invoices = group(step(Billing, Invoice(day * 10 + number), name=f"bill {number}") for number in range(6))
    approval = signal("approved", bool)
    return Flow(
        step(Mailer, Mail("owner@example.org", "closed"), name="tell the owner", after=[*invoices.members, approval]),
        title=f"closing of day {day}",
    )


def gallery(day: int) -> Flow[list[str]]:
    return Flow(
        group(step(Thumbnailer, Picture(f"{day}/{number}.jpg"), name=f"shrink {number}") for number in range(8)),
        title=f"gallery of day {day}",
    )


async def keep_busy(client: Client) -> None:
    """Send what keeps a shop busy, and what goes wrong in one."""
    people = ["ann", "ben", "carla", "dora", "emil"]
    await client.ref(Thumbnailer).submit(Picture("raw/0815.tiff", is_stuck=True), id="stuck-picture")
    await client.pause(source="newsletters", reason="the text is not approved yet")
    for number in range(40):
        await client.publish("newsletters", {"kind": "news", "number": number})
        await client.ref(Mailer).tell(Mail(f"{random.choice(people)}@example.org", "reminder"), delay=600 + 90 * number)
    for day in range(1, 5):
        await client.start(closing(day), id=f"closing-{day}")
        await client.start(gallery(day), id=f"gallery-{day}")
    # As a later version of the program would have written it.
    await client.ref(Cart, key="customer-0042").put(Contents())
    await client.broker.entities.put(*CARTS, "customer-0042", b'{"lines": []}', schema=9)
    await client.ref(Cart, key="customer-0042").tell(Put("tea", 1))
    for number in range(1_000_000):
        customer = random.choice([7, 7, 7, 19, 19, random.randrange(400)])
        await client.ref(Cart, key=f"customer-{customer:04}").tell(Put(random.choice(ARTICLES), 1))
        where = random.choices(["example.org", "example.invalid", ""], [90, 6, 4])[0]
        to = f"{random.choice(people)}@{where}" if where else random.choice(people)
        await client.ref(Mailer).tell(Mail(to, f"order {number}"))
        if number % 5 == 0:
            await client.ref(Thumbnailer).submit(Picture(f"products/{number}.jpg"))
            await client.ref(Billing).submit(Invoice(number))
        await trio.sleep(random.expovariate(8))


async def main(broker: str, listen: str) -> None:
    async with (
        open_system(shop(), broker=broker) as system,
        open_client(broker) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(keep_busy, client)
        print(
            "the dashboard is at", await nursery.start(partial(serve_pages, app(broker), place_of(listen))), flush=True
        )
        await system.wait_stopped()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", help="such as redis://localhost:6379/0; default: a file, deleted at the end")
    options.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT; port 0 takes any that is free")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = chosen.broker or f"sqlite:///{Path(folder) / 'shop.sqlite3'}"
        try:
            trio.run(main, url, chosen.listen)
        except* KeyboardInterrupt:
            print()
