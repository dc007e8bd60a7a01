"""When settled messages may go, coarse but never early."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues.kept import MARKS_MAX, Kept
from penstock_broker.queues.states import PAGE


def test_nothing_goes_before_its_time_and_all_goes_a_second_after_it() -> None:
    kept = Kept()
    kept.settled([(0, 10)], 10, 5_500)
    kept.settled([(10, 10)], 20, 7_000)
    assert kept.start_at(5_499) == 0
    assert kept.start_at(6_500) == 10
    assert kept.start_at(6_999) == 10
    assert kept.start_at(7_000) == 20


def test_settled_messages_behind_one_that_is_not_are_given_up_page_by_page() -> None:
    kept = Kept()
    kept.settled([(1, PAGE)], 0, 1_000)
    kept.settled([(2 * PAGE, 1)], 0, 9_000)
    kept.start_at(5_000)
    assert not kept.wants(1, PAGE, 0, 0)
    assert kept.wants(1, 2 * PAGE, 0, 0)


def test_what_was_trimmed_is_forgotten() -> None:
    kept = Kept()
    kept.settled([(0, 3 * PAGE)], 3 * PAGE, 1_000)
    kept.trimmed(3 * PAGE)
    assert not kept
    assert kept.snapshot() == Kept().snapshot()


@given(st.lists(st.integers(1, 4_000), min_size=1, max_size=3 * MARKS_MAX), st.integers(0, 5_000_000))
def test_marks_stay_few_and_early_nobody_goes(waits: list[int], at: int) -> None:
    kept, time, settled = Kept(), 0, []
    for head, wait in enumerate(waits, 1):
        time += wait
        kept.settled([(head - 1, 1)], head, time)
        settled.append(time)
    start = kept.start_at(at)
    assert all(when <= at for when in settled[:start])
    assert kept.start_at(time + 1_000) == len(waits)
    again = Kept()
    data = kept.snapshot()
    assert len(data) < 32 * (MARKS_MAX + 4)
    assert again.restore(memoryview(data + b"of the next")) == len(data)
    assert again.start_at(at) == start
