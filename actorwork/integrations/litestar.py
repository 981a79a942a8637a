"""A client in a Litestar application, and the dashboard if it is wanted; on asyncio and on Trio.

    app = Litestar([order, follow], plugins=[ActorworkPlugin("redis://localhost:6379/0", dashboard="/actors")])

    @post("/orders")
    async def order(data: JSONBody[Order], actors: ClientDep) -> dict[str, str]:
        receipt = await actors.ref(Mailer).submit(Confirm(data.email))
        return {"id": receipt.id}

    @get("/orders/{id:str}/events")
    async def follow(id: FromPath[str], actors: ClientDep) -> Stream:
        return await event_response(actors.receipt(id))

Litestar gives the client to each handler that has a parameter called `actors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from actorwork.asynchronous.server_sent import Watched
from actorwork.clients.client import Client
from actorwork.durations import Duration
from actorwork.errors import BrokerError, NotRunning
from actorwork.integrations.extras import missing
from actorwork.integrations.following import known_events

try:
    from litestar import Litestar, asgi
    from litestar.config.app import AppConfig
    from litestar.datastructures import State
    from litestar.di import NamedDependency, Provide
    from litestar.exceptions import NotFoundException, ServiceUnavailableException
    from litestar.plugins import InitPlugin
    from litestar.response import Stream

    from actorwork.integrations.opened import OpenedClient, open_kept_client
except ModuleNotFoundError as error:
    raise missing("litestar", error) from error

if TYPE_CHECKING:
    from actorwork.abc import PublishMiddleware
    from actorwork.web.access import Rule
    from actorwork.web.dashboard import Dashboard

__all__ = ["ActorworkPlugin", "ClientDep", "event_response"]

ClientDep: TypeAlias = NamedDependency[Client]
"""The client of the application, as the parameter `actors` of a handler."""

STATE: Final = "actorwork"
"""The name of the client in the state of the application."""


class ActorworkPlugin(InitPlugin):
    """A plugin that opens a client of a broker for the time of the application, and provides it to handlers.

    A handler takes it by a parameter called `actors`, or what `dependency` says. The start waits at most `patience` for
    the broker, and then raises `BrokerError`; it raises at once if the broker refuses. If the broker is not `required`,
    the application starts without it, and handlers that want the client answer 503 after `patience`. `middleware`
    processes every message before it is sent. With `dashboard`, a path, the dashboard is mounted there, for those whom
    `access` lets in, by default requests from this machine; it needs the extra `web`.
    """

    def __init__(
        self,
        broker: str | None = None,
        *,
        dependency: str = "actors",
        middleware: Sequence[PublishMiddleware] = (),
        patience: Duration = 10,
        required: bool = True,
        dashboard: str | None = None,
        access: Rule | Iterable[Rule] | None = None,
    ) -> None:
        self._broker = broker
        self._dependency = dependency
        self._middleware = middleware
        self._patience = patience
        self._required = required
        self._path = dashboard
        self._access = access

    def __repr__(self) -> str:
        return f"<ActorworkPlugin, {self._dependency!r}>"

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add the lifespan, the dependency and the dashboard to an application; opens nothing."""
        lifespan = cast("list[Any]", app_config.lifespan)
        lifespan.append(self._live)
        app_config.dependencies[self._dependency] = Provide(_client)
        if self._path is not None:
            from actorwork.web import app as dashboard_of  # noqa: PLC0415 - the extra `web` may be missing

            dashboard = dashboard_of(self._broker, access=self._access, root_path=self._path)
            app_config.route_handlers.append(_mounted(self._path, dashboard))
            lifespan.append(_opened(dashboard))
        return app_config

    @asynccontextmanager
    async def _live(self, app: Litestar) -> AsyncGenerator[None]:
        async with open_kept_client(
            self._broker, middleware=self._middleware, patience=self._patience, required=self._required
        ) as kept:
            app.state[STATE] = kept
            try:
                yield
            finally:
                del app.state[STATE]


async def _client(state: State) -> Client:
    """Return the client of the application; answers 503 while the broker has not been reached since the start."""
    kept = state.get(STATE)
    if not isinstance(kept, OpenedClient):
        raise NotRunning(
            "this application has no client yet: its lifespan runs under a server, or in `with TestClient`"
        )
    try:
        return await kept.reached()
    except BrokerError:
        raise ServiceUnavailableException(detail="the broker cannot be reached", headers={"Retry-After": "5"}) from None


def _opened(dashboard: Dashboard) -> Callable[[Litestar], Any]:
    return lambda _: dashboard.open()


def _mounted(path: str, dashboard: Dashboard) -> Any:
    @asgi(path, is_mount=True, copy_scope=True)
    async def actors_dashboard(scope: Any, receive: Any, send: Any) -> None:
        await dashboard(scope, receive, send)

    return actors_dashboard


async def event_response(
    watched: Watched[Any], *, data: Callable[[Any], object] | None = None, keep_alive: Duration = 15
) -> Stream:
    """Return a response that follows a receipt or a run by server-sent events, as `actorwork.aio.events` makes them.

    Answers 404 for one that the broker does not know. On asyncio only: raises `NotRunning` on Trio.
    """
    stream = await known_events(watched, data, keep_alive)
    if stream is None:
        raise NotFoundException(detail="nothing is known of it, or is known no longer")
    headers = {name: value for name, value in stream.headers.items() if name != "Content-Type"}
    media_type = stream.headers["Content-Type"].partition(";")[0]  # Litestar adds the character set itself
    return Stream(aiter(stream), headers=headers, media_type=media_type)
