"""Every example that takes a broker, on a cluster of three primaries: nothing but the URL is another one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from actorwork import sync
from actorwork.testing.redis_cluster import RedisCluster
from tests.examples import test_products, test_testgen
from tests.examples.programs import PATIENCE, ROOT, api_of, running, until
from tests.examples.test_scripts import output_of
from tests.forms import forms
from tests.litestar_logs import without_logs_of_litestar

TEXT = "the quick brown fox"


@pytest.fixture
def url(redis_cluster: RedisCluster) -> str:
    redis_cluster.flush()
    return redis_cluster.url


def test_the_chapter_names_every_example() -> None:
    chapter = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`examples/([\w.]+)`", chapter))
    entries = (ROOT / "examples").iterdir()
    assert named == {path.name for path in entries if path.suffix == ".py" or (path / "__init__.py").exists()}


def quickstart(url: str, folder: Path) -> None:
    with sync.open_client(url) as client:
        client.publish("orders", {"x": 1, "message": "hi"})
    with running(folder / "log", "examples.quickstart", "--broker", url, env={}) as program:
        program.wait_for("order 1: hi")


def clock(url: str, folder: Path) -> None:
    with running(folder / "log", "examples.clock", url, env={}) as program:
        program.wait_for(r"\d\d:\d\d:\d\d\.\d+ tick")


def crawler(url: str, _: Path) -> None:
    printed = output_of("crawler", "--rate", "50", "--pages", "5", "--broker", url)
    assert re.search(r"^  shop\.example +\d+ +[\d.]+ ▒* +1 2 3", printed, re.MULTILINE)
    assert "1 pages were mended, 0 letters are left" in printed


def pool(url: str, _: Path) -> None:
    printed = output_of("pool", "--broker", url)
    assert re.search(r"all 200 orders are charged; .* 0 dead letters", printed)
    assert re.search(r"s  done \(process \d+: \d+", printed)


def everwork(url: str, _: Path) -> None:
    printed = output_of("everwork", "--pages", "10", "--broker", url)
    assert re.search(r"in the end +report   \d+ pages, \d+ words", printed)


def shop(url: str, _: Path) -> None:
    printed = output_of("shop", "--orders", "200", "--kills", "3", "--broker", url)
    assert "200 orders: 160 sold, 40 came too late" in printed
    assert printed.endswith("nothing was sold twice, nothing that was not there, and all buyers know\n")


def census(url: str, _: Path) -> None:
    printed = output_of("census", "--processes", "2", "--package", "asyncio", "--broker", url)
    (messages,) = re.findall(r"^([\d,]+) messages in", printed, re.MULTILINE)
    assert int(messages) > 20
    assert f"all {messages} files" in printed


def dashboard(url: str, folder: Path) -> None:
    with running(folder / "log", "examples.dashboard", "--broker", url, "--listen", "127.0.0.1:0", env={}) as program:
        place = program.wait_for(r"the dashboard is at (http://[\d.:]+)")[1]
        with httpx.Client(base_url=place, timeout=PATIENCE, trust_env=False) as browser:

            def shown() -> Any:
                answer = browser.get("/runs")
                assert answer.status_code == 200
                return "closing" in answer.text or None

            until(shown, "a run among the runs")
            assert browser.get("/").status_code == 200


def products(url: str, folder: Path) -> None:
    environment = test_products.of(folder, url, messenger_failures=2)
    with running(folder / "log", "examples.products", env=environment) as program, api_of(program) as api:
        task = test_products.end_of(api, api.post("/products/", json=test_products.LAMP).json())
        assert (task["status"], task["info"]["attempt"]) == ("SUCCESS", 3)


def generated_tests(url: str, folder: Path) -> None:
    with test_testgen.program_of(folder, url, messages_per_process=3) as program, api_of(program) as api:
        *_, (_, end) = test_testgen.events_of(api, f"{test_testgen.requested(api, 'sample')}/events")
        assert end["status"] == "SUCCESS"
        assert end["summary"] == {"functions": 1, "written": 4, "passed": 3, "saved": 2}


def fastapi(url: str, folder: Path) -> None:
    serve = ("uvicorn", "examples.frameworks.fastapi_app:app", "--port", "0")
    work = ("actorwork", "run", "examples.frameworks.actors:Counter", "--broker", url)
    with (
        running(folder / "worker", *work, env={}),
        running(folder / "api", *serve, env={"ACTORWORK_BROKER": url}) as program,
        api_of(program) as api,
    ):
        sent = api.post("/texts", json={"text": TEXT}).json()["id"]
        assert until(lambda: api.get(f"/texts/{sent}").json()["words"], "the words") == 4


def django(url: str, folder: Path) -> None:
    project, environment = "examples.frameworks.django_project", {"ACTORWORK_BROKER": url}
    serving = ("runserver", "--noreload", "--nothreading", "127.0.0.1:0")
    with (
        running(folder / "worker", project, "actorwork", env=environment),
        running(folder / "server", project, *serving, env=environment) as server,
    ):
        place = server.wait_for(r"server at (http://[\d.:]+)")[1]
        with httpx.Client(base_url=place, timeout=PATIENCE, trust_env=False) as browser:
            sent = browser.post("/texts", data={"text": TEXT}).json()["id"]
            assert until(lambda: browser.get(f"/texts/{sent}").json()["words"], "the words") == 4


def quart_flask_and_litestar(url: str, _: Path) -> None:
    """The actor runs in the first of them, and the others, each with a client of its own kind, send to it."""
    # Not above: each worker imports every test.
    from litestar.testing import TestClient

    from examples.frameworks import flask_app, quart_app

    def by_flask() -> None:
        app = flask_app.make_app(url)
        sent = app.test_client().post("/texts", data={"text": TEXT}).get_json()["id"]
        with app.app_context():
            assert flask_app.actors.client.receipt(sent).result(timeout=PATIENCE) == 4
        flask_app.actors.close(app)

    def by_litestar() -> None:
        from examples.frameworks import litestar_app

        with TestClient(litestar_app.make_app(url)) as browser:
            sent = browser.post("/texts", json={"text": TEXT}).json()["id"]
            assert until(lambda: browser.get(f"/texts/{sent}").json()["words"], "the words") == 4

    async def main() -> None:
        async with quart_app.make_app(url).test_app() as serving:
            browser = serving.test_client()
            sent = (await (await browser.post("/texts", json={"text": TEXT})).get_json())["id"]
            while (await (await browser.get(f"/texts/{sent}")).get_json())["words"] != 4:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await trio.to_thread.run_sync(by_flask)
            await trio.to_thread.run_sync(by_litestar)

    with without_logs_of_litestar():
        trio.run(main)


CHECKS: dict[str, list[Callable[[str, Path], None]]] = {
    "quickstart.py": [quickstart],
    "crawler.py": [crawler],
    "clock.py": [clock],
    "pool.py": [pool],
    "everwork.py": [everwork],
    "shop.py": [shop],
    "census.py": [census],
    "dashboard.py": [dashboard],
    "products": [products],
    "testgen": [generated_tests],
    "frameworks": [fastapi, django, quart_flask_and_litestar],
}
QUICK = [quickstart, crawler]


def test_each_example_that_takes_a_broker_is_checked() -> None:
    chapter = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    taking = re.findall(r"^\| `examples/([\w.]+)` \| \S", chapter, re.MULTILINE)
    assert sorted(taking) == sorted(CHECKS)


@pytest.mark.parametrize(
    "check", forms(*QUICK, more=[one for checks in CHECKS.values() for one in checks if one not in QUICK])
)
def test_an_example_runs_on_a_cluster_by_its_url_alone(
    url: str, tmp_path: Path, check: Callable[[str, Path], None]
) -> None:
    check(url, tmp_path)
