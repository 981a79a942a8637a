"""Requests for tests, and their progress by polling and by server-sent events.

uvicorn examples.testgen.api:app --timeout-graceful-shutdown 3
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response, status
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.types import Lifespan

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
        yield {"desk": desk}
        starting.cancel()


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
    """Follow a request: events `progress` and `verdict`, until it has ended; a reconnected browser misses none."""
    await _must_exist(desk, id)
    return StreamingResponse(
        _events(desk, id, last_event_id), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(desk: Desk, id: str, after: int) -> AsyncGenerator[str]:
    async for news in desk.watch(id, after):
        if isinstance(news, Progress):
            yield f"event: progress\ndata: {json.dumps(asdict(news))}\n\n"
        else:
            number, verdict = news
            yield f"id: {number}\nevent: verdict\ndata: {json.dumps(asdict(verdict))}\n\n"


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
