"""Hosts with addresses of their own, on this machine: a network namespace each, on one bridge.

    with open_network(3) as network:
        subprocess.Popen([*network.hosts[0].through, "redis-server"])
        network.pull_out(network.hosts[0])
        network.part(network.hosts[1], network.hosts[2])

The machine itself is on the bridge too, as an operator's is. It needs root, and `ip` of iproute2: `why_not()` says what
is missing.
"""

import os
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from shutil import which
from typing import Final

import attrs

_numbers: Final = count(1)


def ip(*words: str) -> str:
    ended = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"ip {' '.join(words)}: {ended.stderr.strip()}")
    return ended.stdout


def why_not() -> str:
    """Return why hosts cannot be had here, or an empty string."""
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
    return ""


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

    def __init__(self, name: str, subnet: str, size: int) -> None:
        self.name = name
        self.outside = f"{subnet}.254"
        """The address of the machine itself."""
        self.hosts = tuple(Host(f"{name}h{n}", f"{subnet}.{n + 1}") for n in range(size))

    def build(self, stack: ExitStack) -> None:
        ip("link", "add", self.name, "type", "bridge")
        stack.callback(ip, "link", "delete", self.name)
        ip("address", "add", f"{self.outside}/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        for host in self.hosts:
            ip("netns", "add", host.name)
            stack.callback(ip, "netns", "delete", host.name)
            ip("link", "add", host.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            stack.callback(ip, "link", "delete", host.name)  # A namespace lives on while a process in it does.
            ip("link", "set", host.name, "master", self.name, "up")
            for words in (("address", "add", f"{host.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                ip("-n", host.name, *words)
            ip("-n", host.name, "link", "set", "lo", "up")

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
def open_network(size: int) -> Generator[Network]:
    with ExitStack() as stack:
        network = Network(f"aw{os.getpid()}n{next(_numbers)}", _free_subnet(), size)
        network.build(stack)
        yield network
