"""Frames arrive whole, however the bytes are cut, and an error keeps its class on the way."""

import pytest
from hypothesis import given, settings, strategies as st

from actorwork.errors import ActorworkError, BrokerError, RemoteError, SettingsError, StartError
from actorwork.runtime.processes.control import LONGEST, Frames, RemoteFailure, packed

WORDS = ["started", "heartbeat", "status"]
FACTS = st.dictionaries(st.text(max_size=5).filter(lambda key: key != "type"), st.integers() | st.text(), max_size=3)


@settings(deadline=None)
@given(said=st.lists(st.tuples(st.sampled_from(WORDS), FACTS), max_size=5), cuts=st.lists(st.integers(1, 40)))
def test_frames_arrive_however_their_bytes_are_cut(said: list[tuple[str, dict[str, object]]], cuts: list[int]):
    data = b"".join(packed(word, **facts) for word, facts in said)
    frames = Frames()
    heard: list[object] = []
    for cut in cuts:
        heard += frames.feed(data[:cut])
        data = data[cut:]
    heard += frames.feed(data)
    assert heard == [{"type": word, **facts} for word, facts in said]


def test_what_is_longer_than_any_frame_is_none():
    with pytest.raises(ValueError, match="the longest is"):
        Frames().feed((LONGEST + 1).to_bytes(4))


def test_what_is_no_object_is_no_frame():
    with pytest.raises(ValueError, match=r"a frame is a JSON object, got \[\]"):
        Frames().feed((2).to_bytes(4) + b"[]")


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - it is what was raised
        return caught


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (StartError("'x' did not start", child_id="x"), StartError, "'x' did not start"),
        (SettingsError("lease wants seconds"), SettingsError, "lease wants seconds"),
        (BrokerError("no such database"), BrokerError, "no such database"),
        (OSError("no disk"), RemoteError, "OSError: no disk"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_says_in_the_parent_whose_problem_it_is(error: Exception, kind: type[ActorworkError], text: str):
    there = RemoteFailure.of(raised(error))
    here = there.error("crunchers")
    assert type(here) is kind
    assert str(here) == text
    (note,) = here.__notes__
    assert note.startswith("In that process:\nTraceback")
    assert "in raised" in note
