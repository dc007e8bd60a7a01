"""Every micro-benchmark runs, again and again: what it measures may have changed under it."""

from collections.abc import Callable

import pytest

from penstock_loadtest.micro import BENCHMARKS

CALLS = 50


@pytest.mark.parametrize("call", BENCHMARKS.values(), ids=BENCHMARKS)
def test_benchmark_can_be_repeated(call: Callable[[], object]) -> None:
    for _ in range(CALLS):
        call()
