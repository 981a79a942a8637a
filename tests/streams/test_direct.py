"""What does without redis-py does as redis-py: redis-py is the oracle."""

import errno
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis.connection
from redis._parsers.base import BaseParser

from actorwork.streams.transport.address import Address
from actorwork.streams.transport.direct import DirectConnection, direct_options
from actorwork.streams.transport.redis_py import ConnectionError, RedisError, parse_error  # noqa: A004
from actorwork.testing.redis_server import RedisServer

redis_pys_options = cast("Callable[[str], dict[str, Any]]", redis.connection.parse_url)  # pyright: ignore[reportUnknownMemberType]
redis_pys_error = cast("Callable[[str], RedisError]", BaseParser.parse_error)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://localhost",
        "redis://localhost:6380/2",
        "redis://localhost/2?db=3",
        "redis://ann:p%40ss@[::1]:7/0",
        "redis://:s3cret@host",
        "redis://host?socket_timeout=0.5&socket_connect_timeout=2",
        "unix:///run/redis.sock",
        "unix://ann:s3cret@/run/my%20redis.sock?db=1",
    ],
)
def test_a_plain_url_has_the_options_that_redis_py_reads_in_it(url: str):
    expected = redis_pys_options(url)
    expected.pop("connection_class", None)
    assert direct_options(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "rediss://host",
        "redis://host?protocol=2",
        "redis://host?password=s3cret",
        "redis://host/x",
        "redis://host:x",
        "redis://host?db=x",
        "http://host",
        "unix://",
    ],
)
def test_any_other_url_is_left_to_redis_py(url: str):
    assert direct_options(url) is None


@pytest.mark.parametrize(
    "reply",
    [
        "ERR unknown command 'X', with args beginning with: ",
        "ERR max number of clients reached",
        "NOSCRIPT No matching script.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOAUTH HELLO must be called with the client already authenticated",
        "NOPERM this user has no permissions to run the 'ping' command",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "EXECABORT Transaction discarded because of previous errors.",
        "MOVED 3999 127.0.0.1:6381",
        "ASK 3999 127.0.0.1:6381",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "CLUSTERDOWN The cluster is down",
        "BUSYGROUP Consumer Group name already exists",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
    ],
)
def test_an_error_reply_becomes_the_exception_that_redis_py_makes_of_it(reply: str):
    ours, theirs = cast("RedisError", parse_error(reply)), redis_pys_error(reply)
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)
    assert ours.status_code == theirs.status_code


def test_a_connection_that_the_server_closes_says_so_and_is_closed(redis_server: RedisServer):
    address = Address.parse(redis_server.url)
    connection = cast("DirectConnection", address.connection_class(**address.options))
    connection.connect()
    connection.send_command("CLIENT", "KILL", "ID", connection.handshake_metadata[b"id"], "SKIPME", "no")
    assert connection.read_response() == 1
    with pytest.raises(ConnectionError, match="the server closed the connection"):
        connection.read_response()
    with pytest.raises(ConnectionError, match="the connection is closed"):
        connection.send_command("PING")


def test_a_process_with_too_many_open_files_hears_of_its_limit(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "create_connection", full)
    with pytest.raises(ConnectionError, match=r"Too many open files: this process may open no more files.*ulimit -n"):
        DirectConnection(host="127.0.0.1").connect()
