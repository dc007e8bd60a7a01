"""When time next brings something about for ranges of messages: the end of a delay, an expiry.

    near    a heap of what comes within the current bucket of time
    far     everything later, per bucket as a flat array: 24 bytes per range, no object

A range is not taken back: who asks what is due looks whether it still holds (the message may be settled, or
its time may have been changed). So ten years of delayed messages cost their arrays and nothing else.
"""

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator

BUCKET_SHIFT = 18
"""Buckets of some four minutes."""
ROW = 3
ROW_BYTES = 24
PRUNE_MIN = 256
"""Ranges that are not worth to be looked through for those that hold no more."""

Due = tuple[int, int, int]
"""Wall ms, first offset, messages."""


class Deadlines:
    """Ranges by time (wall ms)."""

    __slots__ = ("_buckets", "_count", "_far", "_near", "_prune_at", "_reached")

    def __init__(self) -> None:
        self._near: list[Due] = []
        self._far: dict[int, array[int]] = {}
        self._buckets: list[int] = []
        """Heap of the numbers of far buckets."""
        self._reached = 0
        """Buckets below that number are near."""
        self._count = 0
        self._prune_at = PRUNE_MIN

    def __len__(self) -> int:
        return self._count

    def add(self, when: int, first: int, messages: int) -> None:
        """Something happens to a range at `when`."""
        self._count += 1
        bucket = when >> BUCKET_SHIFT
        if bucket < self._reached:
            heapq.heappush(self._near, (when, first, messages))
            return
        rows = self._far.get(bucket)
        if rows is None:
            rows = self._far[bucket] = array("Q")
            heapq.heappush(self._buckets, bucket)
        rows.extend((when, first, messages))

    def due(self, now: int) -> Iterator[Due]:
        """What has come by `now`, each once, in the order of time."""
        while (row := self._next()) is not None and row[0] <= now:
            heapq.heappop(self._near)
            self._count -= 1
            yield row

    def _next(self) -> Due | None:
        """The earliest range; buckets come near when they are reached."""
        while not self._near and self._buckets:
            bucket = heapq.heappop(self._buckets)
            self._near = list(_rows(self._far.pop(bucket)))
            heapq.heapify(self._near)
            self._reached = bucket + 1
        return self._near[0] if self._near else None

    def next(self) -> int | None:
        """When to ask again: never later than the earliest range is due."""
        if self._near:
            return self._near[0][0]
        return self._buckets[0] << BUCKET_SHIFT if self._buckets else None

    def rows(self) -> Iterator[Due]:
        """Every range, in no order."""
        yield from self._near
        for rows in self._far.values():
            yield from _rows(rows)

    def prune(self, wanted: int, holds: Callable[[Due], bool]) -> None:
        """Forget ranges that hold no more, once there are many more than the `wanted` messages they may be
        for."""
        if self._count <= max(self._prune_at, 2 * wanted):
            return
        kept = [row for row in self.rows() if holds(row)]
        self._near, self._far, self._buckets = [], {}, []
        self._reached = self._count = 0
        for row in kept:
            self.add(*row)
        self._prune_at = max(PRUNE_MIN, 2 * self._count)

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Every range, as bytes."""
        near = array("Q", [value for row in self._near for value in row])
        return b"".join([near.tobytes(), *(rows.tobytes() for rows in self._far.values())])

    def restore(self, data: bytes) -> None:
        """The inverse of `snapshot`."""
        rows = array("Q")
        rows.frombytes(data)
        for row in _rows(rows):
            self.add(*row)


def _rows(rows: "array[int]") -> Iterable[Due]:
    values = iter(rows)
    return zip(values, values, values, strict=True)
