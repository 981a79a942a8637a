"""A client in a FastAPI application: what `starlette` offers, and a dependency for the signatures of routes.

    app = FastAPI(lifespan=lifespan("redis://localhost:6379/0"))

    @app.post("/orders", status_code=202)
    async def order(order: Order, actors: ClientDep) -> dict[str, str]:
        receipt = await actors.ref(Mailer).submit(Confirm(order.email))
        return {"id": receipt.id}

    @app.get("/orders/{id}/events")
    async def follow(id: str, actors: ClientDep) -> Response:
        return await event_response(actors.receipt(id))

A test replaces the client: `app.dependency_overrides[client] = lambda: fake`.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from actorwork.clients.client import Client
from actorwork.integrations.extras import missing

try:
    from fastapi import Depends

    from actorwork.integrations.starlette import client, event_response, lifespan
except ModuleNotFoundError as error:
    raise missing("fastapi", error) from error

__all__ = ["ClientDep", "client", "event_response", "lifespan"]

ClientDep: TypeAlias = Annotated[Client, Depends(client)]
"""The client of the application, as a parameter of a route."""
