"""The pair of clocks."""

import time
from itertools import count

import pytest

from penstock_broker.clock import SystemClock


def test_pause_between_the_two_clocks_does_not_make_the_wall_clock_run_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = count(0, 10_000_000)  # 10 ms pass at each look at a clock
    monkeypatch.setattr(time, "monotonic_ns", looks.__next__)
    monkeypatch.setattr(time, "time_ns", looks.__next__)
    now = SystemClock().now()
    assert now.wall <= now.mono
