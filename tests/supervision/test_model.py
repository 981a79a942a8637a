"""The loop against a naive model: random trees, random ends, random requests, a random clock.

The model is a supervisor in its plainest form: recursion, no tasks, no queue, no incarnations. Both get the same
events, and must write the same log, name by name: which children were started and ended, in which order, and which
supervisor gave up.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, TypeAlias, cast

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from actorwork import Backoff, ChildError, Ignore, Intensity, MaxRestartsExceeded, Shutdown, StartError, Supervisor
from actorwork.policy.exits import Exit, Kind, Restart, exit_of, restart_wanted
from actorwork.policy.restart import Failures, Strategy, failed_again, restart_delay, touched
from tests.supervision.tree_fixture import Boom, Stage, quiet

# ---- descriptions of trees ----


@attrs.frozen
class Leaf:
    restart: Restart


@attrs.frozen
class Branch:
    restart: Restart
    strategy: Strategy
    restarts: int
    period: int
    children: tuple[Any, ...]


restarts: st.SearchStrategy[Restart] = st.sampled_from(["permanent", "permanent", "transient", "temporary"])
leaves = st.builds(Leaf, restarts)


def branches(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Branch]:
    return st.builds(
        Branch,
        restarts,
        st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
        st.integers(0, 3),
        st.integers(1, 10),
        st.lists(children, min_size=1, max_size=4).map(tuple),
    )


trees = branches(st.recursive(leaves, branches, max_leaves=6))
Op: TypeAlias = tuple[Literal["end", "fail", "sleep", "terminate", "restart", "delete", "start"], int, Any]
operations = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.integers(0, 20), st.sampled_from(["normal", "shutdown", "abnormal", "abnormal"])),
        st.tuples(st.just("end"), st.integers(0, 20), st.just("abnormal")),
        st.tuples(st.just("fail"), st.integers(0, 20), st.integers(1, 5)),
        st.tuples(st.just("sleep"), st.integers(0, 6), st.none()),
        st.tuples(st.sampled_from(["terminate", "restart", "delete"]), st.integers(0, 20), st.none()),
        st.tuples(st.just("start"), st.integers(0, 20), restarts),
    ),
    min_size=1,
    max_size=25,
)


# ---- the model ----


class GaveUp(Exception):
    """A supervisor of the model did."""


class World:
    """What all nodes of the model share."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.failing = Counter[str]()
        self.restarts = 0
        self.nodes: list[Node] = []


class Node:
    """A child, or a supervisor with children."""

    def __init__(self, world: World, what: Leaf | Branch, name: str, parent: Node | None) -> None:
        self.world, self.what, self.name, self.parent = world, what, name, parent
        self.up = False
        world.nodes.append(self)
        inner = what.children if isinstance(what, Branch) else ()
        self.boot = [Node(world, child, f"{name}.{n}", self) for n, child in enumerate(inner)]
        self.children: list[Node] = []
        self.history: list[float] = []

    def start(self) -> bool:
        if isinstance(self.what, Leaf):
            if self.world.failing[self.name]:
                self.world.failing[self.name] -= 1
                return False
            self.world.log.append(f"+{self.name}")
        self.children, self.history = list(self.boot), []
        for child in self.boot:
            if not child.start():
                self.end_children()
                return False
        self.up = True
        return True

    def stop(self) -> None:
        if self.up:
            self.up = False
            self.end_children()
            if isinstance(self.what, Leaf):
                self.world.log.append(f"-{self.name}")

    def end_children(self) -> None:
        for child in reversed(self.children):
            child.stop()

    def ended(self, kind: Kind) -> None:
        """It has ended by itself."""
        parent = self.parent
        if parent is None:
            raise GaveUp
        if restart_wanted(Exit(kind), self.what.restart):
            try:
                parent.start_again(self)
            except GaveUp:
                if parent.parent is None:
                    raise
                parent.stop()
                parent.ended(Kind.CRASHED)
        elif self.what.restart == "temporary":
            parent.children.remove(self)

    def start_again(self, child: Node) -> None:
        what = self.what
        assert isinstance(what, Branch)
        failed: Node | None = child
        while failed is not None:
            child, failed = failed, None
            self.history.append(self.world.now)
            if sum(moment >= self.world.now - what.period for moment in self.history) > what.restarts:
                raise GaveUp
            self.world.restarts += 1
            group = [self.children[n] for n in touched(what.strategy, self.children.index(child), len(self.children))]
            for sibling in reversed(group):
                if sibling is not child:
                    sibling.stop()
                    if sibling.what.restart == "temporary":
                        self.children.remove(sibling)
            for sibling in [sibling for sibling in group if sibling in self.children]:
                if not sibling.up and not sibling.start():
                    failed = sibling
                    break


