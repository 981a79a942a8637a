"""The network of the drills: what its cables do."""

import subprocess
import sys
from collections.abc import Generator

import pytest

from .network import Cables, Network, open_network, why_not

CABLES = Cables(0.010, jitter=0.003)
ECHO = """
import socket
with socket.create_server(("0.0.0.0", 5000)) as server:
    print("listens", flush=True)
    connection, _ = server.accept()
    while data := connection.recv(100):
        connection.sendall(data)
"""
ASK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 5000), timeout=60) as connection:
    took = []
    for _ in range(5):
        began = time.monotonic()
        connection.sendall(b"?")
        connection.recv(100)
        took.append(time.monotonic() - began)
print(min(took))
"""


@pytest.fixture
def network() -> Generator[Network]:
    if reason := why_not(are_slow=True):
        pytest.skip(reason)
    with open_network(3, CABLES) as network:
        yield network


def test_a_message_between_hosts_takes_the_time_of_both_their_cables(network: Network):
    asked, asking, _ = network.hosts
    with subprocess.Popen([*asked.through, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "listens\n"
            answer = subprocess.run(
                [*asking.through, sys.executable, "-c", ASK, asked.address],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            server.kill()
    assert float(answer.stdout) >= 4 * (CABLES.delay - CABLES.jitter)
