"""A log: the ordered whole of one partition or queue, young batches in the journal, old ones in segments.

It holds where things lie, not the things: two indexes in flat arrays, a row per young batch and a row per
stretch of old ones. Offsets below `start` are gone, `end` is the next to be written. Young batches all lie
behind old ones, in offsets and in time. Offsets between may be in no row at all: what was settled or
compacted away leaves a hole. The log is folded from parts like every machine's state; it reads no file.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Kind, Part

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


class Stretch(NamedTuple):
    """Blocks of consecutive batches in a segment. `messages`: offsets they span, holes included; `alive`: how
    many were wanted when they were moved there."""

    first: int
    messages: int
    alive: int
    segment: int
    blocks: int
    length: int
    at: int
    time: int
    """Append time (ms) of the first batch."""
    until: int
    """Of the last one."""

    @property
    def end(self) -> int:
        """The offset behind the last."""
        return self.first + self.messages


class Place(NamedTuple):
    """What is kept or given up as one: a stretch, or a batch in the journal. `end`: the offset behind it."""

    end: int
    length: int
    since: int
    """Append time (ms) of its first batch."""
    until: int
    """Of its last one."""


class Use:
    """What of each segment is pointed to, over all logs of the node, in bytes."""

    def __init__(self) -> None:
        self._held: dict[int, Counter[bytes]] = {}

    def change(self, segment: int, log: bytes, size: int) -> None:
        """`log` points to `size` bytes more, or fewer, of a segment."""
        held = self._held.setdefault(segment, Counter())
        held[log] += size
        if not held[log]:
            del held[log]
            if not held:
                del self._held[segment]

    def of(self, segment: int) -> int:
        """Of all logs."""
        held = self._held.get(segment)
        return held.total() if held is not None else 0

    def logs(self, segment: int) -> list[bytes]:
        """Whose bytes they are."""
        return list(self._held.get(segment, ()))

    def total(self) -> dict[int, int]:
        """Bytes by segment."""
        return {segment: held.total() for segment, held in self._held.items()}


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

    def replace(self, low: int, high: int, rows: Sequence[Sequence[int]]) -> None:
        """Put `rows` in the place of those at index low … high."""
        for number, column in enumerate(self.arrays):
            column[low:high] = array(column.typecode, [row[number] for row in rows])

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
    """Offsets, places and times of one log. `use` counts what segments hold, over all logs of the node."""

    __slots__ = ("_old", "_origins", "_use", "_young", "end", "size_bytes", "start", "uuid")

    def __init__(self, uuid: bytes, use: Use) -> None:
        self.uuid = uuid
        self._use = use
        self.start = 0
        self.end = 0
        self.size_bytes = 0
        """Bytes of all batches at or behind `start`, counted per batch or stretch."""
        self._young = Columns("QIQIQI")  # base, messages, position, length, time, crc
        self._old = Columns("QIIIIIQQQ")  # as Stretch
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
        self._old.replace(len(self._old.arrays[0]), len(self._old.arrays[0]), self._kept(part))
        young.trim(upto)

    def moved(self, part: Part) -> None:
        """A MOVED: what remains of the stretches between base and base + messages lies elsewhere."""
        old = self._old
        low = max(old.first, bisect_left(old.arrays[0], part.base))
        high = bisect_left(old.arrays[0], part.base + part.messages, low)
        for index in range(low, high):
            self._count(Stretch(*old.row(index)), -1)
        old.replace(low, high, self._kept(part))

    def _kept(self, part: Part) -> list[Stretch]:
        """Stretches a part lists, but for those that are trimmed already."""
        listed = [Stretch(*fields) for fields in entries.STRETCH.iter_unpack(part.detail)]
        kept = [stretch for stretch in listed if stretch.end > self.start]
        for stretch in kept:
            self._count(stretch, 1)
        return kept

    def _count(self, stretch: Stretch, sign: int) -> None:
        self._use.change(stretch.segment, self.uuid, sign * stretch.length)
        self.size_bytes += sign * stretch.length

    def trim(self, start: int) -> None:
        """Offsets below `start` are gone."""
        self.start = start
        young, old = self._young, self._old
        while len(old) and old.arrays[0][old.first] + old.arrays[1][old.first] <= start:
            self._count(Stretch(*old.row(old.first)), -1)
            old.trim(old.first + 1)
        while len(young) and young.arrays[0][young.first] + young.arrays[1][young.first] <= start:
            if self._origins:
                self._origins.pop(young.arrays[0][young.first], None)
            self.size_bytes -= young.arrays[3][young.first]
            young.trim(young.first + 1)

    def fits(self, part: Part, is_alive: Callable[[int, int], bool]) -> bool:
        """The part follows on from what is known here; it does, unless something before it was lost."""
        if part.kind == Kind.APPEND:
            return part.base == self.end
        if part.kind == Kind.MOVED:
            first = next(self.stretches(part.base), None)
            return first is not None and first.first == part.base
        end = part.base + part.messages
        return end <= self.end and (part.kind != Kind.ARCHIVED or self._holds_all(part, end, is_alive))

    def _holds_all(self, part: Part, end: int, is_alive: Callable[[int, int], bool]) -> bool:
        """What is alive of the young batches that an ARCHIVED takes away lies in the stretches it lists; what
        does not was taken away by one that was lost."""
        listed = [Stretch(*fields) for fields in entries.STRETCH.iter_unpack(part.detail)]
        young = self._young
        for index in range(young.first, max(young.first, young.find(end - 1) + 1)):
            base, messages, *_ = young.row(index)
            held = any(each.first <= base and base + messages <= each.end for each in listed)
            if not held and is_alive(base, messages):
                return False
        return True

    # ---- Looking up

    def at(self, offset: int) -> Young | Stretch | None:
        """Where the message at `offset` lies; the next place behind if that is in a hole, None at the end."""
        young = self._young
        index = young.find(offset)
        if index >= young.first:
            if young.arrays[0][index] + young.arrays[1][index] > offset:
                return self._young_row(index)
        else:
            old = self._old
            at = max(old.find(offset), old.first)
            while at < len(old.arrays[0]):
                if old.arrays[0][at] + old.arrays[1][at] > offset:
                    return Stretch(*old.row(at))
                at += 1
        index = max(index + 1, young.first)
        return self._young_row(index) if index < len(young.arrays[0]) else None

    def stretches(self, first: int = 0) -> Iterator[Stretch]:
        """Stretches that end behind offset `first`, in order."""
        old = self._old
        for index in range(max(old.first, old.find(first)), len(old.arrays[0])):
            stretch = Stretch(*old.row(index))
            if stretch.end > first:
                yield stretch

    def stretches_in(self, segment: int) -> Iterator[Stretch]:
        """Stretches that lie in one segment."""
        numbers = self._old.arrays[3]
        index = self._old.first
        while True:
            try:
                index = numbers.index(segment, index)
            except ValueError:
                return
            yield Stretch(*self._old.row(index))
            index += 1

    def places(self) -> Iterator[Place]:
        """Every stretch and every young batch, oldest first."""
        for index in range(self._old.first, len(self._old.arrays[0])):
            first, messages, _, _, _, length, _, time, until = self._old.row(index)
            yield Place(first + messages, length, time, until)
        for index in range(self._young.first, len(self._young.arrays[0])):
            base, messages, _, length, time, _ = self._young.row(index)
            yield Place(base + messages, length, time, time)

    def old_bytes(self, first: int) -> int:
        """Bytes of the stretches that end behind offset `first`."""
        old = self._old
        index = max(old.first, old.find(first))
        if index < len(old.arrays[0]) and old.arrays[0][index] + old.arrays[1][index] <= first:
            index += 1
        return sum(old.arrays[5][index:])

    @property
    def old_end(self) -> int:
        """The offset behind the last stretch; `start` without one."""
        old = self._old
        return old.arrays[0][-1] + old.arrays[1][-1] if len(old) else self.start

    def offset_of(self, origin_log: bytes, origin_first: int) -> int | None:
        """The offset of what was first appended elsewhere, while it lies in the journal. Looks through all
        that came from elsewhere."""
        for base, (log, first) in self._origins.items():
            if log == origin_log and first <= origin_first:
                index = self._young.find(base)
                if origin_first < first + self._young.arrays[1][index]:
                    return base + origin_first - first
        return None

    def position(self, offset: int) -> int:
        """Journal position behind the batch with the message at `offset`; 0 if it is old."""
        index = self._young.find(offset)
        if index < self._young.first:
            return 0
        return self._young.arrays[2][index] + self._young.arrays[3][index]

    def time(self, offset: int) -> int:
        """Append time (ms) of the message at `offset`; of its stretch's first message if it is old."""
        young = self._young
        index = young.find(offset)
        if index >= young.first:
            return young.arrays[4][index]
        index = self._old.find(offset)
        return self._old.arrays[7][index] if index >= self._old.first else 0

    def offset_at(self, time: int) -> tuple[int, Stretch | None]:
        """The first offset of the first batch (young) or stretch (old) appended at or after `time` (ms), or
        `end`; and the stretch before it, whose later batches may be that young too."""
        old, young = self._old, self._young
        index = bisect_left(old.arrays[7], time, old.first)
        before = Stretch(*old.row(index - 1)) if index > old.first else None
        if index < len(old.arrays[0]):
            return max(self.start, old.arrays[0][index]), before
        index = bisect_left(young.arrays[4], time, young.first)
        if index > young.first:
            before = None
        if index < len(young.arrays[0]):
            return max(self.start, young.arrays[0][index]), before
        return self.end, before

    def fit(self, first: int, messages: int, size: int) -> tuple[int, int]:
        """How many of `messages` messages from `first` on go into `size` bytes, and how many bytes they
        are, by the mean size in each batch or stretch; at least one message. Holes take no room."""
        taken = used = 0
        while taken < messages:
            place = self.at(first + taken)
            if place is None:
                return messages, used
            begin = place.base if isinstance(place, Young) else place.first
            taken = min(messages, max(taken, begin - first))
            inside = min(messages - taken, begin + place.messages - first - taken)
            mean = -(-place.length // place.messages)
            fits = min(inside, max((size - used) // mean, 0 if used else 1))
            taken += fits
            used += fits * mean
            if fits < inside:
                break
        return taken, used

    def reach(self, first: int, messages: int, size: int) -> int:
        """The offset up to which there are about `messages` messages or `size` bytes from `first` on, as if
        those of a batch or stretch were alike and lay evenly; at least one message, if there is one."""
        offset, left, room = first, messages, size
        while left > 0 and room > 0 and offset < self.end:
            place = self.at(offset)
            if place is None:
                return self.end
            begin, held = (
                (place.base, place.messages)
                if isinstance(place, Young)
                else (place.first, max(place.alive, 1))
            )
            offset, behind = max(offset, begin), begin + place.messages
            inside = -(-(behind - offset) * held // place.messages)
            least = 1 if left == messages else 0
            fitting = min(left, max(room * held // place.length, least))
            if fitting < inside:
                return offset + max(fitting * place.messages // held, least)
            left -= inside
            room -= inside * place.length // held
            offset = behind
        return offset

    def young_rows(self, below: int, first: int = 0) -> Iterator[Young]:
        """Young batches from offset `first` on whose journal position is below `below`, oldest first."""
        young = self._young
        for index in range(max(young.first, young.find(first)), len(young.arrays[0])):
            if young.arrays[2][index] >= below:
                return
            if young.arrays[0][index] + young.arrays[1][index] > first:
                yield self._young_row(index)

    @property
    def young_position(self) -> int | None:
        """Journal position of the oldest batch that lies in the journal; None without one."""
        return self._young.arrays[2][self._young.first] if len(self._young) else None

    def _young_row(self, index: int) -> Young:
        bases, messages, positions, lengths, times, crcs = self._young.arrays
        base = bases[index]
        log, first = self._origins.get(base) or (self.uuid, base)
        return Young(
            base, messages[index], positions[index], lengths[index], times[index], crcs[index], log, first
        )

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything, as bytes."""
        origins = b"".join([ORIGIN.pack(base, *origin) for base, origin in self._origins.items()])
        rows = len(self._young), len(self._old), len(self._origins)
        head = SNAPSHOT.pack(self.start, self.end, *rows, self.size_bytes)
        return head + self._young.dump() + self._old.dump() + origins

    def restore(self, data: memoryview) -> int:
        """The inverse of `snapshot`; how many bytes were used."""
        self.start, self.end, young, old, origins, self.size_bytes = SNAPSHOT.unpack_from(data)
        at: int = SNAPSHOT.size
        at += self._young.load(data[at:], young)
        at += self._old.load(data[at:], old)
        for stretch in self.stretches():
            self._use.change(stretch.segment, self.uuid, stretch.length)
        for base, log, first in ORIGIN.iter_unpack(data[at : at + origins * ORIGIN.size]):
            self._origins[base] = (log, first)
        size: int = origins * ORIGIN.size
        return at + size