# ---- both, side by side ----


def spec_of(stage: Stage, node: Node) -> Any:
    if isinstance(node.what, Leaf):
        return stage.child(node.name, restart=node.what.restart)
    return Supervisor(
        [spec_of(stage, child) for child in node.boot],
        id=node.name,
        restart=node.what.restart,
        strategy=node.what.strategy,
        intensity=Intensity(restarts=node.what.restarts, period=node.what.period),
    )


def path_of(node: Node) -> tuple[str, ...]:
    return () if node.parent is None else (*path_of(node.parent), node.name)


def lives(node: Node) -> bool:
    return node.up and (node.parent is None or (node in node.parent.children and lives(node.parent)))


async def both(tree: Branch, ops: list[Op]) -> None:
    world, stage = World(), Stage()
    root = Node(world, tree, "r", None)
    gave_up = model_gave_up = False
    try:
        async with stage.open(spec_of(stage, root)) as system:
            assert root.start()
            for op, number, how in ops:
                living = [node for node in world.nodes if isinstance(node.what, Leaf) and lives(node)]
                among = living if living and op in ("end", "fail") else world.nodes
                node = among[number % len(among)]
                above = node.parent
                branch = node if isinstance(node.what, Branch) else above
                assert branch is not None
                if op == "sleep":
                    world.now += number
                    await trio.sleep(number)
                elif op == "fail" and isinstance(node.what, Leaf):
                    world.failing[node.name] = how
                    stage.plan[node.name] = ["fail"] * how + ["ok"]
                elif op == "end" and isinstance(node.what, Leaf) and lives(node):
                    world.log.append(f"-{node.name}")
                    node.up = False
                    kind = {"normal": Kind.NORMAL, "shutdown": Kind.SHUTDOWN, "abnormal": Kind.CRASHED}[how]
                    try:
                        node.ended(kind)
                    except GaveUp:
                        model_gave_up = True
                    await stage.ends(node.name, how)
                elif op == "start" and lives(branch):
                    new = Node(world, Leaf(how), f"n{len(world.nodes)}", branch)
                    if new.start():
                        branch.children.append(new)
                    await system.supervisor(path_of(branch) or None).start_child(stage.child(new.name, restart=how))
                elif above is not None and lives(above) and node in above.children:
                    supervisor = system.supervisor(path_of(above) or None)
                    match op:
                        case "terminate":
                            node.stop()
                            if node.what.restart == "temporary":
                                above.children.remove(node)
                            await supervisor.terminate_child(node.name)
                        case "restart":
                            refused = node.up or not node.start()
                            try:
                                await supervisor.restart_child(node.name)
                                assert not refused
                            except (ChildError, StartError):
                                assert refused
                        case "delete":
                            refused = node.up
                            if not refused:
                                above.children.remove(node)
                            try:
                                await supervisor.delete_child(node.name)
                                assert not refused
                            except ChildError:
                                assert refused
                        case _:
                            pass
                await quiet()
                assert stage.log == world.log
                assert stage.restarts == world.restarts
    except MaxRestartsExceeded:
        gave_up = True
    root.stop()
    assert gave_up == model_gave_up
    assert stage.log == world.log
    assert stage.up == []


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(trees, operations)
def test_the_loop_does_what_the_model_does(tree: Branch, ops: list[Op]):
    """Which children run, in which order they were started and ended, how many restarts, who gives up."""
    trio.run(both, tree, ops, clock=trio.testing.MockClock(autojump_threshold=0))


# ---- the pure decisions ----

errors = st.recursive(
    st.sampled_from([Boom("x"), OSError("y"), ValueError("z"), KeyboardInterrupt(), SystemExit(1)]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda found: BaseExceptionGroup("g", found)),
    max_leaves=5,
)


