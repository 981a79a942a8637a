"""The monitor's server: what it answers, at which address, and what it does with clients that misbehave."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection

import pytest

from actorwork.errors import SettingsError
from actorwork.telemetry import monitor
from actorwork.telemetry.monitor import Answer, MonitorServer, Request, Route, json_answer, listening_at
from tests.patience import PATIENCE


def echo(request: Request) -> Answer:
    return json_answer({"path": request.path, "query": request.query, "accept": request.headers.get("accept")})


def fail(_: Request) -> Answer:
    raise LookupError("secret \x1b[31m")


def text(_: Request) -> Answer:
    return Answer(b"up 1\n", 200, "text/plain")


ROUTES: dict[str, Route] = {"/echo": echo, "/fail": fail, "/text": text}


@pytest.fixture
def server() -> Iterator[MonitorServer]:
    with MonitorServer("127.0.0.1:0", ROUTES, tick=lambda: None, every=0.05) as started:
        yield started


def get(server: MonitorServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = HTTPConnection(server.address, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={"Accept": "text/plain"})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def raw(server: MonitorServer, sent: bytes) -> bytes:
    with connect(server) as connection:
        got: list[bytes] = []
        # Whatever it did not read makes the server's end reset the connection.
        with suppress(ConnectionError):
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            got.extend(iter(lambda: connection.recv(65536), b""))
        return b"".join(got)


def connect(server: MonitorServer) -> socket.socket:
    host, port = server.address.split(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def was_cut_off(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True  # It had not been accepted yet.


def test_a_route_is_given_the_request_and_its_answer_is_sent(server: MonitorServer):
    status, kind, body = get(server, "/echo?name=up&x")
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {"path": "/echo", "query": "name=up&x", "accept": "text/plain"}
    assert get(server, "/text") == (200, "text/plain", b"up 1\n")
    assert get(server, "/echo/")[0] == 200


def test_a_head_has_no_body(server: MonitorServer):
    assert get(server, "/text", "HEAD") == (200, "text/plain", b"")


def test_an_unknown_path_names_those_that_exist(server: MonitorServer):
    status, _, body = get(server, "/../etc/passwd")
    assert status == 404
    assert json.loads(body)["pages"] == ["/echo", "/fail", "/text"]


def test_nothing_but_reading_is_possible(server: MonitorServer):
    assert get(server, "/echo", "POST")[0] == 501
    assert get(server, "/echo", "DELETE")[0] == 501


def test_a_route_that_fails_is_logged_and_says_nothing_to_the_client(
    server: MonitorServer, caplog: pytest.LogCaptureFixture
):
    status, _, body = get(server, "/fail")
    assert status == 500
    assert b"secret" not in body
    (record,) = caplog.records
    assert record.name == "actorwork.monitor"
    assert record.exc_info is not None
    assert get(server, "/text")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"\x1b[31m\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000, b""]
)
def test_what_is_no_request_ends_its_own_connection_only(
    server: MonitorServer, sent: bytes, capfd: pytest.CaptureFixture[str]
):
    assert b"\x1b" not in raw(server, sent)
    assert get(server, "/text")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_clients_that_say_nothing_do_not_keep_out_others(server: MonitorServer):
    silent = [connect(server) for _ in range(monitor.MOST + 3)]
    try:
        assert get(server, "/text")[0] == 200
        assert was_cut_off(silent[0]), "the oldest one"
    finally:
        for one in silent:
            one.close()


def test_a_client_that_is_slow_is_cut_off(server: MonitorServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor, "PATIENCE", 0.2)
    with connect(server) as slow:
        slow.sendall(b"GET /text HTTP/1.0\r\n")
        assert was_cut_off(slow)


def test_at_the_end_the_port_is_free_and_no_thread_is_left():
    with MonitorServer("127.0.0.1:0", ROUTES, tick=lambda: None) as server:
        address = server.address
        assert get(server, "/text")[0] == 200
        idle = connect(server)
    with idle:
        assert was_cut_off(idle)
    # The end of the block waits for the thread, but not for long.
    for thread in threading.enumerate():
        if thread.name == "actorwork monitor":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    with MonitorServer(address, ROUTES, tick=lambda: None) as server:
        assert get(server, "/text")[0] == 200


def test_the_tick_is_called_whether_or_not_a_client_comes():
    ticked = threading.Semaphore(0)
    with MonitorServer("127.0.0.1:0", ROUTES, tick=ticked.release, every=0.01):
        assert all(ticked.acquire(timeout=PATIENCE) for _ in range(3))


def test_it_listens_at_the_address_that_it_was_given_and_at_no_other(server: MonitorServer):
    assert server.address.startswith("127.0.0.1:")
    port = server.address.rpartition(":")[2]
    assert port != "0"
    assert server.url == f"http://127.0.0.1:{port}"
    with pytest.raises(SettingsError, match=f"monitor cannot listen at 127.0.0.1:{port}: Address already in use"):
        MonitorServer(f"127.0.0.1:{port}", ROUTES, tick=lambda: None)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, found: tuple[str, int]):
    assert listening_at(address) == found


@pytest.mark.parametrize("address", ["", "9464", ":9464", "127.0.0.1", "::1:9464", "host:x", "host:70000", 9464, None])
def test_an_address_that_does_not_name_both_is_refused(address: object):
    with pytest.raises(SettingsError, match=r"monitor wants HOST:PORT, such as '127.0.0.1:9464'"):
        listening_at(address)
