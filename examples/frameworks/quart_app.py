"""With Quart-Trio: the actor runs in the application, on one loop, and the server is Hypercorn's for Trio.

hypercorn --worker-class trio examples.frameworks.quart_app:app
curl -H 'Content-Type: application/json' -d '{"text": "one two"}' http://127.0.0.1:8000/texts
curl http://127.0.0.1:8000/texts/ID
"""

import os
from typing import Any

from quart import abort, request
from quart_trio import QuartTrio

from actorwork import Status
from actorwork.integrations.quart import Actorwork

from .actors import Count, Counter


def make_app(broker: str | None) -> QuartTrio:
    app = QuartTrio(__name__)
    actors = Actorwork(app, Counter, broker=broker)

    @app.post("/texts")
    async def create() -> tuple[dict[str, str], int]:
        text = await request.get_json()
        receipt = await actors.client.ref(Counter).submit(Count(text["text"]))
        return {"id": receipt.id}, 202

    @app.get("/texts/<id>")
    async def show(id: str) -> dict[str, Any]:
        receipt = actors.client.ref(Counter).receipt(id)
        status = await receipt.status()
        if status is Status.UNKNOWN:
            abort(404)
        return {"id": id, "status": status, "words": await receipt.result() if status is Status.SUCCESS else None}

    return app


app = make_app(os.environ.get("ACTORWORK_BROKER"))
