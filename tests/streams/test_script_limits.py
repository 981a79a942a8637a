"""What the doctor says of servers, and services that run them for others, that limit scripts or refuse a command."""

from collections.abc import Mapping

import pytest

from actorwork.abc import Finding
from actorwork.policy.settlement import Ack
from actorwork.streams.script_limits import examine_scripts, memory_of_scripts
from actorwork.testing.redis_server import open_redis_server
from tests.streams.bench_of_actors import inbox, open_scene, subscription


async def examined(rights: str = "", config: Mapping[str, str] | None = None) -> Mapping[str, Finding]:
    """Return what is found of a server of that configuration, for a user with these rights at most, by subject."""
    with open_redis_server(users=[f"ann on >secret ~* &* +@all {rights}"], config=dict(config or {})) as server:
        async with open_scene(server.url.replace("unix://", "unix://ann:secret@")) as scene:
            return {finding.subject: finding for finding in await scene.broker.diagnose()}


async def test_a_server_that_limits_nothing_is_fine():
    found = await examined()
    assert {found[subject].level for subject in ("scripts", "script time")} == {"ok"}
    assert found["script time"].text == "scripts run for 5 s before others are answered BUSY"
    assert not {"script flushing", "script loading", "script memory", "settings", "managed"} & found.keys()


async def test_examining_a_server_flushes_no_scripts():
    with open_redis_server() as server:
        async with open_scene(server.url) as scene:
            sha = await scene.call("SCRIPT", "LOAD", "return 'kept'")
            await scene.broker.diagnose()
            assert await scene.call("SCRIPT", "EXISTS", sha) == [1]


async def test_a_server_that_refuses_to_forget_scripts_can_be_used():
    found = await examined("-script +script|load +script|exists")
    assert found["script flushing"].level == found["scripts"].level == "ok"
    assert "nothing here needs it, but only a restart frees the server of scripts" in found["script flushing"].text
    assert "script loading" not in found


@pytest.mark.parametrize(("rights", "config"), [("-script", {}), ("", {"rename-command": 'SCRIPT ""'})])
async def test_a_server_that_refuses_to_load_scripts_gets_them_whole(rights: str, config: Mapping[str, str]):
    found = await examined(rights, config)
    assert (found["script loading"].level, found["scripts"].level) == ("warning", "ok")
    assert "a script that the server does not know is sent whole, by EVAL" in found["script loading"].text
    assert "ACL SETUSER … +script|load, or allow it in the console" in found["script loading"].advice


async def test_messages_are_kept_and_settled_where_scripts_may_not_be_loaded():
    orders = subscription()
    with open_redis_server(config={"rename-command": 'SCRIPT ""'}) as server:
        async with open_scene(server.url) as scene, scene.node(orders) as node:
            await scene.send("orders", b"1", key="k")
            node.settle(orders, await inbox(orders).take_one(), Ack())
            await node.wait_settled()
            assert await scene.length("orders") == 0


async def test_a_server_that_takes_no_scripts_at_all_cannot_be_used():
    found = (await examined("-script -eval"))["scripts"]
    assert found.level == "error"
    assert found.text.startswith("EVAL is refused (")
    assert ", and SCRIPT LOAD, too (" in found.text
    assert found.advice.endswith("a server that permits no scripts cannot be used")


async def test_eval_is_needed_on_a_cluster_only():
    with open_redis_server(users=["ann on >secret ~* &* +@all -eval"]) as server:
        async with open_scene(server.url.replace("unix://", "unix://ann:secret@")) as scene:
            (alone,) = [one for one in await scene.broker.diagnose() if one.subject == "scripts"]
            (of_many,) = [
                one
                for one in await examine_scripts(scene.broker.client, [], is_cluster=True)
                if one.subject == "scripts"
            ]
    assert (alone.level, of_many.level) == ("ok", "error")


async def test_a_server_that_runs_no_script_by_its_digest_cannot_be_used():
    found = (await examined("-evalsha"))["scripts"]
    assert found.level == "error"
    assert found.text.startswith("scripts do not run (")


async def test_a_short_time_for_scripts_is_a_warning():
    found = (await examined(config={"lua-time-limit": "50"}))["script time"]
    assert found.level == "warning"
    assert found.text.startswith("a script that runs for more than 50 ms makes the server answer BUSY")
    assert "busy-reply-threshold 5000" in found.advice


async def test_scripts_may_have_no_limit():
    found = (await examined(config={"lua-time-limit": "0"}))["script time"]
    assert (found.level, found.text) == ("ok", "scripts have no limit of time")


async def test_where_config_is_refused_the_doctor_says_who_makes_settings():
    found = await examined("-config")
    assert found["settings"].level == "ok"
    assert found["settings"].text.startswith("CONFIG is refused (")
    assert "an administrator" in found["settings"].advice
    assert "the console of a managed service" in found["settings"].advice
    assert not {"managed", "script time"} & found.keys()


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, []),
        ({"number_of_cached_scripts": "40", "used_memory_lua": "300000"}, []),
        (
            {"number_of_cached_scripts": "20000", "used_memory_lua": "30000000"},
            ["keeps 20000 scripts, and Lua has 30 MB"],
        ),
        ({"number_of_cached_scripts": "900", "used_memory_vm_eval": "200000000"}, ["900 scripts, and Lua has 200 MB"]),
    ],
)
def test_scripts_that_fill_the_memory_are_a_warning(facts: Mapping[str, str], said: list[str]):
    found = memory_of_scripts([{}, facts])
    assert [one.level for one in found] == ["warning"] * len(said)
    for finding, part in zip(found, said, strict=True):
        assert part in finding.text
        assert "SCRIPT FLUSH frees the memory, and ours are loaded again" in finding.advice
