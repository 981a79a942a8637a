"""A dashboard over an embedded broker in memory, and a browser of a few lines for it."""

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx

from actorwork.abc import Broker
from actorwork.brokers import open_broker
from actorwork.message import Envelope, Failure
from actorwork.policy.reports import NodeReport, written
from actorwork.policy.settlement import Fail
from actorwork.records import DeadLetter
from actorwork.state.known_actors import enter_actors
from actorwork.testing.conformance.fake_consumer import open_consumer
from actorwork.web.access import Access
from actorwork.web.dashboard import Dashboard, app

ODD = """a/b.c'"<script>alert(1)</script>&é""" + "x" * 260
"""A name that breaks what does not escape it."""
TRACEBACK = "Traceback (most recent call last):\n  ValueError: <b>bad</b>"


@attrs.frozen
class Visitor:
    """Asks a dashboard as a browser does that has one of its pages open."""

    broker: Broker
    dashboard: Dashboard
    http: httpx.AsyncClient

    async def page(self, path: str, code: int = 200, **headers: str) -> str:
        answer = await self.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        assert answer.status_code == code, answer.text
        return answer.text

    async def json(self, path: str, code: int = 200, /, **parameters: str) -> Any:
        answer = await self.http.get(f"/api{path}", params=parameters)
        assert answer.status_code == code, answer.text
        return answer.json()

    async def do(self, path: str, code: int = 200, headers: Mapping[str, str] | None = None, /, **fields: Any) -> Any:
        sent = {"sec-fetch-site": "same-origin", "content-type": "application/json"} if headers is None else headers
        answer = await self.http.post(f"/api{path}", content=json.dumps(fields), headers=sent)
        assert answer.status_code == code, answer.text
        return answer.json()

    async def submit(self, path: str, code: int = 200, /, **fields: str) -> str:
        """Send a form, as a browser without the script does."""
        answer = await self.http.post(path, data=fields, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == code, answer.text
        return answer.text


@asynccontextmanager
async def visit(
    role: str = "admin", *, address: str = "127.0.0.1", base_url: str = "http://localhost", **options: Any
) -> AsyncGenerator[Visitor]:
    """Open a dashboard whose user has a role; other options, `access` among them, are those of `app`."""
    async with open_broker(":memory:") as broker:
        options.setdefault("access", lambda _: Access("ann", role))  # pyright: ignore[reportUnknownLambdaType]
        dashboard = app(broker, **options)
        transport = httpx.ASGITransport(app=dashboard, client=(address, 4711))
        async with dashboard.open(), httpx.AsyncClient(transport=transport, base_url=base_url) as http:
            yield Visitor(broker, dashboard, http)


async def enter(broker: Broker, actors: Mapping[str, Sequence[str]]) -> None:
    """Have these actors run, as far as the broker knows."""
    await enter_actors(broker.values, actors, time.time())


async def report(broker: Broker, number: int, **facts: Any) -> None:
    """Have a node report itself; its id is the number."""
    now, _ = await broker.reports.nodes()
    host = f"host{number}"
    found = NodeReport(
        **{"name": f"{host}:1", "host": host, "pid": 1, "version": "1", "started": now, "at": now, "lease": 10, **facts}
    )
    await broker.reports.write(f"{number:032x}", written(found), now=now, ttl=600)


async def bury(
    broker: Broker, source: str, payloads: Mapping[str, object], *, reason: str = "bad", group: str = "till"
) -> Sequence[DeadLetter]:
    """Have messages, by their ids, fail for good; return the dead letters of the source."""
    async with open_consumer(broker, source, group=group) as consumer:
        for name, payload in payloads.items():
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            await broker.publish([Envelope(source, name, data, headers={"lang": "en", "X-Api-Key": "geheim"})])
            await consumer.settle(await consumer.take_one(), Fail(Failure("ValueError", reason, TRACEBACK)))
    return await broker.dead_letters.list(source)
