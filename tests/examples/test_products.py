"""The shop's catalogue: `examples/products`, as processes."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from actorwork.testing.redis_server import open_redis_server
from tests.examples.programs import api_of, running, until

LAMP = {"name": " Lamp ", "price": 9.9}


def of(directory: Path, broker: str, **values: object) -> dict[str, object]:
    """Return an environment in which nothing takes long."""
    quick = {"port": 0, "attempt_pause": 0.02, "messenger_seconds": 0.01, "messenger_failures": 0}
    database = directory / "products.sqlite3"
    given = {"broker": broker, "database": database, **quick, **values}
    return {f"PRODUCTS_{name.upper()}": value for name, value in given.items()}


def end_of(api: httpx.Client, product: dict[str, Any]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        answer = api.get(f"/tasks/{product['task']}")
        if answer.status_code == 503:  # The broker is not back yet.
            return None
        assert answer.status_code == 200, answer.text
        task = answer.json()
        return task if task["status"] in {"SUCCESS", "FAILURE"} else None

    return until(look, f"the end of the task of {product}")


@pytest.mark.parametrize(
    ("broker", "failures", "status"),
    [("sqlite", 2, "SUCCESS"), pytest.param("redis", 3, "FAILURE", marks=pytest.mark.long)],
)
def test_a_product_is_kept_and_a_third_attempt_to_announce_it_is_the_last(
    request: pytest.FixtureRequest, tmp_path: Path, broker: str, failures: int, status: str
) -> None:
    url = request.getfixturevalue("redis_url") if broker == "redis" else f"sqlite:///{tmp_path}/broker.sqlite3"
    environment = of(tmp_path, url, messenger_failures=failures)
    with running(tmp_path / "log", "examples.products", env=environment) as program, api_of(program) as api:
        created = api.post("/products/", json=LAMP)
        assert created.status_code == 201
        product = created.json()
        assert product == {"id": 1, "name": "Lamp", "price": "9.90", "description": "", "task": product["task"]}
        assert created.headers["location"] == f"/tasks/{product['task']}"
        task = end_of(api, product)
        assert task["status"] == status
        assert task["info"]["attempt"] == 3
        assert task["info"]["sent"] < task["info"]["started"] < task["info"]["ended"]
        is_sent = status == "SUCCESS"
        assert (task["result"] is not None) == is_sent
        assert ("503 Service Unavailable" in task["info"]["reason"]) != is_sent
        assert ("sent to all subscribers: New in our shop: Lamp for 9.90" in program.wrote()) == is_sent

        wrong = api.post("/products/", json={"name": " ", "price": 0, "colour": "red"})
        assert wrong.status_code == 422
        assert {tuple(one["loc"]) for one in wrong.json()["detail"]} == {
            ("body", "name"),
            ("body", "price"),
            ("body", "colour"),
        }
        assert api.get("/products/").json() == [product]
        assert api.get("/tasks/none").status_code == 404
        assert "/products/" in api.get("/openapi.json").json()["paths"]
        assert "Swagger" in api.get("/docs").text


@pytest.mark.long
def test_api_worker_and_broker_start_in_any_order_and_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    with open_redis_server(append_only=True) as redis:
        environment = of(tmp_path, redis.url)
        redis.kill()
        serve = ("uvicorn", "examples.products.api:app", "--port", "0")
        with running(tmp_path / "api", *serve, env=environment) as program, api_of(program) as api:
            lamp = api.post("/products/", json=LAMP).json()  # Neither a broker nor a worker is there.
            assert api.get(f"/tasks/{lamp['task']}").json()["status"] == "PENDING"
            worker = ("examples.products.notifier",)
            slow = {**environment, "PRODUCTS_MESSENGER_SECONDS": 1000, "PRODUCTS_LEASE": 0.5}
            with running(tmp_path / "first", *worker, env=slow) as first:
                redis.start()
                first.wait_for("asked to send: New in our shop: Lamp")
                first.kill()
            redis.kill()
            chair = api.post("/products/", json={"name": "Chair", "price": 40}).json()
            with running(tmp_path / "second", *worker, env=environment) as second:
                redis.start()
                assert end_of(api, lamp)["status"] == "SUCCESS"
                assert end_of(api, chair)["status"] == "SUCCESS"
                assert "sent to all subscribers: New in our shop: Lamp for 9.90" in second.wrote()
