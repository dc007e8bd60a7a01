"""A clock that is turned by hand."""

from penstock_broker.clock import Now

WALL_AT_START = 1_700_000_000_000
"""Ms since 1970 at which every manual clock starts; any fixed value serves."""


class ManualClock:
    """Both clocks stand still until told otherwise. Monotonic time only runs forward; wall time may jump."""

    def __init__(self, mono: int = 0, wall: int = WALL_AT_START) -> None:
        self._now = Now(mono, wall)

    def now(self) -> Now:
        """The instant that was set last."""
        return self._now

    def advance(self, ms: int) -> Now:
        """Let `ms` pass on both clocks; the instant afterwards."""
        assert ms >= 0, "monotonic time does not run backwards"
        self._now = Now(self._now.mono + ms, self._now.wall + ms)
        return self._now

    def jump_wall(self, ms: int) -> Now:
        """Someone sets the machine's wall clock by `ms` (may be negative); no time passes."""
        self._now = self._now._replace(wall=self._now.wall + ms)
        return self._now
