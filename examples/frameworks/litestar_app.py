"""With Litestar: a plugin that provides the client, and mounts the dashboard.

litestar --app examples.frameworks.litestar_app:app run
curl -H 'Content-Type: application/json' -d '{"text": "one two"}' http://127.0.0.1:8000/texts
curl http://127.0.0.1:8000/texts/ID/events
open http://127.0.0.1:8000/actors/
"""

import os
from typing import Any

from litestar import Litestar, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, JSONBody
from litestar.response import Stream

from actorwork import Status
from actorwork.integrations.litestar import ActorworkPlugin, ClientDep, event_response

from .actors import Count, Counter


@post("/texts", status_code=202)
async def create(data: JSONBody[dict[str, str]], actors: ClientDep) -> dict[str, str]:
    return {"id": (await actors.ref(Counter).submit(Count(data["text"]))).id}


@get("/texts/{id:str}")
async def show(id: FromPath[str], actors: ClientDep) -> dict[str, Any]:
    receipt = actors.ref(Counter).receipt(id)
    status = await receipt.status()
    if status is Status.UNKNOWN:
        raise NotFoundException
    return {"id": id, "status": status, "words": await receipt.result() if status is Status.SUCCESS else None}


@get("/texts/{id:str}/events")
async def follow(id: FromPath[str], actors: ClientDep) -> Stream:
    return await event_response(actors.ref(Counter).receipt(id))


def make_app(broker: str | None) -> Litestar:
    return Litestar([create, show, follow], plugins=[ActorworkPlugin(broker, dashboard="/actors")])


app = make_app(os.environ.get("ACTORWORK_BROKER"))
