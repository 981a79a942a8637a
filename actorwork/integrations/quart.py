"""Actors and a client in an application of Quart-Trio, on its own loop.

    app = QuartTrio(__name__)
    actors = Actorwork(app, [Mailer, Counter], broker="redis://localhost:6379/0")

    @app.post("/orders")
    async def order() -> dict[str, str]:
        receipt = await actors.client.ref(Mailer).submit(Confirm(…))
        return {"id": receipt.id}

The tree runs in a task of the application's nursery, from before the first request until after the last.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Unpack, cast

import trio

from actorwork.actors.tree.walking import actors_of, root_of
from actorwork.clients.opening import open_client
from actorwork.errors import NotRunning
from actorwork.integrations.extras import missing
from actorwork.runtime.options import Options, SystemOptions, refuse_unknown
from actorwork.runtime.system import open_system

try:
    from quart import current_app
    from quart_trio import QuartTrio
except ModuleNotFoundError as error:
    raise missing("quart", error) from error

if TYPE_CHECKING:
    from actorwork.clients.client import Client
    from actorwork.runtime.system import System

__all__ = ["Actorwork"]

EXTENSION: Final = "actorwork"
"""Its name among `app.extensions`."""
TIMEOUT: Final = "BACKGROUND_TASK_SHUTDOWN_TIMEOUT"
"""The setting of Quart for how long its nursery may take to end."""
MARGIN: Final = 1.0


class Actorwork:
    """An extension of Quart-Trio: hosts a tree of actors in the application, and has a client of its broker.

    Without a tree there is the client alone. The options are those of `open_system`; the shutdown of the application
    runs the staged shutdown of the tree, for which its `BACKGROUND_TASK_SHUTDOWN_TIMEOUT` is raised to `grace`, unless
    it is None: then handlers are cancelled at once.
    """

    def __init__(self, app: QuartTrio | None = None, tree: object = None, **options: Unpack[SystemOptions]) -> None:
        refuse_unknown("Actorwork", options)
        if tree is None and options.keys() - {"broker"}:
            raise TypeError(f"Actorwork without a tree takes broker= alone, got {', '.join(sorted(options))}")
        self._tree = tree
        self._options = options
        self._grace = Options.of(options).grace
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<Actorwork of {self._tree!r}>"

    def init_app(self, app: QuartTrio) -> None:
        """Prepare an application; starts nothing. Raises `TypeError` for a Quart that runs on asyncio."""
        if not isinstance(app, QuartTrio):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"this extension hosts actors on Trio, so it wants a QuartTrio, got {app!r}")
        run = _Run(self._tree, self._options)
        app.extensions[EXTENSION] = run
        config = cast("dict[str, Any]", app.config)
        if config[TIMEOUT] is not None and self._tree is not None:
            config[TIMEOUT] = max(config[TIMEOUT], self._grace + MARGIN)

        async def start() -> None:
            await app.nursery.start(run.serve)

        app.before_serving(start)
        app.after_serving(run.stop)

    @property
    def client(self) -> Client:
        """The client of the current application; raises `NotRunning` while it does not serve, and without a broker."""
        run = _run_here()
        if run.client is None:
            raise NotRunning(
                "the application has no client: it does not serve yet, or no broker feeds an actor of its tree"
            )
        return run.client

    @property
    def system(self) -> System:
        """The system of the current application; raises `NotRunning` while it does not serve, and without a tree."""
        run = _run_here()
        if run.system is None:
            raise NotRunning("the application hosts no actors: it does not serve yet, or was given no tree")
        return run.system


class _Run:
    """What one application runs."""

    def __init__(self, tree: object, options: SystemOptions) -> None:
        self._tree = tree
        self._options = options
        self.system: System | None = None
        self.client: Client | None = None
        self._end = trio.Event()
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<_Run of {self._tree!r}>"

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until the application stops, or until the tree has ended; raises its failure."""
        self._end, self._ended = trio.Event(), trio.Event()
        try:
            async with AsyncExitStack() as stack:
                broker: Any = self._options.get("broker")
                if self._tree is not None:
                    self.system = await stack.enter_async_context(open_system(self._tree, **self._options))
                    broker = self.system.broker if self._is_fed() else None
                if self._tree is None or broker is not None:
                    self.client = await stack.enter_async_context(open_client(broker))
                task_status.started()
                if self.system is None:
                    await self._end.wait()
                else:
                    await self.system.wait_stopped()
        finally:
            self.system = self.client = None
            self._ended.set()

    def _is_fed(self) -> bool:
        root = root_of(self._tree, self._options.get("intensity"))
        return self._options.get("broker") is not None or any(actors_of(root, everywhere=True))

    async def stop(self) -> None:
        """Begin the staged shutdown, and wait for its end; hurries if this is cancelled."""
        self._end.set()
        if self.system is not None:
            self.system.stop("the application stops")
        await self._ended.wait()


def _run_here() -> _Run:
    run = cast("Any", current_app).extensions.get(EXTENSION)
    if not isinstance(run, _Run):
        raise NotRunning(f"the application {current_app.name!r} has no actors: call init_app of the extension with it")
    return run
