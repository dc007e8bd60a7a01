"""Neighbours taken together are what they were one by one."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues.runs import neighbours, runs


@given(st.lists(st.integers(0, 3)), st.integers(0, 1_000))
def test_runs_are_the_values_again(values: list[int], first: int) -> None:
    found = [0] * len(values)
    for value, begin, messages in runs(values, first):
        assert messages > 0
        found[begin - first : begin - first + messages] = [value] * messages
    assert found == values


@given(st.sets(st.integers(0, 50)))
def test_neighbours_are_the_offsets_again_in_as_few_ranges_as_there_can_be(offsets: set[int]) -> None:
    found = list(neighbours(sorted(offsets)))
    assert sorted(offsets) == [each for first, n in found for each in range(first, first + n)]
    assert all(sum(one) < other[0] for one, other in pairwise(found))
