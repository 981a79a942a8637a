"""Examines a server as an operator would, with advice for each finding.

A setting that loses messages is an error and keeps a broker from opening; one that may lose them is a warning. A
question that is not permitted (an ACL, a managed server) is a warning too: not knowing is no reason to refuse.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from actorwork.abc import EventSink, Finding
from actorwork.errors import BrokerError
from actorwork.events import BrokerAdvice
from actorwork.streams import keys
from actorwork.streams.formats import FORMAT_OF_SHARDS, older_among
from actorwork.streams.script_limits import examine_scripts, settings_are_elsewhere
from actorwork.streams.shards import layouts_now
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.commands import Commands
from actorwork.streams.transport.redis_py import ConnectionError, NoPermissionError, RedisError  # noqa: A004

OLDEST: Final = (6, 2)
_SKEW: Final = 1.0

# Each is tried on keys that nothing else uses. They begin as the real keys do, so ACL rules for keys apply to them.
NEEDED: Final = (
    ("XADD", "publishing"),
    ("XREADGROUP", "reading"),
    ("XGROUP", "making groups"),
    ("XPENDING", "the fence"),
    ("XACK", "settling"),
    ("XDEL", "settling"),
    ("XCLAIM", "taking over from dead nodes"),
    ("XINFO", "finding dead nodes"),
    ("XRANGE", "retries and dead letters"),
    ("XTRIM", "dead letters"),
    ("XLEN", "the backlog"),
    ("BITFIELD", "publishing once"),
    ("HMGET", "delays"),
    ("HSCAN", "order per key"),
    ("HLEN", "the backlog"),
    ("RPUSH", "order per key"),
    ("LPOP", "order per key"),
    ("LPUSH", "order per key"),
    ("RPOP", "workflows"),
    ("RENAME", "workflows"),
    ("HKEYS", "workflows"),
    ("ZREVRANGE", "workflows"),
    ("SADD", "priorities"),
    ("SMEMBERS", "priorities"),
    ("SMISMEMBER", "several groups"),
    ("SISMEMBER", "several groups"),
    ("SRANDMEMBER", "several groups"),
    ("SCARD", "the backlog"),
    ("SET", "leases"),
    ("GET", "results"),
    ("DEL", "releasing leases"),
    ("EXISTS", "finding dead nodes"),
    ("TYPE", "publishing"),
    ("SETBIT", "publishing once"),
    ("GETBIT", "publishing once"),
    ("EXPIRE", "publishing once"),
    ("ZADD", "delays"),
    ("ZREM", "delays"),
    ("ZRANGE", "delays"),
    ("ZRANGEBYSCORE", "delays"),
    ("ZSCORE", "delays"),
    ("HEXISTS", "delays"),
    ("HSET", "delays"),
    ("HGET", "delays"),
    ("HDEL", "delays"),
    ("PEXPIRE", "shared values, locks"),
    ("PERSIST", "shared values"),
    ("PTTL", "limits"),
    ("ZCARD", "limits"),
    ("ZREMRANGEBYSCORE", "limits"),
    ("ZREMRANGEBYRANK", "listing messages"),
    ("XREVRANGE", "listing messages, the audit"),
    ("HINCRBY", "triggers"),
    ("SREM", "triggers"),
    ("HSETNX", "pauses"),
    ("HGETALL", "pauses"),
    ("TIME", "the common clock"),
    ("PUBLISH", "replies"),
    ("SUBSCRIBE", "replies"),
    ("EVALSHA", "everything"),
    ("SCAN", "listing dead letters, telling of lost messages"),
    ("CLIENT", "stopping at once"),
)
# Without these everything works, and something is slower.
USEFUL: Final = (
    ("MULTI", "publishing in one step", "each message is published by a script, which costs the server twice as much"),
    ("EXEC", "publishing in one step", "each message is published by a script, which costs the server twice as much"),
    ("CLIENT|KILL", "publishing in one step", "each message is published by a script, which costs the server more"),
    ("PUBSUB", "settling steps of runs", "the end of each step is published, whether it is watched or not"),
    ("LRANGE", "exporting a source", "a source in which messages wait behind others with their key cannot be exported"),
    ("HSTRLEN", "listing entities", "the states of entities cannot be listed, only looked at one by one"),
    ("UNLINK", "forgetting runs", "all clients wait for as long as the server frees the memory of a run of many steps"),
)
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "XADD": ("{key}", "*", "a", "b"),
    "XREADGROUP": ("GROUP", "g", "c", "STREAMS", "{key}", ">"),
    "XGROUP": ("CREATE", "{key}", "g", "0", "MKSTREAM"),
    "XPENDING": ("{key}", "g"),
    "XACK": ("{key}", "g", "0-1"),
    "XDEL": ("{key}", "0-1"),
    "XCLAIM": ("{key}", "g", "c", "0", "0-1"),
    "XINFO": ("GROUPS", "{key}"),
    "XRANGE": ("{key}", "-", "+"),
    "XTRIM": ("{key}", "MINID", "0"),
    "XLEN": ("{key}",),
    "BITFIELD": ("{key}", "SET", "u1", "0", "1"),
    "HMGET": ("{key}", "a"),
    "HSCAN": ("{key}", "0"),
    "HLEN": ("{key}",),
    "HSTRLEN": ("{key}", "a"),
    "RPUSH": ("{key}", "a"),
    "LPOP": ("{key}",),
    "LPUSH": ("{key}", "a"),
    "LRANGE": ("{key}", "0", "0"),
    "RPOP": ("{key}",),
    "HKEYS": ("{key}",),
    "ZREVRANGE": ("{key}", "0", "0"),
    "RENAME": ("{key}", "{key}"),
    "SADD": ("{key}", "a"),
    "SMEMBERS": ("{key}",),
    "SMISMEMBER": ("{key}", "a"),
    "SISMEMBER": ("{key}", "a"),
    "SRANDMEMBER": ("{key}",),
    "SCARD": ("{key}",),
    "SET": ("{key}", "a"),
    "GET": ("{key}",),
    "DEL": ("{key}",),
    "UNLINK": ("{key}",),
    "EXISTS": ("{key}",),
    "TYPE": ("{key}",),
    "SETBIT": ("{key}", "0", "1"),
    "GETBIT": ("{key}", "0"),
    "EXPIRE": ("{key}", "1"),
    "PEXPIRE": ("{key}", "1000"),
    "PERSIST": ("{key}",),
    "PTTL": ("{key}",),
    "ZCARD": ("{key}",),
    "ZREMRANGEBYSCORE": ("{key}", "0", "0"),
    "ZREMRANGEBYRANK": ("{key}", "0", "0"),
    "XREVRANGE": ("{key}", "+", "-"),
    "ZSCORE": ("{key}", "a"),
    "HEXISTS": ("{key}", "a"),
    "ZADD": ("{key}", "1", "a"),
    "ZREM": ("{key}", "a"),
    "ZRANGE": ("{key}", "0", "0"),
    "ZRANGEBYSCORE": ("{key}", "0", "0"),
    "HSET": ("{key}", "a", "b"),
    "HGET": ("{key}", "a"),
    "HDEL": ("{key}", "a"),
    "HINCRBY": ("{key}", "a", "1"),
    "SREM": ("{key}", "a"),
    "HSETNX": ("{key}", "a", "b"),
    "HGETALL": ("{key}",),
    "TIME": (),
    "PUBLISH": ("{channel}", "a"),
    "PUBSUB": ("NUMPAT",),
    "SUBSCRIBE": ("{channel}",),
    "EVALSHA": ("0" * 40, "0"),
    "SCAN": ("0",),
    "CLIENT": ("UNBLOCK", "0"),
    "MULTI": (),
    "EXEC": (),
    "CLIENT|KILL": ("ID", str(2**62)),  # Not 0: for 6.2 that is no number, and it would kill all connections.
}


_MOVES_FROM: Final = {"redis": (7, 2, 7), "valkey": (7, 2, 6)}
"""The first patches of 7.2 that do not die when a key is moved away from blocked reads; other lines do not."""


async def look(client: Commands, address: Address) -> Sequence[Finding]:
    """Return all findings, including the good ones."""
    findings: list[Finding] = []
    each = await facts_of_each(client)
    facts = each[0]
    findings += _of_each(each, address)
    if any(isinstance(one, ConnectionError) for one in each):
        return findings  # What follows asks all primaries, and would wait for those that are away.
    findings += await settings_are_elsewhere(client)
    if address.cluster is not None:
        findings += await _coverage(client)
    findings.append(await _clock(client))
    findings += await _permissions(client, facts)
    findings += await examine_scripts(client, each, is_cluster=address.cluster is not None)
    findings += await _foreign_groups(client)
    findings += await _entities(client, facts)
    findings += await _older_nodes(client)
    findings += await _shards(client)
    return findings


async def refuse_what_loses_messages(
    client: Commands, address: Address, emit: EventSink, *, is_unsafe_allowed: bool = False
) -> None:
    """Raise `BrokerError` for a server that loses messages; report whatever else could be better as advice.

    With `is_unsafe_allowed` such a server is reported, too.
    """
    for finding in _of_each(await facts_of_each(client), address):
        if finding.level == "ok":
            continue
        if finding.level == "error" and not is_unsafe_allowed:
            raise BrokerError(f"{finding.text}; {finding.advice}")
        emit(BrokerAdvice(finding.text, finding.advice, finding.subject))


async def facts_of(client: Commands) -> Mapping[str, str] | RedisError:
    """Return the reply of INFO, or why it was refused."""
    return (await facts_of_each(client))[0]


async def facts_of_each(client: Commands) -> Sequence[Mapping[str, str] | RedisError]:
    """Return the same of each primary of a cluster; of a single server, one."""
    try:
        replies: Sequence[bytes | RedisError] = await client.call_each("INFO")
    except RedisError as error:
        return [error]
    return [reply if isinstance(reply, RedisError) else _facts_in(reply) for reply in replies]


def _facts_in(text: bytes) -> Mapping[str, str]:
    lines = text.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _of_each(each: Sequence[Mapping[str, str] | RedisError], address: Address) -> Sequence[Finding]:
    """Judge the replies of all primaries to INFO; what several have in common is said once."""
    found: dict[str, Finding] = {}
    for facts in each:
        if address.cluster is not None and not isinstance(facts, RedisError) and facts.get("role") == "slave":
            continue  # It was a primary when the layout was read. What is sent there now goes to its successor.
        for finding in (*memory_and_durability(facts), *_failover(facts, address), *_moving(facts, address)):
            found.setdefault(finding.text, finding)
    return list(found.values())


def _moving(facts: Mapping[str, str] | RedisError, address: Address) -> Sequence[Finding]:
    """Judge what happens to a member of a cluster when slots are moved."""
    if address.cluster is None or isinstance(facts, RedisError):
        return ()
    if facts.get("cluster_enabled") == "0":
        text = "this server is in no cluster"
        return [Finding("cluster", "error", text, "name it as redis://, or start it with cluster-enabled yes")]
    version = facts.get("valkey_version") or facts.get("redis_version", "")
    fixed = _MOVES_FROM["valkey" if "valkey_version" in facts else "redis"]
    number = version_of(version)
    if number is not None and fixed[:2] == number[:2] and number < fixed:
        text = f"version {version} dies when a slot is moved from which a node reads"
        return [Finding("cluster", "warning", text, f"upgrade to {'.'.join(map(str, fixed))} or later")]
    return [Finding("cluster", "ok", "it is a member of a cluster")]


async def _coverage(client: Commands) -> Sequence[Finding]:
    """Judge what the members of a cluster do while one of them is away."""
    name = "cluster-require-full-coverage"
    try:
        replies: Sequence[Any] = await client.call_each("CONFIG", "GET", name)
    except RedisError:
        return ()  # That CONFIG is refused is said elsewhere.
    if {name.encode(): b"yes"} not in replies:
        return ()
    text = f"{name} is yes: while a primary is dead and has no successor, all others refuse everything, too"
    advice = f"CONFIG SET {name} no, and the same in redis.conf of every member: then the others go on"
    return [Finding("coverage", "warning", text, advice)]


def memory_and_durability(facts: Mapping[str, str] | RedisError) -> Sequence[Finding]:
    """Judge the reply of INFO: version, eviction, append-only file."""
    if isinstance(facts, ConnectionError):
        text = f"a primary of the cluster is away ({facts}): its sources wait, and those of the others go on"
        return [Finding("server", "warning", text, "start it, or make its replica the primary: CLUSTER FAILOVER FORCE")]
    if isinstance(facts, RedisError):
        text = f"INFO is refused ({facts}): version, eviction and durability are not known"
        return [Finding("server", "warning", text, "allow INFO for this user, or look there yourself")]
    findings: list[Finding] = []
    version = facts.get("redis_version", "")
    number = version_of(version)
    if number is None:
        findings.append(Finding("version", "warning", f"the server does not tell a version (got {version!r})"))
    elif number < OLDEST:
        text = f"Redis {version}, wanted 6.2 or later"
        findings.append(Finding("version", "error", text, "upgrade the server"))
    else:
        findings.append(_version(facts, version))
    findings.append(_eviction(facts.get("maxmemory_policy", ""), facts.get("maxmemory", "0")))
    if facts.get("loading") == "1":
        findings.append(Finding("loading", "warning", "the server is still loading its data"))
    if facts.get("role") == "slave":
        findings.append(Finding("role", "error", "this is a replica: it takes no writes", "connect to the primary"))
    if facts.get("aof_enabled") == "1":
        findings.append(Finding("durability", "ok", "the append-only file is on"))
    elif facts.get("aof_enabled") is not None:
        text = "the append-only file is off: a server that is killed forgets messages"
        advice = "CONFIG SET appendonly yes, and the same in redis.conf"
        findings.append(Finding("durability", "warning", text, advice))
    return findings


def _failover(facts: Mapping[str, str] | RedisError, address: Address) -> Sequence[Finding]:
    """Judge what a failover by Sentinel would lose."""
    if address.cluster is not None and not isinstance(facts, RedisError):
        if facts.get("connected_slaves") != "0":
            return ()
        text = "a primary of the cluster has no replica: if it dies, its sources stop until it is back"
        return [Finding("replicas", "warning", text, "add one: redis-cli --cluster add-node … --cluster-slave")]
    if address.sentinels is None or isinstance(facts, RedisError):
        return ()
    findings: list[Finding] = []
    if (replicas := facts.get("connected_slaves", "")) == "0":
        text = "the primary has no replica: nothing can take over from it"
        findings.append(Finding("replicas", "warning", text, "start one with replicaof"))
    elif replicas:
        findings.append(Finding("replicas", "ok", f"replicas of the primary: {replicas}"))
    # INFO has this line only if both settings are in force: no right to CONFIG is needed.
    if "min_slaves_good_slaves" in facts:
        findings.append(Finding("failover", "ok", "the primary accepts writes only while it has replicas"))
    elif replicas:
        text = (
            "min-replicas-to-write is 0: a primary that was cut off or replaced goes on accepting messages, "
            "and all of them are lost"
        )
        advice = "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 10, in redis.conf of every server as well"
        findings.append(Finding("failover", "warning", text, advice))
    return findings


def _version(facts: Mapping[str, str], version: str) -> Finding:
    """Name the server: Valkey tells the version of Redis that it is compatible with, beside its own."""
    if "valkey_version" in facts:
        return Finding("version", "ok", f"Valkey {facts['valkey_version']}")
    return Finding("version", "ok", f"{facts.get('server_name', 'redis').capitalize()} {version}")


def version_of(text: str) -> tuple[int, ...] | None:
    parts = text.split(".")[:3]
    return tuple(map(int, parts)) if len(parts) > 1 and all(part.isdecimal() for part in parts) else None


def _eviction(policy: str, limit: str) -> Finding:
    advice = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if policy.startswith("allkeys-"):
        text = f"maxmemory-policy is {policy}: a full server removes streams, with their groups and all their messages"
        return Finding("eviction", "error", text, advice)
    if policy.startswith("volatile-"):
        text = f"maxmemory-policy is {policy}: a full server removes leases, results and marks of published ids"
        return Finding("eviction", "warning" if limit != "0" else "ok", text, advice)
    if not policy:
        return Finding("eviction", "warning", "the server does not tell its maxmemory-policy", advice)
    return Finding("eviction", "ok", f"maxmemory-policy is {policy}")


async def _clock(client: Commands) -> Finding:
    before = time.time()
    try:
        seconds, micros = await client.call("TIME", idempotent=True)
    except RedisError as error:
        return Finding("clock", "warning", f"TIME is refused ({error})", "allow TIME: delays need it")
    after = time.time()
    there = int(seconds) + int(micros) / 1e6
    skew = max(before - there, there - after, 0.0)
    if skew > _SKEW:
        text = f"the server's clock and this machine's are {skew:.1f} s apart"
        advice = "run NTP on both; delays and schedules go by the server's clock"
        return Finding("clock", "warning", text, advice)
    return Finding("clock", "ok", f"the clocks agree within {max(skew, after - before):.3f} s")


async def _permissions(client: Commands, facts: Mapping[str, str] | RedisError) -> Sequence[Finding]:
    """Name each command that this user may not use: by ACL DRYRUN (7.0), else by trying it on a key of its own."""
    source = f"actorwork-doctor-{os.urandom(16).hex()}"
    key = f"{keys.prefix(source)}doctor"
    channel = f"{keys.REPLIES}{source}"
    names = [name for name, *_ in (*NEEDED, *USEFUL)]
    calls = {
        name: [*name.split("|"), *(part.format(key=key, channel=channel) for part in _ARGUMENTS[name])]
        for name in names
    }
    missing = await _dry_run(client, calls)
    if missing is None:
        if not isinstance(facts, RedisError) and (version_of(facts.get("redis_version", "")) or OLDEST) < OLDEST:
            return ()
        # SUBSCRIBE would answer with a push, EVALSHA is tried by running a script.
        untried = {"SUBSCRIBE", "EVALSHA"}
        tried = {name: call for name, call in calls.items() if name not in untried}
        replies = await client.call_many([*tried.values(), ["DEL", key]], idempotent=True)
        missing = {name for name, reply in zip(tried, replies, strict=False) if _is_refusal(reply)}
    findings = [
        Finding("permissions", "error", f"this user may not use {name} ({why})", _right(name))
        for name, why in NEEDED
        if name in missing
    ]
    findings += (
        Finding("permissions", "warning", f"this user may not use {name.replace('|', ' ')} ({why}): {so}", _right(name))
        for name, why, so in USEFUL
        if name in missing
    )
    return findings or [Finding("permissions", "ok", "this user may do all that is needed")]


def _is_refusal(reply: object) -> bool:
    # EXEC is refused as EXECABORT.
    return isinstance(reply, NoPermissionError) or (isinstance(reply, RedisError) and "NOPERM" in str(reply))


def _right(name: str) -> str:
    return f"ACL SETUSER … +{name.lower()}"


async def _dry_run(client: Commands, calls: Mapping[str, list[str]]) -> set[str] | None:
    try:
        user: Any = await client.call("ACL", "WHOAMI", idempotent=True)
        commands = [("ACL", "DRYRUN", user, *command) for command in calls.values()]
        replies = await client.call_many(commands, idempotent=True)
    except RedisError:
        return None
    if any(isinstance(reply, Exception) for reply in replies):
        return None
    return {name for name, reply in zip(calls, replies, strict=True) if reply != b"OK"}


async def _foreign_groups(client: Commands) -> Sequence[Finding]:
    """Name the groups that are no actors', with what the streams keep for them alone."""
    findings: list[Finding] = []
    try:
        sources = filter(None, map(keys.source_of_groups, await client.names(keys.ALL_GROUPS)))
        for source in sorted(sources):
            of = keys.SourceKeys.of(source)
            replies = await client.call_many(
                [
                    ("SMEMBERS", of.groups),
                    ("XINFO", "GROUPS", source),
                    ("XINFO", "STREAM", source),
                    ("SCARD", of.kept),
                ],
                idempotent=True,
            )
            if not any(isinstance(reply, Exception) for reply in replies):  # Else it is no stream at present.
                ours, groups, stream, kept = replies
                findings += [
                    _foreign(source, group, stream[b"last-generated-id"], kept)
                    for group in groups
                    if group[b"name"] not in ours
                ]
    except RedisError as error:
        return [Finding("groups", "warning", f"the groups of sources cannot be listed ({error})", "allow SCAN")]
    return findings


