"""Values shared by all nodes: `self.context.shared(…)` in an actor, `client.shared(…)` outside of one.

    rate = self.context.shared("rate", float, default=1.0)
    await rate.set(2.5)
    await rate.update(lambda old: old * 2)
    hits = self.context.shared("hits", int, default=0, ttl=60)
    await hits.increment()

The broker stores a value as JSON under its name. The caller declares its type; values are checked against it on reading
and on writing, so that no node writes what others cannot read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from actorwork import codec
from actorwork.durations import Duration, as_seconds
from actorwork.errors import CodecError
from actorwork.policy.bounds import check_name, is_number

if TYPE_CHECKING:
    from actorwork.abc import Values
    from actorwork.state.lock import Held

T = TypeVar("T")


class Shared(Generic[T]):
    """A value shared by all nodes, by its name; `get` returns `default` if there is none.

    A write under a lock (`fence=held`) raises `LockLost` once a later owner of the lock has written. While the broker
    is unreachable every call waits; bound it with a cancel scope.
    """

    def __init__(self, values: Values, name: str, type: Any, *, default: T, ttl: Duration | None) -> None:
        check_name("the name of a shared value", name)
        ttl = as_seconds(ttl)
        if ttl is not None and not (is_number(ttl) and 0 < ttl < float("inf")):
            raise ValueError(f"the ttl of shared value {name!r} wants finite seconds > 0, or None, got {ttl!r}")
        self._values = values
        self._name = name
        self._type = type
        self._ttl = ttl
        self._default = default
        # Kept as JSON, so that changes to a mutable default do not reach other callers.
        self._start = None if default is None else self._encode(default)

    def __repr__(self) -> str:
        return f"<Shared {self._name!r} of {getattr(self._type, '__name__', self._type)}>"

    @property
    def name(self) -> str:
        return self._name

    async def get(self) -> T:
        """Return the value; raise `CodecError` if it is of another type."""
        kept = await self._values.get(self._name)
        return self._decode(self._start if kept is None else kept.data)

    async def set(self, value: T, *, fence: Held | None = None) -> None:
        """Set the value, whatever it was before."""
        await self._values.set(self._name, self._encode(value), ttl=self._ttl, fence=_token(fence))

    async def update(self, function: Callable[[T], T], *, fence: Held | None = None) -> T:
        """Replace the value by the result of a function of it; return the result.

        Concurrent changes are not lost: if there was one, the function is called again with the new value, so it should
        have no side effects. Raises `BrokerError` if the reply was lost, so that the change may have taken effect.
        """
        while True:
            kept = await self._values.get(self._name)
            data, version = (self._start, 0) if kept is None else (kept.data, kept.version)
            value = function(self._decode(data))
            new = self._encode(value)
            done = await self._values.set(self._name, new, ttl=self._ttl, version=version, fence=_token(fence))
            if done is not None:
                return value

    async def increment(self, by: float = 1, *, fence: Held | None = None) -> T:
        """Add to a number, in one step; return the sum. Without a default it begins with 0.

        Raises `CodecError` if the value is not a number or the sum would reach 2**53, and `BrokerError` like `update`.
        """
        if self._type is int and not isinstance(by, int):
            raise TypeError(f"the shared value {self._name!r} is a whole number; increment wants one too, got {by!r}")
        start = b"0" if self._start is None else self._start
        total = await self._values.add(self._name, by, start=start, ttl=self._ttl, fence=_token(fence))
        if total is None:
            raise CodecError(
                f"the shared value {self._name!r} cannot be incremented by {by!r}: it is not a number, or the sum would"
                " reach 2**53"
            )
        return self._decode(total)

    async def delete(self, *, fence: Held | None = None) -> bool:
        """Delete the value; return whether there was one."""
        return await self._values.delete(self._name, fence=_token(fence))

    def _encode(self, value: T) -> bytes:
        data = codec.encode_value(value)
        if value is not None:
            self._decode(data)
        return data

    def _decode(self, data: bytes | None) -> Any:
        if data is None or data == b"null":
            return self._default
        try:
            return codec.decode_value(data, self._type)
        except CodecError as error:
            raise CodecError(f"the shared value {self._name!r}: {error}", error.problems) from error


def _token(fence: Held | None) -> int | None:
    return None if fence is None else fence.token
