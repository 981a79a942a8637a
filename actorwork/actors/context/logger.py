"""The actor's own logger: `self.context.log`."""

from __future__ import annotations

import logging
from typing import Any

from actorwork.actors.context.in_flight import in_flight


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the actor and the message in flight to every record."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        extra: dict[str, Any] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        current = in_flight.get()
        if current is not None and current.delivery is not None:
            extra.update(
                message_id=current.delivery.id, attempt=current.delivery.attempt, source=current.delivery.source
            )
        elif current is not None and current.call is not None:
            extra.update(message_id=type(current.call.message).__name__)  # a local message has no id
        kwargs["extra"] = extra
        return msg, kwargs
