import pytest
import trio
import trio.testing

from actorwork.errors import BrokerError
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.client import open_client
from actorwork.streams.transport.connection import Connection, connect
from actorwork.streams.transport.redis_py import AuthenticationError, ConnectionError, TimeoutError  # noqa: A004
from actorwork.streams.transport.urls import without_password
from actorwork.streams.transport.wire import NOT_ENOUGH, pack
from actorwork.testing.redis_server import Certificates, RedisServer, open_redis_server
from tests.streams.conftest import HELLO, open_scripted_server, open_tls_url


async def opened(url: str) -> Connection:
    return await connect(Address.parse(url), "test", trio.CapacityLimiter(1))


async def ask(connection: Connection, *command: str | bytes) -> object:
    data = pack(command)
    while data:
        data = data[connection.send(data) :]
        if data:
            await connection.wait_writable()
    while (reply := connection.next_reply()) is NOT_ENOUGH:
        await connection.receive()
    return reply


async def test_a_connection_is_named_and_knows_its_number(redis_url: str):
    connection = await opened(redis_url)
    try:
        assert await ask(connection, "CLIENT", "ID") == connection.client_id
        assert await ask(connection, "CLIENT", "GETNAME") == b"test"
    finally:
        connection.close()


async def test_the_database_of_the_url_is_selected(redis_url: str):
    connection = await opened(f"{redis_url}?db=3")
    try:
        info = await ask(connection, "CLIENT", "LIST", "ID", str(connection.client_id))
        assert isinstance(info, bytes)
        assert b" db=3 " in info
    finally:
        connection.close()


async def test_a_closed_connection_wakes_who_waits_for_it(redis_url: str):
    connection = await opened(redis_url)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await connection.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        connection.close()
        connection.close()


async def test_tcp(redis_url: str):
    with open_redis_server(tcp=True) as server:
        async with open_client(server.tcp_url) as client:
            assert await client.call("ECHO", "x") == b"x"


async def test_tls_carries_large_replies_and_many_tasks(
    tls_server: RedisServer | None, certificates: Certificates, redis_server: RedisServer
):
    async with open_tls_url(tls_server, certificates, redis_server) as url, open_client(url) as client:
        large = bytes(range(256)) * 8000
        await client.call("SET", "large", large)
        assert await client.call("GET", "large") == large

        async def echo(word: str) -> None:
            for _ in range(20):
                assert await client.call("ECHO", word) == word.encode()

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(echo, str(number))
        async with client.open_exclusive() as exclusive:
            assert await exclusive.call("GET", "large") == large


async def test_a_certificate_of_an_unknown_authority_is_refused_with_advice(
    tls_server: RedisServer | None, certificates: Certificates, redis_server: RedisServer
):
    async with open_tls_url(tls_server, certificates, redis_server) as url:
        with pytest.raises(BrokerError, match=r"certificate of rediss://localhost:.* is not trusted .*ssl_ca_certs"):
            await opened(url.partition("?")[0])


async def test_a_certificate_for_another_name_is_refused_with_other_advice(
    tls_server: RedisServer | None, certificates: Certificates, redis_server: RedisServer
):
    async with open_tls_url(tls_server, certificates, redis_server) as url:
        with pytest.raises(
            BrokerError, match=r"is for another name \(.*ismatch.*\): connect to a name that is in"
        ) as caught:
            await opened(url.replace("localhost", "127.0.0.1"))
        assert "ssl_ca_certs=/path" not in str(caught.value)


async def test_an_acl_user_gets_in_over_a_unix_socket():
    with open_redis_server(users=["ann on >s3cret ~* &* +@all"]) as server:
        async with open_client(server.url.replace("unix://", "unix://ann:s3cret@")) as client:
            assert await client.call("ACL", "WHOAMI") == b"ann"
            async with client.open_exclusive() as exclusive:
                assert await exclusive.call("ACL", "WHOAMI") == b"ann"


async def test_a_wrong_password_says_what_to_do_and_does_not_tell_the_password():
    with open_redis_server(users=["ann on >s3cret ~* &* +@all"]) as server, pytest.raises(BrokerError) as caught:
        async with open_client(server.url.replace("unix://", "unix://ann:wr0ng@")):
            pass
    text = str(caught.value)
    assert f"unix://ann:***@{server.socket_path} refuses these credentials" in text
    assert "check the user and the password in the url" in text
    assert "wr0ng" not in text
    assert isinstance(caught.value.__cause__, AuthenticationError)


async def test_a_missing_password_is_a_matter_of_credentials_too():
    with open_redis_server(config={"requirepass": "s3cret"}) as server:
        with pytest.raises(BrokerError, match="refuses these credentials"):
            await opened(server.url)
        async with open_client(server.url.replace("unix://", "unix://:s3cret@")) as client:
            assert await client.call("PING") == b"PONG"


async def test_a_user_without_the_right_to_ping_gets_in():
    with open_redis_server(users=["ann on nopass ~* &* +@all -ping"]) as server:
        connection = await opened(server.url.replace("unix://", "unix://ann:x@"))
        connection.close()


async def test_a_user_without_the_rights_of_a_connection_is_told_which():
    with (
        open_redis_server(users=["ann on nopass ~* &* +@all -client"]) as server,
        pytest.raises(BrokerError, match=r"lacks rights .*client.* grant \+@connection"),
    ):
        await opened(server.url.replace("unix://", "unix://ann:x@"))


async def test_a_database_that_does_not_exist_is_refused(redis_url: str):
    with pytest.raises(BrokerError, match=r"refuses the connection .*index is out of range"):
        await opened(f"{redis_url}?db=999")


async def test_nobody_there_is_a_connection_error_that_names_the_url():
    with pytest.raises(ConnectionError, match=r"cannot connect to unix:///nowhere/redis\.sock"):
        await opened("unix:///nowhere/redis.sock")


async def test_a_server_that_loads_its_data_is_not_there_yet():
    async with open_scripted_server([HELLO, b"+OK\r\n", b"-LOADING Redis is loading\r\n"]) as server:
        with pytest.raises(ConnectionError, match="is not ready"):
            await opened(server.url)


async def test_a_server_that_accepts_and_says_nothing_is_given_up():
    async with open_scripted_server([]) as server:
        with pytest.raises(TimeoutError):
            await opened(f"{server.url}?socket_timeout=0.05")


async def test_connecting_can_be_cancelled():
    async with open_scripted_server([]) as server:
        with trio.move_on_after(0.05) as scope:
            await opened(f"{server.url}?socket_timeout=30")
        assert scope.cancelled_caught


@pytest.mark.parametrize("url", ["http://localhost", "redis://h?db=x", "localhost:6379"])
def test_a_url_of_another_kind_is_refused_with_its_name(url: str):
    with pytest.raises(BrokerError, match=f"cannot use '{url.partition('?')[0]}"):
        Address.parse(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:1/2", "redis://localhost:1/2"),
        ("redis://ann:s3cret@host/0", "redis://ann:***@host/0"),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("unix://ann:p%40ss@/tmp/s.sock?db=1", "unix://ann:***@/tmp/s.sock?db=1"),
        ("rediss://host?password=s3cret&ssl_password=s3cret", "rediss://host?password=***&ssl_password=***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str):
    assert without_password(url) == shown
    assert "s3cret" not in repr(Address.parse(url))
