"""What a node has done in each minute of the last hour."""

from hypothesis import given, strategies as st

from actorwork.policy.history import LONGEST, MINUTES, Past, Recorder, read, summed, written

NUMBERS = st.lists(st.integers(0, 10**6), max_size=MINUTES).map(tuple)


def test_what_is_new_in_a_sum_belongs_to_the_minute_in_which_it_is_told():
    recorder = Recorder()
    recorder.note(600.0, settled=5, dead=0, cpu=1.0, memory=50_000_000)
    recorder.note(630.0, settled=9, dead=1, cpu=1.6, memory=51_000_000)
    past = recorder.note(670.0, settled=10, dead=1, cpu=2.2, memory=52_400_000)
    assert past == Past(minute=11, settled=(9, 1), dead=(1, 0), cpu=(3, 1), memory=(51, 52))


def test_minutes_without_a_look_have_nothing_and_only_an_hour_is_kept():
    recorder = Recorder()
    recorder.note(0.0, settled=7, dead=0, cpu=0.0, memory=0)
    past = recorder.note(180.0, settled=8, dead=0, cpu=0.0, memory=0)
    assert past.settled == (7, 0, 0, 1)
    past = recorder.note(60.0 * 1000, settled=9, dead=0, cpu=0.0, memory=0)
    assert past.settled == (*(0,) * (MINUTES - 1), 1)
    assert past.minute == 1000


def test_a_clock_that_goes_back_adds_to_the_latest_minute():
    recorder = Recorder()
    recorder.note(600.0, settled=1, dead=0, cpu=0.0, memory=0)
    past = recorder.note(300.0, settled=3, dead=0, cpu=0.0, memory=0)
    assert (past.minute, past.settled) == (10, (3,))


def test_a_sum_that_begins_anew_is_no_negative_number():
    recorder = Recorder()
    recorder.note(0.0, settled=100, dead=3, cpu=5.0, memory=0)
    past = recorder.note(60.0, settled=4, dead=0, cpu=1.0, memory=0)
    assert (past.settled, past.dead, past.cpu) == ((100, 4), (3, 0), (8, 0))


@given(st.integers(0, 10**9), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_a_past_is_read_as_it_was_written_or_its_latest_part(
    minute: int, settled: tuple[int, ...], dead: tuple[int, ...], cpu: tuple[int, ...], memory: tuple[int, ...]
):
    past = Past(minute=minute, settled=settled, dead=dead, cpu=cpu, memory=memory)
    text = written(past)
    assert len(text) <= LONGEST
    found = read(text)
    assert found is not None
    assert found.minute == minute
    for kept, whole in ((found.settled, settled), (found.dead, dead), (found.cpu, cpu), (found.memory, memory)):
        assert kept == whole[len(whole) - len(kept) :]
    if sum(len(str(one)) + 1 for series in (settled, dead, cpu, memory) for one in series) < LONGEST - 20:
        assert found == past


@given(st.text(alphabet="0123456789,;-x é", max_size=30))
def test_no_text_makes_a_reader_fail(text: str):
    found = read(text)
    if found is not None:
        assert all(number >= 0 for number in found.settled)
        summed([found], 60.0)


def test_the_pasts_of_nodes_are_added_minute_by_minute():
    one = Past(minute=100, settled=(1, 2, 3), memory=(10, 10, 10))
    late = Past(minute=98, settled=(5,), memory=(20,))
    ahead = Past(minute=101, settled=(7, 8))
    old = Past(minute=3, settled=(9,) * MINUTES)
    found = summed([one, late, ahead, old], 100 * 60 + 59.0)
    assert found.minute == 100
    assert len(found.settled) == MINUTES
    assert found.settled[-3:] == (6, 2, 10)
    assert sum(found.settled) == 1 + 2 + 3 + 5 + 7
    assert found.memory[-3:] == (30, 10, 10)
    assert summed([], 0.0).settled == (0,) * MINUTES
