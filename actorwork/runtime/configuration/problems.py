"""What is wrong with a configuration: every problem, each with its place, in one error."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

import attrs

from actorwork.errors import ConfigurationError
from actorwork.policy.bounds import LONGEST_SHOWN


@attrs.frozen
class Problems:
    """Collects what is wrong, so that all of it is reported at once."""

    found: list[str] = attrs.field(factory=list[str])

    def add(self, where: str, what: str) -> None:
        problem = f"{where}: {what}" if where else what
        if problem not in self.found:
            self.found.append(problem)

    def check(self) -> None:
        """Raise `ConfigurationError` if there are any."""
        if self.found:
            raise ConfigurationError(self.found)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return how an unknown name goes on: what may have been meant, or all that there is."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(names)}" if names else "; there is none"


def as_written(value: object) -> str:
    """Return a value for an error, not longer than a line."""
    # A table of YAML may be in another one many times over.
    text = reprlib.repr(value) if type(value) in {list, dict} else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:60]}… ({len(text)} characters)"
