"""A messenger as one knows them: slow, and not always there. It is simulated; replace it by a real one."""

import logging

import trio

log = logging.getLogger(__name__)


class MessengerError(Exception):
    """The messenger did not take a notification."""


class Messenger:
    """Takes `seconds` for each notification, and refuses the first `failures` attempts of each."""

    def __init__(self, *, seconds: float, failures: int) -> None:
        self._seconds = seconds
        self._failures = failures

    async def send(self, text: str, *, id: str, attempt: int) -> None:
        """Send a text; as with many services, an `id` that was sent before is not sent to subscribers again."""
        log.info("asked to send: %s (%s)", text, id)
        await trio.sleep(self._seconds)
        if attempt <= self._failures:
            raise MessengerError(f"503 Service Unavailable ({attempt} of {self._failures} simulated failures)")
        log.info("sent to all subscribers: %s (%s)", text, id)
