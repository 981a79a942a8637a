"""A polite crawler, with a small web inside, so that it needs no internet.

It shows what holds messages back, and what happens to those that fail:

- **A rate per host.** `RateLimit(…, by="key")` makes one limit for each host, whatever the number of workers.
- **Order per key.** Each page is sent with its host as `key`: one page of a host at a time, in the order in which they
  were found, while other hosts go on.
- **No page twice.** Two pages link to each; with `unique=` the broker drops the second message.
- **Retries and dead letters.** A page that answers 503 is tried again after the time that the host asks for
  (`retry_after`). A page that is broken becomes a dead letter; at the end the letters are listed by their cause, the
  page is mended, and they are replayed.

    python examples/crawler.py                                     on the embedded broker
    python examples/crawler.py --rate 100 --pages 40               faster, and more
    python examples/crawler.py --broker redis://localhost:6379/0
"""

from __future__ import annotations

import argparse
import logging
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

import attrs
import trio

from actorwork import (
    Actor,
    Child,
    Fixed,
    Message,
    RateLimit,
    RetryPolicy,
    Settings,
    Unique,
    open_client,
    open_system,
    receive,
)
from actorwork.clients.dead_letters import pages as letters_of
from actorwork.message import Failure
from actorwork.policy.dead_letters import Cause, Selection, by_cause

logging.getLogger("actorwork").setLevel(logging.CRITICAL)  # Failures are what this is about: they are listed below.

HOSTS = ("news.example", "shop.example", "wiki.example", "tiny.example")


