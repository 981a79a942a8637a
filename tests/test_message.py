"""The words of the data path, and the errors that go with them."""

import itertools
import math
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

import actorwork
from actorwork import ActorworkError, Fail, Message, Reject, Retry, errors
from actorwork.message import Delivery, Envelope, MessageIds


@given(st.integers(0, 5000))
def test_ids_are_unique_and_count_in_hexadecimal(count: int):
    ids = MessageIds("0123456789abcdef")
    made = list(itertools.islice(iter(lambda: next(ids), None), count))
    assert made == [f"0123456789abcdef-{number:x}" for number in range(count)]


def test_a_message_class_adds_nothing_at_run_time():
    @attrs.frozen
    class Greet(Message[object, str]):
        name: str

    greet = Greet("Ann")
    assert attrs.asdict(greet) == {"name": "Ann"}
    assert not hasattr(greet, "__dict__")
    assert greet == Greet("Ann")
    assert hash(greet) == hash(Greet("Ann"))


def test_an_envelope_and_a_delivery_need_little():
    envelope = Envelope("s", "1", b"{}")
    assert (envelope.type, envelope.headers, envelope.delay, envelope.at, envelope.group) == (None, {}, 0, None, None)
    delivery = Delivery("1", "s", b"{}", token="secret")
    assert (delivery.attempt, delivery.crashes, delivery.headers) == (1, 0, {})
    assert "secret" not in repr(delivery)


def test_no_headers_cannot_become_some():
    with pytest.raises(TypeError):
        Envelope("s", "1", b"{}").headers["x"] = 1  # type: ignore[index] # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("delay", [None, 0, 0.5, 10**9])
def test_a_retry_takes_any_time(delay: float | None):
    assert Retry(delay, "why").delay == delay


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, -math.inf, "5"])
def test_a_retry_refuses_what_is_no_time(delay: Any):
    with pytest.raises(ValueError, match=r"Retry\(delay=…\) wants finite seconds >= 0, or None, got"):
        Retry(delay)


@pytest.mark.parametrize("verdict", [Retry(reason="r"), Reject("r"), Fail("r")], ids=lambda v: type(v).__name__)
def test_a_verdict_is_a_signal_and_no_error_of_ours(verdict: errors.Verdict):
    assert verdict.reason == "r"
    assert str(verdict) == "r"
    assert not isinstance(verdict, ActorworkError)


def test_every_error_has_one_root():
    made = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    ours = {value for value in made if not issubclass(value, errors.Verdict) and value.__module__ == errors.__name__}
    signals = {"Ignore", "Shutdown"}  # An actor raises them to say how it ends, as verdicts do for deliveries.
    assert {value.__name__ for value in ours if not issubclass(value, ActorworkError)} <= signals


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (actorwork.SettingsError, ValueError),
        (actorwork.CodecError, ValueError),
        (actorwork.MessageRefused, TypeError),
        (actorwork.AskTimeout, TimeoutError),
        (actorwork.NotRunning, RuntimeError),
        (actorwork.MissingExtra, ImportError),
    ],
)
def test_an_error_is_also_what_python_would_have_raised(error: type[Exception], builtin: type[Exception]):
    assert issubclass(error, builtin)


def test_messages_can_be_told_to_another_process():
    envelope = Envelope("s", "1", b"{}")
    assert pickle.loads(pickle.dumps(attrs.evolve(envelope, headers={"a": 1}))).headers == {"a": 1}
