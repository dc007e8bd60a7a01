"""How fast a queue may hand out: so many messages per second, on average.

A queue that was idle may be ahead by what a tenth of a second allows, at least by one message; so the pace is
kept whatever the consumers take at once.
"""

from penstock_protocol.limits import INT_MAX

BURST_MS = 100


class Pace:
    """Of one queue. `rate`: messages per second, None: any number. Times are mono ms."""

    __slots__ = ("_at", "_now", "rate")

    def __init__(self) -> None:
        self.rate: float | None = None
        self._at = 0.0
        """When all that was handed out would have been, at the pace."""
        self._now = 0

    def obey(self, rate: float | None) -> None:
        """From now on that is the pace: what was handed out at another one counts no more."""
        if rate != self.rate:
            self.rate = rate
            self._at = min(self._at, self._now)

    def allowed(self, mono: int) -> int:
        """Messages that may go now."""
        if self.rate is None:
            return INT_MAX
        self._now = mono
        self._at = max(self._at, mono - BURST_MS)
        ahead = int((mono - self._at) * self.rate / 1000)
        return ahead or int(self._at <= mono)

    def spend(self, messages: int) -> None:
        """That many went."""
        if self.rate is not None:
            self._at += messages * 1000 / self.rate

    def next_at(self, mono: int) -> int | None:
        """When the next message may go, if none may now."""
        return int(self._at) + 1 if self.rate is not None and self._at > mono else None
