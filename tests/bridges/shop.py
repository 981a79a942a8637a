"""An application of Celery's, as it is before it moves."""

import importlib
from typing import Any

# It has no types.
celery: Any = importlib.import_module("celery")


def make_app(url: str) -> Any:
    app: Any = celery.Celery("shop", broker=url, backend=url)
    app.conf.worker_hijack_root_logger = False
    app.conf.broker_connection_retry_on_startup = True

    @app.task(name="shop.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="shop.fail")
    def fail(reason: str) -> None:
        raise ValueError(reason)

    @app.task(name="shop.flaky", bind=True, max_retries=5)
    def flaky(self: Any, times: int) -> int:
        if self.request.retries < times:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    @app.task(name="shop.headers", bind=True)
    def headers(self: Any) -> Any:
        return self.request.headers["tenant"]

    @app.task(name="shop.total")
    def total(values: list[int]) -> int:
        return sum(values)

    return app
