"""What the shell counts while it works: plain numbers on the hot path, turned into metrics at a scrape.

A leaf, because `server` counts and `admin` shows, and neither knows the other.
"""

from bisect import bisect_left
from collections import Counter, defaultdict

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets: a sync takes 0.1 ms, a long poll 20 s."""


class Histogram:
    """How often something took how long. `counts`: per bucket, the last one for all above `SECONDS`."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count what took so long, so many times."""
        self.counts[bisect_left(SECONDS, seconds)] += times
        self.sum += seconds * times


class Meters:
    """One node's counts since it started."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[int, int]] = Counter()
        """(verb code, error code; 0 = OK) → replies."""
        self.request_seconds: defaultdict[int, Histogram] = defaultdict(Histogram)
        """Verb code → time from the request's arrival to its reply."""
        self.sync_seconds = Histogram()
        self.loop_lag_seconds = Histogram()
        self.dropped: Counter[str] = Counter()
        """Reason → connections that the broker ended."""
