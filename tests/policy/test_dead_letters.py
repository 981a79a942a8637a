"""What dead letters have in common, and which of them are meant."""

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from actorwork.message import Failure
from actorwork.policy.dead_letters import Selection, by_cause, fingerprint_of
from actorwork.policy.settlement import failure_of
from actorwork.records import DeadLetter


def letter(failure: Failure, **more: Any) -> DeadLetter:
    facts: dict[str, Any] = {
        "source": "orders",
        "entry": "1-0",
        "id": "m1",
        "group": "g1",
        "actor": "till",
        "attempt": 1,
        "at": 100.0,
        "payload": b'{"name": "Ann"}',
    }
    return DeadLetter(failure=failure, **{**facts, **more})


def failing(act: Callable[[], object]) -> Failure:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the example
        return failure_of(error)
    raise AssertionError("it did not fail")


def check(number: int) -> None:
    if number < 0:
        raise ValueError(f"no order has the number {number}")
    raise ValueError(f"order {number} is gone")


def test_the_same_error_of_different_messages_has_one_fingerprint():
    one, two = failing(lambda: check(-1)), failing(lambda: check(-77))
    assert one.reason != two.reason
    assert fingerprint_of(letter(one)) == fingerprint_of(letter(two, id="m2", payload=b"[]", at=5.0, entry="9-0"))


def test_another_line_of_the_same_function_is_another_fingerprint():
    assert fingerprint_of(letter(failing(lambda: check(-1)))) != fingerprint_of(letter(failing(lambda: check(1))))


