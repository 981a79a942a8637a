"""Exit reason × restart type: cases 40 to 47 of `supervisor_SUITE`, and every way in which a task can end."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import trio

from actorwork import (
    Actor,
    ActorCrashed,
    ActorStopped,
    Child,
    Intensity,
    MaxRestartsExceeded,
    Settings,
    Shutdown,
    Supervisor,
    events,
    open_system,
    receive,
)
from actorwork.groups import only_leaf
from actorwork.policy.exits import Exit, Kind, Restart
from tests.doubles import FakeBroker, Kept
from tests.supervision.tree_fixture import LENIENT, Boom, Own, Stage, counts, quiet, raising, shown


@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown info", "abnormal"])
async def test_permanent(how: str, mock_clock: trio.testing.MockClock):
    """permanent_normal, permanent_shutdown, permanent_abnormal: a permanent child is always started again."""
    stage = Stage()
    async with stage.tree([stage.child("a")]) as root:
        await stage.ends("a", how)
        assert stage.starts["a"] == 2
        assert await shown(root) == {"a": "up"}
        assert await counts(root) == (1, 1, 0, 1)


@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown info"])
async def test_transient_normal(how: str, mock_clock: trio.testing.MockClock):
    """transient_normal, transient_shutdown: it rests in its record; restart_child starts it again."""
    stage = Stage()
    async with stage.tree([stage.child("a", restart="transient")]) as root:
        await stage.ends("a", how)
        assert await shown(root) == {"a": None}
        assert await counts(root) == (1, 0, 0, 1)
        assert await root.restart_child("a") is not None
        assert await shown(root) == {"a": "up"}
        assert stage.restarts == 0


async def test_transient_abnormal(mock_clock: trio.testing.MockClock):
    """A transient child that raises is started again."""
    stage = Stage()
    async with stage.tree([stage.child("a", restart="transient")]) as root:
        await stage.ends("a", "abnormal")
        assert stage.starts["a"] == 2
        assert await shown(root) == {"a": "up"}


@pytest.mark.parametrize("how", ["normal", "shutdown", "shutdown info", "abnormal"])
async def test_temporary(how: str, mock_clock: trio.testing.MockClock):
    """temporary_normal, temporary_shutdown, temporary_abnormal: nothing is left, and its id is free."""
    stage = Stage()
    async with stage.tree([stage.child("a", restart="temporary")]) as root:
        await stage.ends("a", how)
        assert await counts(root) == (0, 0, 0, 0)
        await root.start_child(stage.child("a"))
        assert await counts(root) == (1, 1, 0, 1)


@pytest.mark.parametrize("strategy", ["one_for_all", "rest_for_one"])
async def test_temporary_bystander(strategy: Any, mock_clock: trio.testing.MockClock):
    """A temporary sibling that a group restart ends is removed, not started again."""
    stage = Stage()
    async with stage.tree([stage.child("a"), stage.child("t", restart="temporary")], strategy=strategy) as root:
        await stage.dies("a")
        assert await shown(root) == {"a": "up"}
        assert stage.log == ["+a", "+t", "-a", "-t", "+a"]


# ---- how a task can end ----


async def nested_groups(leaf: BaseException) -> None:
    async with trio.open_nursery() as outer:
        outer.start_soon(trio.sleep_forever)
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            raise leaf


async def two_leaves() -> None:
    raise ExceptionGroup("both", [Boom("one"), ExceptionGroup("in", [OSError("two")])])


async def with_a_cancelled_sibling() -> None:
    """Its own nursery cancels a sibling, which is no part of the reason."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.lowlevel.checkpoint()
        raise Boom("leaf")


async def stray() -> None:
    """Carry a `Cancelled` out of the scope it belongs to."""
    kept: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
            raise
    raise kept[0]


