"""The `repr` and the hash of values are those that attrs would give them."""

import attrs

from actorwork import RetryPolicy
from actorwork.message import Delivery
from actorwork.shown import Shown


def test_a_value_is_shown_as_attrs_would_show_it():
    def half(number: int) -> str:
        return f"{number / 2:g}"

    @attrs.frozen
    class Theirs:
        a: int
        b: str = attrs.field(default="x", repr=False)
        c: int = attrs.field(default=3, repr=half)

    @attrs.frozen(repr=False)
    class Ours(Shown):
        a: int
        b: str = attrs.field(default="x", repr=False)
        c: int = attrs.field(default=3, repr=half)

    assert repr(Ours(1)) == repr(Theirs(1)).replace("Theirs", "Ours") == "Ours(a=1, c=1.5)"


def test_the_token_of_a_delivery_is_not_shown():
    assert "secret" not in repr(Delivery("1-0", "in", b"1", "secret"))


def test_a_field_without_a_hash_of_its_own_leaves_a_value_hashable():
    assert len({RetryPolicy(attempts=2, on={OSError: None}), RetryPolicy(attempts=2, on={OSError: None})}) == 1
