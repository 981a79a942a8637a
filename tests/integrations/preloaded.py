"""An application of Flask that has used its client before its server forks."""

import os

from flask import Flask

from actorwork.integrations.flask import Actorwork

app = Flask(__name__)
actors = Actorwork(app, broker=os.environ["ACTORWORK_BROKER"])
with app.app_context():
    BEFORE = actors.client.publish("texts", {})


@app.get("/send")
def send() -> dict[str, str | int]:
    return {"process": os.getpid(), "before": BEFORE, "sent": actors.client.publish("texts", {})}
