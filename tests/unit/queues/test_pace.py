"""So many messages per second, on average."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_broker.queues.pace import BURST_MS, Pace
from penstock_protocol.limits import INT_MAX


@given(st.sampled_from([0.5, 1, 7, 99.9, 1_000, 250_000]), st.lists(st.integers(0, 700), max_size=60))
def test_never_more_goes_than_the_rate_and_a_burst(rate: float, waits: list[int]) -> None:
    pace = Pace()
    pace.obey(rate)
    now, gone = 1_000, 0
    for wait in waits:
        now += wait
        allowed = pace.allowed(now)
        assert allowed >= 0
        pace.spend(allowed)
        gone += allowed
    assert gone <= rate * (now - 1_000 + BURST_MS) / 1000 + 2


@pytest.mark.parametrize("rate", [0.1, 3, 40, 999])
def test_who_comes_when_told_gets_the_whole_rate(rate: float) -> None:
    pace = Pace()
    pace.obey(rate)
    now, gone = 0, 0
    while now < 100_000:
        allowed = pace.allowed(now)
        pace.spend(allowed)
        gone += allowed
        now = pace.next_at(now) or now + 1
    assert gone >= rate * 100 * 0.9 - 1


def test_without_a_rate_anything_goes() -> None:
    pace = Pace()
    assert pace.allowed(0) == INT_MAX
    pace.spend(10)
    assert pace.next_at(0) is None


def test_another_rate_counts_at_once() -> None:
    pace = Pace()
    pace.obey(0.001)
    pace.spend(pace.allowed(5_000))
    assert pace.allowed(5_001) == 0
    pace.obey(1_000)
    assert pace.allowed(5_010) >= 1
