"""A value that is not there yet: what `step.result` is while a flow is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from actorwork.errors import ActorworkError

if TYPE_CHECKING:
    from actorwork.policy.runs.values import Wants


class NotYetKnown(ActorworkError, TypeError):
    """A flow was built as if the result of one of its steps were there already."""


class Origin(Protocol):
    """The step or group whose result a hole stands for."""

    @property
    def label(self) -> str: ...
    @property
    def reply(self) -> Any: ...
    @property
    def outcome_type(self) -> Any: ...


class Hole:
    """Takes the place of a result in a message. Whatever else is done with it raises `NotYetKnown`."""

    __slots__ = ("origin", "wants")

    def __init__(self, origin: Origin | None, wants: Wants) -> None:
        self.origin = origin
        """None: the failures of the run."""
        self.wants: Wants = wants

    def __repr__(self) -> str:
        return f"<the {self.wants} of {self._label}>"

    @property
    def _label(self) -> str:
        return "the run's failures" if self.origin is None else self.origin.label

    def _raise(self, *_: object, **__: object) -> NoReturn:
        raise NotYetKnown(
            f"the {self.wants} of {self._label} is known when the step has ended: pass it on as a whole, as a field of"
            " a message or an element of a list in a field, or compute with it in a handler"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            # Python and libraries look for these to find out what an object can do: it can do nothing.
            raise AttributeError(name)
        self._raise()

    def __iter__(self) -> Iterator[NoReturn]:
        self._raise()

    __hash__ = object.__hash__
    __bool__ = __len__ = __int__ = __float__ = __index__ = _raise
    __str__ = __format__ = __bytes__ = _raise  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    __eq__ = __ne__ = _raise  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    __lt__ = __le__ = __gt__ = __ge__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _raise
    __floordiv__ = __mod__ = __pow__ = __neg__ = __abs__ = __and__ = __or__ = __xor__ = _raise
    __getitem__ = __contains__ = __call__ = _raise