class Web:
    """Four hosts behind one port. Each page links to the next two; some are busy at first, and some are broken."""

    def __init__(self, pages: int) -> None:
        self.pages = {host: pages if host != "tiny.example" else 3 for host in HOSTS}
        self.served: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self.is_mended = False
        self._busy = {("wiki.example", 4), ("news.example", 7)}

    async def serve(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        path, host = re.search(rb"GET /(\d+) .*?\r\nHost: (\S+)", request, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess] - the crawler below writes no other requests
        await stream.send_all(self.answer(host.decode(), int(path)).encode())
        await stream.aclose()

    def answer(self, host: str, page: int) -> str:
        self.served[host].append((trio.current_time(), page))
        if (host, page) in self._busy:
            self._busy.remove((host, page))
            return "HTTP/1.0 503 Busy\r\nRetry-After: 0.2\r\n\r\n"
        if page % 5 == 0 and host == "shop.example" and not self.is_mended:
            return "HTTP/1.0 500 Broken\r\n\r\n"
        links = [f"<a href='/{number}'>" for number in (page + 1, page + 2) if number <= self.pages[host]]
        return "HTTP/1.0 200 OK\r\n\r\n" + "".join(links)


class Busy(Exception):
    """The host asks for a pause: `retry_after` overrides the backoff of the retry policy."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"busy for {retry_after} s")
        self.retry_after = retry_after


class Broken(Exception):
    """The page cannot be had, however often it is asked for."""


@attrs.frozen
class Fetch(Message["Crawler", None]):
    host: str
    page: int


class Crawler(Actor):
    settings = Settings(title="crawler", sources={"crawl"})

    def __init__(self, port: int, crawl: Crawl) -> None:
        self.port = port
        self.crawl = crawl

    @receive
    async def fetch(self, message: Fetch) -> None:
        text = await get(self.port, message.host, message.page)
        for number in map(int, re.findall(r"href='/(\d+)'", text)):
            self.crawl.found.add((message.host, number))
            # Sent with the settlement of this page: a page that fails has sent nothing. Most pages are linked twice;
            # the broker drops the second message.
            name = name_of(message.host, number)
            self.context.publish("crawl", Fetch(message.host, number), key=message.host, unique=name)
        self.crawl.end(message.host, message.page)

    async def failed(self, message: object, failure: Failure) -> None:
        """Runs once for a page that has become a dead letter."""
        assert isinstance(message, Fetch)
        self.crawl.fail(message.host, message.page)


def name_of(host: str, page: int) -> Unique:
    return Unique(f"{host}/{page}", ttl=600, on_conflict="first")


async def get(port: int, host: str, page: int) -> str:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"GET /{page} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b"".join([chunk async for chunk in stream]).decode()
    head, text = answer.split("\r\n\r\n", 1)
    match head.split()[1]:
        case "200":
            return text
        case "503":
            raise Busy(float(head.rsplit(" ", 1)[1]))
        case status:
            raise Broken(f"the server answers {status}")


class Crawl:
    """What is known of all pages, and how far the crawl is. It belongs to the loop, so it needs no lock."""

    def __init__(self) -> None:
        self.found: set[tuple[str, int]] = set()
        self.ended: list[tuple[str, int]] = []
        self.broken: list[tuple[str, int]] = []
        self._changed = trio.Event()

    def end(self, host: str, page: int) -> None:
        self.ended.append((host, page))
        self._change()

    def fail(self, host: str, page: int) -> None:
        self.broken.append((host, page))
        self._change()

    def _change(self) -> None:
        done = len(self.ended) + len(self.broken)
        if done % 10 == 0 or done == len(self.found):
            print(f"  {done:>4} of {len(self.found)} known pages, {len(self.broken)} of them broken", flush=True)
        self._changed.set()

    async def wait_over(self) -> None:
        while len(self.ended) + len(self.broken) < len(self.found):
            self._changed = trio.Event()
            await self._changed.wait()


def report(web: Web, rate: float) -> None:
    print(f"\n  host            requests  per second (at most {rate:g})  order of the pages")
    for host in HOSTS:
        requests = web.served[host]
        seconds = requests[-1][0] - requests[0][0]
        # The first of them began the interval, so it is not counted.
        speed = (len(requests) - 1) / seconds if seconds else 0.0
        order = " ".join(str(page) for _, page in requests)
        print(f"  {host:<16}{len(requests):>8}  {speed:>10.1f} {'▒' * round(10 * speed / rate):<14}  {order[:48]}")


async def main(broker: str, rate: float, pages: int) -> None:
    Crawler.settings = attrs.evolve(
        Crawler.settings,
        concurrency=8,
        limits=[RateLimit(rate, burst=1, by="key")],
        retry=RetryPolicy(attempts=3, backoff=Fixed(seconds=0.1), on={Broken: None}),
    )
    web, crawl = Web(pages), Crawl()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, web.serve, 0, host="127.0.0.1"))
        port: int = listeners[0].socket.getsockname()[1]
        print(f"crawling {len(HOSTS)} hosts, each at {rate:g} pages per second")
        tree = Child(partial(Crawler, port, crawl))
        async with open_system(tree, broker=broker) as system, open_client(system.broker) as client:
            for host in HOSTS:
                crawl.found.add((host, 1))
                await client.publish("crawl", Fetch(host, 1), key=host, unique=name_of(host, 1))
            await crawl.wait_over()
            report(web, rate)

            print("\n  dead letters by cause:")
            causes: Sequence[Cause] = []
            async for page in letters_of(client.broker.dead_letters, Selection(source="crawl")):
                causes = by_cause(page, causes)
            for cause in causes:
                print(f"  {cause.count:>4} × {cause.example.failure.type}: {cause.example.failure.reason}")

            print("\n  the pages are mended, and the letters replayed:")
            web.is_mended = True
            broken, crawl.broken = crawl.broken, []
            letters = await client.broker.dead_letters.list("crawl")
            await client.broker.dead_letters.replay("crawl", [letter.entry for letter in letters])
            await crawl.wait_over()
            left = await client.broker.dead_letters.list("crawl")
            pages_of = Counter(host for host, _ in crawl.ended)
            print(f"\n  {len(broken)} pages were mended, {len(left)} letters are left")
            print("  " + ", ".join(f"{host}: {pages_of[host]} pages" for host in HOSTS))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--broker", help="such as redis://localhost:6379/0; default: the embedded broker")
    options.add_argument("--rate", type=float, default=10.0, help="requests per second to one host")
    options.add_argument("--pages", type=int, default=15, help="pages of each host but one")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trio.run(main, given.broker or f"sqlite:///{directory}/crawl.sqlite3", given.rate, given.pages)
