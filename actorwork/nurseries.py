"""A nursery whose errors leave it as they are.

A plain nursery wraps even one error in a group, so the caller of a function that happens to use a nursery would need
`except*`. What leaves an unwrapping nursery:

    one error, of the block or of a task         that error itself, with the cause and the context it has
    a group that the block raised                that group itself: it is the block's own, not this nursery's wrapping
    an error of the block, and others of tasks   the block's error; the others are attached as notes
    errors of several tasks                      one group of them
    cancellations beside errors                  the errors: the cancellations only followed from them
    cancellations alone                          nothing, if this nursery's scope was cancelled; else the cancellation
                                                 from outside, which goes on as from any nursery
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
    if not found:
        return group
    mine = next((error for error in found if _is_same(error, own)), None)
    if mine is None:
        return found[0] if len(found) == 1 else group
    # The group itself, unless it has lost cancellations that were this nursery's.
    leaving = own if own is not None and len(list(leaves(own))) == len(list(leaves(mine))) else mine
    for other in found:
        if other is not mine:
            leaving.add_note(f"meanwhile, in a task: {type(other).__name__}: {other}")
    return leaving


def _is_same(error: BaseException, own: BaseException | None) -> bool:
    """Return whether an error in the nursery's group is that of the block."""
    if error is own or own is None or not is_group(own) or not is_group(error):
        return error is own
    # When the nursery's scope is cancelled, as it is by each error, Trio takes its cancellations out of all groups, and
    # `split` makes new ones even where there are none in them: only the leaves are still the same.
    ours = {id(leaf) for leaf in leaves(own)}
    return all(id(leaf) in ours for leaf in leaves(error))
