"""What the headers of a message say of its attempts."""

from actorwork.message import ATTEMPT, HISTORY, Delivery, Failure
from actorwork.policy.attempts import HISTORY_LENGTH, headers_of_first_attempt, headers_of_next_attempt


def test_the_attempt_counts_up_and_the_history_keeps_the_last_ten():
    headers: dict[str, object] = {"trace": "t"}
    for attempt in range(1, 15):
        delivery = Delivery("m", "orders", b"1", None, None, headers, attempt)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        headers = dict(headers_of_next_attempt(delivery, Failure("OSError", f"disk {attempt}"), 1000.12345))
    assert headers[ATTEMPT] == 15
    assert headers["trace"] == "t"
    history = headers[HISTORY]
    assert isinstance(history, list)
    assert len(history) == HISTORY_LENGTH == 10  # pyright: ignore[reportUnknownArgumentType]
    assert history[-1] == {"attempt": 14, "error": "OSError", "reason": "disk 14", "at": 1000.123}


def test_a_history_that_somebody_else_wrote_is_begun_anew():
    delivery = Delivery("m", "orders", b"1", None, None, {HISTORY: "what?"})
    history = headers_of_next_attempt(delivery, Failure("E", "r"), 1.0)[HISTORY]
    assert history == [{"attempt": 1, "error": "E", "reason": "r", "at": 1.0}]


def test_a_message_that_begins_anew_has_no_past():
    assert headers_of_first_attempt({ATTEMPT: 3, HISTORY: [], "trace": "t"}) == {"trace": "t"}