async def too_slow() -> None:
    with trio.fail_after(1):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("act", "kind", "error"),
    [
        (lambda: None, Kind.NORMAL, None),
        (raising(Shutdown("term")), Kind.SHUTDOWN, None),
        (partial(nested_groups, Shutdown("term")), Kind.SHUTDOWN, None),
        (raising(ExceptionGroup("all", [Shutdown("term"), Shutdown(2)])), Kind.SHUTDOWN, None),
        (raising(ExceptionGroup("not all", [Shutdown(1), Boom()])), Kind.CRASHED, ExceptionGroup),
        (raising(Boom()), Kind.CRASHED, Boom),
        (partial(nested_groups, Boom()), Kind.CRASHED, Boom),
        (with_a_cancelled_sibling, Kind.CRASHED, Boom),
        (two_leaves, Kind.CRASHED, ExceptionGroup),
        (stray, Kind.CRASHED, RuntimeError),
        (too_slow, Kind.CRASHED, trio.TooSlowError),
    ],
)
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_every_way_to_end(
    act: Callable[[], object],
    kind: Kind,
    error: type[BaseException] | None,
    restart: Restart,
    mock_clock: trio.testing.MockClock,
):
    """The table of exits: what came out of the task says the kind; kind and restart type say what follows."""
    stage = Stage()
    async with stage.tree([stage.child("a", restart=restart)]):
        await stage.does("a", act)
        await trio.sleep(2)
        (ended,) = [event.exit for event in stage.kept.of(events.ChildExited)]
        assert ended.kind is kind
        assert (None if ended.error is None else type(ended.error)) is error
        again = restart == "permanent" or (restart == "transient" and kind is Kind.CRASHED)
        assert stage.starts["a"] == (2 if again else 1)
        if kind is Kind.SHUTDOWN:
            assert ended.reason == "term"


async def test_a_group_of_one_keeps_its_group(mock_clock: trio.testing.MockClock):
    """The exit names the leaf, and keeps the group it came in."""
    stage = Stage()
    async with stage.tree([stage.child("a")]):
        await stage.does("a", partial(nested_groups, Boom("leaf")))
        (ended,) = [event.exit for event in stage.kept.of(events.ChildExited)]
        assert isinstance(ended.error, Boom)
        assert isinstance(ended.group, ExceptionGroup)
        assert str(ended) == "crashed (Boom: leaf)"


@pytest.mark.parametrize(
    "make",
    [
        KeyboardInterrupt,
        partial(SystemExit, 3),
        Own,
        lambda: BaseExceptionGroup("in", [Boom(), Own()]),
        lambda: BaseExceptionGroup("in", [BaseExceptionGroup("deeper", [KeyboardInterrupt()])]),
    ],
)
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_what_is_no_exception_is_fatal(
    make: Callable[[], BaseException], restart: Restart, mock_clock: trio.testing.MockClock
):
    """KeyboardInterrupt, SystemExit and the user's own end the tree in order, through every supervisor, unrestarted."""
    stage = Stage()
    inner = Supervisor([stage.child("b"), stage.child("c", restart=restart), stage.child("d")], id="inner")
    error = make()
    with pytest.raises(BaseException) as caught:
        async with stage.tree([stage.child("a"), inner, stage.child("e")]):
            stage.tell("c", raising(error))
            await trio.sleep_forever()
    expected = only_leaf(error)
    assert repr(caught.value) == repr(expected)
    assert stage.log == ["+a", "+b", "+c", "+d", "+e", "-c", "-d", "-b", "-e", "-a"]
    assert stage.restarts == 0


class Fragile(Actor):
    """Ends as its messages tell it."""

    settings = Settings(title="fragile")
    made: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.made.append(1)

    @receive
    async def act(self, message: str) -> str:
        match message:
            case "own":
                raise Own
            case "exit":
                raise SystemExit(3)
            case "shutdown":
                raise Shutdown("enough")
            case "stop":
                self.context.stop()
            case "helper own":
                self.context.nursery.start_soon(self.helper, Own())
            case "helper shutdown":
                self.context.nursery.start_soon(self.helper, Shutdown("helped"))
            case "helper group":
                self.context.nursery.start_soon(self.helper, ExceptionGroup("two", [Boom("1"), Boom("2")]))
            case _:
                pass
        return message

    async def helper(self, error: BaseException) -> None:
        await trio.lowlevel.checkpoint()
        raise error


