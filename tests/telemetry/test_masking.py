"""What is hidden of URLs in any text."""

import pytest

from actorwork.telemetry.formatting import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://ann:s3cret@host:6379/0", "redis://ann:***@host:6379/0"),
        ("redis://:s3cret@host", "redis://:***@host"),
        ("cannot reach redis+tls://a:b@h, nor postgres://c:d@e/f.", "cannot reach redis+tls://a:***@h, nor postgres://c:***@e/f."),
        ("redis://ann:s3@cret@host/0", "redis://ann:***@host/0"),
        ("redis://ann:s3/cr?e#t@host/0", "redis://ann:***@host/0"),
        ("redis://ann:s3:cret@host", "redis://ann:***@host"),
        ("redis://ann:%40@host", "redis://ann:***@host"),
        ("{'url': 'redis://ann:s3cret@host'}", "{'url': 'redis://ann:***@host'}"),
        ('"redis://ann:s3cret@host"', '"redis://ann:***@host"'),
        ("redis://ann:6379@host", "redis://ann:***@host"),
        ("https://host/p?token=abc&x=1", "https://host/p?token=***&x=1"),
        ("https://host/p?x=1&access_token=abc#f", "https://host/p?x=1&access_token=***#f"),
        ("redis://host?username=ann&password=s3cret", "redis://host?username=ann&password=***"),
        ("GET /p?API_KEY=abc HTTP/1.1", "GET /p?API_KEY=*** HTTP/1.1"),
        ("redis://ann:s3cret@host?ssl_password=x", "redis://ann:***@host?ssl_password=***"),
    ],
)  # fmt: skip
def test_a_secret_of_a_url_is_hidden(text: str, shown: str):
    assert masked(text) == shown
    assert masked(shown) == shown, "and what is hidden stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "redis://host:6379/0",
        "redis://ann@host",
        "http://host:8080/@scope/package",
        "http://host:8080 and mail@example.com",
        "http://host and mail@example.com",
        "sqlite:////var/lib/shop.sqlite3",
        "ratio 1:2, ann@host, a = b?",
        "https://host/p?page=2&sort=name",
        "where are the tokens? token=3",
        "http://[::1]:9464/live",
    ],
)
def test_what_is_no_secret_is_shown(text: str):
    assert masked(text) == text


def test_a_long_text_is_masked_as_a_short_one():
    assert masked("a://b:" + "x" * 100_000 + "@host") == "a://b:***@host"
    assert masked("a://b:c@d " * 10_000) == "a://b:***@d " * 10_000
    assert masked("?" + "token" * 50_000) == "?" + "token" * 50_000