def _foreign(source: str, group: Mapping[bytes, Any], last: bytes, kept: int) -> Finding:
    name = group[b"name"].decode(errors="replace")
    pending, has_all = group[b"pending"], group[b"last-delivered-id"] == last
    text = f"the group {name!r} of {source!r} is no actor's ({pending} pending, {'none' if has_all else 'some'} unread)"
    if not kept or (has_all and not pending):
        return Finding("groups", "ok", text)
    return Finding(
        "groups",
        "warning",
        f"{text}: such groups keep {kept} {'entry' if kept == 1 else 'entries'} that all actors have settled",
        f"let it acknowledge them, or, if it is not used any more, XGROUP DESTROY {source} {name}",
    )


async def _shards(client: Commands) -> Sequence[Finding]:
    """Name the sources that are divided, and those that are being moved to another number of shards."""
    try:
        layouts = await layouts_now(client)
    except RedisError as error:
        return [Finding("shards", "warning", f"how sources are divided cannot be read ({error})", "allow HGET")]
    findings: list[Finding] = []
    for layout in layouts.values():
        if layout.becomes is not None:
            text = f"moving {layout.source!r} from {layout.shards} to {layout.becomes} shards has not ended"
            advice = f"if it does not go on: actorwork sources reshard {layout.source} --shards {layout.becomes}"
            findings.append(Finding("shards", "warning", text, advice))
        elif layout.number:
            findings.append(Finding("shards", "ok", f"{layout.source!r} is divided into {layout.shards}"))
    return findings


