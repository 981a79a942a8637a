"""Whether a sampler follows its parent where that is not sampled: then no span need be made to find it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


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
