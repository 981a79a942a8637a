"""The API.

uvicorn examples.products.api:app
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, status
from starlette.types import Lifespan

from actorwork import BrokerError, Status
from actorwork.aio import Client

from .configuration import CONFIGURATION
from .models import NewProduct, Product, Task, TaskInfo
from .notifier import Notifier
from .outbox import Outbox
from .store import Store

PATIENCE = 3.0
"""Seconds for which a request waits for the broker."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, object]]:
    store = Store(CONFIGURATION.database)
    outbox = Outbox(store, CONFIGURATION.broker)
    async with asyncio.TaskGroup() as tasks:
        handing_over = tasks.create_task(outbox.run())
        yield {"store": store, "outbox": outbox}
        handing_over.cancel()


routes = APIRouter()


def _store(request: Request) -> Store:
    return request.state.store


def _outbox(request: Request) -> Outbox:
    return request.state.outbox


Kept = Annotated[Store, Depends(_store)]
Outgoing = Annotated[Outbox, Depends(_outbox)]


@routes.post("/products/", status_code=status.HTTP_201_CREATED)
async def create(new: NewProduct, store: Kept, outbox: Outgoing, response: Response) -> Product:
    """Keep a product; subscribers are notified in the background."""
    product = await asyncio.to_thread(store.add, new)
    outbox.wake()
    response.headers["Location"] = f"/tasks/{product.task}"
    return product


@routes.get("/products/")
async def products(store: Kept) -> Sequence[Product]:
    """Return all products."""
    return await asyncio.to_thread(store.products)


@routes.get("/tasks/{id}", responses={404: {"description": "No such task"}, 503: {"description": "No broker"}})
async def task(id: str, store: Kept, outbox: Outgoing) -> Task:
    """Return what became of a notification."""
    is_handed_over = await asyncio.to_thread(store.is_handed_over, id)
    if is_handed_over is None:
        raise HTTPException(404, f"there is no task {id!r}")
    if not is_handed_over:
        return Task(id=id, status=Status.PENDING, info=TaskInfo(reason="waits for the broker"))
    try:
        async with asyncio.timeout(PATIENCE):
            return await look_up(await outbox.reached(), id)
    except (BrokerError, TimeoutError):
        raise HTTPException(503, "the broker does not answer; the task is safe there", {"Retry-After": "5"}) from None


async def look_up(client: Client, id: str) -> Task:
    receipt = client.ref(Notifier).receipt(id)
    known = await receipt.info()
    return Task(
        id=id,
        status=known.status,
        result=await receipt.result() if known.status is Status.SUCCESS else None,
        info=TaskInfo.model_validate(known, from_attributes=True),
    )


def make_app(lifespan: Lifespan[FastAPI] = lifespan) -> FastAPI:
    """Return the application; `lifespan` may run more beside it."""
    made = FastAPI(title="Products", version="1.0", lifespan=lifespan)
    made.include_router(routes)
    return made


app = make_app()
