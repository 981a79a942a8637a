"""What is left of a tree for a node that runs a part of it."""

from functools import partial
from typing import Any

import pytest
import trio

from actorwork import Actor, Child, DynamicSupervisor, Pool, Process, Settings, SettingsError, Supervisor, receive
from actorwork.actors.tree.selection import reading, selected, solo
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


# ---- by what they read ----


class Reader(Actor):
    settings = Settings(title="reader", sources={"mails", "letters"})

    @receive
    async def read(self, *, text: str) -> str:
        return text


class Clerk(Actor):
    settings = Settings(title="clerk", sources={"forms"})

    @receive
    async def stamp(self, *, text: str) -> str:
        return text


def office() -> Supervisor:
    return root_of(
        [
            Process([Reader, Child(Mailer, reads=False)], name="studio", replicas=3, shutdown_timeout=7),
            Supervisor([Clerk], name="desk"),
            Child(clock),
            Pool(Player, 2, name="jukebox"),
        ]
    )


def inside(spec: Spec) -> Any:
    """Return a tree as titles in lists, with what is in its processes."""
    if isinstance(spec, (Supervisor, Process)) and not isinstance(spec, Pool):
        return {spec.title: [inside(child) for child in spec.children]}
    return spec.title


@pytest.mark.parametrize(
    "sources", [["mails"], ["letters", "mails"], ["actor:reader"], [Reader.settings.default_source]]
)
def test_only_what_reads_a_source_is_left_with_all_that_reads_nothing(sources: list[str]):
    assert inside(reading(office(), sources)) == {
        "root": [{"studio": ["reader", "mail"]}, "clock", "jukebox"],
    }


def test_a_source_that_no_actor_reads_is_refused_with_those_that_are_read():
    with pytest.raises(SettingsError, match="no actor of this tree reads 'mial'; did you mean 'mails'"):
        reading(office(), ["mial"])
    with pytest.raises(SettingsError, match=r"reads 'x'; the actors of this tree read 'actor:clerk', .*'mails'"):
        reading(office(), ["x"])
    with pytest.raises(SettingsError, match="sources wants a list of names, got 'mails'"):
        reading(office(), "mails")
    with pytest.raises(SettingsError, match=r"wants the name of one source at least; .* read 'actor:clerk', .*'mails'"):
        reading(office(), [])


# ---- in one process ----


def test_alone_the_children_of_a_process_are_those_of_a_supervisor():
    root = solo(office())
    assert inside(root) == {"root": [{"studio": ["reader", "mail"]}, {"desk": ["clerk"]}, "clock", "jukebox"]}
    studio = root.children[0]
    assert isinstance(studio, Supervisor)
    assert (studio.shutdown, studio.restart) == (7.0, "permanent")


def test_alone_an_actor_of_several_processes_is_there_once():
    root = root_of(
        [Process([Reader, Clerk], name="one"), Process([Reader], name="other"), Process([Mailer], name="third")]
    )
    assert inside(solo(root)) == {"root": [{"one": ["reader", "clerk"]}, {"third": ["mail"]}]}


async def test_a_tree_with_processes_runs_in_this_one():
    async with open_test_system(office(), solo=True, sources=["forms"]) as system:
        assert await system.client.ref(Clerk).ask({"text": "a"}) == "a"
        assert {branch.title for branch in system.system.tree().children} >= {"desk", "jukebox"}
