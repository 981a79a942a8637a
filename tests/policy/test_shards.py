"""Which shard a message goes to, and what shards are called."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from actorwork import Settings, SettingsError, Source
from actorwork.message import Envelope, Unique
from actorwork.policy.shards import Layout, encoded, layouts_in, number_of, shard_of, whole_source
from actorwork.streams.transport.slots import SLOTS, key_slot

NUMBERS = st.integers(min_value=1, max_value=256)


@pytest.mark.parametrize(
    ("key", "shard"), [("", 0), ("customer-1", 13), ("customer-2", 7), ("Ünïcode", 12), ("0123456789abcdef-1", 2)]
)
def test_the_shard_of_a_key_is_the_same_in_every_version_and_on_every_machine(key: str, shard: int):
    assert shard_of(key, 16) == shard


@given(st.text(), NUMBERS)
def test_each_key_has_a_shard(key: str, shards: int):
    assert 0 <= shard_of(key, shards) < shards


def test_messages_without_a_key_are_spread_evenly():
    counts = Counter(shard_of(f"{publisher:016x}-{number:x}", 16) for publisher in range(4) for number in range(4000))
    assert len(counts) == 16
    assert max(counts.values()) < 1.1 * 1000


def test_a_key_decides_before_a_unique_key_and_that_before_the_id():
    layout = Layout("orders", 16)
    plain = Envelope("orders", "id-1", b"{}")
    unique = Envelope("orders", "id-2", b"{}", unique=Unique("u"))
    keyed = Envelope("orders", "id-3", b"{}", key="k", unique=Unique("u"))
    assert [layout.placed(one).source for one in (plain, unique, keyed)] == [
        layout.place("id-1"),
        layout.place("u"),
        layout.place("k"),
    ]


@settings(max_examples=40)
@given(
    st.from_regex(r"[a-zA-Z0-9_\-:]{1,40}", fullmatch=True),
    st.integers(1, 64),
    st.integers(min_value=1, max_value=10_000),
)
def test_each_shard_has_its_share_of_the_slots(source: str, shards: int, number: int):
    names = Layout(source, shards, number).names
    slots = [key_slot(name) for name in names]
    assert [slot * shards // SLOTS for slot in slots] == list(range(shards))
    assert all(before < after for before, after in pairwise(slots))
    assert {whole_source(name) for name in names} == {source}
    assert [number_of(name) for name in names] == list(range(shards))


def test_the_names_of_two_layouts_have_nothing_in_common():
    layout = Layout("orders", 4, 1, becomes=4)
    assert not set(layout.names) & set(layout.following.names)
    assert Layout("orders", 1, 0).names == ("orders",)


@pytest.mark.parametrize("name", ["orders", "a.b", "worker:0123456789abcdef:source", "orders.1.2", "orders.1.x.y", ""])
def test_what_is_no_name_of_a_shard_is_a_source(name: str):
    assert whole_source(name) == name
    assert number_of(name) == 0


def test_layouts_are_read_as_they_were_written_and_what_is_none_of_ours_is_left_out():
    layouts = {"a": Layout("a", 4), "b": Layout("b", 2, 3, becomes=8)}
    assert layouts_in(encoded(layouts)) == layouts
    assert layouts_in(b'{"a": 1, "b": {"shards": "x"}, "c": {"shards": 2, "layout": 1}}') == {"c": Layout("c", 2)}
    assert layouts_in(b"[]") == layouts_in(b"{") == layouts_in(None) == {}


# ------------------------------------------------------------------------------------------------------- what users say


def test_a_source_with_shards_is_its_name():
    source = Source("orders", shards=16)
    declared = Settings(title="a", sources={source, "others"})
    assert source == "orders"
    assert declared.all_sources == ("orders", "others", declared.default_source)
    assert {type(name) for name in declared.all_sources} == {str}
    assert declared.shards == {"orders": 16}
    assert repr(source) == "Source('orders', shards=16)"


def test_a_source_with_shards_survives_a_pickle():
    import pickle

    copy = pickle.loads(pickle.dumps(Source("orders", shards=16)))
    assert (copy, copy.shards) == ("orders", 16)


@pytest.mark.parametrize("shards", [0, -1, 257, 1.5, "2", True])
def test_a_number_of_shards_out_of_bounds_is_refused(shards: int):
    with pytest.raises(
        SettingsError, match=rf"Source.shards wants a whole number from 1 to 256, or None, got {shards!r}"
    ):
        Source("orders", shards=shards)


def test_a_name_that_no_source_may_have_is_refused():
    with pytest.raises(SettingsError, match=r"Source wants a name of 1 to 300 characters .*, got 'orders\.1'"):
        Source("orders.1", shards=2)


def test_an_actors_own_source_is_not_divided():
    own = Settings(title="a").default_source
    with pytest.raises(SettingsError, match="an actor's own: give the actor one more"):
        Source(own, shards=2)
    assert Source(own).shards is None
