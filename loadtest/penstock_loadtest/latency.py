"""Latencies: HDR histograms in µs, and what keeps them honest.

Whoever measures only what it sent forgets what it could not send meanwhile (coordinated omission). An open
loop counts from the instant that the schedule gave, so nothing is forgotten. In a closed loop each caller is
expected to come as often as it did in the warm-up: a call that took k times as long stands for the k - 1 that
were not made, too (HdrHistogram's own correction).
"""

from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

MICROSECONDS_MAX = 3_600_000_000
DIGITS = 3
SUB_BUCKET_BITS = 11
"""An HDR histogram of three digits keeps the first 11 bits of a value: to drop the others before is free."""
PENDING_MAX = 10_000
CURVE_FROM = 1.25
"""Where a percentile plot begins: at 20 %."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)

Array = np.ndarray[Any, np.dtype[Any]]


class Latencies:
    """A histogram that takes ns. `expected_us`: correct for calls that were to come so often; 0: do not."""

    def __init__(self, expected_us: float = 0) -> None:
        self._histogram: Any = HdrHistogram(1, MICROSECONDS_MAX, DIGITS)
        self._expected = max(1, round(expected_us)) if expected_us else 0
        self._pending: list[int] = []

    def add(self, nanoseconds: int) -> None:
        """One latency."""
        self._pending.append(nanoseconds)
        if len(self._pending) >= PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        """Let the histogram have all that was added."""
        if self._pending:
            pending, self._pending = self._pending, []
            self.add_all(np.array(pending, dtype=np.int64))

    def add_all(self, nanoseconds: Array) -> None:
        """Many at once."""
        values = np.clip(nanoseconds.astype(np.int64) // 1_000, 1, MICROSECONDS_MAX)
        bits = np.maximum(np.frexp(values.astype(np.float64))[1] - SUB_BUCKET_BITS, 0)
        kept, counts = np.unique(values >> bits << bits, return_counts=True)
        for value, count in zip(kept.tolist(), counts.tolist(), strict=True):
            if self._expected:
                self._histogram.record_corrected_value(value, self._expected, count)
            else:
                self._histogram.record_value(value, count)

    def encode(self) -> str:
        """Everything, in HdrHistogram's own portable text."""
        self.flush()
        encoded: bytes = self._histogram.encode()
        return encoded.decode()


def merged(encoded: list[str]) -> Any:
    """One `HdrHistogram` of several texts."""
    histogram = HdrHistogram(1, MICROSECONDS_MAX, DIGITS)
    for text in encoded:
        histogram.decode_and_add(text)
    return histogram


def summary(histogram: Any) -> dict[str, float]:
    """`p50` … `p99.99`, `max` in µs, and how many values they are made of; `{}` of an empty one."""
    count = histogram.get_total_count()
    if not count:
        return {}
    shown = {f"p{percentile:g}": histogram.get_value_at_percentile(percentile) for percentile in PERCENTILES}
    return {**shown, "max": histogram.get_max_value(), "count": count}


def curve(histogram: Any, points: int = 200) -> list[tuple[float, float]]:
    """(1 / (1 - quantile), µs) from `CURVE_FROM` to the last value, evenly spaced on a logarithmic axis: the
    percentile plot of HdrHistogram."""
    count = histogram.get_total_count()
    if not count:
        return []
    ratios = np.geomspace(CURVE_FROM, max(count, 10), points).tolist()
    return [(ratio, histogram.get_value_at_percentile(100 * (1 - 1 / ratio))) for ratio in ratios]
