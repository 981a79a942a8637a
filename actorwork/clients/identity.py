"""The name of the user on whose behalf this program acts: the author of a pause."""

import getpass
import socket


def whoami() -> str:
    """Return the user and host of this program, for other users to contact."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in containers
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
