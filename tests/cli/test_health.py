"""`actorwork health`, at a monitor that answers as it is told to."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from actorwork.cli.commands import actorwork
from actorwork.telemetry.monitor import Answer, MonitorServer, Route, json_answer

WELL = json_answer({"status": "pass", "check": "live", "node": "9a3c", "problems": []})
STOPPING = json_answer({"check": "ready", "node": "9a3c", "problems": ["it stops: SIGTERM", "two\n\x1b[31m"]}, 503)
ROUTES: dict[str, Route] = {
    "/live": lambda _: WELL,
    "/ready": lambda _: STOPPING,
    "/started": lambda _: Answer(b"\x1b[31m no JSON", 200),
    "/list": lambda _: Answer(b"[]", 500),
}


@pytest.fixture
def address() -> Iterator[str]:
    with MonitorServer("127.0.0.1:0", ROUTES, tick=lambda: None) as server:
        yield server.address


def health(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(actorwork, ["health", *arguments], env=environment, auto_envvar_prefix="ACTORWORK")


def test_a_node_that_is_well_takes_one_line(address: str):
    result = health(address)
    assert (result.exit_code, result.output) == (0, "live: 9a3c\n")
    assert health(f"http://{address}/live").output == "live: 9a3c\n"


def test_a_node_that_is_not_well_says_why_in_one_harmless_line(address: str):
    result = health(address, "--ready")
    assert result.exit_code == 1
    assert result.output == "not ready: it stops: SIGTERM; two\\n\\x1b[31m\n"
    assert health(f"{address}/ready").exit_code == 1


def test_answers_that_are_none_of_ours_are_borne(address: str):
    assert health(f"{address}/started").output == "started: no node yet\n"
    assert (health(f"{address}/list").exit_code, health(f"{address}/list").output) == (1, "not list: 500\n")
    assert health(f"{address}/nowhere").output == "not nowhere: no such page\n"


def test_the_address_is_that_of_the_variable_and_a_wildcard_is_asked_here(address: str):
    port = address.rpartition(":")[2]
    assert health(ACTORWORK_MONITOR=f"0.0.0.0:{port}").output == "live: 9a3c\n"


def test_a_node_that_does_not_answer_is_an_error_in_one_line():
    with MonitorServer("127.0.0.1:0", ROUTES, tick=lambda: None) as server:
        address = server.address
    result = health(address)
    assert result.exit_code == 1
    assert result.output == f"Error: no answer from http://{address}/live: Connection refused\n"


def test_a_proxy_of_the_environment_is_not_asked(address: str):
    assert health(address, http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9").exit_code == 0


@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1:1/live", "file:///etc/passwd", "127.0.0.1:x", "[::1"])
def test_what_is_no_address_is_wrong_usage(url: str):
    assert health(url).exit_code == 2


def test_two_checks_at_once_are_wrong_usage(address: str):
    assert health(f"{address}/other", "--ready").exit_code == 2
    assert health(f"{address}/live", "--ready").exit_code == 1