def exits(kept: Kept) -> list[Exit]:
    return [event.exit for event in kept.of(events.ChildExited)]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("shutdown", Kind.SHUTDOWN),
        ("stop", Kind.NORMAL),
        ("helper shutdown", Kind.SHUTDOWN),
        ("helper group", Kind.CRASHED),
    ],
)
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_how_an_actor_ends(message: str, kind: Kind, restart: Restart, mock_clock: trio.testing.MockClock):
    """An actor's `Shutdown`, its `context.stop()` and the errors of its helper tasks go by the same table."""
    Fragile.made.clear()
    kept = Kept()
    async with open_system(
        Supervisor([Child(Fragile, restart=restart)], intensity=LENIENT), broker=FakeBroker(), emit=kept
    ) as system:
        ref = system.ref(Fragile)
        ref.tell_nowait(message)
        await quiet()
        assert exits(kept)[0].kind is kind
        again = restart == "permanent" or (restart == "transient" and kind is Kind.CRASHED)
        assert len(Fragile.made) == (2 if again else 1)
        if again:
            assert await ref.ask("hello") == "hello"
        else:
            with pytest.raises(ActorStopped):
                await ref.ask("hello")


@pytest.mark.parametrize(("message", "error"), [("own", Own), ("exit", SystemExit), ("helper own", Own)])
async def test_an_actors_base_exception_ends_the_system(
    message: str, error: type[BaseException], mock_clock: trio.testing.MockClock
):
    """After a `BaseException` from a local call or a helper task there is no restart; the asker gets it first."""
    Fragile.made.clear()
    told: list[str] = []

    async def asker(ref: Any) -> None:
        try:
            await ref.ask(message)
        except (ActorCrashed, ActorStopped) as crash:
            told.append(type(crash).__name__)

    with pytest.raises(error):
        async with open_system(Fragile, broker=FakeBroker(), intensity=LENIENT) as system:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asker, system.ref(Fragile))
            await trio.sleep_forever()
    assert len(Fragile.made) == 1
    assert told == ([] if message.startswith("helper") else ["ActorCrashed"])


async def test_killed_by_somebody_else(mock_clock: trio.testing.MockClock):
    """A child that is cancelled from elsewhere is killed: abnormal, so a transient one is started again."""
    stage = Stage()
    async with stage.open(Supervisor([stage.child("a", restart="transient")], intensity=LENIENT)) as system:
        (record,) = system.supervisor().supervision.records
        record.scope.cancel(reason="from elsewhere")
        await quiet()
        assert stage.ended[0][0] == "killed"
        assert stage.starts["a"] == 2


async def test_an_error_after_the_stop_changes_nothing(mock_clock: trio.testing.MockClock):
    """What a child raises while it ends is reported; it is not started again, and nothing escalates."""

    async def clumsy(*, task_status: Any) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("while ending")

    stage = Stage()
    async with stage.tree([stage.child("a"), Child(clumsy, id="c")]) as root:
        await root.terminate_child("c")
        assert await shown(root) == {"a": "up", "c": None}
        assert stage.ended == [("shutdown", "Boom")]
        await root.restart_child("c")
    assert stage.restarts == 0


async def test_an_error_while_ending_does_not_replace_a_cancellation(mock_clock: trio.testing.MockClock):
    """The scope around the system catches its own cancellation, whatever the children raise while they end."""

    async def clumsy(*, task_status: Any) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("while ending")

    stage = Stage()
    with trio.move_on_after(1) as scope:
        async with stage.tree([Child(clumsy)]):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_stray_cancellation_is_told_with_its_origin(mock_clock: trio.testing.MockClock):
    """A `Cancelled` that was not sent to the child is its crash, and is kept as the cause."""
    stage = Stage()
    with pytest.raises(MaxRestartsExceeded) as caught:
        async with stage.tree([stage.child("a")], intensity=Intensity(restarts=0)):
            stage.tell("a", stray)
            await trio.sleep_forever()
    crash = caught.value.__cause__
    assert isinstance(crash, RuntimeError)
    assert "stray Cancelled" in str(crash)
    assert isinstance(crash.__cause__, trio.Cancelled)
