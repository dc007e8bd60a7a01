"""Segment files: where what is still alive goes when its journal file is to be freed.

A segment is a row of blocks; a block holds consecutive batches of one log, verbatim.

    offset  size  field (segment block header, 64 bytes)
    0       4     magic          "PSSB"
    4       2     version        1
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

Little-endian. Segments have no file header and no index of their own: which block lies where is an
outcome in the journal (ARCHIVED) and part of the log's snapshot.
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from penstock_protocol.checksum import crc32

BLOCK = Struct("<4sHH16sQQIIIQ")
CRC = Struct("<I")
BLOCK_HEADER_BYTES = 64
assert BLOCK.size + CRC.size == BLOCK_HEADER_BYTES
MAGIC = b"PSSB"
VERSION = 1
ROW = Struct("<QQ16sQIIII")
ROW_BYTES = 56
assert ROW.size == ROW_BYTES
BLOCK_BYTES_TARGET = 256 << 10
"""A block is closed when the next batch would take it beyond this."""
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


def decode_head(data: memoryview, log: bytes, segment: int) -> list[Row] | None:
    """The table of a block that must be `log`'s in file `segment`; None if it is damaged or misplaced."""
    if len(data) < BLOCK_HEADER_BYTES:
        return None
    magic, version, _, owner, _, number, batches, table_length, length, _ = BLOCK.unpack_from(data)
    table_end = BLOCK_HEADER_BYTES + table_length
    if magic != MAGIC or version != VERSION or table_end > len(data) or length > len(data):
        return None
    (crc,) = CRC.unpack_from(data, BLOCK.size)
    table = data[BLOCK_HEADER_BYTES:table_end]
    if crc32(table, crc32(data[: BLOCK.size])) != crc or owner != log or number != segment:
        return None
    if table_length != batches * ROW_BYTES:
        return None
    return [Row._make(fields) for fields in ROW.iter_unpack(table)]
