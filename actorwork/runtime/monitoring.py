"""The monitor of a system: `run(tree, monitor="127.0.0.1:9464")`.

It listens before the broker is opened, so that a node that cannot start is seen, and until everything has ended. Its
routes are answered in threads, and read plain attributes of the engine only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import attrs

from actorwork import events
from actorwork.inspection.metrics import BrokerRoute
from actorwork.inspection.scale import ScaleRoute
from actorwork.telemetry import health
from actorwork.telemetry.formatting import one_line
from actorwork.telemetry.heartbeat import EVERY, Heartbeat
from actorwork.telemetry.metrics.rendering import rendered
from actorwork.telemetry.monitor import Answer, MonitorServer, Request, json_answer

if TYPE_CHECKING:
    from actorwork.abc import LeaseState
    from actorwork.runtime.engine import Engine
    from actorwork.telemetry.metrics.registry import Registry
    from actorwork.telemetry.monitor import Route

_ALIASES: Final[Mapping[str, str]] = {"/livez": "/live", "/readyz": "/ready", "/startupz": "/started"}


@contextmanager
def monitored(engine: Engine, address: object) -> Generator[MonitorServer]:
    """Serve health, metrics and the waiting work of a system at an address.

    Raises `SettingsError` for an address at which it cannot listen.
    """
    beat = Heartbeat()
    routes = routes_of(engine, beat, engine.options.hang_timeout)
    with MonitorServer(address, routes, tick=beat.tick, every=EVERY) as server:
        engine.emit(events.MonitorStarted(server.url, tuple(path for path in server.routes if path not in _ALIASES)))
        yield server


def routes_of(engine: Engine, beat: Heartbeat, hang_timeout: float) -> Mapping[str, Route]:
    """Return what the monitor serves, by path."""
    routes: dict[str, Route] = {
        "/live": _route(engine, beat, lambda facts: health.live(facts, hang_timeout)),
        "/ready": _route(engine, beat, lambda facts: health.ready(facts, hang_timeout)),
        "/started": _route(engine, beat, health.started),
        "/scale": ScaleRoute(lambda: engine.broker),
    }
    if engine.metering is not None:
        routes["/metrics"] = _metrics(engine.metering.registry)
        routes["/metrics/broker"] = BrokerRoute(lambda: engine.broker)
    return {**routes, **{alias: routes[path] for alias, path in _ALIASES.items()}}


def _metrics(registry: Registry) -> Route:
    def answer(request: Request) -> Answer:
        content_type, text = rendered(registry.read(), request.headers.get("accept", ""))
        return Answer(text, content_type=content_type)

    return answer


def _route(engine: Engine, beat: Heartbeat, judge: Callable[[health.Facts], health.Verdict]) -> Route:
    def answer(_: Request) -> Answer:
        facts = facts_of(engine, beat)
        verdict = judge(facts)
        return json_answer(verdict.as_json(facts), 200 if verdict.is_well else 503)

    return answer


def facts_of(engine: Engine, beat: Heartbeat) -> health.Facts:
    """Return what is known of a system now; any thread may ask."""
    blocked = beat.blocked()
    node, shutdown = engine.node, engine.shutdown
    # The lease is given up once nothing is in flight any more, while `shutdown()` of the actors may take its time.
    lease = None if node is None or shutdown.is_drained else _harmless(node.lease_state())
    servers, away = engine.servers()
    return health.Facts(
        node="" if node is None else node.incarnation,
        has_started=engine.has_started,
        blocked=blocked,
        where=one_line(beat.where()) if blocked > EVERY else "",
        lease=lease,
        stopping=one_line(shutdown.reason) if shutdown.has_begun else None,
        servers=servers,
        away=away,
    )


def _harmless(state: LeaseState) -> LeaseState:
    return attrs.evolve(state, trouble=one_line(state.trouble)) if state.trouble else state
