"""The error for a framework that is not installed."""

from __future__ import annotations

from actorwork.errors import MissingExtra


def missing(extra: str, error: ModuleNotFoundError) -> MissingExtra:
    """Return the error that names the extra; if it is another module that is missing, the error says so, too."""
    return MissingExtra(
        f"actorwork.integrations.{extra} needs {error.name}, from the extra {extra!r}. Install it with:"
        f' pip install "actorwork[{extra}]"'
    )
