"""What is known of a sampler beforehand, so that nothing need be made of a message only to find it is not sampled.

A sampler that goes by its parent drops what has a parent that is not sampled. Where it takes a ratio of what has no
parent, that is decided here by a random number, for a tenth of what a span costs that is dropped. What is taken gets
the id of a trace that the sampler takes as well: it decides by the id, so it is asked all the same, and other programs
that go by the id agree.
"""

from __future__ import annotations

import copy
import random
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from actorwork.shown import Value

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

_ROOT: Final = re.compile(r"ParentBased\{root:TraceIdRatioBased\{([0-9.e+-]+)\},")
_LOW: Final = 1 << 64
"""A sampler by ratio looks at the lower half of the id of a trace."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Sampling(Value):
    """How spans are sampled, as far as that is known beforehand.

    With `skips_unsampled`, all with a parent that is not sampled are dropped. `ratio` is the part that is taken of
    those without a parent, or None if only the sampler knows; `roots` is the tracer that makes these.
    """

    skips_unsampled: bool = False
    ratio: float | None = None
    roots: Tracer | None = None

    @classmethod
    def of(cls, provider: TracerProvider, tracer: Tracer) -> Sampling:
        """Return what is known of a provider's sampler."""
        if not goes_by_parent(provider):
            return cls()
        found = _ROOT.match(str(getattr(provider, "sampler").get_description()))  # noqa: B009 - the API has none
        source = getattr(tracer, "id_generator", None)
        if found is None or source is None:
            return cls(skips_unsampled=True)
        ratio = float(found[1])
        roots: Any = copy.copy(tracer)
        roots.id_generator = _TakenIds(source, max(1, round(ratio * _LOW)))
        return cls(skips_unsampled=True, ratio=ratio, roots=roots)


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
    sampler: Any = getattr(provider, "sampler", None)
    describe = getattr(sampler, "get_description", None)
    if not callable(describe):
        return False
    description = str(describe())
    return description == "AlwaysOffSampler" or (
        description.startswith("ParentBased{")
        and "remoteParentNotSampled:AlwaysOffSampler" in description
        and "localParentNotSampled:AlwaysOffSampler" in description
    )
