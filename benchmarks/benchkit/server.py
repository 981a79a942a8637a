"""A private redis-server and the few commands that the runner needs, without a client library."""

import contextlib
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE_COMMAND = {
    b"list": "LLEN",
    b"hash": "HLEN",
    b"set": "SCARD",
    b"zset": "ZCARD",
    b"stream": "XLEN",
    b"string": "STRLEN",
}
MEASURES = {"used_memory", "used_cpu_sys", "used_cpu_user", "total_reads_processed", "total_commands_processed"}


class RedisServer:
    """A fresh server on loopback that keeps nothing on disk."""

    def __init__(self, port: int, executable: str) -> None:
        self.directory = tempfile.mkdtemp(prefix="bench-redis-")
        flags = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self.directory}
        flags |= {"daemonize": "no", "loglevel": "warning"}
        self.process = subprocess.Popen(
            [executable, *(word for name, value in flags.items() for word in (f"--{name}", value))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.socket = self._connect(port)
        self.file = self.socket.makefile("rb")
        if self.process.poll() is not None:
            raise SystemExit(f"redis-server ended at once: is port {port} taken? choose another with --port")
        self.command("PING")

    def _connect(self, port: int) -> socket.socket:
        for _ in range(200):
            try:
                return socket.create_connection(("127.0.0.1", port))
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"redis-server did not answer on port {port} within 4 s")

    def command(self, *words: str | bytes) -> Any:
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        body = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
        self.socket.sendall(b"*%d\r\n" % len(encoded) + body)
        return self._reply()

    def _reply(self) -> Any:
        line = self.file.readline()[:-2]
        kind, value = line[:1], line[1:]
        if kind == b"$":
            return self.file.read(int(value) + 2)[:-2] if int(value) >= 0 else None
        if kind == b"-":
            raise RuntimeError(value.decode())
        if kind == b"*":
            return [self._reply() for _ in range(int(value))]
        return int(value) if kind == b":" else value

    def keys_left(self) -> dict[str, Any]:
        """Return what is still in Redis, by key: shows whether a job is stuck or gone."""
        left: dict[str, Any] = {}
        for key in self.command("KEYS", "*")[:40]:
            kind: bytes = self.command("TYPE", key)
            size = self.command(SIZE_COMMAND[kind], key) if kind in SIZE_COMMAND else None
            left[f"{kind.decode()} {key.decode(errors='replace')}"] = size
        return left

    def info(self) -> dict[str, float]:
        """Read the counters of INFO that the cases use, and the calls of each command."""
        measures: dict[str, float] = {}
        for line in self.command("INFO", "everything").decode().splitlines():
            name, _, value = line.partition(":")
            if name.startswith("cmdstat_"):
                measures[name] = int(value.split(",")[0].split("=")[1])
            elif name in MEASURES:
                measures[name] = float(value)
        return measures

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(10)
        with contextlib.suppress(OSError):
            Path(self.directory).rmdir()
