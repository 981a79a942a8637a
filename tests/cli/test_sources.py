"""`actorwork sources`: how sources are divided, and moving one to another number of shards."""

import attrs
import pytest

from actorwork.abc import Broker
from actorwork.message import Envelope

from .conftest import Shell


async def fill(broker: Broker) -> None:
    await broker.shards.declare("orders", 4)
    await broker.publish([Envelope("orders", f"message-{number}", b"{}") for number in range(20)])


@pytest.fixture(params=["a file", "redis"])
def shop(request: pytest.FixtureRequest, shell: Shell) -> Shell:
    if request.param == "redis":
        shell = attrs.evolve(shell, url=request.getfixturevalue("redis_url"))
    shell.at_broker(fill)
    return shell


def test_the_sources_that_are_divided_are_listed(shop: Shell):
    assert shop("sources", "ls").stdout == "orders  4 shards\n"
    assert shop.json("sources", "ls") == [{"source": "orders", "shards": 4}]


def test_where_none_is_divided_that_is_said(shell: Shell):
    assert "no source is divided" in shell("sources", "ls").stdout


def test_a_source_is_moved_once_it_is_paused_and_the_user_agrees(shop: Shell):
    tried = shop("sources", "reshard", "orders", "--shards", "3", "--dry-run")
    assert tried.stdout == "would move 20 messages and 0 dead letters of 'orders' from 4 shards to 3\n"
    refused = shop("sources", "reshard", "orders", "--shards", "3", "--yes", code=1)
    assert "the source 'orders' is not paused: actorwork pause --source orders" in refused.stderr
    shop("pause", "--source", "orders", "--force")
    shop("sources", "reshard", "orders", "--shards", "3", input="n\n", code=1)
    assert shop("sources", "ls").stdout == "orders  4 shards\n"
    done = shop("sources", "reshard", "orders", "--shards", "3", "--yes", "--reason", "a test")
    assert done.stdout.startswith("'orders' has 3 shards; moved ")
    assert shop("sources", "ls").stdout == "orders  3 shards\n"
    assert shop("sources", "reshard", "orders", "--shards", "3", "--dry-run").stdout.startswith(
        "would move 20 messages"
    )
    (entry,) = [one for one in shop.json("audit") if one["action"] == "reshard"]
    assert (entry["what"], entry["reason"], entry["outcome"]) == ("orders", "a test", "done")


def test_the_own_source_of_an_actor_has_no_shards(shop: Shell):
    failed = shop("sources", "reshard", "worker:0123456789abcdef:source", "--shards", "3", code=1)
    assert "which is an actor's own" in failed.stderr
