"""With FastAPI: a dependency for the client, and progress as server-sent events.

uvicorn examples.frameworks.fastapi_app:app --timeout-graceful-shutdown 3
curl -H 'Content-Type: application/json' -d '{"text": "one two"}' http://127.0.0.1:8000/texts
curl http://127.0.0.1:8000/texts/ID/events
"""

import os

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

from actorwork import Status
from actorwork.integrations.fastapi import ClientDep, event_response, lifespan

from .actors import Count, Counter


class Text(BaseModel):
    text: str


class Counting(BaseModel):
    id: str
    status: Status = Status.PENDING
    words: int | None = None


def make_app(broker: str | None) -> FastAPI:
    """Return the application; it starts when the broker is reached, or exits after ten seconds without it."""
    app = FastAPI(title="Texts", lifespan=lifespan(broker))

    @app.post("/texts", status_code=202)
    async def create(text: Text, actors: ClientDep) -> Counting:
        receipt = await actors.ref(Counter).submit(Count(text.text))
        return Counting(id=receipt.id)

    @app.get("/texts/{id}")
    async def show(id: str, actors: ClientDep) -> Counting:
        receipt = actors.ref(Counter).receipt(id)
        status = await receipt.status()
        if status is Status.UNKNOWN:
            raise HTTPException(404)
        return Counting(id=id, status=status, words=await receipt.result() if status is Status.SUCCESS else None)

    @app.get("/texts/{id}/events")
    async def follow(id: str, actors: ClientDep) -> Response:
        return await event_response(actors.ref(Counter).receipt(id))

    return app


app = make_app(os.environ.get("ACTORWORK_BROKER"))
