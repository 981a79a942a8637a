"""A client in a Flask application.

    actors = Actorwork()                        # beside the app, or in a module of extensions

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config["ACTORWORK_BROKER"] = "redis://localhost:6379/0"
        actors.init_app(app)
        return app

    @app.post("/orders")
    def order() -> dict[str, str]:
        return {"id": actors.client.ref("mailer").submit({"order": request.json}).id}

The client is one of `actorwork.sync`; all threads of a process share it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from actorwork.durations import Duration, seconds_of
from actorwork.errors import BrokerError, NotRunning
from actorwork.integrations.extras import missing
from actorwork.integrations.lazy import LazyClient

try:
    from flask import Flask, Response, current_app
except ModuleNotFoundError as error:
    raise missing("flask", error) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actorwork.abc import PublishMiddleware
    from actorwork.blocking.client import Client

__all__ = ["Actorwork"]

EXTENSION: Final = "actorwork"
"""Its name among `app.extensions`."""
BROKER: Final = "ACTORWORK_BROKER"
PATIENCE: Final = "ACTORWORK_PATIENCE"


class Actorwork:
    """An extension of Flask: `client` is that of the application in whose context it is used.

    The configuration of an application goes first: `ACTORWORK_BROKER` (a URL) and `ACTORWORK_PATIENCE` (how long a call
    waits for a broker that is away). Without a URL it is the embedded broker. `middleware` processes every message
    before it is sent.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        broker: str | None = None,
        patience: Duration = 10,
        middleware: Sequence[PublishMiddleware] = (),
    ) -> None:
        self._broker = broker
        self._patience = patience
        self._middleware = middleware
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return "<Actorwork>"

    def init_app(self, app: Flask) -> None:
        """Prepare an application; opens nothing.

        While the broker cannot be reached, it answers 503 with `Retry-After`, unless it has a handler of its own for
        `BrokerError`. Raises `ValueError` or `TypeError` for a patience that is no duration.
        """
        config = cast("dict[str, Any]", app.config)
        config.setdefault(BROKER, self._broker)
        config.setdefault(PATIENCE, self._patience)
        patience = seconds_of(PATIENCE, config[PATIENCE])
        app.extensions[EXTENSION] = LazyClient(config[BROKER], patience, self._middleware)
        app.register_error_handler(BrokerError, _unreachable)

    @property
    def client(self) -> Client:
        """The client of the current application, opened by the first call.

        Raises `BrokerError`, and `NotRunning` for an application without this extension; outside of an application's
        context it raises the `RuntimeError` of Flask.
        """
        return _of(current_app).reached()

    def close(self, app: Flask) -> None:
        """Close the client of an application, as a test does at its end; the next call opens another one."""
        _of(app).close()


def _of(app: Any) -> LazyClient:
    lazy = app.extensions.get(EXTENSION)
    if not isinstance(lazy, LazyClient):
        raise NotRunning(f"the application {app.name!r} has no client: call init_app of the extension with it")
    return lazy


def _unreachable(_: Exception) -> Response:
    return Response("the broker cannot be reached", 503, {"Retry-After": "5"}, mimetype="text/plain")
