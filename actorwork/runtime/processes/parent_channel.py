"""A child's channel to its parent, and the thread that serves it.

The thread sends heartbeats, answers for the stacks, and ends the process when the parent is gone. It is a thread so
that a blocked loop cannot stop it: then the heartbeats still arrive, and say how long ago the loop ran last.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import trio

from actorwork.runtime.processes.control import Frame, Frames, packed
from actorwork.runtime.processes.exit_codes import EXIT_ORPHANED
from actorwork.stacks import all_stacks

_LAST_FRAMES: Final = 1.0
"""Seconds for the parent to take the last frames."""
_LONGEST_SPARE: Final = 1024 * 1024
"""Bytes of spare frames that wait here, at most, while the parent does not read."""
_PORTION: Final = 65536
_FIRST_INTERVAL: Final = 1.0
"""Seconds between two heartbeats, until the configuration is read."""


class ParentChannel:
    """The control socket, as the child uses it. Frames may be sent from any thread, and leave in the order of calls."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._frames = Frames()
        self._lock = threading.Lock()
        """Guards what waits to be sent, and the handing over from `_early` to `_handle`."""
        self._backlog = bytearray()
        self._spare: deque[bytes] = deque()
        """Frames that wait until there is no backlog."""
        self._spare_size = 0
        self._begun = bytearray()
        """The rest of what the socket has taken a part of: it has to be sent before any other frame."""
        self._heartbeat_interval = _FIRST_INTERVAL
        self._token: trio.lowlevel.TrioToken | None = None
        self._handle: Callable[[Frame], None] | None = None
        self._early: list[Frame] = []
        """The frames that arrived before `serve`."""
        self._last_tick: float | None = None
        """When the loop ran last, by the clock of time.monotonic."""

    def __repr__(self) -> str:
        return f"<channel to the parent: {len(self._begun) + len(self._backlog) + self._spare_size} bytes wait>"

    def read_config(self) -> bytes:
        """Read the pickled configuration, which comes first. Without a parent, the process ends here."""
        self._end.settimeout(None)
        (length,) = struct.unpack(">Q", self._read(8))
        config = self._read(length)
        self._end.settimeout(0)
        return config

    def _read(self, size: int) -> bytes:
        read = bytearray()
        while len(read) < size:
            portion = self._end.recv(min(size - len(read), 1 << 20))
            if not portion:
                os._exit(EXIT_ORPHANED)
            read += portion
        return bytes(read)

    def start_thread(self) -> None:
        threading.Thread(target=self._run, name="actorwork parent channel", daemon=True).start()

    def serve(self, heartbeat_interval: float, handle: Callable[[Frame], None]) -> None:
        """Pass each frame of the parent to `handle`, in the loop that calls this."""
        self._heartbeat_interval = heartbeat_interval
        with self._lock:
            # Under the lock: a frame that arrives meanwhile is either among the early ones or goes to the handler.
            self._handle = handle
            self._token = trio.lowlevel.current_trio_token()
        for frame in self._early:
            handle(frame)
        self.tick()

    def tick(self) -> None:
        """Note that the loop runs."""
        self._last_tick = time.monotonic()

    def send(self, kind: str, /, **facts: Any) -> None:
        """Send a frame. Never waits: what the socket does not take at once is sent later, by the thread."""
        with self._lock:
            self._backlog += packed(kind, **facts)
            self._flush()

    def send_unless_behind(self, kind: str, /, **facts: Any) -> None:
        """Send a frame that is of no use later; with a backlog, drop it."""
        if not self._backlog:
            self.send(kind, **facts)

    def send_spare(self, frame: bytes) -> bool:
        """Send a frame, after all others; return False, and drop it, if too many of these wait already."""
        with self._lock:
            if self._spare_size + len(frame) > _LONGEST_SPARE:
                return False
            self._spare.append(frame)
            self._spare_size += len(frame)
            self._flush()
        return True

    @property
    def _is_behind(self) -> bool:
        return bool(self._begun or self._backlog or self._spare)

    def _flush(self) -> None:
        while self._is_behind:
            if not self._begun:
                self._begin()
            try:
                sent = self._end.send(self._begun)
            except BlockingIOError:
                return
            except OSError:  # The parent is gone, as the thread will notice.
                self._backlog.clear()
                self._spare.clear()
                self._begun.clear()
                self._spare_size = 0
                return
            del self._begun[:sent]

    def _begin(self) -> None:
        """Choose what is sent next: the backlog, before any spare frame, so that no heartbeat waits for these."""
        if self._backlog:
            self._begun, self._backlog = self._backlog, self._begun
            return
        while self._spare and len(self._begun) < _PORTION:
            frame = self._spare.popleft()
            self._spare_size -= len(frame)
            self._begun += frame

    def finish(self) -> None:
        """Give the parent a moment to take the last frames."""
        until = time.monotonic() + _LAST_FRAMES
        while self._is_behind and time.monotonic() < until:
            with self._lock:
                self._flush()
            time.sleep(0.01)

    # ---- the thread ----

    def _run(self) -> None:
        poll = select.poll()
        due = time.monotonic()
        while True:
            # Without a backlog the socket is writable all the time, and polling for that would spin.
            poll.register(self._end, select.POLLIN | (select.POLLOUT if self._is_behind else 0))
            happened = poll.poll(max(0.0, due - time.monotonic()) * 1000)
            if self._is_behind:
                with self._lock:
                    self._flush()
            if any(what & ~select.POLLOUT for _, what in happened):
                self._receive()
            if time.monotonic() >= due:
                due = time.monotonic() + self._heartbeat_interval
                self.send_unless_behind("heartbeat", age=self._age)

    @property
    def _age(self) -> float | None:
        return None if self._last_tick is None else time.monotonic() - self._last_tick

    def _receive(self) -> None:
        try:
            data = self._end.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # At once, without a shutdown: its lease runs out, and other nodes take over its deliveries. A shutdown
            # would need the loop, which may be blocked; and a handler may run for hours.
            os._exit(EXIT_ORPHANED)
        for frame in self._frames.feed(data):
            if frame.get("type") == "stacks":
                self.send("stacks", text=all_stacks(), age=self._age)  # From here, since the loop may be blocked.
            else:
                self._forward(frame)

    def _forward(self, frame: Frame) -> None:
        with self._lock:
            if self._token is None or self._handle is None:
                self._early.append(frame)
                return
        with suppress(trio.RunFinishedError):  # The process is about to end already.
            self._token.run_sync_soon(self._handle, frame)
