"""Ids within a window, against a dict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues import dedup
from penstock_broker.queues.dedup import Dedup


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50))), st.integers(1, 100))
def test_id_is_known_for_its_window(rows: list[tuple[str, int]], window: int) -> None:
    known, naive = Dedup(), dict[str, tuple[int, int]]()
    time = 0
    for offset, (dedup_id, step) in enumerate(rows):
        time += step
        at = naive.get(dedup_id)
        expected = at[0] if at is not None and at[1] > time - window else None
        assert known.find(dedup_id, time - window) == expected
        if expected is None:
            known.room(time - window)
            known.add(dedup_id, offset, time)
            naive[dedup_id] = offset, time
    again = Dedup()
    again.restore(known.snapshot())
    for dedup_id in "abcdef":
        assert again.find(dedup_id, time - window) == known.find(dedup_id, time - window)


def test_room_is_made_by_forgetting_what_is_too_old_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "IDS_MAX", 3)
    known = Dedup()
    for number in range(3):
        known.add(str(number), number, 10 * number)
    assert known.room(-1) == 0
    assert known.room(0) == 1
    assert known.room(10) == 2
    assert (known.find("2", 10), len(known)) == (2, 1)


def test_id_that_is_added_again_is_as_new() -> None:
    known = Dedup()
    known.add("a", 0, 0)
    known.add("b", 1, 5)
    known.add("a", 2, 9)
    known.room(5)
    assert known.find("a", 5) == 2
    assert len(known) == 1
