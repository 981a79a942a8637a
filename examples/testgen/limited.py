"""Runs pytest within limits that it sets for its own process: `python limited.py SECONDS BYTES ARGUMENT…`.

They hold even if the process that started it is killed, and for whatever the tests start in turn.
"""

import resource
import signal
import sys

LARGEST_FILE = 1 << 20


def main(seconds: float, memory: int, arguments: list[str]) -> int:
    whole = max(1, round(seconds))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))  # SIGXCPU, and a second later SIGKILL.
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)  # By the clock: its signal ends the process.

    import pytest

    return pytest.main(arguments)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
