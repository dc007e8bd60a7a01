"""Evacuation: a segment of which little is alive gives up its place.

A message that is stuck for weeks must not pin the segment it lies in, nor what was settled around it. So
segments are looked at in turn: a stretch of which nothing is wanted is given up as it is, and a segment
that holds less than a quarter of its bytes alive is moved whole. What is alive is estimated: a stretch's
bytes by the share of its messages that are still wanted, of those that were when it was written.
"""

from collections.abc import Generator
from typing import Protocol

from penstock_broker.storage.archive import (
    BLOCK_ROWS_MAX,
    RUN_BYTES_MAX,
    SLICE_ROWS,
    Batch,
    Gathering,
    Moved,
    Owner,
)
from penstock_broker.storage.entries import Kind
from penstock_broker.storage.files import Extent
from penstock_broker.storage.log import Stretch, Use
from penstock_broker.storage.node import Node
from penstock_broker.storage.reads import Cold, Loaded, Reads, block_extent
from penstock_broker.storage.segment import Indexed, decode_head, head_bytes, segment_name
from penstock_protocol.checksum import Buffer

ALIVE_SHARE = 4
"""A segment with less than one in so many bytes alive is evacuated."""
SEGMENT_BYTES_MIN = 256 << 10
"""One that is smaller is not worth it, until all of it is dead."""


class Find(Protocol):
    """The machines of the node."""

    def owner(self, uuid: bytes) -> Owner | None:
        """The machine with that log."""
        ...


class Evacuation:
    """Looks at one segment after the other, and says what is to be moved out of which."""

    def __init__(self, find: Find, node: Node, use: Use) -> None:
        self._find = find
        self._node = node
        self._use = use
        self._after = 0
        """The segment looked at last."""
        self.leaving = -1
        """The segment that is being evacuated."""
        self.damaged: set[int] = set()
        """Segments that cannot be moved whole, for some of it cannot be read: they stay as they are."""

    def gather(self, reads: Reads) -> Gathering:
        """One pass over the segments, which ends early where a segment is to be moved."""
        self.leaving = -1
        for number in self._in_turn():
            self._after = number
            alive = 0
            for looked, (owner, stretch) in enumerate(self._stretches(number)):
                wanted = owner.alive(stretch.first, stretch.messages)
                if not wanted:
                    yield Moved(owner, Kind.MOVED, stretch.first, stretch.messages, [])
                alive += stretch.length * wanted // max(stretch.alive, wanted, 1)
                if looked % SLICE_ROWS == SLICE_ROWS - 1:
                    yield None
            yield None
            size = self._node.segments[number].size if number in self._node.segments else 0
            if size >= SEGMENT_BYTES_MIN and alive * ALIVE_SHARE < size and number not in self.damaged:
                self.leaving = number
                yield from self._move(number, reads)
                return

    def _in_turn(self) -> list[int]:
        numbers = sorted(self._node.segments)
        behind = [number for number in numbers if number > self._after]
        return behind + numbers[: len(numbers) - len(behind)]

    def _stretches(self, number: int) -> list[tuple[Owner, Stretch]]:
        found = [self._find.owner(uuid) for uuid in self._use.logs(number)]
        return [(owner, stretch) for owner in found if owner for stretch in owner.log.stretches_in(number)]

    def _move(self, number: int, reads: Reads) -> Gathering:
        size = 0
        for owner, stretch in self._stretches(number):
            if owner.alive(stretch.first, stretch.messages):
                batches = yield from _kept(owner, stretch, reads)
                if batches is None:
                    self.damaged.add(number)
                    continue
                yield Moved(owner, Kind.MOVED, stretch.first, stretch.messages, batches, stretch.alive)
                size += sum(batch.length for batch in batches)
                if size >= RUN_BYTES_MAX:
                    return


def whole_index(
    owner: Owner, stretch: Stretch, reads: Reads
) -> Generator[Extent | None, Buffer, list[Indexed] | None]:
    """Where each block of a stretch lies; None if that cannot be known of all."""
    loaded: Loaded = {}
    while True:
        try:
            index = reads.index(owner.log, stretch, loaded)
        except Cold as cold:
            loaded[cold.extent] = yield cold.extent
        else:
            return index if len(index) == stretch.blocks else None


def _kept(
    owner: Owner, stretch: Stretch, reads: Reads
) -> Generator[Extent | None, Buffer, list[Batch] | None]:
    """The batches of a stretch that are wanted; None if some of it cannot be read."""
    index = yield from whole_index(owner, stretch, reads)
    if index is None:
        return None
    batches: list[Batch] = []
    for number, block in enumerate(index):
        behind = index[number + 1].first if number + 1 < len(index) else stretch.end
        if not owner.is_alive(block.first, behind - block.first):
            continue
        place = block_extent(stretch, block)
        head = place._replace(length=min(block.length, head_bytes(BLOCK_ROWS_MAX)))
        data = yield head
        rows = decode_head(memoryview(data), owner.log.uuid, stretch.segment, whole=False)
        if rows is None:
            return None
        for row in rows:
            if owner.is_alive(row.base, row.messages):
                extent = Extent(segment_name(stretch.segment), place.offset + row.at, row.length)
                origin = row.origin_log, row.origin_first
                batches.append(Batch(row.base, row.messages, row.time, *origin, row.crc, row.length, extent))
    return batches
