"""What is known of a sampler beforehand, so that nothing need be made of a message only to find it is not sampled.

    ParentBased{…}            drops what has a parent that is not sampled, by the flag in `traceparent`
    TraceIdRatioBased{ratio}  drops by the id of the trace, whatever the flag says
    AlwaysOffSampler          drops everything
    any other                 is asked, for each message

Where a ratio is taken of what has no parent, that is decided here by a random number, for a tenth of what a span costs
that is dropped. What is taken gets the id of a trace that the sampler takes as well: it decides by the id, so it is
asked all the same, and other programs that go by the id agree. That a sampler decides as its description says is tried
once, by two ids.
"""

from __future__ import annotations

import copy
import random
import re
from typing import TYPE_CHECKING, Any, Final

import attrs
from opentelemetry.context import Context

from actorwork.shown import Value
from actorwork.telemetry.otel.propagation import TRACEPARENT_FORMAT, is_unsampled

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

_ROOT: Final = re.compile(r"(ParentBased\{root:)?(?:TraceIdRatioBased\{([0-9.e+-]+)\}|AlwaysOffSampler)(?(1),|\Z)")
_LOW: Final = 1 << 64
"""A sampler by ratio looks at the lower half of the id of a trace."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Sampling(Value):
    """How spans are sampled, as far as that is known beforehand.

    With `skips_unsampled`, all with a parent that is not sampled are dropped, and those alone. `below` is the bound
    under which the lower half of a trace's id must be if nothing else decides. `ratio` is the part that is taken of
    those without a parent, or None if only the sampler knows; `roots` is the tracer that makes these.
    """

    skips_unsampled: bool = False
    below: int | None = None
    ratio: float | None = None
    roots: Tracer | None = None

    @classmethod
    def of(cls, provider: TracerProvider, tracer: Tracer) -> Sampling:
        """Return what is known of a provider's sampler."""
        by_parent = goes_by_parent(provider)
        sampler: Any = getattr(provider, "sampler", None)
        found = _ROOT.match(_description_of(sampler))
        source = getattr(tracer, "id_generator", None)
        if found is None or source is None or (found[1] is not None and not by_parent):
            return cls(skips_unsampled=by_parent)
        ratio = 0.0 if found[2] is None else float(found[2])
        bound = round(ratio * _LOW)
        if not _decides_by(bound, sampler):
            return cls(skips_unsampled=by_parent)
        roots: Any = copy.copy(tracer)
        roots.id_generator = _TakenIds(source, max(1, bound))
        if found[1] is not None:
            return cls(skips_unsampled=True, ratio=ratio, roots=roots)
        return cls(below=bound, ratio=ratio, roots=roots)

    def drops(self, traceparent: object) -> bool:
        """Whether the span of a message is dropped for what its header says; False where only the sampler knows."""
        if self.skips_unsampled:
            return is_unsampled(traceparent)
        if self.below is None or not isinstance(traceparent, str):
            return False
        found = TRACEPARENT_FORMAT.fullmatch(traceparent)
        return found is not None and int(found[1][16:], 16) >= self.below

    @property
    def drops_any(self) -> bool:
        return self.skips_unsampled or self.below is not None


class _TakenIds:
    """Makes ids of traces that a sampler by ratio takes, and all others as its source does."""

    def __init__(self, source: Any, bound: int) -> None:
        self._source = source
        self._bound = bound

    def generate_span_id(self) -> int:
        return self._source.generate_span_id()

    def generate_trace_id(self) -> int:
        return (self._source.generate_trace_id() // _LOW * _LOW) | random.randrange(self._bound)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def goes_by_parent(provider: TracerProvider) -> bool:
    """Whether all spans of a provider with a parent that is not sampled are dropped.

    By the description of its sampler, which the SDK specifies, so that the SDK need not be imported. A provider without
    a sampler (that of the API alone) records nothing in any case, but may be followed by one that does.
    """
    description = _description_of(getattr(provider, "sampler", None))
    return description == "AlwaysOffSampler" or (
        description.startswith("ParentBased{")
        and "remoteParentNotSampled:AlwaysOffSampler" in description
        and "localParentNotSampled:AlwaysOffSampler" in description
    )


def _description_of(sampler: Any) -> str:
    describe = getattr(sampler, "get_description", None)
    return str(describe()) if callable(describe) else ""


def _decides_by(bound: int, sampler: Any) -> bool:
    """Whether a sampler takes what has no parent by the lower half of its id: under the bound, and not from it on."""
    try:
        return all(
            sampler.should_sample(Context(), _LOW | number, "actorwork").decision.is_sampled() == (number < bound)
            for number in (bound - 1, bound)
            if 0 <= number < _LOW
        )
    except Exception:  # noqa: BLE001 - a sampler of the application's may raise anything: it is asked each time then
        return False
