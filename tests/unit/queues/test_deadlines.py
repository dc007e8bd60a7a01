"""When something is due for ranges, against a sorted list."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues.deadlines import BUCKET_SHIFT, PRUNE_MIN, Deadlines

BUCKET_MS = 1 << BUCKET_SHIFT
times = st.integers(0, 5 * BUCKET_MS) | st.sampled_from([BUCKET_MS - 1, BUCKET_MS, 2 * BUCKET_MS])


@given(st.lists(times), st.lists(times))
def test_what_is_due_comes_once_and_in_the_order_of_time(added: list[int], asked: list[int]) -> None:
    deadlines = Deadlines()
    waiting = []
    for offset, when in enumerate(added):
        deadlines.add(when, offset, 1)
        waiting.append((when, offset, 1))
    for now in sorted(asked):
        due = list(deadlines.due(now))
        assert [row[0] for row in due] == sorted(row[0] for row in due)
        assert sorted(due) == sorted(row for row in waiting if row[0] <= now)
        waiting = [row for row in waiting if row[0] > now]
        assert len(deadlines) == len(waiting)


@given(st.lists(times, min_size=1), st.lists(times))
def test_nobody_is_told_to_come_later_than_something_is_due(added: list[int], asked: list[int]) -> None:
    deadlines = Deadlines()
    for when in added:
        deadlines.add(when, 0, 1)
    for now in sorted(asked):
        list(deadlines.due(now))
        left = [row[0] for row in deadlines.rows()]
        following = deadlines.next()
        assert following is None if not left else following is not None and following <= min(left)


@given(st.lists(times), times)
def test_what_is_added_for_a_time_that_is_near_or_past_comes_in_its_order(added: list[int], now: int) -> None:
    deadlines = Deadlines()
    deadlines.add(now, 0, 1)
    list(deadlines.due(now))
    for offset, when in enumerate(added):
        deadlines.add(when, offset, 1)
    assert [row[0] for row in deadlines.due(6 * BUCKET_MS)] == sorted(added)


@given(st.lists(st.tuples(times, st.integers(0, 2**40), st.integers(1, 9))), times)
def test_snapshot_holds_every_range(rows: list[tuple[int, int, int]], now: int) -> None:
    deadlines, again = Deadlines(), Deadlines()
    for row in rows:
        deadlines.add(*row)
    list(deadlines.due(now))
    again.restore(deadlines.snapshot())
    assert sorted(again.rows()) == sorted(deadlines.rows())
    assert len(again) == len(deadlines)


def test_ranges_that_hold_no_more_are_forgotten_once_they_are_most_of_all() -> None:
    deadlines = Deadlines()
    for offset in range(PRUNE_MIN + 1):
        deadlines.add(offset * BUCKET_MS, offset, 1)
    deadlines.prune(PRUNE_MIN, lambda row: False)
    assert len(deadlines) == PRUNE_MIN + 1, "there may be as many messages"
    deadlines.prune(3, lambda row: row[1] < 3)
    assert sorted(row[1] for row in deadlines.rows()) == [0, 1, 2]
    assert [row[1] for row in deadlines.due(3 * BUCKET_MS)] == [0, 1, 2]


def test_ten_years_of_ranges_are_flat_arrays() -> None:
    deadlines = Deadlines()
    for offset in range(100_000):
        deadlines.add(1_700_000_000_000 + offset * 3_000_000, offset, 1)
    assert deadlines.next() is not None
    assert len(deadlines.snapshot()) == 24 * 100_000
