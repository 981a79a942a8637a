"""The actor that notifies subscribers, its message, and the program of a worker.

python -m examples.products.notifier
"""

from datetime import UTC, datetime

from pydantic import BaseModel

from actorwork import Actor, Fixed, Message, RetryPolicy, Settings, receive, run

from .configuration import CONFIGURATION
from .messenger import Messenger


class Sent(BaseModel):
    """The messenger has a notification, since this attempt."""

    attempt: int
    at: datetime


class Notify(BaseModel, Message["Notifier", Sent]):
    """Tell all subscribers."""

    text: str


class Notifier(Actor):
    """Waits for the messenger, for up to a hundred notifications at once."""

    settings = Settings(
        title="product notifier",
        concurrency=100,
        execution_timeout=60,
        retry=RetryPolicy(attempts=CONFIGURATION.attempts, backoff=Fixed(seconds=CONFIGURATION.attempt_pause)),
    )

    def __init__(self) -> None:
        self.messenger = Messenger(seconds=CONFIGURATION.messenger_seconds, failures=CONFIGURATION.messenger_failures)

    @receive
    async def notify(self, message: Notify) -> Sent:
        delivery = self.context.delivery
        # A delivery may be handled twice, by two workers: the messenger knows it by its id.
        await self.messenger.send(message.text, id=delivery.id, attempt=delivery.attempt)
        return Sent(attempt=delivery.attempt, at=datetime.now(UTC))


if __name__ == "__main__":
    run(Notifier, broker=CONFIGURATION.broker, lease=CONFIGURATION.lease)
