"""The telemetry of one process: opened before its system starts, closed last of all, when everything else has ended.

What it has gathered may be exported over a network that is slow or gone, so that happens in a thread, within a budget:
what is not exported by then is lost, and said to be.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from actorwork import events
from actorwork.abc import KnowsTraces
from actorwork.errors import SettingsError
from actorwork.shown import Shown

if TYPE_CHECKING:
    from actorwork.abc import Broker, EventSink, Instruments, PublishMiddleware, Telemetry
    from actorwork.events import Event
    from actorwork.message import Delivery
    from actorwork.policy.settlement import Settlement

_OWN_BUDGET: Final = 0.8
"""The part of the time for the end that is given to the telemetry; the rest is for one that ignores it."""

_NONE: Final[Mapping[int, tuple[Delivery, str]]] = MappingProxyType({})

log = logging.getLogger("actorwork.telemetry")


@attrs.frozen(eq=False, repr=False)
class SystemInstruments(Shown):
    """What observes a system."""

    opened: tuple[Instruments, ...]

    @classmethod
    def of(cls, telemetry: Sequence[Telemetry], broker: str | Broker | None) -> SystemInstruments:
        """Open the telemetry of this process; raises `SettingsError` for one that cannot be opened."""
        url = broker if isinstance(broker, str) else "" if broker is None else broker.url
        opened: list[Instruments] = []
        for one in telemetry:
            try:
                opened.append(one.open(url))
            except Exception as error:
                for before in opened:
                    with suppress(Exception):
                        before.close(0.0)
                raise SettingsError(f"telemetry={one!r} cannot be opened: {error}") from error
        return cls(tuple(opened))

    @property
    def publish_middleware(self) -> tuple[PublishMiddleware, ...]:
        return tuple(layer for one in self.opened for layer in one.publish_middleware)

    @property
    def sampled(self) -> Mapping[int, tuple[Delivery, str]]:
        """See `abc.KnowsTraces`."""
        return next((one.sampled for one in self.opened if isinstance(one, KnowsTraces)), _NONE)

    def observing(self, emit: EventSink) -> EventSink:
        """Return a sink that lets the instruments see the events, too."""
        observers = [one.observe for one in self.opened if one.observe is not None]
        return _ObservedSink(emit, observers) if observers else emit

    async def close(self, within: float) -> None:
        """Close the telemetry; returns after `within` seconds at the latest, shielded from cancellation until then."""
        is_closed = False
        with trio.CancelScope(shield=True):
            is_closed = await trio.to_thread.run_sync(_close_within, self.opened, within)
        if not is_closed:
            log.warning("the telemetry was not exported within %.3g s; what it had gathered last is lost", within)


def _close_within(opened: Sequence[Instruments], within: float) -> bool:
    """Close all; return whether that was done in time."""
    # By a clock of its own: an exporter takes real time, also where Trio's clock is a test's. And in a thread of its
    # own, since nothing ends an exporter that hangs.
    closing = threading.Thread(
        target=_close_all, args=(opened, within * _OWN_BUDGET), name="actorwork telemetry", daemon=True
    )
    closing.start()
    closing.join(within)
    return not closing.is_alive()


def _close_all(opened: Sequence[Instruments], within: float) -> None:
    for one in opened:
        try:
            one.close(within)
        except Exception:  # an exporter may raise anything, and the system has ended in order
            log.exception("closing the telemetry %r failed; what it had gathered last may be lost", one)


class _ObservedSink:
    """Shows the events of this process to its instruments; in all else it is the sink that it wraps."""

    wants_acks = True
    """Whatever the sink behind it does with the end of a delivery: the instruments want to see it."""

    def __init__(self, sink: EventSink, observers: Sequence[EventSink]) -> None:
        self._sink = sink
        self._observers = observers

    def acked(self, actor_id: str, title: str, delivery: Delivery, settlement: Settlement, seconds: float) -> None:
        """Emit the end of a delivery that was acknowledged; see `abc.acks_of`."""
        self(events.Settled(actor_id, title, delivery, settlement, seconds))

    def __call__(self, event: Event) -> None:
        if event.origin is None:  # Those of other processes of the tree are observed there.
            for observe in self._observers:
                observe(event)
        self._sink(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)
