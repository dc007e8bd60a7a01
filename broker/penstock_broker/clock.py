"""The only reader of time.

Two clocks: `mono` never jumps and times leases, waits and timeouts; `wall` is what durable deadlines
and append times are written in. The core never reads either: a `Now` is taken once per call into it.
"""

import time
from typing import NamedTuple, Protocol


class Now(NamedTuple):
    """One instant. `mono`: ms of a clock that only runs forward; `wall`: ms since 1970."""

    mono: int
    wall: int


class Clock(Protocol):
    """Where the shell gets its instants from; tests pass one they turn by hand."""

    def now(self) -> Now:
        """The instant of this call."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        """The instant of this call."""
        wall = time.time_ns() // 1_000_000  # first: the core would take a pause in between for a jump ahead
        return Now(time.monotonic_ns() // 1_000_000, wall)


def stopwatch() -> float:
    """Seconds of a fine clock that only runs forward: to measure how long something took, never to decide."""
    return time.perf_counter()
