"""How many messages may wait in a consumer. Pure: it is told what happened and says how much to grant.

    credit (what the broker may still send) + buffered (what waits here) → target

The target adapts: it begins at 1 and doubles when the buffer runs dry after the broker had used up its
credit; it never holds more than one second of measured work, 16 MiB or 1,000 messages. A fixed one stays,
as far as 16 MiB allow; until the size of a message is known, that is 16 messages.
"""

from penstock.errors import Invalid
from penstock.values import shown
from penstock_protocol.limits import MESSAGE_BYTES_MAX_DEFAULT, MIB, PREFETCH_MESSAGES_MAX

WORK_SECONDS_MAX = 1.0
BUFFER_BYTES_MAX = 16 * MIB
SMOOTHING = 1 / 8
"""Weight of the latest message in the running means."""


class Prefetch:
    """The books of one subscription. `fixed` None: adaptive. Raises `Invalid` for a size it cannot have."""

    def __init__(self, fixed: int | None) -> None:
        if fixed is not None and (type(fixed) is not int or not 1 <= fixed <= PREFETCH_MESSAGES_MAX):
            raise Invalid(
                f"prefetch={shown(fixed)}: it can be 1 to {PREFETCH_MESSAGES_MAX:,}, or None to adapt"
            )
        self._fixed = fixed
        self.target = min(fixed or 1, BUFFER_BYTES_MAX // MESSAGE_BYTES_MAX_DEFAULT)
        self.credit = 0
        self._used_up = False
        self._work = 0.0
        self._size = 0.0
        self._last: float | None = None

    def subscribed(self, buffered: int) -> int:
        """The credit a subscription begins with."""
        self.credit = max(0, self.target - buffered)
        return self.credit

    def delivered(self, messages: int, size: int) -> None:
        """`messages` came, `size` bytes in all."""
        self.credit = max(0, self.credit - messages)
        self._used_up = self._used_up or not self.credit
        self._size += (size / messages - self._size) * (SMOOTHING if self._size else 1)
        if self._fixed is not None:
            self.target = self._most()

    def taken(self, now: float, *, waited: bool) -> None:
        """The application took a message. Without waiting for it, it was at work since the last one."""
        if not waited and self._last is not None:
            self._work += (now - self._last - self._work) * (SMOOTHING if self._work else 1)
        self._last = now

    def ran_dry(self) -> None:
        """The application waits for a message."""
        if self._used_up:
            self._used_up = False
            self.target = min(2 * self.target, self._most())

    def grant(self, buffered: int) -> int:
        """Credit to send now; 0 until a quarter of the target is missing."""
        missing = self.target - self.credit - buffered
        if missing < max(1, self.target // 4):
            return 0
        self.target = min(self.target, self._most())
        missing = max(0, self.target - self.credit - buffered)
        self.credit += missing
        return missing

    def _most(self) -> int:
        most: float = self._fixed or PREFETCH_MESSAGES_MAX
        if self._work and self._fixed is None:
            most = min(most, WORK_SECONDS_MAX / self._work)
        if self._size:
            most = min(most, BUFFER_BYTES_MAX / self._size)
        return max(1, int(most))
