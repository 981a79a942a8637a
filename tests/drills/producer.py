"""A producer with a spool, in a process of its own: python producer.py URL SPOOL LEDGER RATE

It sends rising numbers to each of its sources, and notes each number before it is sent and once it is accepted. When
it is started again with the same ledger, it continues after the last number that it had begun to send.
"""

import signal
import sys
from pathlib import Path

import trio

from actorwork import Client, Spool, open_client
from actorwork.testing.ledger import Ledger

SOURCES = ("orders", "returns")


async def produce(client: Client, ledger: Ledger, source: str, first: int, rate: float) -> None:
    began = trio.current_time()
    for sent, number in enumerate(range(first, sys.maxsize)):
        await trio.sleep_until(began + sent * len(SOURCES) / rate)
        ledger.note("begun", source=source, number=number)
        await client.publish(source, number)
        ledger.note("kept", source=source, number=number)


async def main(url: str, path: str, ledger: Ledger, rate: float) -> None:
    begun = ledger.notes("begun")
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with (
            open_client(url, spool=Spool(path=Path(path), patience=0.2)) as client,
            trio.open_nursery() as nursery,
        ):
            for source in SOURCES:
                last = max((note.facts["number"] for note in begun if note.facts["source"] == source), default=-1)
                nursery.start_soon(produce, client, ledger, source, last + 1, rate)
            async for _ in signals:
                # Closing the client replays what is left in the spool, for a moment.
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], Ledger(Path(sys.argv[3])), float(sys.argv[4]))
