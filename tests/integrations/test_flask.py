"""The extension for Flask, by Flask's own test client."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from actorwork import BrokerError, MissingExtra, NotRunning
from actorwork.integrations.flask import Actorwork
from actorwork.integrations.lazy import LazyClient
from examples.frameworks.actors import Count, Counter
from tests.examples.programs import running, until
from tests.patience import PATIENCE


@pytest.fixture
def actors() -> Actorwork:
    return Actorwork(patience=60)


@pytest.fixture
def app(actors: Actorwork, counter: str) -> Iterator[Flask]:
    app = Flask("texts")
    app.config["ACTORWORK_BROKER"] = counter
    actors.init_app(app)

    @app.get("/count/<text>")
    def count(text: str) -> str:
        return f"{actors.client.ref(Counter).ask(Count(text), timeout=PATIENCE)} words"

    yield app
    actors.close(app)


def test_a_view_asks_an_actor_by_one_client_for_all_requests(app: Flask, actors: Actorwork) -> None:
    browser = app.test_client()
    assert browser.get("/count/one two").text == browser.get("/count/three four").text == "2 words"
    with app.app_context():
        assert actors.client.statistics()["asked"] == 2


def test_each_application_has_a_client_of_its_own(app: Flask, actors: Actorwork, tmp_path: Path) -> None:
    other = Flask("other")
    other.config["ACTORWORK_BROKER"] = f"sqlite:///{tmp_path / 'messages.db'}"
    actors.init_app(other)
    with app.app_context():
        client = actors.client
    with other.app_context():
        assert actors.client is not client
        assert actors.client is actors.client
    actors.close(other)


def test_a_client_that_was_closed_is_opened_again(app: Flask, actors: Actorwork) -> None:
    for _ in range(2):
        assert app.test_client().get("/count/one").text == "1 words"
        actors.close(app)


@pytest.mark.parametrize("has_handler", [False, True])
def test_an_application_answers_503_while_the_broker_is_away(tmp_path: Path, *, has_handler: bool) -> None:
    app = Flask("texts")
    actors = Actorwork(app, broker=f"unix://{tmp_path / 'redis.sock'}", patience=0.05)

    @app.get("/")
    def send() -> str:
        return actors.client.publish("texts", {})

    if has_handler:
        app.register_error_handler(BrokerError, lambda _: "later")
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.headers.get("Retry-After")) == ((200, None) if has_handler else (503, "5"))


def test_an_application_without_the_extension_is_told_so(actors: Actorwork) -> None:
    with Flask("texts").app_context(), pytest.raises(NotRunning, match="'texts' has no client: call init_app"):
        _ = actors.client


def test_a_patience_that_is_no_duration_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="ACTORWORK_PATIENCE"):
        Actorwork(Flask("texts"), patience="soon")


def test_of_two_threads_that_open_the_client_at_once_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = importlib.import_module("actorwork.integrations.lazy")
    ours = LazyClient(f"sqlite:///{tmp_path / 'messages.db'}", 60)
    first: list[Any] = []
    opened: list[Any] = []
    really: Any = lazy.open_client

    def open_client(*arguments: Any, **options: Any) -> Any:
        if not opened:
            opened.append(None)
            first.append(ours.reached())  # What another thread does meanwhile.
        return really(*arguments, **options)

    monkeypatch.setattr(lazy, "open_client", open_client)
    assert ours.reached() is first[0]
    assert first[0].publish("texts", {})
    ours.close()


def test_the_error_for_a_missing_flask_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "actorwork.integrations.flask")
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(MissingExtra, match=r'pip install "actorwork\[flask\]"'):
        importlib.import_module("actorwork.integrations.flask")


@pytest.mark.long
def test_a_client_that_was_used_before_gunicorn_forks_is_used_in_each_worker(redis_url: str, tmp_path: Path) -> None:
    command = ("gunicorn", "--preload", "--workers", "2", "--bind", "127.0.0.1:0", "tests.integrations.preloaded:app")
    with running(tmp_path / "log", *command, env={"ACTORWORK_BROKER": redis_url}) as server:
        url = server.wait_for(r"Listening at: (http://[\d.:]+)")[1]
        answers: list[dict[str, Any]] = []

        def ask() -> bool | None:
            with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as browser:
                answers.append(browser.get("/send").json())
            return len({answer["process"] for answer in answers}) == 2 or None

        until(ask, "an answer of the other worker")
    sent = [answer["sent"] for answer in answers]
    assert len({answers[0]["before"], *sent}) == 1 + len(sent)
