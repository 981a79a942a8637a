"""Who acts, as others see it: the author of a pause."""

import getpass
import socket


def whoami() -> str:
    """Return who we are, for others to ask."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in containers
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
