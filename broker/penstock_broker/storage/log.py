"""A log: the ordered whole of one partition or queue, young batches in the journal, old ones in segments.

It holds where things lie, not the things: two indexes in flat arrays. Offsets below `start` are gone,
`end` is the next to be written. Young batches all lie behind old ones, in offsets and in time.
The log is folded from parts like every machine's state; it reads no file.
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Part

SNAPSHOT = Struct("<QQIIIQ")  # start, end, young, old, origins, size_bytes
ORIGIN = Struct("<Q16sQ")  # base, origin log, origin first
TRIM_ROWS_MIN = 256
"""Rows trimmed from the front of an index before its arrays are shifted."""


class Young(NamedTuple):
    """One batch in the journal."""

    base: int
    messages: int
    position: int
    length: int
    time: int
    crc: int
    origin_log: bytes
    origin_first: int


class Old(NamedTuple):
    """One block of batches in a segment."""

    first: int
    messages: int
    segment: int
    at: int
    length: int


class Columns:
    """Rows as parallel flat arrays, sorted by their first column, trimmed from the front."""

    __slots__ = ("arrays", "first")

    def __init__(self, codes: str) -> None:
        self.arrays = [array(code) for code in codes]
        self.first = 0
        """Index of the first row still wanted."""

    def __len__(self) -> int:
        return len(self.arrays[0]) - self.first

    def append(self, *values: int) -> None:
        """One row at the end."""
        for column, value in zip(self.arrays, values, strict=True):
            column.append(value)

    def row(self, index: int) -> list[int]:
        """Every column of one row."""
        return [column[index] for column in self.arrays]

    def find(self, key: int) -> int:
        """Index of the last row whose first column is ≤ `key`; `first - 1` if there is none."""
        return bisect_right(self.arrays[0], key, self.first) - 1

    def trim(self, first: int) -> None:
        """Forget rows before index `first`."""
        self.first = first
        if first >= TRIM_ROWS_MIN and first * 2 >= len(self.arrays[0]):
            for column in self.arrays:
                del column[:first]
            self.first = 0

    def dump(self) -> bytes:
        """All wanted rows."""
        return b"".join([column[self.first :].tobytes() for column in self.arrays])

    def load(self, data: memoryview, rows: int) -> int:
        """The inverse; how many bytes were used."""
        at = 0
        for column in self.arrays:
            size = rows * column.itemsize
            column.frombytes(data[at : at + size])
            at += size
        return at


class Log:
    """Offsets, places and times of one log. `use` counts blocks per segment, over all logs of the node."""

    __slots__ = ("_old", "_origins", "_use", "_young", "end", "size_bytes", "start", "uuid")

    def __init__(self, uuid: bytes, use: Counter[int]) -> None:
        self.uuid = uuid
        self._use = use
        self.start = 0
        self.end = 0
        self.size_bytes = 0
        """Bytes of all batches at or behind `start`, counted per batch or block."""
        self._young = Columns("QIQIQI")  # base, messages, position, length, time, crc
        self._old = Columns("QIIQIQ")  # first, messages, segment, at, length, time
        self._origins: dict[int, tuple[bytes, int]] = {}

    # ---- Folding

    def appended(self, part: Part, at: At) -> None:
        """An APPEND: a batch at the end."""
        assert part.base == self.end, f"append at {part.base} of a log that ends at {self.end}"
        self._young.append(part.base, part.messages, at.body_position, at.body_length, at.time, at.body_crc)
        if part.flags & entries.ORIGIN_FLAG:
            self._origins[part.base] = entries.ORIGIN.unpack(part.detail[-entries.ORIGIN.size :])
        self.end += part.messages
        self.size_bytes += at.body_length

    def archived(self, part: Part) -> None:
        """An ARCHIVED: batches below base + messages are in the listed blocks, or not wanted any more."""
        young = self._young
        upto = young.find(part.base + part.messages - 1) + 1
        for index in range(young.first, upto):
            self._origins.pop(young.arrays[0][index], None)
            self.size_bytes -= young.arrays[3][index]
        for first, messages, at, length, segment in entries.BLOCK.iter_unpack(part.detail):
            if first + messages <= self.start:
                continue
            time = young.arrays[4][max(young.first, young.find(first))]
            self._old.append(first, messages, segment, at, length, time)
            self.size_bytes += length
            self._use[segment] += 1
        young.trim(upto)

    def trim(self, start: int) -> None:
        """Offsets below `start` are gone."""
        self.start = start
        young, old = self._young, self._old
        while len(old) and old.arrays[0][old.first] + old.arrays[1][old.first] <= start:
            self._use[old.arrays[2][old.first]] -= 1
            self.size_bytes -= old.arrays[4][old.first]
            old.trim(old.first + 1)
        while len(young) and young.arrays[0][young.first] + young.arrays[1][young.first] <= start:
            if self._origins:
                self._origins.pop(young.arrays[0][young.first], None)
            self.size_bytes -= young.arrays[3][young.first]
            young.trim(young.first + 1)

    # ---- Looking up

    def at(self, offset: int) -> Young | Old:
        """Where the message at `offset` lies. The offset must be between start and end."""
        young = self._young
        index = young.find(offset)
        if index >= young.first:
            return self._young_row(index)
        old = self._old
        index = old.find(offset)
        assert index >= old.first, f"offset {offset} lies in no batch"
        first, messages, segment, at, length, _ = old.row(index)
        return Old(first, messages, segment, at, length)

    def position(self, offset: int) -> int:
        """Journal position behind the batch with the message at `offset`; 0 if it is old."""
        index = self._young.find(offset)
        if index < self._young.first:
            return 0
        return self._young.arrays[2][index] + self._young.arrays[3][index]

    def time(self, offset: int) -> int:
        """Append time (ms) of the message at `offset`; of its block's first message if it is old."""
        young = self._young
        index = young.find(offset)
        if index >= young.first:
            return young.arrays[4][index]
        index = self._old.find(offset)
        return self._old.arrays[5][index] if index >= self._old.first else 0

    def offset_at(self, time: int) -> tuple[int, Old | None]:
        """The first offset of the first batch (young) or block (old) appended at or after `time` (ms), or
        `end`; and the block before it, whose later batches may be that young too."""
        old, young = self._old, self._young
        index = bisect_right(old.arrays[5], time - 1, old.first)
        before = Old(*old.row(index - 1)[:5]) if index > old.first else None
        if index < len(old.arrays[0]):
            return max(self.start, old.arrays[0][index]), before
        index = bisect_right(young.arrays[4], time - 1, young.first)
        if index > young.first:
            before = None
        if index < len(young.arrays[0]):
            return max(self.start, young.arrays[0][index]), before
        return self.end, before

    def fit(self, first: int, messages: int, size: int) -> tuple[int, int]:
        """How many of `messages` messages from `first` on go into `size` bytes, and how many bytes they
        are, by the mean size in each batch; at least one message."""
        taken = used = 0
        while taken < messages:
            place = self.at(first + taken)
            begin = place.base if isinstance(place, Young) else place.first
            inside = min(messages - taken, begin + place.messages - first - taken)
            mean = -(-place.length // place.messages)
            fits = min(max(inside, 1), max((size - used) // mean, 0 if taken else 1))
            taken += fits
            used += fits * mean
            if fits < inside or inside <= 0:
                break
        return taken, used

    def young_rows(self, below: int) -> Iterator[Young]:
        """Young batches whose journal position is below `below`, oldest first."""
        for index in range(self._young.first, len(self._young.arrays[0])):
            if self._young.arrays[2][index] >= below:
                return
            yield self._young_row(index)

    @property
    def young_position(self) -> int | None:
        """Journal position of the oldest batch that lies in the journal; None without one."""
        return self._young.arrays[2][self._young.first] if len(self._young) else None

    def _young_row(self, index: int) -> Young:
        base, messages, position, length, time, crc = self._young.row(index)
        log, first = self._origins.get(base, (self.uuid, base))
        return Young(base, messages, position, length, time, crc, log, first)

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything, as bytes."""
        origins = b"".join([ORIGIN.pack(base, *origin) for base, origin in self._origins.items()])
        head = SNAPSHOT.pack(
            self.start, self.end, len(self._young), len(self._old), len(self._origins), self.size_bytes
        )
        return head + self._young.dump() + self._old.dump() + origins

    def restore(self, data: memoryview) -> int:
        """The inverse of `snapshot`; how many bytes were used."""
        self.start, self.end, young, old, origins, self.size_bytes = SNAPSHOT.unpack_from(data)
        at: int = SNAPSHOT.size
        at += self._young.load(data[at:], young)
        at += self._old.load(data[at:], old)
        self._use.update(self._old.arrays[2])
        for base, log, first in ORIGIN.iter_unpack(data[at : at + origins * ORIGIN.size]):
            self._origins[base] = (log, first)
        size: int = origins * ORIGIN.size
        return at + size