def test_where_the_source_is_not_at_hand_the_messages_own_words_make_no_difference():
    code = compile("def check(number):\n    raise ValueError(f'no order {number}')", "<somewhere>", "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    one, two = (failing(lambda number=number: names["check"](number)) for number in (1, 2))
    assert "raise ValueError" not in one.traceback
    assert fingerprint_of(letter(one)) == fingerprint_of(letter(two))


def test_actor_and_type_make_a_difference():
    failure = failing(lambda: check(-1))
    assert fingerprint_of(letter(failure)) != fingerprint_of(letter(failure, actor="other"))
    other = Failure("KeyError", failure.reason, failure.traceback)
    assert fingerprint_of(letter(failure)) != fingerprint_of(letter(other))


TRACEBACK = """Traceback (most recent call last):
  File "/srv/a/lib/python3.11/site-packages/actorwork/actors/execution.py", line 10, in run
    await handler(message)
  File "/srv/a/shop/tasks.py", line 17, in take
    return check(message.number)
           ^^^^^^^^^^^^^^^^^^^^^
  File "/srv/a/shop/checks.py", line 4, in check
    raise ValueError(number)
ValueError: 7
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("line 17", "line 23"),
        ("/srv/a/", "/opt/b/c/"),
        ("python3.11", "python3.13"),
        ("execution.py", "elsewhere.py"),
        ("           ^^^^^^^^^^^^^^^^^^^^^\n", ""),
        ("ValueError: 7", "ValueError: 8"),
    ],
)
def test_a_fingerprint_outlives_what_does_not_matter(before: str, after: str):
    assert before in TRACEBACK
    one = letter(Failure("ValueError", "7", TRACEBACK))
    two = letter(Failure("ValueError", "8", TRACEBACK.replace(before, after)))
    assert fingerprint_of(one) == fingerprint_of(two)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("shop/tasks.py", "shop/others.py"),
        ("in check", "in look"),
        ("raise ValueError(number)", "raise ValueError(name)"),
    ],
)
def test_a_fingerprint_knows_the_place(before: str, after: str):
    one = letter(Failure("ValueError", "7", TRACEBACK))
    two = letter(Failure("ValueError", "7", TRACEBACK.replace(before, after)))
    assert fingerprint_of(one) != fingerprint_of(two)


def test_a_traceback_in_a_group_is_read_too():
    def raised() -> Failure:
        error = ValueError("no order")
        try:
            raise error
        except ValueError:
            group = ExceptionGroup("several", [error])
        return Failure("ValueError", "no order", "".join(traceback.format_exception(group)))

    plain = Failure("ValueError", "", "")
    assert fingerprint_of(letter(raised())) == fingerprint_of(letter(raised()))
    assert fingerprint_of(letter(raised())) != fingerprint_of(letter(plain))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("3 processes died while they handled this message", "12 processes died while they handled this message"),
        ("the payload is not JSON; it begins b'abc'", "the payload is not JSON; it begins b'x\\'yz'"),
        ("no user 'ann' at 10.0.0.1:5432", "no user 'ben' at 10.0.0.27:5433"),
        ("order 2f1c7e52-8a51-4f9e-9e0e-0d6f5ce1a111", "order 91cbe8f2-1f51-4a9e-8e0e-0d6f5ce1a222"),
        ("message 3f9a77c0de12ab34-1f is late", "message 00aa77c0de12ab99-2 is late"),
        ("object at 0x7fd0c1", "object at 0x1"),
        ("spaces  and\nlines", "spaces and lines"),
    ],
)
def test_without_frames_the_reason_counts_and_what_varies_in_it_does_not(one: str, two: str):
    first, second = letter(Failure("Crashed", one)), letter(Failure("Crashed", two))
    assert fingerprint_of(first) == fingerprint_of(second)
    assert fingerprint_of(first) != fingerprint_of(letter(Failure("Crashed", "something else")))


def test_a_fingerprint_is_the_same_in_every_process():
    """Others may have written it down."""
    assert fingerprint_of(letter(Failure("ValueError", "7", TRACEBACK))) == "315f4db2908cbd6e"


@pytest.mark.parametrize(
    ("selection", "is_meant"),
    [
        (Selection(), True),
        (Selection(source="orders"), True),
        (Selection(source="returns"), False),
        (Selection(actor="till"), True),
        (Selection(actor="g1"), True),
        (Selection(actor="other"), False),
        (Selection(error="ValueError"), True),
        (Selection(error="Value"), False),
        (Selection(since=100.0), True),
        (Selection(since=100.1), False),
        (Selection(until=100.0), False),
        (Selection(until=100.1), True),
        (Selection(text="ANN"), True),
        (Selection(text="in check"), True),
        (Selection(text="m1"), True),
        (Selection(text="german"), True),
        (Selection(text="Ben"), False),
        (Selection(fingerprint="315f4db2908cbd6e"), True),
        (Selection(fingerprint="315f"), True),
        (Selection(fingerprint="0000"), False),
        (Selection(actor="till", error="KeyError"), False),
    ],
)
def test_a_selection_means_what_all_its_conditions_say(selection: Selection, is_meant: bool):
    one = letter(Failure("ValueError", "7", TRACEBACK), headers={"lang": "german"})
    assert selection.has(one) is is_meant


def test_text_is_found_in_the_fields_of_a_foreign_message():
    one = letter(Failure("ValueError", "7"), payload={b"name": b"Ann\xff"})
    assert Selection(text="ann").has(one)
    assert not Selection(text="ben").has(one)


def test_letters_are_grouped_the_largest_group_first():
    a, b = Failure("ValueError", "a"), Failure("ValueError", "b")
    letters = [
        letter(a, at=5.0, entry="1"),
        letter(b, at=1.0, entry="2"),
        letter(b, at=3.0, entry="3", source="returns"),
        letter(b, at=2.0, entry="4"),
    ]
    first, second = by_cause(letters)
    assert (first.count, first.first, first.last, first.example.entry) == (3, 1.0, 3.0, "3")
    assert first.sources == {"orders": 2, "returns": 1}
    assert (second.count, second.first, second.last) == (1, 5.0, 5.0)
    assert by_cause(letters[2:], by_cause(letters[:2])) == [first, second]
