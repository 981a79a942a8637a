"""A message that is prepared now and sent later: its id is known in between."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from actorwork import Envelope, MessageRefused, Receipt, aio, open_client, sync
from actorwork.clients import Client
from tests.clients.programs import node, run_asyncio
from tests.patience import PATIENCE
from tests.workflows.shop import Calculator, Clerk, Note, Square


@pytest.fixture(params=["sqlite", "redis"])
def at_work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    url: str = f"sqlite:///{tmp_path / 'messages.db'}"
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
    Clerk.book.clear()
    with node(url):
        yield url


async def prepare_and_send(client: Client) -> None:
    prepared = client.ref(Clerk).prepare(Note("kept"))
    assert client.statistics()["sent"] == 0
    # The first of these must not be taken for one that no broker can have seen.
    receipts: list[Receipt[str]] = [await prepared.send(), await prepared.send()]
    assert {receipt.id for receipt in receipts} == {prepared.id}
    assert await receipts[1].result(timeout=PATIENCE) == "noted kept"
    assert await client.ref(Clerk).ask(Note("after"), timeout=PATIENCE) == "noted after"
    assert Clerk.book == ["kept", "after"]


def test_what_is_prepared_is_sent_once_however_often(at_work: str) -> None:
    async def on_trio() -> None:
        async with open_client(at_work) as client:
            await prepare_and_send(client)

    async def on_asyncio() -> None:
        async with aio.open_client(at_work) as client:
            await prepare_and_send(client)

    trio.run(on_trio)
    Clerk.book.clear()
    run_asyncio(on_asyncio)
    Clerk.book.clear()
    with sync.open_client(at_work) as client:
        prepared = client.ref(Clerk).prepare(Note("kept"))
        assert client.statistics()["sent"] == 0
        assert prepared.send().id == prepared.send().id == prepared.id
        assert client.ref(Clerk).receipt(prepared.id).result(timeout=PATIENCE) == "noted kept"
        assert client.ref(Clerk).ask(Note("after"), timeout=PATIENCE) == "noted after"
    assert Clerk.book == ["kept", "after"]


def test_what_cannot_be_sent_cannot_be_prepared(tmp_path: Path) -> None:
    layers: list[str] = []

    def layer(envelope: Envelope) -> Envelope:
        layers.append(envelope.id)
        return envelope

    with sync.open_client(f"sqlite:///{tmp_path / 'messages.db'}", middleware=[layer]) as client:
        with pytest.raises(MessageRefused):
            client.ref(Calculator).prepare(Note("x"))  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
        prepared = client.ref(Calculator).prepare(Square(2), id="square-2")
        assert prepared.id == "square-2"
        prepared.send()
    assert layers == ["square-2"]


# ---- Django ----


class Shop:
    """A view of Django's, and the client that it uses."""

    client: sync.Client
    prepared: str
    is_known_before_the_commit: bool

    @classmethod
    def order(cls, request: Any) -> Any:
        django: Any = importlib.import_module("django.db")
        http: Any = importlib.import_module("django.http")
        prepared = cls.client.ref(Clerk).prepare(Note(request.GET["text"]))
        cls.prepared = prepared.id
        with django.connection.cursor() as cursor:
            cursor.execute("insert into orders values (%s)", [prepared.id])
        django.transaction.on_commit(prepared.send)
        cls.is_known_before_the_commit = cls.client.statistics()["sent"] == 0
        if "fails" in request.GET:
            raise ValueError("out of stock")
        return http.HttpResponse(prepared.id)


@pytest.fixture(scope="module")
def browser(django_settings: Any) -> Any:
    urls: Any = importlib.import_module("django.urls")
    sys.modules["urls_of_the_shop"] = SimpleNamespace(urlpatterns=[urls.path("orders/", Shop.order)])  # type: ignore[assignment] # pyright: ignore[reportArgumentType]
    with importlib.import_module("django.db").connection.cursor() as cursor:
        cursor.execute("create table orders (message text)")
    return importlib.import_module("django.test").Client(raise_request_exception=False)


def orders() -> list[str]:
    with importlib.import_module("django.db").connection.cursor() as cursor:
        return [row[0] for row in cursor.execute("select message from orders").fetchall()]


def test_a_message_prepared_in_a_transaction_of_django_is_sent_after_its_commit_and_never_after_a_rollback(
    at_work: str, browser: Any
) -> None:
    before = orders()
    with sync.open_client(at_work) as Shop.client:
        assert browser.get("/orders/", {"text": "books", "fails": ""}).status_code == 500
        assert Shop.is_known_before_the_commit
        assert Shop.client.statistics()["sent"] == 0
        assert orders() == before
        assert browser.get("/orders/", {"text": "tea"}).content.decode() == Shop.prepared
        assert Shop.is_known_before_the_commit
        assert Shop.client.ref(Clerk).receipt(Shop.prepared).result(timeout=PATIENCE) == "noted tea"
        assert orders() == [*before, Shop.prepared]
    assert Clerk.book == ["tea"]
