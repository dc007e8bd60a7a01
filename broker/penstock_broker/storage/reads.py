"""Reading batches of a log: from the journal's map without a copy, from elsewhere if it is in memory, or
not at all until a Load has brought it.

Bytes that were not written in this life are checked against the checksum their index holds before
anybody sees them; a batch that fails is `Corrupt` with its range named.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from penstock_broker.storage.files import Extent, Files
from penstock_broker.storage.journal import Places
from penstock_broker.storage.log import Log, Old, Young
from penstock_broker.storage.segment import decode_head, segment_name
from penstock_protocol.batch import BatchView, cut, is_sparse
from penstock_protocol.checksum import Buffer, crc32
from penstock_protocol.errors import Corrupt

BATCH = Struct("<II")  # how a batch begins: length, crc32 over what follows
BATCH_CRC_FROM = 8


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


Loaded = dict[Extent, bytes]
"""What Load jobs brought for one reader."""


class Reads:
    """The read side of all logs of a node."""

    def __init__(self, files: Files, journal: Places) -> None:
        self._files = files
        self._journal = journal

    def cuts(self, log: Log, first: int, messages: int, loaded: Loaded) -> Iterator[Cut]:
        """Batches and cuts that cover offsets `first` … `first + messages`, as far as the log has them.

        Raises `Cold` or `Corrupt` when the iteration reaches such bytes.
        """
        offset, end = max(first, log.start), min(first + messages, log.end)
        while offset < end:
            place = log.at(offset)
            for stored in self._stored(log, place, loaded):
                behind = stored.base + stored.messages
                if behind > offset and stored.base < end:
                    yield from _cut(stored, max(offset, stored.base), min(end, behind))
                    offset = min(end, behind)
            if offset >= end or _behind(place) < offset:
                return
            offset = _behind(place)

    def missing(self, log: Log, first: int, messages: int, loaded: Loaded) -> set[Extent]:
        """Every extent that `cuts` of the same range would find cold now."""
        cold: set[Extent] = set()
        offset, end = max(first, log.start), min(first + messages, log.end)
        while offset < end:
            place = log.at(offset)
            extent = self._extent(place)
            if extent is not None and extent not in loaded:
                data = self._peek(extent)
                if data is None:
                    cold.add(extent)
                else:
                    loaded[extent] = data
            if _behind(place) <= offset:
                break
            offset = _behind(place)
        return cold

    def time_in(self, log: Log, block: Old, time: int, loaded: Loaded) -> int | None:
        """First offset within an old block that was appended at or after `time`; None if there is none."""
        for stored in self._of_segment(log, block, loaded):
            if stored.time >= time:
                return stored.base
        return None

    def _extent(self, place: Young | Old) -> Extent | None:
        """Where to read the place from; None if a map of this life holds it."""
        if isinstance(place, Old):
            return Extent(segment_name(place.segment), place.at, place.length)
        file, at = self._journal.locate(place.position)
        return None if file.viewable else Extent(file.name, at, place.length)

    def _peek(self, extent: Extent) -> bytes | None:
        """What is in memory of it; nothing at all, which no checksum fits, if it cannot be read."""
        try:
            return self._files.peek(*extent[:3])
        except OSError:
            return b""

    def _bytes(self, extent: Extent, loaded: Loaded) -> bytes:
        data = loaded.get(extent)
        if data is None:
            data = self._peek(extent)
            if data is None:
                raise Cold(extent)
            loaded[extent] = data
        return data

    def _stored(self, log: Log, place: Young | Old, loaded: Loaded) -> Iterable[Stored]:
        """The batch (young) or the batches (old) at a place."""
        if isinstance(place, Old):
            return self._of_segment(log, place, loaded)
        file, at = self._journal.locate(place.position)
        if file.viewable:
            assert place.position + place.length <= self._journal.durable, "these bytes are not written yet"
            data = self._files.view(file.name, at, place.length)
        else:
            data = memoryview(self._bytes(Extent(file.name, at, place.length), loaded))
            _verify(data, place.crc, place.base, place.messages)
        return (
            Stored(
                place.base, place.messages, place.time, place.origin_log, place.origin_first, place.crc, data
            ),
        )

    def _of_segment(self, log: Log, block: Old, loaded: Loaded) -> Iterator[Stored]:
        extent = Extent(segment_name(block.segment), block.at, block.length)
        data = memoryview(self._bytes(extent, loaded))
        rows = decode_head(data, log.uuid, block.segment)
        if rows is None:
            raise corrupt(block.first, block.messages)
        for row in rows:
            batch = data[row.at : row.at + row.length]
            _verify(batch, row.crc, row.base, row.messages)
            yield Stored(row.base, row.messages, row.time, row.origin_log, row.origin_first, row.crc, batch)


def corrupt(first: int, messages: int) -> Corrupt:
    """The error for a damaged range."""
    return Corrupt(
        f"offsets {first} to {first + messages - 1} are damaged on the disk",
        detail={"first": first, "messages": messages},
    )


def _behind(place: Young | Old) -> int:
    """The offset behind the last message of a place."""
    return (place.base if isinstance(place, Young) else place.first) + place.messages


def _verify(data: memoryview, crc: int, base: int, messages: int) -> None:
    stated = BATCH.pack(len(data), crc)
    if data[:BATCH_CRC_FROM] != stated or crc32(data[BATCH_CRC_FROM:]) != crc:
        raise corrupt(base, messages)


def _cut(stored: Stored, first: int, end: int) -> Iterator[Cut]:
    """What the batch has of offsets `first` … `end`: in a sparse one that may be nothing."""
    base, messages, time, origin_log, origin_first, crc, data = stored
    if is_sparse(data):
        view = BatchView(data, verify=False)
        deltas = view.deltas
        low, high = bisect_left(deltas, first - base), bisect_left(deltas, end - base)
        if low < high:
            yield _part(stored, view, low, high - low)
    elif end - first == messages:
        yield Cut(base, end, messages, time, origin_log, origin_first, crc, data)
    else:
        yield _part(stored, BatchView(data, verify=False), first - base, end - first)


def _part(stored: Stored, view: BatchView, index: int, messages: int) -> Cut:
    """Messages from number `index` of a batch on."""
    data = cut(view, index, messages)
    skipped, last = view.deltas[index], view.deltas[index + messages - 1]
    first, end = stored.base + skipped, stored.base + last + 1
    origin = stored.origin_log, stored.origin_first + skipped
    return Cut(first, end, messages, stored.time, *origin, _crc_of(data), data)


def shortened(whole: Cut, messages: int) -> Cut:
    """Its first messages alone."""
    view = BatchView(whole.data, verify=False)
    data = cut(view, 0, messages)
    end = whole.first + view.deltas[messages - 1] + 1
    return whole._replace(end=end, messages=messages, crc=_crc_of(data), data=data)


def _crc_of(data: Buffer) -> int:
    return int.from_bytes(data[4:BATCH_CRC_FROM], "little")
