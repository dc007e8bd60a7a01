"""Reading batches of a log: from the journal's map without a copy, from elsewhere if it is in memory, or
not at all until a Load has brought it.

Bytes that were not written in this life are checked against the checksum their index holds before
anybody sees them; a batch that fails is `Corrupt` with its range named.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from penstock_broker.storage.files import Extent, Files
from penstock_broker.storage.journal import Places
from penstock_broker.storage.log import Log, Stretch, Young
from penstock_broker.storage.segment import (
    Indexed,
    decode_head,
    decode_index,
    index_bytes,
    segment_name,
    walk,
)
from penstock_protocol.batch import BatchView, is_sparse
from penstock_protocol.checksum import Buffer, crc32
from penstock_protocol.cuts import cut, picked
from penstock_protocol.errors import Corrupt

BATCH = Struct("<II")  # how a batch begins: length, crc32 over what follows
BATCH_CRC_FROM = 8
INDEXES_KEPT = 256
"""Of stretches: at most some 8 KiB each."""


class Cold(Exception):
    """The bytes are on the disk only: load `extent`, then ask again."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        self.extent = extent


class Cut(NamedTuple):
    """A batch, or the part of one that was asked for, with the stamps of its append. `end`: the offset behind
    its last message."""

    first: int
    end: int
    messages: int
    time: int
    origin_log: bytes
    origin_first: int
    crc: int
    data: Buffer


class Stored(NamedTuple):
    """One whole batch as stored."""

    base: int
    messages: int
    time: int
    origin_log: bytes
    origin_first: int
    crc: int
    data: memoryview


Views = dict[int, BatchView]
"""By the offset of their first message."""
Loaded = dict[Extent, Buffer]
"""What Load jobs brought for one reader."""


