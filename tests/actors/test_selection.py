"""What is left of a tree for a node that runs a part of it."""

from functools import partial
from typing import Any

import pytest
import trio

from actorwork import Actor, Child, DynamicSupervisor, Pool, Process, Settings, SettingsError, Supervisor, receive
from actorwork.actors.tree.selection import selected
from actorwork.actors.tree.spec import Spec, as_spec
from actorwork.actors.tree.walking import root_of
from actorwork.testing import open_test_system


class Mailer(Actor):
    settings = Settings(title="mail")


class Texter(Actor):
    settings = Settings(title="text")


class Cutter(Actor):
    settings = Settings(title="video cutter")

    def __init__(self, *, codec: str = "x") -> None:
        self.codec = codec

    @receive
    async def cut(self, *, name: str) -> str:
        return f"{name} {self.codec}"


class Player(Actor):
    settings = Settings(title="player")


async def clock(*, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.sleep_forever()


def tree() -> Supervisor:
    return root_of(
        [
            Supervisor([Mailer, Texter], name="post", strategy="rest_for_one"),
            Supervisor([Supervisor([Child(partial(Cutter, codec="y"))], name="inner"), Child(clock)], name="video"),
            DynamicSupervisor(Child(Player), id="players"),
            Pool(Player, 2, name="jukebox"),
        ]
    )


def drawn(spec: Spec) -> Any:
    """Return a tree as titles in lists."""
    if isinstance(spec, Supervisor) and not isinstance(spec, Pool):
        return {spec.title: [drawn(child) for child in spec.children]}
    return spec.title


@pytest.mark.parametrize(
    ("only", "left"),
    [
        (["mail"], [{"post": ["mail"]}]),
        (["Mailer"], [{"post": ["mail"]}]),
        (["post"], [{"post": ["mail", "text"]}]),
        (["text", "clock"], [{"post": ["text"]}, {"video": ["clock"]}]),
        (["Cutter"], [{"video": [{"inner": ["video cutter"]}]}]),
        (["inner", "video"], [{"video": [{"inner": ["video cutter"]}, "clock"]}]),
        (["players"], ["players"]),
        (["jukebox"], ["jukebox"]),
        (["Player"], ["players", "jukebox"]),
    ],
)
def test_only_what_is_named_and_all_below_it(only: list[str], left: Any):
    assert drawn(selected(tree(), only=only)) == {"root": left}


@pytest.mark.parametrize(
    ("excluding", "left"),
    [
        (["mail"], [{"post": ["text"]}, {"video": [{"inner": ["video cutter"]}, "clock"]}, "players", "jukebox"]),
        (["post", "video"], ["players", "jukebox"]),
        (["Mailer", "text", "player", "clock"], [{"video": [{"inner": ["video cutter"]}]}]),
        (["video cutter", "clock", "post", "players"], ["jukebox"]),
    ],
)
def test_all_but_what_is_named_and_what_becomes_empty_vanishes(excluding: list[str], left: Any):
    assert drawn(selected(tree(), excluding=excluding)) == {"root": left}


def test_both_together():
    assert drawn(selected(tree(), only=["post", "players"], excluding=["text"])) == {
        "root": [{"post": ["mail"]}, "players"]
    }


def test_what_is_kept_stays_as_it_was_declared():
    (post,) = selected(tree(), only=["text"]).children
    assert isinstance(post, Supervisor)
    assert post.strategy == "rest_for_one"
    root = tree()
    assert selected(root) is root
    assert selected(root, only=["post"]).children[0] is root.children[0]


def test_an_unknown_name_is_told_with_what_there_is():
    with pytest.raises(
        SettingsError, match=r"nothing in this tree is called 'emial', 'x'; it has 'post', 'mail', 'Mai"
    ):
        selected(tree(), only=["emial", "mail"], excluding=["x"])
    # The root's name is that of the whole.
    with pytest.raises(SettingsError, match="'root'"):
        selected(tree(), only=["root"])
    with pytest.raises(SettingsError, match="only wants a list of names, got 'mail'"):
        selected(tree(), only="mail")


def test_a_part_of_a_process_is_a_process_too():
    root = root_of([Process([Mailer, Texter], name="far", replicas=3, hang_timeout=5), Player])
    (far,) = selected(root, only=["Mailer"]).children
    assert isinstance(far, Process)
    assert [child.title for child in far.children] == ["mail"]
    assert (far.title, far.replicas, far.hang_timeout) == ("far", 3, 5)
    assert selected(root, only=["far"]).children[0] is root.children[0]
    assert [child.title for child in selected(root, excluding=["mail", "text"]).children] == ["player"]


def test_when_nothing_is_left_that_is_told():
    with pytest.raises(SettingsError, match="nothing is left of this tree: only 'post', excluding 'mail', 'text'"):
        selected(tree(), only=["post"], excluding=["mail", "text"])


def test_an_empty_supervisor_stays():
    root = root_of([Supervisor([], name="empty"), Mailer, Texter])
    assert drawn(selected(root, excluding=["text"])) == {"root": [{"empty": []}, "mail"]}
    assert drawn(selected(root, only=["empty"])) == {"root": [{"empty": []}]}


async def test_a_system_runs_the_part():
    async with open_test_system(tree(), only=["Cutter"]) as system:
        assert await system.ref(Cutter).ask({"name": "a"}) == "a y"
        with pytest.raises(LookupError, match="which has 'video cutter'"):
            system.ref(Mailer)
    with pytest.raises(SettingsError, match="nothing in this tree is called"):
        async with open_test_system(tree(), excluding=["nobody"]):
            pytest.fail("it started")


def test_a_class_alone_is_a_tree_too():
    root = root_of(as_spec(Mailer))
    assert drawn(selected(root, only=["Mailer"])) == {"root": ["mail"]}
