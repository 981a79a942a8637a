"""Cables that take time: `python slow_cables.py DELAY JITTER LOSS ROOM NEAR:FAR [NEAR:FAR …]`.

Each cable has two ends, the descriptors of two TAP devices. What is read at one end is written to the other one DELAY
seconds later, plus or minus up to JITTER, in its order; a part LOSS of the frames is lost, and so is what comes while
ROOM of them are on their way already, as in a router. Ends when its standard input does.

This does in user space what `tc netem` does in kernels that have it.
"""

import os
import selectors
import sys
import time
from collections import deque
from contextlib import suppress
from random import Random

FRAME = 65536
AT_ONCE = 64
"""How many frames are read from one end before the others have their turn."""


class Direction:
    """From one end of a cable to the other one."""

    def __init__(self, end: int, delay: float, jitter: float, loss: float, room: int) -> None:
        self.end = end
        self.delay, self.jitter, self.loss, self.room = delay, jitter, loss, room
        self.on_the_way: deque[tuple[float, bytes]] = deque()
        self._last = 0.0
        self._dice = Random(end)

    def accept(self, frame: bytes, now: float) -> None:
        if len(self.on_the_way) >= self.room or self._dice.random() < self.loss:
            return
        self._last = max(self._last, now + self.delay + self._dice.uniform(-self.jitter, self.jitter))
        self.on_the_way.append((self._last, frame))

    def deliver(self, now: float) -> float | None:
        """Write what has arrived; return when the next frame does."""
        while self.on_the_way and self.on_the_way[0][0] <= now:
            _, frame = self.on_the_way.popleft()
            with suppress(OSError):  # The device is down: the frame is lost, as at any end that is unplugged.
                os.write(self.end, frame)
        return self.on_the_way[0][0] if self.on_the_way else None


def carry(delay: float, jitter: float, loss: float, room: int, cables: list[tuple[int, int]]) -> None:
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    directions: list[Direction] = []
    for near, far in cables:
        for one, other in ((near, far), (far, near)):
            os.set_blocking(one, False)
            direction = Direction(other, delay, jitter, loss, room)
            directions.append(direction)
            selector.register(one, selectors.EVENT_READ, direction)
    while True:
        now = time.monotonic()
        arrivals = [at for direction in directions if (at := direction.deliver(now)) is not None]
        wait = max(0.0, min(arrivals) - time.monotonic()) if arrivals else None
        for key, _ in selector.select(wait):
            if key.data is None:
                return
            for _ in range(AT_ONCE):
                try:
                    frame = os.read(key.fd, FRAME)
                except OSError:
                    break  # Nothing more, or the device is down.
                key.data.accept(frame, time.monotonic())


if __name__ == "__main__":
    _, delay_in, jitter_in, loss_in, room_in, *pairs = sys.argv
    ends = [(int(near), int(far)) for near, _, far in (pair.partition(":") for pair in pairs)]
    carry(float(delay_in), float(jitter_in), float(loss_in), int(room_in), ends)
