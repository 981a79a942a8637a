"""With Flask: the sync client, as an extension.

flask --app examples.frameworks.flask_app:make_app run
gunicorn --preload --workers 4 'examples.frameworks.flask_app:make_app()'
curl -d 'text=one two' http://127.0.0.1:5000/texts
curl http://127.0.0.1:5000/texts/ID
"""

import os
from typing import Any

from flask import Flask, abort, request

from actorwork import Status
from actorwork.integrations.flask import Actorwork

from .actors import Count, Counter

actors = Actorwork()


def make_app(broker: str | None = None) -> Flask:
    app = Flask(__name__)
    app.config["ACTORWORK_BROKER"] = broker or os.environ.get("ACTORWORK_BROKER")
    actors.init_app(app)

    @app.post("/texts")
    def create() -> tuple[dict[str, str], int]:
        return {"id": actors.client.ref(Counter).submit(Count(request.form["text"])).id}, 202

    @app.get("/texts/<id>")
    def show(id: str) -> dict[str, Any]:
        receipt = actors.client.ref(Counter).receipt(id)
        status = receipt.status()
        if status is Status.UNKNOWN:
            abort(404)
        return {"id": id, "status": status, "words": receipt.result() if status is Status.SUCCESS else None}

    return app