class Reads:
    """The read side of all logs of a node."""

    def __init__(self, files: Files, journal: Places) -> None:
        self._files = files
        self._journal = journal
        self._indexes: dict[tuple[int, int], list[Indexed]] = {}
        """Of stretches, by segment and place; the last one used is the last one."""
        self.indexes_rebuilt = 0

    def cuts(
        self,
        log: Log,
        first: int,
        messages: int,
        loaded: Loaded,
        views: Views | None = None,
        *,
        unwritten: bool = False,
    ) -> Iterator[Cut]:
        """Batches and cuts that cover offsets `first` … `first + messages`, as far as the log has them;
        holes are passed over. `unwritten`: those on their way to the disk may be among them, for whoever does
        not show them to anybody. `views`: of the batches that were cut so far, for whoever asks for many
        ranges of one log; not to be kept beyond that.

        Raises `Cold` or `Corrupt` when the iteration reaches such bytes.
        """
        offset, end = max(first, log.start), min(first + messages, log.end)
        while offset < end and (place := log.at(offset)) is not None:
            early = self._on_its_way(place) if unwritten and isinstance(place, Young) else None
            for stored in [early] if early else self._stored(log, place, offset, end, loaded):
                behind = stored.base + stored.messages
                if behind > offset and stored.base < end:
                    yield from _cut(stored, max(offset, stored.base), min(end, behind), views)
            offset = _behind(place)

    def missing(self, log: Log, first: int, messages: int, loaded: Loaded) -> set[Extent]:
        """What `cuts` of the same range would find cold now; ask again when it was loaded."""
        cold: set[Extent] = set()
        offset, end = max(first, log.start), min(first + messages, log.end)
        while offset < end and (place := log.at(offset)) is not None:
            try:
                extents = self._extents(log, place, offset, end, loaded)
            except Cold as index:
                cold.add(index.extent)
                extents = []
            for extent in extents:
                data = loaded.get(extent)
                if data is None:
                    data = self.peek(extent)
                if data is None:
                    cold.add(extent)
                else:
                    loaded[extent] = data
            offset = _behind(place)
        return cold

    def time_in(self, log: Log, stretch: Stretch, time: int, loaded: Loaded) -> int | None:
        """First offset within a stretch that was appended at or after `time`; None if there is none."""
        blocks = self.index(log, stretch, loaded)
        behind = bisect_right([block.time for block in blocks], time - 1)
        if behind:
            for stored in self._of_block(log, stretch, blocks, behind - 1, loaded):
                if stored.time >= time:
                    return stored.base
        return blocks[behind].first if behind < len(blocks) else None

    def index(self, log: Log, stretch: Stretch, loaded: Loaded) -> list[Indexed]:
        """Where each block of a stretch lies; made again from the blocks if it is damaged. Raises `Cold`."""
        if stretch.blocks == 1:
            return [Indexed(stretch.first, stretch.time, 0, stretch.length)]
        key = stretch.segment, stretch.at
        found = self._indexes.pop(key, None)
        if found is None:
            size = index_bytes(stretch.blocks)
            name = segment_name(stretch.segment)
            extent = Extent(name, stretch.at + stretch.length - size, size)
            data = memoryview(self._bytes(extent, loaded))
            found = decode_index(data, log.uuid, stretch.segment)
            if found is None or len(found) != stretch.blocks:
                whole = Extent(name, stretch.at, stretch.length - size)
                found = list(walk(memoryview(self._bytes(whole, loaded)), log.uuid, stretch.segment))
                self.indexes_rebuilt += 1
            if len(self._indexes) >= INDEXES_KEPT:
                del self._indexes[next(iter(self._indexes))]
        self._indexes[key] = found
        return found

    def _extents(
        self, log: Log, place: Young | Stretch, first: int, end: int, loaded: Loaded
    ) -> list[Extent]:
        """What to read of a place for offsets `first` … `end`; nothing of what a map of this life holds."""
        if isinstance(place, Young):
            file, at = self._journal.locate(place.position)
            return [] if file.viewable else [Extent(file.name, at, place.length)]
        blocks = self.index(log, place, loaded)
        return [block_extent(place, blocks[number]) for number in _numbers(blocks, first, end)]

    def peek(self, extent: Extent) -> Buffer | None:
        """What is in memory of it; nothing at all, which no checksum fits, if it cannot be read."""
        try:
            return self._files.peek(*extent[:3])
        except OSError:
            return b""

    def _bytes(self, extent: Extent, loaded: Loaded) -> Buffer:
        data = loaded.get(extent)
        if data is None:
            data = self.peek(extent)
            if data is None:
                raise Cold(extent)
            loaded[extent] = data
        return data

    def _stored(
        self, log: Log, place: Young | Stretch, first: int, end: int, loaded: Loaded
    ) -> Iterator[Stored]:
        """The batches of a place with offsets in `first` … `end`, and perhaps some beside them."""
        if isinstance(place, Young):
            yield self._of_journal(place, loaded)
            return
        blocks = self.index(log, place, loaded)
        whole = place.first
        for number in _numbers(blocks, first, end):
            for stored in self._of_block(log, place, blocks, number, loaded, first, end):
                yield stored
                whole = stored.base + stored.messages
        if len(blocks) < place.blocks and end > whole:
            raise corrupt(whole, place.end - whole)  # the chain of blocks is broken there

    def _on_its_way(self, place: Young) -> Stored | None:
        """A batch that is not written yet; None if it is."""
        data = self._journal.unwritten(place.position, place.length)
        if data is None:
            return None
        base, messages, _, _, time, crc, log, first = place
        return Stored(base, messages, time, log, first, crc, memoryview(data))

    def _of_journal(self, place: Young, loaded: Loaded) -> Stored:
        file, at = self._journal.locate(place.position)
        if file.viewable:
            assert place.position + place.length <= self._journal.written, "these bytes are not written yet"
            data = self._files.view(file.name, at, place.length)
        else:
            data = memoryview(self._bytes(Extent(file.name, at, place.length), loaded))
            _verify(data, place.crc, place.base, place.messages)
        base, messages, _, _, time, crc, log, first = place
        return Stored(base, messages, time, log, first, crc, data)

    def _of_block(
        self,
        log: Log,
        stretch: Stretch,
        blocks: list[Indexed],
        number: int,
        loaded: Loaded,
        first: int = 0,
        end: int = 0,
    ) -> Iterator[Stored]:
        """Every batch of a block. Those with offsets in `first` … `end` are checked: damage to another one
        concerns nobody here."""
        block = blocks[number]
        data = memoryview(self._bytes(block_extent(stretch, block), loaded))
        rows = decode_head(data, log.uuid, stretch.segment)
        if rows is None or rows[0].base != block.first:
            behind = blocks[number + 1].first if number + 1 < len(blocks) else stretch.end
            raise corrupt(block.first, behind - block.first)
        for row in rows:
            batch = data[row.at : row.at + row.length]
            if row.base < end and first < row.base + row.messages:
                _verify(batch, row.crc, row.base, row.messages)
            yield Stored(row.base, row.messages, row.time, row.origin_log, row.origin_first, row.crc, batch)


