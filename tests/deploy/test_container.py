"""The image's entry and its check, as a container runs them: first process, user without rights, read-only files.

No image is built, which wants a registry: what the Containerfile and compose.yaml say is read, and done in namespaces,
by bubblewrap, over the files of this machine.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.examples.programs import until
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
IMAGE = re.sub(r"\\\n", " ", (ROOT / "Containerfile").read_text(encoding="utf-8")).rpartition("FROM ")[2]
WORKER: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["worker"]
SEPARATE = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net")


def said(instruction: str) -> str:
    """Return what the last stage of the image has for an instruction."""
    (found,) = re.findall(rf"^{instruction} (.*)$", IMAGE, re.MULTILINE)
    return found


ENTRY: list[str] = json.loads(said("ENTRYPOINT"))
CHECK: list[str] = json.loads(said("HEALTHCHECK").partition("CMD ")[2])
VARIABLES = dict(one.split("=", 1) for one in shlex.split(said("ENV")))
PREFIX = VARIABLES["PATH"].partition("/bin:")[0]


def is_possible() -> bool:
    """Whether bubblewrap is here, and may make namespaces."""
    bubblewrap = shutil.which("bwrap")
    tried = [bubblewrap or "", *SEPARATE, "--ro-bind", "/", "/", "true"]
    return bubblewrap is not None and subprocess.run(tried, check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not is_possible(), reason="bubblewrap is not on the PATH, or may not make namespaces")


class Container:
    """A container of the worker, whose broker is a file: it has no network."""

    def __init__(self, data: Path) -> None:
        self._variables = {
            **VARIABLES,
            "PATH": VARIABLES["PATH"].replace("$PATH", os.environ["PATH"]),
            "PYTHONPATH": str(ROOT),
            "ACTORWORK_GRACE": WORKER["environment"]["ACTORWORK_GRACE"],
            "ACTORWORK_BROKER": "sqlite:////srv/data/broker.sqlite3",
        }
        (mount,) = WORKER["volumes"]
        given, inside, mode = mount.split(":")
        assert (WORKER["read_only"], WORKER["tmpfs"], mode) == (True, ["/tmp"], "ro")
        files = [
            *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *("--ro-bind", str(ROOT), str(ROOT), "--ro-bind", sys.prefix, sys.prefix),
            *("--tmpfs", str(Path(PREFIX).parent), "--ro-bind", sys.prefix, PREFIX),
            *("--tmpfs", str(Path(inside).parent), "--ro-bind", str(ROOT / given), inside),
            *("--bind", str(data), "/srv/data"),
        ]
        user = ["--uid", said("USER"), "--gid", said("USER")]
        reading, writing = os.pipe()
        self._log = data / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["bwrap", *SEPARATE, "--as-pid-1", "--die-with-parent", *user, *files, "--chdir", WORKER["working_dir"],
                 "--info-fd", str(writing), *ENTRY, *WORKER["command"]],
                env=self._variables, pass_fds=(writing,), stdout=log, stderr=log,
            )  # fmt: skip
        os.close(writing)
        with os.fdopen(reading) as information:
            self.pid: int = json.loads(information.read() or "{}").get("child-pid", 0)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its checks and `docker exec` are."""
        enter = ["nsenter", "--preserve-credentials", "--target", str(self.pid), "--all"]
        return subprocess.run(
            [*enter, *command], env=self._variables, capture_output=True, text=True, timeout=PATIENCE, check=False
        )


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


def test_a_worker_is_the_first_process_answers_its_check_and_stops_in_order(container: Container) -> None:
    until(lambda: "is up at sqlite:" in container.log or None, "{}", lambda: container.log)
    interpreter, *arguments = container.execute("cat", "/proc/1/cmdline").stdout.split("\0")
    assert "python" in interpreter  # And no shell, which would keep the signal.
    assert arguments[1:-1] == WORKER["command"]
    assert container.execute("id", "-u").stdout.strip() == said("USER")
    assert container.execute("touch", "/app").returncode != 0
    checked = container.execute(*CHECK)
    assert checked.returncode == 0, checked
    assert checked.stdout.startswith("live: ")
    assert container.execute(*CHECK, "http://127.0.0.1:9").returncode == 1
    sent = container.execute("actorwork", "send", "orders", '{"x": 1}')
    assert sent.returncode == 0, sent
    until(lambda: "order 1: " in container.log or None, "{}", lambda: container.log)
    os.kill(container.pid, signal.SIGTERM)
    assert container.process.wait(PATIENCE) == 0, container.log
    *_, unread, shut, _, last = container.log.splitlines()
    assert "unread ones are released (SIGTERM)" in unread
    assert "in reverse order of their start (SIGTERM)" in shut
    assert "the node stopped cleanly" in last
