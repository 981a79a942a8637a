"""`actorwork metrics`: printed once, served, and what is shipped for Grafana and Prometheus."""

import json
import re
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from actorwork.cli.commands import actorwork
from tests.patience import PATIENCE

from .conftest import HOUSE, Shell


def test_the_metrics_of_the_broker_are_printed(shell: Shell):
    shell("send", "orders", "{}", "--force")
    printed = shell("metrics").stdout
    assert "# TYPE actorwork_nodes gauge\nactorwork_nodes 0\n" in printed


def test_the_metrics_of_the_broker_are_served():
    server = subprocess.Popen(
        [sys.executable, "-m", "actorwork", "metrics", "--broker", "sqlite://", "--listen", "127.0.0.1:0"],
        cwd=HOUSE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        with urllib.request.urlopen(found[0], timeout=PATIENCE) as response:
            assert "actorwork_nodes 0\n" in response.read().decode()
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(("command", "begins"), [("dashboard", "{"), ("rules", "# Alert rules for Prometheus")])
def test_what_is_shipped_is_printed(command: str, begins: str):
    printed = CliRunner().invoke(actorwork, ["metrics", command])
    assert printed.exit_code == 0
    assert printed.stdout.startswith(begins)
    if command == "dashboard":
        assert json.loads(printed.stdout)["title"] == "actorwork"


def test_an_address_that_is_none_is_refused():
    refused = CliRunner().invoke(actorwork, ["metrics", "--broker", "sqlite://", "--listen", "9464"])
    assert refused.exit_code == 1
    assert "HOST:PORT" in refused.output
