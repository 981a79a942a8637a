"""A client in a Starlette application, on asyncio (uvicorn) and on Trio (Hypercorn).

    app = Starlette(routes=[…], lifespan=lifespan("redis://localhost:6379/0"))

    async def order(request: Request) -> Response:
        actors = await client(request)
        receipt = await actors.ref(Mailer).submit(Confirm(…))
        return JSONResponse({"id": receipt.id}, 202)

    async def follow(request: Request) -> Response:
        return await event_response((await client(request)).receipt(request.path_params["id"]))

`lifespan` can be entered in a lifespan of your own: `async with lifespan(url)(app) as state: yield {**state, …}`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from actorwork.asynchronous.server_sent import Watched
from actorwork.clients.client import Client
from actorwork.durations import Duration
from actorwork.errors import BrokerError, NotRunning
from actorwork.integrations.extras import missing
from actorwork.integrations.following import known_events

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection
    from starlette.responses import Response, StreamingResponse

    from actorwork.integrations.opened import OpenedClient, open_kept_client
except ModuleNotFoundError as error:
    raise missing("starlette", error) from error

if TYPE_CHECKING:
    from actorwork.abc import PublishMiddleware

__all__ = ["client", "event_response", "lifespan"]

STATE: Final = "actorwork"
"""The name of the client in the state of requests."""


def lifespan(
    broker: str | None = None,
    *,
    middleware: Sequence[PublishMiddleware] = (),
    patience: Duration = 10,
    required: bool = True,
) -> Callable[[object], AbstractAsyncContextManager[dict[str, Any]]]:
    """Return a lifespan that keeps a client open, of a broker named by its URL, or of the embedded one.

    The start waits at most `patience` for the broker, and then raises `BrokerError`, so that the server exits; it
    raises at once if the broker refuses. If the broker is not `required`, the application starts without it, and
    routes that ask for the client answer 503 after `patience`. `middleware` processes every message before it is sent.
    """

    @asynccontextmanager
    async def opened(_: object) -> AsyncGenerator[dict[str, Any]]:
        async with open_kept_client(broker, middleware=middleware, patience=patience, required=required) as kept:
            yield {STATE: kept}

    return opened


async def client(connection: HTTPConnection) -> Client:
    """Return the client of the application that a request is for; in FastAPI, a dependency.

    Answers 503 while the broker has not been reached since the start. Raises `NotRunning` without the `lifespan`.
    """
    kept = getattr(connection.state, STATE, None)
    if not isinstance(kept, OpenedClient):
        raise NotRunning(
            "this application has no client: pass lifespan(url) of actorwork.integrations as its lifespan; a lifespan"
            " of your own yields the state that it yields. In tests, the lifespan runs in `with TestClient(app)`"
        )
    try:
        return await kept.reached()
    except BrokerError:
        raise HTTPException(503, "the broker cannot be reached", {"Retry-After": "5"}) from None


async def event_response(
    watched: Watched[Any], *, data: Callable[[Any], object] | None = None, keep_alive: Duration = 15
) -> Response:
    """Return a response that follows a receipt or a run by server-sent events, as `actorwork.aio.events` makes them.

    Answers 404 for one that the broker does not know. On asyncio only: raises `NotRunning` on Trio.
    """
    stream = await known_events(watched, data, keep_alive)
    if stream is None:
        raise HTTPException(404, "nothing is known of it, or is known no longer")
    return StreamingResponse(stream, headers=stream.headers)
