"""A client for asyncio programs: FastAPI, Starlette, aiohttp, bots.

    from actorwork.aio import open_client

    async with open_client("redis://localhost:6379/0") as client:
        await client.ref(Greeter).tell(Greet("Ann"))
        print(await client.ref(Greeter).ask(Greet("Ben"), timeout=5))
        run = await client.start(words(urls))
        print(await run.result(timeout=60))

`events` makes server-sent events of a receipt or a run, for a browser that follows it. Classes, names and exceptions
are those of the client for Trio. uvloop's loop will do as well; Trio is not imported.
"""

from actorwork.asynchronous.opening import open_client as open_client
from actorwork.asynchronous.server_sent import Event as Event, EventStream as EventStream, events as events
from actorwork.clients.client import Client as Client
from actorwork.clients.refs import Prepared as Prepared, Receipt as Receipt, StreamRef as StreamRef

__all__ = ["Client", "Event", "EventStream", "Prepared", "Receipt", "StreamRef", "events", "open_client"]
