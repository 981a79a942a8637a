"""The server knows a script by the SHA-1 of its text, and loads it only if it keeps to the limits of Lua."""

import hashlib
from contextlib import closing
from typing import Any

import redis

from actorwork.streams import scripts
from actorwork.streams.transport.commands import Script
from actorwork.testing.redis_server import RedisServer

EVERY = [value for value in vars(scripts).values() if isinstance(value, Script)]
ROOM = 6
"""How many local variables a change may add to any script before it has to make room: Lua allows 200 in a function."""


def test_the_digest_of_each_script_is_that_of_its_whole_text() -> None:
    """A wrong digest would have each call load it again."""
    assert set(scripts.ALL) <= set(EVERY)
    for script in EVERY:
        assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest(), script


def test_each_script_has_room_for_the_local_variables_of_the_next_change(redis_server: RedisServer) -> None:
    more = "".join(f"local room_{number}\n" for number in range(ROOM))
    full: list[str] = []
    server: Any = redis.Redis(unix_socket_path=str(redis_server.socket_path))
    with closing(server):
        for one in EVERY:
            parts, own = one.source.split("return (function()\n")
            try:
                server.script_load(f"{parts}{more}return (function()\n{own}")
            except redis.ResponseError as error:
                if "more than 200 local variables" not in str(error):
                    raise
                full.append(one.name)
    assert not full, (
        f"with {ROOM} more local variables, {', '.join(full)} would have more than the 200 that Lua allows: put helpers"
        " that only one part calls into a table of that part, as `inputs` in run_messages.lua"
    )
