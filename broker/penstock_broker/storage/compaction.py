"""Which records of a compacted log stay: the last of each key, at the offset it always had.

    dirty part → Latest (key → offset of its last record) → survivors of all below → smaller batches

A pass cleans as far as its map reaches, and the next goes on from there. A record without a key, which is
older than the setting, stays. A tombstone (an absent value) takes the older records of its key away with the
first pass that meets it, and stays itself until whoever was reading then must have come by: see `Cleaned`.
Pure: bytes in, bytes out.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from penstock_protocol.batch import BatchView, Kind, from_u32
from penstock_protocol.checksum import Buffer
from penstock_protocol.cuts import picked

KEYS_MAX = 250_000
"""About 32 MiB of map."""
DIGEST_BYTES = 16
PIECE_RECORDS = 256
"""A batch that lost records is made anew in pieces of so many, each in well under 1 ms."""
BIN_HEADERS = {0xC4: 2, 0xC5: 3, 0xC6: 5}
"""First byte of a msgpack bin → bytes in front of its content: one key may be packed in three ways."""


class Cleaned(NamedTuple):
    """How far a log is compacted: state that outlives a pass. Times in ms."""

    upto: int = 0
    """Records below it were last of their key when a pass came by."""
    horizon: int = 0
    """Tombstones below it are to go when their time is over; 0: there are none."""
    since: int = 0
    """By then the older records of all those had gone."""
    at: int = 0
    """The end of the last pass; 0: there was none."""
    removed: int = 0
    """Records that went, all in all."""

    def droppable(self, wall: int, tombstone_retention: int) -> int:
        """The offset below which tombstones may go now."""
        return self.horizon if wall >= self.since + tombstone_retention else 0

    def after(self, upto: int, wall: int, removed: int, *, dropped: int, tombstones: bool) -> "Cleaned":
        """Behind a pass that cleaned up to an offset: it dropped tombstones below `dropped`, and others are
        left or not."""
        removed += self.removed
        if self.horizon and not dropped:
            return self._replace(upto=upto, at=wall, removed=removed)
        return Cleaned(upto, upto if tombstones else 0, wall, wall, removed)


class Latest:
    """Key → offset of its last record, for up to KEYS_MAX keys."""

    __slots__ = ("_offsets",)

    def __init__(self) -> None:
        self._offsets: dict[bytes, int] = {}

    def has_room(self, records: int) -> bool:
        """It can take a batch of so many, whatever their keys."""
        return len(self._offsets) + records <= KEYS_MAX

    def add(self, batch: BatchView, base: int) -> Iterator[int]:
        """Learn the keys of a batch that begins at offset `base` and lies behind all others. It yields 1 for
        each record, so that whoever has little time may pause."""
        for delta, digest in zip(batch.deltas, digests(batch), strict=True):
            if digest is not None:
                self._offsets[digest] = base + delta
            yield 1

    def knows_later(self, digest: bytes, offset: int) -> bool:
        """There is a record of that key behind `offset`."""
        return self._offsets.get(digest, 0) > offset


class Fate(NamedTuple):
    """Whether a record stays, and whether it is a tombstone."""

    stays: bool
    tombstone: bool


def has_keys(batch: BatchView) -> bool:
    """Every record has a key."""
    column = batch.column(Kind.KEY)
    if column is None:
        return False
    ends = batch.ends_in(column.at)
    return ends[0] > 0 and len(set(ends)) == batch.count


def digests(batch: BatchView) -> Iterator[bytes | None]:
    """A digest of each record's key, None where it has none."""
    column = batch.column(Kind.KEY)
    if column is None:
        yield from (None for _ in range(batch.count))
        return
    ends = from_u32(batch.view[column.at : column.at + 4 * batch.count])
    cells = bytes(batch.view[column.at + 4 * batch.count : column.at + column.length])
    begin = 0
    for end in ends:
        if begin == end:
            yield None
        else:
            key = cells[begin + BIN_HEADERS.get(cells[begin], 0) : end]
            yield blake2b(key, digest_size=DIGEST_BYTES).digest()
        begin = end


def fates(batch: BatchView, base: int, latest: Latest, tombstones_below: int) -> Iterator[Fate]:
    """What becomes of each record of a batch that begins at offset `base`. Tombstones below an offset go."""
    absent = batch.integers(Kind.ABSENT) or [0] * batch.count
    for delta, digest, gone in zip(batch.deltas, digests(batch), absent, strict=True):
        if digest is None:
            yield Fate(True, False)
        else:
            offset = base + delta
            dropped = gone and offset < tombstones_below
            yield Fate(not (dropped or latest.knows_later(digest, offset)), bool(gone))


def remains(batch: BatchView, stay: Sequence[bool]) -> Iterator[tuple[int, Buffer]]:
    """Batches of the records that stay, each with the delta of its first; the same batch if all do. A
    compressed one stays in one piece: each would repeat its bodies, which go with its last record."""
    if all(stay):
        yield 0, batch.view
        return
    indexes = [index for index, stays in enumerate(stay) if stays]
    piece = batch.count if batch.codec else PIECE_RECORDS
    for at in range(0, len(indexes), piece):
        some = indexes[at : at + piece]
        yield batch.deltas[some[0]], picked(batch, some)
