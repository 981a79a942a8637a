"""What clients of all kinds count of what they send."""

import asyncio
import os
import threading
import warnings
from pathlib import Path

import pytest

import actorwork.aio
import actorwork.sync
from actorwork import BrokerError, Unique
from actorwork.telemetry.metrics import Registry


def sent_in(metrics: Registry) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in metrics.read() if one.name == "actorwork_sent_total"}


def calls_in(metrics: Registry) -> dict[tuple[str, ...], int]:
    return {
        tuple(one.labels.values()): one.count for one in metrics.read() if one.name == "actorwork_send_duration_seconds"
    }


ALL = {("orders", "sent"): 3, ("orders", "duplicate"): 2}


@pytest.fixture(params=["redis", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("redis_url") if request.param == "redis" else f"sqlite:///{tmp_path / 'm.sqlite3'}"


def test_a_sync_client_tells_apart_what_it_sends(url: str):
    metrics = Registry()
    with actorwork.sync.open_client(url, metrics=metrics) as client:
        client.publish("orders", {})
        for _ in range(2):
            client.publish("orders", {}, id="twice")
            client.publish("orders", {}, unique=Unique("one", on_conflict="first"))
    assert sent_in(metrics) == ALL
    assert sum(calls_in(metrics).values()) == 5


def test_an_asyncio_client_tells_apart_what_it_sends(url: str):
    metrics = Registry()

    async def main() -> None:
        async with actorwork.aio.open_client(url, metrics=metrics) as client:
            await client.publish("orders", {})
            for _ in range(2):
                await client.publish("orders", {}, id="twice")
                await client.publish("orders", {}, unique=Unique("one", on_conflict="first"))

    asyncio.run(main())
    assert sent_in(metrics) == ALL
    assert sum(calls_in(metrics).values()) == 5


def test_what_a_broker_refuses_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    metrics = Registry()
    with actorwork.sync.open_client(f"sqlite:///{tmp_path / 'm.sqlite3'}", metrics=metrics) as client:

        async def refuse(*_: object) -> int:
            raise BrokerError("no room")

        monkeypatch.setattr(type(client.broker), "publish", refuse, raising=False)
        monkeypatch.setattr(type(client.broker), "publish_new", refuse, raising=False)
        with pytest.raises(BrokerError):
            client.publish("orders", {})
    assert sent_in(metrics) == {("orders", "refused"): 1}


def test_no_count_of_many_threads_is_lost(tmp_path: Path):
    metrics = Registry()
    with actorwork.sync.open_client(f"sqlite:///{tmp_path / 'm.sqlite3'}", metrics=metrics) as client:

        def send() -> None:
            for _ in range(20):
                client.publish("orders", {})

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sent_in(metrics) == {("orders", "sent"): 160}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_child_that_is_forked_while_a_thread_counts_counts_too(tmp_path: Path):
    metrics = Registry()
    url = f"sqlite:///{tmp_path / 'm.sqlite3'}"
    client = actorwork.sync.open_client(url, metrics=metrics)
    meter = metrics.meter
    inside, forked = threading.Event(), threading.Event()
    count = meter.sent

    def slowly(source: str, outcome: str, number: int = 1) -> None:
        inside.set()
        forked.wait(60)
        count(source, outcome, number)

    meter.sent = slowly  # type: ignore[method-assign] # pyright: ignore[reportAttributeAccessIssue]
    sending = threading.Thread(target=client.publish, args=("orders", {}))
    sending.start()
    assert inside.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Later versions advise against forks among threads.
        child = os.fork()
    if not child:
        is_well = False
        try:
            # Here the thread that holds the lock is gone.
            meter.sent = count  # type: ignore[method-assign] # pyright: ignore[reportAttributeAccessIssue]
            client.publish("orders", {})
            is_well = sent_in(metrics) == {("orders", "sent"): 1}
        finally:
            os._exit(0 if is_well else 1)
    forked.set()
    sending.join()
    assert os.waitpid(child, 0)[1] == 0
    client.close()
