"""Urls of Redis: which are understood, and that what is secret in one is shown nowhere."""

import traceback

import pytest

from actorwork.brokers import open_broker
from actorwork.errors import BrokerError
from actorwork.streams.transport.address import Address
from actorwork.streams.transport.urls import without_password

SECRET = "S3cr"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}#et@127.0.0.1:6379/0",
        f"redis://user:{SECRET}/et@127.0.0.1:6379/0",
        f"redis://user:{SECRET}?et@127.0.0.1:6379/0",
        "redis://user:3/S3cr@127.0.0.1:6379/0",
        f"redis://{SECRET}#@host/0",
        f" redis://user:{SECRET}@h:6379/0",
        f"user:{SECRET}@h:6379",
        f"redis:/user:{SECRET}@h:6379/0",
        f"redis://user:{SECRET}[y@h:6379",
        f"redis://host:{SECRET}",
        f"unix://user:{SECRET}/et@/run/redis.sock",
        f"redis+sentinel://user:{SECRET}@h:6379",
        f"redis+sentinel://user:{SECRET}/et@h1,h2/name",
        f"redis+sentinel://user:{SECRET}@h1,,h2/name",
        f"redis+sentinel://user:{SECRET}@h1,h2:port/name",
        f"redis+sentinel://user:{SECRET}@h1,h2/name/database",
        f"redis+sentinel://user:{SECRET}@h1,h2/name/0/1",
        f"redis+sentinel://user:{SECRET}@h1,h1/name",
        f"redis+sentinel://user:{SECRET}@/name",
        f"redis+sentinel://h1/name?sentinel_password={SECRET}@x",
        f"redis+sentinel://h1/name?sentinel_Password={SECRET}",
        f"amqp://user:{SECRET}@h:6379",
        f"redis://127.0.0.1:6379/0?Password={SECRET}",
        f"rediss://user:{SECRET}@127.0.0.1:6379/0?ssl_cert_reqs=odd",
        f"redis://user:{SECRET}@127.0.0.1:6379/0?socket_timeout=odd",
    ],
)
async def test_a_url_that_cannot_be_read_is_a_broker_error_without_its_password(url: str):
    with pytest.raises(BrokerError) as caught:
        async with open_broker(url):
            pass
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_unknown_option_is_named():
    with pytest.raises(
        BrokerError, match=r"cannot use 'redis://h/0\?Database=1' .* no connection has the option 'Database'"
    ):
        Address.parse("redis://h/0?Database=1")


@pytest.mark.parametrize("url", ["redis://h/shop", "rediss://h:6380/shop", "valkey://h/1/2", "redis://h/-1"])
def test_a_database_that_is_no_number_is_refused(url: str):
    with pytest.raises(BrokerError, match="expected a number as the database behind the host"):
        Address.parse(url)


@pytest.mark.parametrize("url", ["redis://h:1 ", " redis://h:1", "redis://h:1/0\n", "redis+cluster://h:1,i:1\t"])
def test_white_space_around_a_url_is_named(url: str):
    with pytest.raises(BrokerError, match="as a Redis url: it begins or ends with white space"):
        Address.parse(url)


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("valkey://ann:x@h:7/1", "redis://ann:x@h:7/1"),
        ("valkeys://ann:x@h:7/1", "rediss://ann:x@h:7/1"),
        ("redis+tls://ann:x@h:7/1", "rediss://ann:x@h:7/1"),
        ("redis+ssl://ann:x@h:7/1", "rediss://ann:x@h:7/1"),
        ("REDIS://h", "redis://h"),
    ],
)
def test_other_names_of_the_same_kind_of_server_are_understood(url: str, same: str):
    one, other = Address.parse(url), Address.parse(same)
    assert (one.connection_class, one.options) == (other.connection_class, other.options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://ann:x@h:1/0?db=1", "redis://ann:***@h:1/0?db=1"),
        ("redis://h/0?password=x&ssl_ca_certs=/run/a.pem", "redis://h/0?password=***&ssl_ca_certs=/run/a.pem"),
        ("redis://h/0?Password=x", "redis://h/0?Password=***"),
        ("unix:///run/a@b.sock", "unix:///run/a@b.sock"),
        ("unix://ann:x@/run/redis.sock", "unix://ann:***@/run/redis.sock"),
        ("redis://ann:x#y@h:1/0?db=1", "redis://***@h:1"),
        ("ann:x@h:1", "***@h:1"),
        ("redis://h:x", "redis://h:***"),
        ("redis+sentinel://h1:1,h2/name", "redis+sentinel://h1:1,h2/name"),
        ("Redis+Sentinel://ann:x@h1:1,h2/name/1", "Redis+Sentinel://ann:***@h1:1,h2/name/1"),
        ("redis+sentinel://h1/name?sentinel_password=x&db=1", "redis+sentinel://h1/name?sentinel_password=***&db=1"),
        ("redis+sentinel://ann:x#y@h1:1,h2/name", "redis+sentinel://***@h1:1,h2"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str):
    assert without_password(url) == shown