def leaf_list(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for inner in group.exceptions for leaf in leaf_list(inner)]
    return [error]


@given(st.none() | errors, st.booleans(), st.booleans(), st.booleans())
def test_every_exit_is_classified(error: BaseException | None, cancelled: bool, starting: bool, expected: bool):
    """One leaf is the error, several are their group; nothing that was raised is lost, and no end is unknown."""
    found = exit_of(error, cancelled=cancelled, incarnation=3, starting=starting, expected=expected)
    assert found.incarnation == 3
    fatal = any(not isinstance(leaf, Exception) for leaf in leaf_list(error)) if error else False
    expected = expected and not fatal
    if expected:
        assert found.kind is (Kind.KILLED if cancelled and not starting else Kind.SHUTDOWN)
    elif error is None:
        kind = Kind.KILLED if cancelled else Kind.NORMAL
        assert found.kind is (Kind.INIT_FAILED if starting else kind)
    else:
        assert found.kind is (Kind.INIT_FAILED if starting else Kind.CRASHED)
        assert found.abnormal
    if error is None:
        return
    assert found.error is not None
    assert leaf_list(found.error) == leaf_list(error)
    assert isinstance(found.error, BaseExceptionGroup) is (len(leaf_list(error)) > 1)
    assert (found.group is not None) is isinstance(error, BaseExceptionGroup)
    assert restart_wanted(found, "permanent")
    assert restart_wanted(found, "transient") is (found.kind is not Kind.SHUTDOWN)
    assert not restart_wanted(found, "temporary")


@pytest.mark.parametrize("error", [Shutdown("term"), Ignore(), ExceptionGroup("both", [Shutdown(), Ignore()])])
@pytest.mark.parametrize("starting", [False, True])
def test_a_signal_to_end_is_no_error_of_a_child_that_was_asked_to_end(error: Exception, starting: bool):
    found = exit_of(error, cancelled=False, incarnation=3, starting=starting, expected=True)
    assert (found.kind, found.error) == (Kind.SHUTDOWN, None)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=30),
    st.floats(0, 10),
    st.floats(0, 50),
    st.none() | st.floats(0, 100),
)
def test_failures_in_a_row(lives: list[tuple[float, float]], low: float, more: float, reset: float | None):
    """The count is that of failures without a good time between; time during which the child was not up is none."""
    backoff = Backoff(min=low, max=low + more, reset_after=reset)
    good_time = (2 * low + more) / 2 if reset is None else reset
    failures, now, row = Failures(), 0.0, 0
    for starting, up in lives:
        came_up = now + starting
        now = came_up + up
        row = 1 if now - came_up > good_time else row + 1
        failures = failed_again(failures.came_up(came_up).ended(now), backoff)
        assert failures.count == row


@given(st.integers(1, 50), st.floats(0, 10), st.floats(0, 50), st.floats(0, 1), st.floats(0, 0.999))
def test_delays(count: int, low: float, more: float, jitter: float, dice: float):
    """The delay doubles with every failure in a row, within its bounds."""
    delay = restart_delay(count, Backoff(min=low, max=low + more, jitter=jitter), lambda: dice)
    assert 0 <= delay <= low + more + 1e-6
    assert abs(delay - min(low + more, low * 2 ** (count - 1) * (1 + jitter * dice))) < 1e-6


def test_a_good_time_that_a_siblings_restart_interrupts_is_one():
    """An end that is no failure of its own does not begin the good time anew."""
    backoff = Backoff(min=1, max=1, reset_after=20)
    failures = failed_again(Failures(), backoff).came_up(0).ended(15)
    assert failed_again(failures.came_up(20).ended(30), backoff).count == 1
    assert failed_again(failures, backoff).count == 2


@given(st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]), st.integers(1, 50), st.data())
def test_touched(strategy: Strategy, count: int, data: st.DataObject):
    """The strategies, as sets."""
    position = data.draw(st.integers(0, count - 1))
    expected = {
        "one_for_one": [position],
        "rest_for_one": [n for n in range(count) if n >= position],
        "one_for_all": list(range(count)),
    }
    assert list(touched(strategy, position, count)) == expected[strategy]
