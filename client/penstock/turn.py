"""Whose turn it is: partitions of which something was fetched, one fetch of each after the other.

    nothing fetched ──arrived──► in line ──taken, and nothing left──► nothing fetched
                                  │   ▲
                                  └───┘ to the end of the line: a fetch is used up, or it is held back

A partition where nothing happens is not looked at, however many there are of them.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from penstock.reading import Reader
from penstock_protocol.limits import MIB

T = TypeVar("T")

FETCH_BYTES_MIN, FETCH_BYTES_MAX = MIB // 8, MIB
FETCHED_BYTES = 128 * MIB
"""Of all partitions together, as far as `FETCH_BYTES_MIN` allows; each has two fetches at most,
of a few partitions three."""
SENT_AHEAD_PARTITIONS_MAX = 8
"""With more of them the broker is never without something to fetch, and one fetch of each is enough."""


class Turn(Generic[T]):
    """The line of one consumer. `moved`: there may be something to hand out, or its loop is to end."""

    def __init__(self) -> None:
        self.moved = asyncio.Event()
        self._line: deque[Reader[T]] = deque()
        self._in_line: set[Reader[T]] = set()
        self._readers = 0

    def __iter__(self) -> Iterator[Reader[T]]:
        """Those in line, the next one first."""
        return iter(self._line)

    @property
    def fetch_bytes(self) -> int:
        """How much one fetch may bring: with many partitions each gets less of the consumer's memory."""
        share = FETCHED_BYTES // 2 // max(1, self._readers)
        return min(max(share, FETCH_BYTES_MIN), FETCH_BYTES_MAX)

    @property
    def sends_ahead(self) -> bool:
        """Whether a partition may have a second fetch on its way."""
        return self._readers <= SENT_AHEAD_PARTITIONS_MAX

    def begin(self, reader: Reader[T]) -> None:
        """Read it from now on."""
        self._readers += 1
        reader.begin()

    def arrived(self, reader: Reader[Any]) -> None:
        """It has fetched something, or learned that there is nothing, or failed."""
        if reader not in self._in_line:
            self._in_line.add(reader)
            self._line.append(reader)
        self.moved.set()

    def next(self) -> Reader[T] | None:
        """The first in line that is ready. Raises what ended the reading of it."""
        for _ in range(len(self._line)):
            reader = self._line[0]
            if reader.is_ready:
                return reader
            if reader.has_nothing:
                self._in_line.discard(self._line.popleft())
            else:
                self._line.rotate(-1)
        return None

    def used(self, reader: Reader[T]) -> None:
        """Records of it were handed out: the next one's turn, when a fetch is used up."""
        if reader.is_between_fetches and self._line and self._line[0] is reader:
            self._line.rotate(-1)

    def remove(self, reader: Reader[Any]) -> None:
        """It is not read any more."""
        self._readers -= reader.begun
        reader.stop()
        if reader in self._in_line:
            self._in_line.discard(reader)
            self._line.remove(reader)
        self.moved.set()
