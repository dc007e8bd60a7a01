"""How fast records are handed out: as they come, so many a second, or with the pauses of their appends.

Pure: it is told the time (of the loop, in seconds) and says how many may go, and when to ask again.
"""

from math import inf
from typing import Literal, Protocol, TypeAlias

from penstock.errors import Invalid

Rate: TypeAlias = float | Literal["recorded"]
"""Records per second; or `recorded`: the time between two records is what was between their appends."""

BURST_SECONDS = 0.05
"""How much of the rate may come at once after a pause."""
ROUNDING = 1e-9


class Pace(Protocol):
    """A limit to how fast records are handed out."""

    in_order_of_time: bool
    """Of several partitions, the one with the oldest record goes first."""

    def pause(self, now: float, head_ms: int) -> float:
        """Seconds until the next record, appended at `head_ms`, may go; 0: at once."""
        ...

    def most(self) -> float:
        """How many may go now, with the same `head_ms`. Only after a pause of 0."""
        ...

    def took(self, count: int) -> None:
        """That many went."""
        ...


class Steady:
    """So many records a second, over all partitions together."""

    in_order_of_time = False

    def __init__(self, rate: float) -> None:
        if not isinstance(rate, int | float) or not 0 < rate < inf:
            raise Invalid(f"rate={rate!r} is no rate", hint='give records per second above 0, or "recorded"')
        self._rate = rate
        self._most = max(rate * BURST_SECONDS, 1.0)
        self._saved = 1.0
        self._at: float | None = None

    def pause(self, now: float, head_ms: int) -> float:
        if self._at is not None:
            self._saved = min(self._saved + (now - self._at) * self._rate, self._most)
        self._at = now
        missing = 1 - self._saved
        return missing / self._rate if missing > ROUNDING else 0.0

    def most(self) -> float:
        return max(int(self._saved), 1)

    def took(self, count: int) -> None:
        self._saved -= count


class Recorded:
    """As they were recorded: by the times of the appends, which the records of a batch share."""

    in_order_of_time = True

    def __init__(self) -> None:
        self._origin: float | None = None
        """When (of the loop) a record of time 0 was due."""

    def pause(self, now: float, head_ms: int) -> float:
        if self._origin is None:
            self._origin = now - head_ms / 1000
        return max(0.0, self._origin + head_ms / 1000 - now)

    def most(self) -> float:
        return inf

    def took(self, count: int) -> None:
        pass


def pace_of(rate: Rate | None) -> Pace | None:
    """None: as they come. Raises `Invalid` for what is no rate."""
    if rate is None:
        return None
    if rate == "recorded":
        return Recorded()
    return Steady(rate)
