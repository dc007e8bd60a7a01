"""In which order ready messages go that do not simply go by offset: those with a priority, those that come
back, the next of each message group.

    without ageing   rank (9 - priority), then offset: strict, as RabbitMQ's quorum queues have it
    with ageing      append time less `ageing` ms per step of priority, then offset: what waits rises

A key is one integer, so that the heap holds nothing else; a key whose message is no longer ready is skipped
when it comes to the top. Plain messages have keys, too, and are compared by them, but are never in the heap.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterator

PLAIN_RANK = 9
SHIFT = 64
OFFSET = (1 << SHIFT) - 1
PRUNE_MIN = 256


class Order:
    """Offsets of messages that are, or were, SPECIAL."""

    __slots__ = ("_heap", "ageing", "ranks", "time_of")

    def __init__(self) -> None:
        self._heap: list[int] = []
        self.ranks: dict[int, int] = {}
        """Offset → rank, of messages whose rank is not that of a plain one. Lower goes first."""
        self.ageing = 0
        """ms after which a message has risen by one rank; 0: never."""
        self.time_of: Callable[[int], int] = lambda _: 0
        """Append time of an offset, ms."""

    def key(self, offset: int) -> int:
        """What decides who goes first: the lower."""
        rank = self.ranks.get(offset, PLAIN_RANK) if self.ranks else PLAIN_RANK
        if self.ageing:
            rank = self.time_of(offset) + rank * self.ageing
        return rank << SHIFT | offset

    def before(self, special: int, first: int, messages: int) -> int:
        """How many of a run of plain messages go before a special one; with ageing, not all of them may."""
        return bisect_left(range(first, first + messages), self.key(special), key=self.key)

    def push(self, offset: int) -> None:
        """That message is ready."""
        heapq.heappush(self._heap, self.key(offset))

    def peek(self) -> int | None:
        """Offset of the first; it may not be ready any more."""
        return self._heap[0] & OFFSET if self._heap else None

    def pop(self) -> None:
        """Forget the first."""
        heapq.heappop(self._heap)

    def passed(self, first: int, end: int) -> None:
        """Those offsets were handed out: forget them, as far as they stand at the front."""
        heap = self._heap
        while heap and first <= heap[0] & OFFSET < end:
            heapq.heappop(heap)

    def clear(self) -> None:
        """Nothing is ready."""
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)

    def rebuild(self, offsets: Iterator[int]) -> None:
        """Exactly those are ready."""
        self._heap = [self.key(offset) for offset in offsets]
        heapq.heapify(self._heap)
