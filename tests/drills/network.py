"""Hosts with addresses of their own, on this machine: a network namespace each, on one bridge.

    with open_network(3) as network:
        subprocess.Popen([*network.hosts[0].through, "redis-server"])
        network.pull_out(network.hosts[0])
        network.part(network.hosts[1], network.hosts[2])

The machine itself is on the bridge too, as an operator's is. It needs root, and `ip` of iproute2: `why_not()` says what
is missing. With `cables=Cables(0.010, …)` what a host sends takes time to the bridge, and again to the host that it is
for; that needs /dev/net/tun as well.
"""

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from shutil import which
from typing import Final

import attrs

_numbers: Final = count(1)
_TUN: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_HEADER: Final = 0x1002
_CARRIER: Final = Path(__file__).with_name("slow_cables.py")


@attrs.frozen
class Cables:
    """What the cable of each host does to a frame, in each direction. Times are in seconds."""

    delay: float
    jitter: float = 0.0
    loss: float = 0.0
    room: int = 2000
    """How many frames may be on their way in one direction; more are lost."""


def ip(*words: str) -> str:
    ended = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"ip {' '.join(words)}: {ended.stderr.strip()}")
    return ended.stdout


def why_not(*, are_slow: bool = False) -> str:
    """Return why hosts, with slow cables or with any, cannot be had here, or an empty string."""
    if os.geteuid():
        return "network namespaces need root"
    if which("ip") is None:
        return "there is no `ip`: install iproute2"
    probe = f"aw{os.getpid()}p"
    try:
        ip("netns", "add", probe)
        try:
            ip("link", "add", probe, "type", "bridge")
            ip("link", "delete", probe)
        finally:
            ip("netns", "delete", probe)
    except OSError as error:
        return f"this machine gives no network namespaces ({error})"
    if are_slow:
        try:
            os.close(_tap(probe))
        except OSError as error:
            return f"this machine gives no TAP devices ({error})"
    return ""


def _tap(name: str) -> int:
    """Make a device whose frames are read from, and written to, the descriptor that is returned, for as long as it is
    open.
    """
    tap = os.open(_TUN, os.O_RDWR)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP_WITHOUT_HEADER))
    except BaseException:
        os.close(tap)
        raise
    return tap


@attrs.frozen
class Host:
    """One namespace, with a cable (a pair of devices) to the bridge."""

    name: str
    address: str

    @property
    def through(self) -> Sequence[str]:
        """The command that runs the one after it on this host; the process id stays the same."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """Made by `open_network`."""

    def __init__(self, name: str, subnet: str, size: int, cables: Cables | None = None) -> None:
        self.name = name
        self._cables = cables
        self.outside = f"{subnet}.254"
        """The address of the machine itself."""
        self.hosts = tuple(Host(f"{name}h{n}", f"{subnet}.{n + 1}") for n in range(size))

    def build(self, stack: ExitStack) -> None:
        ip("link", "add", self.name, "type", "bridge")
        stack.callback(ip, "link", "delete", self.name)
        ip("address", "add", f"{self.outside}/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        ends: list[tuple[int, int]] = []
        for host in self.hosts:
            ip("netns", "add", host.name)
            stack.callback(ip, "netns", "delete", host.name)
            if self._cables is None:
                ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
                stack.callback(ip, "link", "delete", host.name)  # A namespace lives on while a process in it does.
            else:
                ends.append(_open_cable(host, stack))
            ip("link", "set", host.name, "master", self.name, "up")
            for words in (("address", "add", f"{host.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                ip("-n", host.name, *words)
            ip("-n", host.name, "link", "set", "lo", "up")
        if self._cables is not None:
            stack.enter_context(_carried(self._cables, ends))

    def pull_out(self, host: Host) -> None:
        """Unplug a host: what it sends is lost in silence, and so is what others send to it."""
        ip("link", "set", host.name, "down")

    def put_back(self, host: Host) -> None:
        ip("link", "set", host.name, "up")

    def part(self, one: Host, other: Host) -> None:
        """Let nothing pass between two hosts, in either direction, in silence."""
        for host, far in ((one, other), (other, one)):
            ip("-n", host.name, "route", "add", "blackhole", f"{far.address}/32")

    def join(self, one: Host, other: Host) -> None:
        for host, far in ((one, other), (other, one)):
            ip("-n", host.name, "route", "delete", "blackhole", f"{far.address}/32")


def _open_cable(host: Host, stack: ExitStack) -> tuple[int, int]:
    """Make the two ends of the cable of a host, devices as those of any cable; return their descriptors."""
    far = f"{host.name}x"
    ends: list[int] = []
    for name in (host.name, far):
        ends.append(_tap(name))
        stack.callback(os.close, ends[-1])
    ip("link", "set", far, "netns", host.name, "name", "eth0")
    return ends[0], ends[1]


@contextmanager
def _carried(cables: Cables, ends: Sequence[tuple[int, int]]) -> Generator[None]:
    numbers = (cables.delay, cables.jitter, cables.loss, cables.room)
    pairs = [f"{near}:{far}" for near, far in ends]
    carrier = subprocess.Popen(
        [sys.executable, str(_CARRIER), *map(str, numbers), *pairs],
        stdin=subprocess.PIPE,
        pass_fds=[end for pair in ends for end in pair],
    )
    try:
        yield
    finally:
        carrier.communicate(b"")
    assert carrier.returncode == 0, f"{carrier.args} ended with {carrier.returncode}"


def _free_subnet() -> str:
    """Return a private /24 that nothing here uses: several tests have networks at once."""
    taken = Path("/proc/net/fib_trie").read_text()
    start = os.getpid()
    return next(
        subnet
        for n in range(4096)
        if (subnet := f"10.{201 + (start + n) // 250 % 16}.{(start + n) % 250}") + "." not in taken
    )


@contextmanager
def open_network(size: int, cables: Cables | None = None) -> Generator[Network]:
    with ExitStack() as stack:
        network = Network(f"aw{os.getpid()}n{next(_numbers)}", _free_subnet(), size, cables)
        network.build(stack)
        yield network
