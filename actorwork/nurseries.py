"""A nursery whose errors leave it as they are.

A plain nursery wraps even one error in a group, so the caller of a function that happens to use a nursery would need
`except*`. What leaves an unwrapping nursery:

    one error, of the block or of a task         that error itself, with the cause and the context it has
    a group that the block raised                that group itself: it is the block's own, not this nursery's wrapping
    several errors                               one group of them, as from any nursery
    cancellations beside errors                  as above: the cancellations only followed from the errors
    cancellations alone                          nothing, if this nursery's scope was cancelled; else the cancellation
                                                 from outside, as from any nursery
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType

import trio

from actorwork.groups import is_cancellation, is_group, leaves


def open_unwrapping_nursery() -> AbstractAsyncContextManager[trio.Nursery]:
    """Open a nursery out of which a single error leaves as itself; in all else it is `trio.open_nursery()`."""
    return _UnwrappingNursery()


class _UnwrappingNursery(AbstractAsyncContextManager[trio.Nursery]):
    # A class instead of a generator: no frame that stays alive as long as the nursery, and none in the tracebacks.
    __slots__ = ("_manager",)

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> trio.Nursery:
        self._manager = trio.open_nursery()
        return await self._manager.__aenter__()

    # Trio protects the two methods of its nurseries from `KeyboardInterrupt`, so that one that was opened is closed;
    # the wrapping must not open a gap there.
    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        try:
            return await self._manager.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            leaving = _unwrapped(group, error)
        if leaving is error:
            return False  # Python raises it again by itself, with its own traceback.
        # Outside the handler above, and with its context restored: to `raise` sets the context to the error that is
        # being handled, which would be the wrapping group, or the `Cancelled` by which the block ended.
        context = leaving.__context__
        try:
            raise leaving
        finally:
            leaving.__context__ = context
            del leaving, context, error, traceback  # The traceback leads to this frame: else, reference cycles.


def _unwrapped(group: BaseExceptionGroup[BaseException], own: BaseException | None) -> BaseException:
    """Return what leaves the nursery; `own` is the error of its block."""
    found = [error for error in group.exceptions if not is_cancellation(error)]
    if len(found) != 1:
        return group
    (error,) = found
    if own is not None and is_group(own) and is_group(error):
        # When the nursery's scope is cancelled, as it is by each error, Trio takes its cancellations out of all groups.
        # `split` makes new groups even of those that had none: the block's own is the one with the same leaves.
        before, after = list(leaves(own)), list(leaves(error))
        if len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True)):
            return own
    return error
