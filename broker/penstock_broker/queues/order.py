"""In which order ready messages go that do not simply go by offset: those with a priority, those that come
back, the next of each message group, those that were delayed.

    without ageing   rank (9 - priority), then place: strict, as RabbitMQ's quorum queues have it
    with ageing      append time less `ageing` ms per step of priority, then offset: what waits rises

The place of a message is its offset. One that was delayed is where it would be had it been enqueued when its
delay was over: behind all that was enqueued before that, and among its like by time, to the millisecond. Its
place is found when it wakes; if what was enqueued around that time lies in a segment, only to the stretch.

A key is one integer, so that the heap holds nothing else; a key whose message is no longer ready is skipped
when it comes to the top. Plain messages have keys, too, and are compared by them, but are never in the heap.
Nor are plain messages that were delayed: they lie in `woken`, a row per range.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from penstock_broker.queues.woken import Woken

PLAIN_RANK = 9
SHIFT = 64
OFFSET = (1 << SHIFT) - 1
DUE_SHIFT = 48
DUE = (1 << DUE_SHIFT) - 1
PRUNE_MIN = 256


def place_of(due: int, behind: int) -> int:
    """The place of what was due at that time (wall ms): behind all that was enqueued before, below offset
    `behind`."""
    return 2 * behind << DUE_SHIFT | due


class Order:
    """Offsets of messages that are, or were, SPECIAL."""

    __slots__ = ("_heap", "ageing", "late", "offset_at", "ranks", "time_of", "woken")

    def __init__(self) -> None:
        self._heap: list[int] = []
        self.ranks: dict[int, int] = {}
        """Offset → rank, of messages whose rank is not that of a plain one. Lower goes first."""
        self.woken = Woken()
        self.late: dict[int, int] = {}
        """Offset → place of those that were delayed and are not in `woken`: they have a rank, or were handed
        out, or somebody gave them another time; until that has come its ms is all there is."""
        self.ageing = 0
        """ms after which a message has risen by one rank; 0: never."""
        self.time_of: Callable[[int], int] = lambda _: 0
        """Append time of an offset, ms."""
        self.offset_at: Callable[[int], int] = lambda _: 0
        """The first offset appended at or after a time, ms."""

    def key(self, offset: int) -> int:
        """What decides who goes first: the lower."""
        rank = self.ranks.get(offset, PLAIN_RANK) if self.ranks else PLAIN_RANK
        return self._key(offset, rank, self.late.get(offset) if self.late else None)

    def _key(self, offset: int, rank: int, place: int | None) -> int:
        if self.ageing:
            time = self.time_of(offset) if place is None else place & DUE
            return time + rank * self.ageing << SHIFT | offset
        if place is None:
            place = 2 * offset + 1 << DUE_SHIFT
        return (rank << SHIFT + DUE_SHIFT | place) << SHIFT | offset

    def place(self, due: int) -> int:
        """Of a message that was due at that time, which has come."""
        return place_of(due, self.offset_at(due))

    @property
    def step(self) -> int:
        """By how much the keys of neighbours differ that are alike."""
        return 1 if self.ageing else (2 << DUE_SHIFT + SHIFT) + 1

    @property
    def cuts(self) -> bool:
        """A special message may go between two plain neighbours."""
        return bool(self.ageing or self.late or self.woken)

    def before(self, key: int, first: int, messages: int) -> int:
        """How many of a run of plain messages go before a special one with that key."""
        return bisect_left(range(first, first + messages), key, key=self.key)

    def push(self, offset: int) -> None:
        """That message is ready."""
        heapq.heappush(self._heap, self.key(offset))

    def peek(self) -> int | None:
        """Key of the first of the heap; it may not be ready any more."""
        return self._heap[0] if self._heap else None

    def pop(self) -> None:
        """Forget the first of the heap."""
        heapq.heappop(self._heap)

    def peek_woken(self) -> tuple[int, int, int] | None:
        """Key and range of the first of those that were delayed; it may not be ready any more."""
        row = self.woken.peek()
        if row is None:
            return None
        due, behind, first, messages = row
        return self._key(first, PLAIN_RANK, place_of(due, behind)), first, messages

    def passed(self, first: int, end: int) -> None:
        """Those offsets were handed out: forget them, as far as they stand at the front."""
        heap = self._heap
        while heap and first <= heap[0] & OFFSET < end:
            heapq.heappop(heap)
        row = self.woken.peek()
        if row is not None and row[2] == first:
            due, behind, _, messages = row
            taken = min(messages, end - first)
            self.woken.drop(taken)
            self.late.update(dict.fromkeys(range(first, first + taken), place_of(due, behind)))

    def clear(self) -> None:
        """Nothing is ready."""
        self._heap.clear()
        self.woken.clear()

    def __len__(self) -> int:
        return len(self._heap)

    def offsets(self) -> Iterator[int]:
        """All that the heap holds, each once."""
        yield from sorted({key & OFFSET for key in self._heap})

    def rebuild(self, offsets: Iterable[int]) -> None:
        """Exactly those are in the heap."""
        self._heap = [self.key(offset) for offset in offsets]
        heapq.heapify(self._heap)
