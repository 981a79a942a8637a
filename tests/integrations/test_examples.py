"""The same application in each framework, by the framework's own test client."""

from pathlib import Path

import httpx
import pytest
import trio
from fastapi.testclient import TestClient

from examples.frameworks import fastapi_app, flask_app, quart_app
from tests.examples.programs import api_of, running, until
from tests.patience import PATIENCE

TEXT = "the quick brown fox"


def test_fastapi_accepts_a_text_and_shows_how_far_it_is(counter: str) -> None:
    with TestClient(fastapi_app.make_app(counter)) as browser:
        accepted = browser.post("/texts", json={"text": TEXT})
        assert accepted.status_code == 202
        sent = accepted.json()["id"]
        events = browser.get(f"/texts/{sent}/events").text
        assert events.rstrip().splitlines()[-2] == "event: end"
        assert browser.get(f"/texts/{sent}").json() == {"id": sent, "status": "SUCCESS", "words": 4}
        assert browser.get("/texts/unheard-of").status_code == 404


def test_flask_accepts_a_text_and_shows_its_words(counter: str) -> None:
    app = flask_app.make_app(counter)
    browser = app.test_client()
    accepted = browser.post("/texts", data={"text": TEXT})
    assert accepted.status_code == 202
    sent = accepted.get_json()["id"]
    with app.app_context():
        assert flask_app.actors.client.receipt(sent).result(timeout=PATIENCE) == 4
    assert browser.get(f"/texts/{sent}").get_json() == {"id": sent, "status": "SUCCESS", "words": 4}
    assert browser.get("/texts/unheard-of").status_code == 404
    flask_app.actors.close(app)


async def test_quart_accepts_a_text_and_shows_its_words(tmp_path: Path) -> None:
    app = quart_app.make_app(f"sqlite:///{tmp_path / 'messages.db'}")
    async with app.test_app() as serving:
        browser = serving.test_client()
        accepted = await browser.post("/texts", json={"text": TEXT})
        assert accepted.status_code == 202
        sent = (await accepted.get_json())["id"]
        while (shown := await (await browser.get(f"/texts/{sent}")).get_json())["words"] is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert shown == {"id": sent, "status": "SUCCESS", "words": 4}
        assert (await browser.get("/texts/unheard-of")).status_code == 404


@pytest.mark.long
def test_uvicorn_serves_it_with_two_workers_that_have_a_client_each(counter: str, tmp_path: Path) -> None:
    command = ("uvicorn", "examples.frameworks.fastapi_app:app", "--port", "0", "--workers", "2")
    with running(tmp_path / "log", *command, env={"ACTORWORK_BROKER": counter}) as program:
        until(lambda: program.wrote().count("Application startup complete") == 2 or None, "{}", program.wrote)
        with api_of(program) as api:
            ids = [api.post("/texts", json={"text": TEXT}).json()["id"] for _ in range(10)]
            for sent in ids:
                until(lambda sent=sent: api.get(f"/texts/{sent}").json()["words"], f"the words of {sent}")


@pytest.mark.long
def test_the_command_of_a_django_project_runs_the_tasks_that_its_server_has_sent(
    redis_url: str, tmp_path: Path
) -> None:
    project = "examples.frameworks.django_project"
    environment = {"ACTORWORK_BROKER": redis_url}
    serving = ("runserver", "--noreload", "--nothreading", "127.0.0.1:0")
    with (
        running(tmp_path / "worker.log", project, "actorwork", env=environment) as worker,
        running(tmp_path / "server.log", project, *serving, env=environment) as server,
    ):
        worker.wait_for("reads for django:default")
        url = server.wait_for(r"server at (http://[\d.:]+)")[1]
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as browser:
            sent = browser.post("/texts", data={"text": TEXT}).json()["id"]
            until(lambda: browser.get(f"/texts/{sent}").json()["words"], "the words")
            assert browser.get(f"/texts/{sent}").json() == {"id": sent, "status": "SUCCESSFUL", "words": 4}
            assert browser.post("/orders", data={"text": TEXT}).status_code == 202
            assert browser.get("/texts/unheard-of").status_code == 404