async def _entities(client: Commands, facts: Mapping[str, str] | RedisError) -> Sequence[Finding]:
    """Say whether the states of entities outlive the server."""
    if isinstance(facts, RedisError) or "aof_enabled" not in facts:
        return ()
    try:
        lists = await client.names(keys.ALL_ENTITIES)
    except RedisError:
        return ()  # That SCAN is not allowed is said elsewhere.
    if not lists:
        return ()
    actors = f"{len(lists)} {'actor keeps' if len(lists) == 1 else 'actors keep'} the states of entities here"
    if facts["aof_enabled"] == "1":
        return [Finding("entities", "ok", actors)]
    text = f"{actors}, and the append-only file is off: a server that is killed goes back to older states, or to none"
    advice = "CONFIG SET appendonly yes, and the same in redis.conf"
    return [Finding("entities", "error", text, advice)]


async def _divided(client: Commands) -> Sequence[str]:
    try:
        return sorted(layout.source for layout in (await layouts_now(client)).values() if layout.number)
    except RedisError:
        return ()  # That they cannot be read is said elsewhere.


async def _older_nodes(client: Commands) -> Sequence[Finding]:
    """Name nodes of a version that does not know all that this one writes (formats.py)."""
    try:
        nodes = await client.call("ZRANGE", keys.REPORTS, 0, -1, idempotent=True)
        older = await older_among(client, nodes)
        blind = await older_among(client, nodes, FORMAT_OF_SHARDS) if older else []
    except RedisError:
        return ()  # That these commands are not allowed is said elsewhere.
    if not older:
        return ()
    text = f"{len(older)} nodes of an older version of actorwork run beside newer ones: {', '.join(older[:5])}"
    if blind and (divided := await _divided(client)):
        text += (
            f"; they read nothing of {', '.join(divided[:5])}, and what their handlers publish there is a dead letter"
        )
        return [Finding("nodes", "error", text, "end them now: they know nothing of shards")]
    return [Finding("nodes", "warning", text, "end them, to complete the upgrade: some work waits until then")]
