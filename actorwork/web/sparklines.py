"""Small charts, as SVG: one bar for each minute of the last hour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

STEP: Final = 4
HEIGHT: Final = 28
LEAST: Final = 1.5
"""How high a bar is whose value is small beside the others: it must not look like none."""


def spark(values: Sequence[int], name: str, kind: str = "") -> Markup:
    """Draw values, the latest at the right; `name` says what they are, to those who do not see them."""
    most = max(values, default=0)
    bars = "".join(
        f"M{place * STEP} {HEIGHT}V{HEIGHT - max(LEAST, HEIGHT * value / most):.1f}h{STEP - 1}V{HEIGHT}z"
        for place, value in enumerate(values)
        if value > 0
    )
    width = max(1, len(values)) * STEP
    words = f"{name}: {sum(values):,} in the last {len(values)} minutes, at most {most:,} in one"
    return Markup(
        '<svg class="spark {}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path class="floor" d="M0 {}h{}"/><path d="{}"/></svg>'
    ).format(kind, width, HEIGHT, words, HEIGHT - 0.5, width, bars)
