"""The plugin for Litestar, by its own test client, on asyncio and on Trio.

Litestar is imported by the tests, not with this file: each worker of the test run imports all files.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from actorwork import BrokerError, MissingExtra, NotRunning
from actorwork.web import Access
from examples.frameworks.actors import Count, Counter
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from litestar import Litestar

pytestmark = pytest.mark.usefixtures("no_litestar_logs")
LOOPS: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio")
TEXT = "the quick brown fox"


def counting(broker: str | None, **options: Any) -> Litestar:
    from litestar import Litestar, get
    from litestar.params import FromPath

    from actorwork.integrations.litestar import ActorworkPlugin, ClientDep

    async def count(text: str, actors: Any) -> int:
        return await actors.ref(Counter).ask(Count(text), timeout=PATIENCE)

    count.__annotations__.update(text=FromPath[str], actors=ClientDep, **{"return": int})
    options.setdefault("patience", 60)
    return Litestar([get("/count/{text:str}")(count)], plugins=[ActorworkPlugin(broker, **options)])


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_asks_an_actor(counter: str, loop: Literal["asyncio", "trio"]) -> None:
    from litestar.testing import TestClient

    with TestClient(counting(counter), backend=loop) as browser:
        assert browser.get("/count/one two").json() == 2


def test_a_message_is_followed_to_its_end(counter: str) -> None:
    from litestar.testing import TestClient

    from examples.frameworks import litestar_app

    with TestClient(litestar_app.make_app(counter)) as browser:
        accepted = browser.post("/texts", json={"text": TEXT})
        assert accepted.status_code == 202
        sent = accepted.json()["id"]
        followed = browser.get(f"/texts/{sent}/events")
        assert followed.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert followed.text.rstrip().splitlines()[-2] == "event: end"
        assert browser.get(f"/texts/{sent}").json() == {"id": sent, "status": "SUCCESS", "words": 4}
        assert browser.get("/texts/unheard-of").status_code == 404
        assert browser.get("/texts/unheard-of/events").status_code == 404


@pytest.mark.parametrize("loop", LOOPS)
def test_the_dashboard_is_mounted_for_those_whom_it_lets_in(counter: str, loop: Literal["asyncio", "trio"]) -> None:
    from litestar.testing import TestClient

    def access(request: Any) -> Access | None:
        return Access("ann", "viewer") if "ann" in request.headers else None

    app = counting(counter, dashboard="/actors", access=access)
    with TestClient(app, backend=loop) as browser:
        page = browser.get("/actors/actors", headers={"ann": "1"})
        assert page.status_code == 200
        assert 'href="/actors/sources"' in page.text
        assert browser.get("/actors/actors").status_code == 401


def test_a_test_replaces_the_client_and_needs_no_broker() -> None:
    from litestar import Litestar, get
    from litestar.di import NamedDependency, Provide
    from litestar.testing import TestClient

    async def count(actors: Any) -> int:
        return await actors.ref(Counter).ask(Count("one"), timeout=PATIENCE)

    async def ask(message: Count, timeout: float) -> int:
        return len(message.text)

    def ref(actor: type[Counter]) -> SimpleNamespace:
        assert actor is Counter
        return SimpleNamespace(ask=ask)

    count.__annotations__.update(actors=NamedDependency[Any], **{"return": int})
    fake = Provide(lambda: SimpleNamespace(ref=ref), sync_to_thread=False)
    app = Litestar([get("/")(count)], dependencies={"actors": fake})
    assert TestClient(app).get("/").json() == 3


def test_before_the_lifespan_the_error_says_so() -> None:
    from litestar.datastructures import State

    from actorwork.integrations import litestar

    with pytest.raises(NotRunning, match="no client yet"):
        asyncio.run(litestar._client(State()))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_start_without_the_broker_fails_after_the_patience(loop: Literal["asyncio", "trio"], tmp_path: Path) -> None:
    from litestar.testing import TestClient

    app = counting(f"unix://{tmp_path / 'redis.sock'}", patience=0.05)
    # What starts the lifespan wraps its error.
    with pytest.raises(ExceptionGroup) as caught, TestClient(app, backend=loop):
        pass
    assert caught.group_contains(BrokerError, match=r"not reached within 0\.05 s")


def test_an_application_that_can_do_without_answers_503_meanwhile(tmp_path: Path) -> None:
    from litestar.testing import TestClient

    app = counting(f"unix://{tmp_path / 'redis.sock'}", patience=0.05, required=False)
    with TestClient(app) as browser:
        answer = browser.get("/count/one")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_the_error_for_a_missing_litestar_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "actorwork.integrations.litestar", raising=False)
    monkeypatch.setitem(sys.modules, "litestar", None)
    with pytest.raises(MissingExtra, match=r'pip install "actorwork\[litestar\]"'):
        importlib.import_module("actorwork.integrations.litestar")
