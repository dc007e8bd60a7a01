"""Segment files: where what is still alive goes when its journal file is to be freed.

A segment is a row of stretches. A stretch is what one run moved of one log: blocks of consecutive batches,
verbatim, and behind them, if there are several, an index of them.

    offset  size  field (segment block header, 64 bytes)
    0       4     magic          "PSSB"
    4       2     version        2
    6       2     reserved
    8       16    log            uuid
    24      8     first          offset of the first message
    32      8     segment        number of the file, as in its name
    40      4     batches
    44      4     table_length   bytes
    48      4     length         bytes of header, table and batches
    52      8     reserved
    60      4     crc32          over bytes 0 … 60 and the table

    offset  size  field (table row, 56 bytes)
    0       8     base           offset of the batch's first message
    8       8     time           append time, ms
    16      16    origin_log     where its messages were first appended
    32      8     origin_first
    40      4     messages
    44      4     at             of the batch, from the start of the block
    48      4     length
    52      4     crc            of the batch, as the batch itself states it

    offset  size  field (index of a stretch: a row per block, 24 bytes)
    0       8     first          offset of the block's first message
    8       8     time           append time of its first batch, ms
    16      4     at             of the block, from the start of the stretch
    20      4     length

    offset  size  field (index tail, 40 bytes, behind the rows)
    0       4     magic          "PSSI"
    4       2     version        2
    6       2     reserved
    8       16    log            uuid
    24      8     segment
    32      4     blocks
    36      4     crc32          over the rows and bytes 0 … 36

Little-endian. Segments have no file header: which stretch lies where is an outcome in the journal
(ARCHIVED, MOVED) and part of the log's snapshot. A damaged index is made again from the blocks.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

from penstock_protocol.checksum import crc32

BLOCK = Struct("<4sHH16sQQIIIQ")
CRC = Struct("<I")
BLOCK_HEADER_BYTES = 64
assert BLOCK.size + CRC.size == BLOCK_HEADER_BYTES
MAGIC = b"PSSB"
VERSION = 2
ROW = Struct("<QQ16sQIIII")
ROW_BYTES = 56
assert ROW.size == ROW_BYTES
INDEX_ROW = Struct("<QQII")
INDEX_ROW_BYTES = 24
assert INDEX_ROW.size == INDEX_ROW_BYTES
INDEX = Struct("<4sHH16sQI")
INDEX_TAIL_BYTES = 40
assert INDEX.size + CRC.size == INDEX_TAIL_BYTES
INDEX_MAGIC = b"PSSI"
PREFIX = "segment-"


def segment_name(number: int) -> str:
    """The name of segment file `number`."""
    return f"{PREFIX}{number:012d}"


def segment_number(name: str) -> int | None:
    """The inverse; None for a file that is no segment."""
    number = name.removeprefix(PREFIX)
    return int(number) if number != name and number.isdigit() else None


class Row(NamedTuple):
    """One batch of a segment block."""

    base: int
    time: int
    origin_log: bytes
    origin_first: int
    messages: int
    at: int
    length: int
    crc: int


def encode_head(log: bytes, segment: int, rows: Sequence[Row]) -> bytes:
    """Header and table of a block; each row's `at` must already count them in (`head_bytes`)."""
    table = b"".join([ROW.pack(*row) for row in rows])
    last = rows[-1]
    head = BLOCK.pack(
        MAGIC, VERSION, 0, log, rows[0].base, segment, len(rows), len(table), last.at + last.length, 0
    )
    return head + CRC.pack(crc32(table, crc32(head))) + table


def head_bytes(batches: int) -> int:
    """Bytes of header and table for that many batches."""
    return BLOCK_HEADER_BYTES + ROW_BYTES * batches


def decode_head(data: memoryview, log: bytes, segment: int, *, whole: bool = True) -> list[Row] | None:
    """The table of a block that must be `log`'s in file `segment`; None if it is damaged or misplaced, or,
    unless its head will do, not `whole`."""
    if len(data) < BLOCK_HEADER_BYTES:
        return None
    magic, version, _, owner, _, number, batches, table_length, length, _ = BLOCK.unpack_from(data)
    table_end = BLOCK_HEADER_BYTES + table_length
    if magic != MAGIC or version != VERSION or table_end > len(data):
        return None
    if whole and length > len(data):
        return None
    (crc,) = CRC.unpack_from(data, BLOCK.size)
    table = data[BLOCK_HEADER_BYTES:table_end]
    if crc32(table, crc32(data[: BLOCK.size])) != crc or owner != log or number != segment:
        return None
    if table_length != batches * ROW_BYTES:
        return None
    return [Row._make(fields) for fields in ROW.iter_unpack(table)]


class Indexed(NamedTuple):
    """One block of a stretch."""

    first: int
    time: int
    at: int
    length: int


def index_bytes(blocks: int) -> int:
    """Length of the index of a stretch; one block needs none."""
    return INDEX_ROW_BYTES * blocks + INDEX_TAIL_BYTES if blocks > 1 else 0


def encode_index(log: bytes, segment: int, blocks: Sequence[Indexed]) -> bytes:
    """What stands behind the blocks of a stretch."""
    rows = b"".join([INDEX_ROW.pack(*block) for block in blocks])
    tail = INDEX.pack(INDEX_MAGIC, VERSION, 0, log, segment, len(blocks))
    return rows + tail + CRC.pack(crc32(tail, crc32(rows)))


def decode_index(data: memoryview, log: bytes, segment: int) -> list[Indexed] | None:
    """The index of a stretch of `log` in file `segment`; None if it is damaged or misplaced."""
    end = len(data) - INDEX_TAIL_BYTES
    if end < 0 or end % INDEX_ROW_BYTES:
        return None
    magic, version, _, owner, number, blocks = INDEX.unpack_from(data, end)
    if magic != INDEX_MAGIC or version != VERSION or owner != log or number != segment:
        return None
    (crc,) = CRC.unpack_from(data, end + INDEX.size)
    if crc32(data[end : end + INDEX.size], crc32(data[:end])) != crc or blocks * INDEX_ROW_BYTES != end:
        return None
    return [Indexed._make(fields) for fields in INDEX_ROW.iter_unpack(data[:end])]


def walk(data: memoryview, log: bytes, segment: int) -> Iterator[Indexed]:
    """The blocks of a whole stretch by their own headers, up to the first that is damaged."""
    at = 0
    while at < len(data):
        rows = decode_head(data[at:], log, segment)
        if rows is None:
            return
        length = rows[-1].at + rows[-1].length
        yield Indexed(rows[0].base, rows[0].time, at, length)
        at += length
