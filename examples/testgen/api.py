"""Requests for tests, and their progress by polling and by server-sent events.

uvicorn examples.testgen.api:app --timeout-graceful-shutdown 3
"""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response, status
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.types import Lifespan

from actorwork import aio

from .configuration import CONFIGURATION
from .desk import Desk, Progress
from .store import Request as KeptRequest, Store

PAGE: Final = Path(__file__).with_name("page")


class Wanted(BaseModel):
    """The name of a package or a module at the top level, as in `import NAME`."""

    model_config = ConfigDict(extra="forbid")

    package: Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\W\d]\w{0,99}$")]


class Accepted(BaseModel):
    """The id under which a request can be asked after."""

    id: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, object]]:
    desk = Desk(Store(CONFIGURATION.database), CONFIGURATION.broker)
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(desk.run())
        with _before_the_server_stops(desk.end_streams):
            yield {"desk": desk}
        starting.cancel()


@contextmanager
def _before_the_server_stops(call: Callable[[], None]) -> Generator[None]:
    """Call a function when the server is asked to stop. It waits for its responses first, and a stream has no end."""
    if threading.current_thread() is not threading.main_thread():  # A test client's: it gets no signals.
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call)
        handler = handlers[signal.Signals(number)]
        if callable(handler):  # The server's.
            handler(number, frame)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


routes = APIRouter()


def _desk(request: Request) -> Desk:
    return request.state.desk


TheDesk = Annotated[Desk, Depends(_desk)]


@routes.post("/requests", status_code=status.HTTP_202_ACCEPTED)
async def request_tests(wanted: Wanted, desk: TheDesk, response: Response) -> Accepted:
    """Ask for tests of a package; the answer comes at once, the tests later."""
    accepted = await desk.accept(wanted.package)
    response.headers["Location"] = f"/requests/{accepted}"
    return Accepted(id=accepted)


@routes.get("/requests")
async def requests(desk: TheDesk) -> Sequence[KeptRequest]:
    """Return the latest requests."""
    return await asyncio.to_thread(desk.store.requests)


@routes.get("/requests/{id}")
async def progress(id: str, desk: TheDesk) -> Progress:
    """Return how far a request is."""
    await _must_exist(desk, id)
    return await desk.progress(id)


@routes.get("/requests/{id}/events")
async def events(id: str, desk: TheDesk, last_event_id: Annotated[int, Header()] = 0) -> StreamingResponse:
    """Follow a request: events `progress` and `verdict`, until it has ended; a browser connected again misses none."""
    await _must_exist(desk, id)
    stream = aio.events(desk.watch(id, last_event_id))
    return StreamingResponse(stream, headers=stream.headers)


@routes.post("/requests/{id}/cancel")
async def cancel(id: str, desk: TheDesk) -> dict[str, bool]:
    """End a request."""
    await _must_exist(desk, id)
    return {"was_open": await desk.cancel(id, "cancelled by its user")}


@routes.get("/requests/{id}/tests", response_class=PlainTextResponse)
async def tests(id: str, desk: TheDesk) -> str:
    """Return the tests of a request that has succeeded, as one file for pytest."""
    await _must_exist(desk, id)
    return "\n\n".join(one.source for one in await asyncio.to_thread(desk.store.tests, id))


async def _must_exist(desk: Desk, id: str) -> None:
    if await asyncio.to_thread(desk.store.request, id) is None:
        raise HTTPException(404, f"there is no request {id!r}")


def make_app(lifespan: Lifespan[FastAPI] = lifespan) -> FastAPI:
    """Return the application; `lifespan` may run more beside it."""
    made = FastAPI(title="Tests, generated", version="1.0", lifespan=lifespan)
    made.include_router(routes)
    made.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return made


app = make_app()
