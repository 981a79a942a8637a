"""Examines what a server, or a service that runs one for others, allows scripts: to be brought there, time and memory.

Nothing is flushed: SCRIPT FLUSH is tried with an argument that it does not take, and is refused either way, but a
server that permits it speaks of the argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from actorwork.abc import Finding
from actorwork.streams import scripts
from actorwork.streams.transport.commands import Commands, Script
from actorwork.streams.transport.redis_py import NoPermissionError, RedisError

_TEXT: Final = "return 1"
_LEAST_TIME: Final = 1000
"""Milliseconds. A script of ours takes some tens of them at most, for what a node settles or takes over at once."""
_MANY: Final = 1000
"""Scripts. There are some dozens of ours."""
_MUCH: Final = 100_000_000


async def examine_scripts(
    client: Commands, each: Sequence[Mapping[str, str] | RedisError], *, is_cluster: bool
) -> Sequence[Finding]:
    """Say whether scripts run, and what limits them; `each` is the reply of each primary to INFO."""
    return [
        *await _bringing(client, is_cluster=is_cluster),
        *await _time(client),
        *memory_of_scripts([facts for facts in each if not isinstance(facts, RedisError)]),
    ]


async def _bringing(client: Commands, *, is_cluster: bool) -> Sequence[Finding]:
    """Try how a script comes to the server, and run one."""
    findings: list[Finding] = []
    flush, load, evaluate = await client.call_many(
        [("SCRIPT", "FLUSH", "actorwork-doctor"), ("SCRIPT", "LOAD", _TEXT), ("EVAL", _TEXT, 0)], idempotent=True
    )
    if isinstance(flush, RedisError) and "SYNC" not in str(flush):
        text = (
            f"SCRIPT FLUSH is refused ({flush}): nothing here needs it, but only a restart frees the server of scripts"
        )
        advice = "let other programs there pass what changes to their scripts as arguments, not within the text"
        findings.append(Finding("script flushing", "ok", text, advice))
    where = "or allow it in the console of a managed service"
    if isinstance(evaluate, RedisError) and (is_cluster or isinstance(load, RedisError)):
        also = "" if is_cluster else f", and SCRIPT LOAD, too ({load})"
        text = f"EVAL is refused ({evaluate}){also}: scripts cannot be brought there, and settlements are scripts"
        advice = f"ACL SETUSER … +eval, {where}; a server that permits no scripts cannot be used"
        return [*findings, Finding("scripts", "error", text, advice)]
    if isinstance(load, RedisError) and not is_cluster:
        text = f"SCRIPT LOAD is refused ({load}): a script that the server does not know is sent whole, by EVAL"
        findings.append(Finding("script loading", "warning", text, f"ACL SETUSER … +script|load, {where}"))
    try:
        await client.run_script(Script("doctor", _TEXT), (), (), idempotent=True)
    except RedisError as error:
        advice = f"ACL SETUSER … +evalsha, {where}: settlements are scripts"
        findings.append(Finding("scripts", "error", f"scripts do not run ({error})", advice))
    else:
        findings.append(Finding("scripts", "ok", f"{len(scripts.ALL)} scripts can be run"))
    return findings


async def _time(client: Commands) -> Sequence[Finding]:
    """Say how long a script may run before the server answers all others with BUSY."""
    try:
        # Its name until Redis 7, and an alias since.
        reply: Any = await client.call("CONFIG", "GET", "lua-time-limit", idempotent=True)
    except RedisError:
        return ()  # That CONFIG is refused is said elsewhere.
    # A map with RESP3, an array with RESP2; empty where there is no such setting.
    fields: list[Any] = [*chain.from_iterable(reply.items())] if hasattr(reply, "items") else reply
    if not fields:
        return ()
    limit = int(fields[1])
    if 0 < limit < _LEAST_TIME:
        text = (
            f"a script that runs for more than {limit} ms makes the server answer BUSY to all other clients, "
            "so those of large batches can: what is refused waits and is sent again"
        )
        advice = "CONFIG SET busy-reply-threshold 5000 (lua-time-limit before Redis 7), and the same in redis.conf"
        return [Finding("script time", "warning", text, advice)]
    text = (
        f"scripts run for {limit / 1000:g} s before others are answered BUSY"
        if limit > 0
        else "scripts have no limit of time"
    )
    return [Finding("script time", "ok", text)]


def memory_of_scripts(each: Sequence[Mapping[str, str]]) -> Sequence[Finding]:
    """Judge how many scripts a server keeps, and the memory that Lua has: neither is evicted when memory ends."""
    for facts in each:
        count = int(facts.get("number_of_cached_scripts", 0))
        size = int(facts.get("used_memory_vm_eval") or facts.get("used_memory_lua") or 0)
        if count > _MANY or size > _MUCH:
            text = (
                f"the server keeps {count} scripts, and Lua has {size / 1e6:.0f} MB: "
                "a program there makes a new script for each call, until memory ends"
            )
            advice = "let it pass arguments instead; SCRIPT FLUSH frees the memory, and ours are loaded again"
            return [Finding("script memory", "warning", text, advice)]
    return ()


async def settings_are_elsewhere(client: Commands) -> Sequence[Finding]:
    """Say where settings are made, if this user cannot make them by CONFIG."""
    try:
        await client.call("CONFIG", "GET", "maxmemory-policy", idempotent=True)
    except NoPermissionError as error:
        # A user of few rights, as in our own deployment, or a service that refuses CONFIG to everyone.
        text = f"CONFIG is refused ({error}): settings cannot be read here, and not be changed"
        advice = "let an administrator make those that are named here, or the console of a managed service"
        return [Finding("settings", "ok", text, advice)]
    except RedisError as error:
        text = f"CONFIG is not there ({error}): this seems to be a managed service"
        advice = "make the settings that are named here in its console or parameter group, not by CONFIG SET"
        return [Finding("managed", "ok", f"{text}; {advice}")]
    return ()