def block_extent(stretch: Stretch, block: Indexed) -> Extent:
    """Where a block of a stretch lies."""
    return Extent(segment_name(stretch.segment), stretch.at + block.at, block.length)


def _numbers(blocks: list[Indexed], first: int, end: int) -> range:
    """Which blocks may hold offsets `first` … `end`."""
    firsts = [block.first for block in blocks]
    return range(max(0, bisect_right(firsts, first) - 1), bisect_right(firsts, end - 1))


def corrupt(first: int, messages: int) -> Corrupt:
    """The error for a damaged range."""
    return Corrupt(
        f"offsets {first} to {first + messages - 1} are damaged on the disk",
        detail={"first": first, "messages": messages},
    )


def _behind(place: Young | Stretch) -> int:
    """The offset behind the last message of a place."""
    return (place.base if isinstance(place, Young) else place.first) + place.messages


def _verify(data: memoryview, crc: int, base: int, messages: int) -> None:
    stated = BATCH.pack(len(data), crc)
    if data[:BATCH_CRC_FROM] != stated or crc32(data[BATCH_CRC_FROM:]) != crc:
        raise corrupt(base, messages)


def _view(stored: Stored, views: Views | None) -> BatchView:
    if views is None:
        return BatchView(stored.data, verify=False)
    view = views.get(stored.base)
    if view is None:
        view = views[stored.base] = BatchView(stored.data, verify=False)
    return view


def _cut(stored: Stored, first: int, end: int, views: Views | None) -> Iterator[Cut]:
    """What the batch has of offsets `first` … `end`: in a sparse one that may be nothing."""
    base, messages, time, origin_log, origin_first, crc, data = stored
    if is_sparse(data):
        view = _view(stored, views)
        deltas = view.deltas
        low, high = bisect_left(deltas, first - base), bisect_left(deltas, end - base)
        if low < high:
            yield _part(stored, view, low, high - low)
    elif end - first == messages:
        yield Cut(base, end, messages, time, origin_log, origin_first, crc, data)
    else:
        yield _part(stored, _view(stored, views), first - base, end - first)


def _part(stored: Stored, view: BatchView, index: int, messages: int) -> Cut:
    """Messages from number `index` of a batch on."""
    data = cut(view, index, messages)
    skipped, last = view.deltas[index], view.deltas[index + messages - 1]
    first, end = stored.base + skipped, stored.base + last + 1
    origin = stored.origin_log, stored.origin_first + skipped
    return Cut(first, end, messages, stored.time, *origin, crc_of(data), data)


def shortened(whole: Cut, messages: int) -> Cut:
    """Its first messages alone."""
    view = BatchView(whole.data, verify=False)
    data = cut(view, 0, messages)
    end = whole.first + view.deltas[messages - 1] + 1
    return whole._replace(end=end, messages=messages, crc=crc_of(data), data=data)


def picked_of(whole: Cut, view: BatchView, indexes: Sequence[int]) -> Cut:
    """Some of its messages, at least one; `view` is of its data."""
    if len(indexes) == whole.messages:
        return whole
    data = picked(view, indexes)
    skipped, last = view.deltas[indexes[0]], view.deltas[indexes[-1]]
    return whole._replace(
        first=whole.first + skipped,
        end=whole.first + last + 1,
        messages=len(indexes),
        origin_first=whole.origin_first + skipped,
        crc=crc_of(data),
        data=data,
    )


def crc_of(data: Buffer) -> int:
    """What a batch states of itself."""
    return int.from_bytes(data[4:BATCH_CRC_FROM], "little")
