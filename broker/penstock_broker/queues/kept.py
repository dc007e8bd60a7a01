"""When messages were settled: what a queue that keeps settled messages for a while knows of it.

Two coarse views, both bounded. Marks say that everything below an offset was settled by a time: by them the
beginning of the log is trimmed. Pages (4,096 offsets) say when something in them was settled last: by them
what lies settled behind a message that is not can be given up, too. Both round up, so that nothing goes
early.
"""

from array import array
from collections.abc import Sequence
from struct import Struct

from penstock_broker.queues.states import PAGE

SNAPSHOT = Struct("<II")  # marks, pages
HAS_UNSEEN = 1 << 31  # in the number of pages: u32 count and u64 offsets of what is unseen follow
ROW = Struct("<QQ")  # time and offset of a mark; page and time of a page
MARK_MS = 1_000
MARKS_MAX = 512
"""Beyond that every second one goes: what it stood for is kept until the next one's time."""


class Kept:
    """Of one queue. Times are wall ms."""

    __slots__ = ("_marks", "_pages", "_since", "unseen")

    def __init__(self) -> None:
        self._marks: list[tuple[int, int]] = []
        self._pages: dict[int, int] = {}
        self._since = 0
        """What was settled before that is wanted no more. Not part of the state."""
        self.unseen: set[int] = set()
        """Offsets of messages that were never taken, as duplicates or in conflict: nobody sees them."""

    def settled(
        self, ranges: Sequence[tuple[int, int]], head: int, time: int, *, unseen: bool = False
    ) -> None:
        """These ranges were settled at `time`; now all below `head` is."""
        if unseen:
            self.unseen.update(offset for first, n in ranges for offset in range(first, first + n))
        marks = self._marks
        by = -(-time // MARK_MS) * MARK_MS
        if marks and marks[-1][0] >= by:
            by = marks.pop()[0]
        marks.append((by, head))
        if len(marks) > MARKS_MAX:
            del marks[::2]
        for first, messages in ranges:
            for page in range(first // PAGE, (first + messages - 1) // PAGE + 1):
                self._pages[page] = time

    def trimmed(self, start: int) -> None:
        """All below `start` is gone."""
        self._marks = [mark for mark in self._marks if mark[1] > start]
        for page in [page for page in self._pages if (page + 1) * PAGE <= start]:
            del self._pages[page]
        if self.unseen:
            self.unseen = {offset for offset in self.unseen if offset >= start}

    def start_at(self, time: int) -> int:
        """The offset below which everything had been settled by `time`; from now on nothing settled before
        that is wanted."""
        self._since = time
        return max((head for by, head in self._marks if by <= time), default=0)

    def wants(self, first: int, messages: int, start: int, head: int) -> bool:
        """Something in a settled range is kept: of what lies between `start` and `head` everything is, and
        behind that what may have been settled lately."""
        if not self._marks or first + messages <= start:
            return False
        pages = range(first // PAGE, (first + messages - 1) // PAGE + 1)
        return first < head or any(self._pages.get(page, 0) > self._since for page in pages)

    def __bool__(self) -> bool:
        return bool(self._marks)

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything, as bytes."""
        rows = [ROW.pack(*row) for row in (*self._marks, *self._pages.items())]
        pages = len(self._pages) | (HAS_UNSEEN if self.unseen else 0)
        unseen = array("Q", sorted(self.unseen)).tobytes()
        tail = len(self.unseen).to_bytes(4, "little") + unseen if unseen else b""
        return SNAPSHOT.pack(len(self._marks), pages) + b"".join(rows) + tail

    def restore(self, data: memoryview) -> int:
        """The inverse of `snapshot`; how many bytes were used."""
        marks, pages = SNAPSHOT.unpack_from(data)
        end: int
        has_unseen, pages = pages & HAS_UNSEEN, pages & ~HAS_UNSEEN
        end = SNAPSHOT.size + (marks + pages) * ROW.size
        rows = [(first, second) for first, second in ROW.iter_unpack(data[SNAPSHOT.size : end])]
        self._marks = rows[:marks]
        self._pages = dict(rows[marks:])
        if has_unseen:
            begin, count = end + 4, int.from_bytes(data[end : end + 4], "little")
            end = begin + 8 * count
            self.unseen = set(array("Q", data[begin:end].tobytes()))
        return end
