"""The node's budget for large frames: taken before the body is read, given back when the frame is whole.

A frame over 1 MiB is gathered in a buffer of its own. Peers whose frame finds no room wait in turn, with
their sockets unread; the first is let in whatever its size, so that nobody waits for ever.
"""

from collections import deque
from typing import Protocol

from penstock_protocol.limits import MIB

LARGE_BYTES = MIB
ASSEMBLY_BYTES_MAX = 64 * MIB


class Reader(Protocol):
    """A peer that waits for room."""

    def resume(self) -> None:
        """There is room now: read on."""
        ...


class Assembly:
    """Bytes of large frames that are being gathered, all peers of the node."""

    def __init__(self, bytes_max: int = ASSEMBLY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._held: dict[Reader, int] = {}
        self._waiting: deque[tuple[Reader, int]] = deque()

    def take(self, reader: Reader, size: int) -> bool:
        """Take room for a frame of `size` bytes; False: `resume` is called when there is some."""
        if self._waiting or not self._fits(size):
            self._waiting.append((reader, size))
            return False
        self._held[reader] = size
        return True

    def give(self, reader: Reader) -> None:
        """The reader's frame is whole, or its socket is gone."""
        self._held.pop(reader, None)
        self._waiting = deque(item for item in self._waiting if item[0] is not reader)
        while self._waiting and self._fits(self._waiting[0][1]):
            following, size = self._waiting.popleft()
            self._held[following] = size
            following.resume()

    def _fits(self, size: int) -> bool:
        return not self._held or sum(self._held.values()) + size <= self._bytes_max
