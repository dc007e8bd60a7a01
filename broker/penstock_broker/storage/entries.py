"""Entries: one atomic change of durable state, made of parts, one for each machine it concerns.

    offset  size  field (entry header)
    0       4     length         bytes of the entry, bodies included
    4       4     crc32          over bytes 8 … 24 and the part table
    8       2     parts
    10      2     reserved       zero
    12      4     table_length   bytes of the part table
    16      8     time           append time, ms since 1970
    24      …     part table
    …       …     bodies

    offset  size  field (part)
    0       16    target         uuid of the machine or log
    16      1     kind           what happened, see `Kind`
    17      1     version        of the kind's layout
    18      2     flags          of the kind
    20      4     messages
    24      8     base           first offset, where the kind has offsets
    32      4     body_at        of its body behind the part table
    36      4     body_length    0 = no body
    40      4     body_crc       of the body, as the batch itself states it
    44      4     detail_length
    48      …     detail         laid out by kind, below

Little-endian. Parts hold outcomes ("offsets 10 … 19 are acked"), never commands to be decided again.
Several parts may share one body. The table's checksum covers every stamp and every body's checksum.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from penstock_protocol.checksum import Buffer, crc32

HEADER = Struct(
    "<"
    "I"  # length
    "I"  # crc32
    "H"  # parts
    "H"  # reserved
    "I"  # table_length
    "Q"  # time
)
HEADER_BYTES = 24
assert HEADER.size == HEADER_BYTES
CRC_FROM = 8

PART = Struct(
    "<"
    "16s"  # target
    "B"  # kind
    "B"  # version
    "H"  # flags
    "I"  # messages
    "Q"  # base
    "I"  # body_at
    "I"  # body_length
    "I"  # body_crc
    "I"  # detail_length
)
PART_BYTES = 48
assert PART.size == PART_BYTES
VERSION = 1
NO_BODY = -1


class Kind(IntEnum):
    """What a part says. Numbers are part of the format."""

    APPEND = 1  # a batch (body) at offsets base … base + messages of a log; PRODUCER, TRAITS, ORIGIN
    SETTLE = 2  # offsets reached their final state; flags: outcome, KEPT, PARK; detail: further RANGEs
    RETURN = 3  # failed messages; detail: RETURNs
    HANDED_OUT = 4  # everything below base may have been delivered
    NOTED = 5  # what is kept of messages in words; detail: msgpack, see queues/notes.py
    RESUMED = 6  # messages of a group go on; detail: its name
    CREATE = 16  # catalogue; detail: msgpack
    ALTER = 17
    DELETE = 18
    OFFSETS = 32  # of a group; detail: OFFSETs
    FORGET = 33  # a group drops the offsets on a log; detail: uuids
    BOOT = 48  # the node started; base: boot number; flags: 1 = the stop before was clean
    STOP = 49  # the node stopped in order
    ARCHIVED = 50  # young batches below base + messages lie in segments, or are gone; detail: STRETCHes
    SEGMENT = 51  # node: segment `base` is about to be begun; detail: uuid of its owner
    DROPPED = 52  # node: segment `base` holds nothing alive
    MOVED = 54  # the stretches in base … base + messages now lie elsewhere, or are gone; detail: STRETCHes
    TRIMMED = 55  # offsets below base are gone
    CLEANED = 57  # a log is compacted up to base; detail: CLEANED
    FIRED = 64  # a schedule ran, or left a run out; detail: see queues/schedules.py
    WRITTEN = 56  # node: so many bytes of segment `base` count; detail: SIZE


PRODUCER_FLAG = 1
ORIGIN_FLAG = 2
TRAITS_FLAG = 4
"""Of an APPEND: some of the messages are more than plain, see queues/traits.py."""
REPLAYED_FLAG = 8
"""Of an APPEND: copies of messages that were settled before."""
KEPT_FLAG = 0x100
"""Of a SETTLE: the bytes stay until a TRIMMED says otherwise."""
PARK_FLAG = 0x200
"""Of a SETTLE: the message groups of these messages are parked."""
OUTCOME_MASK = 0xFF
"""Of the flags of a SETTLE: how the messages ended."""
PRODUCER = Struct("<QI")  # producer_id, sequence
ORIGIN = Struct("<16sQ")  # log, offset
RANGE = Struct("<QI")  # first, messages
RETURN = Struct("<QIHHQ")  # first, messages, failures, waiting, due (wall ms; 0 = at once)
OFFSET = Struct("<16sQH")  # log, offset, metadata bytes that follow
STRETCH = Struct("<QIIIIIQQQ")  # first, messages, alive, segment, blocks, length, at, time, until
SIZE = Struct("<Q")
CLEANED = Struct("<QQQQ")  # horizon, since, at (wall ms), removed: see compaction.Cleaned


class Part(NamedTuple):
    """One machine's share of an entry. `body`: index into the entry's bodies, or NO_BODY."""

    target: bytes
    kind: int
    base: int = 0
    messages: int = 0
    flags: int = 0
    detail: bytes = b""
    body: int = NO_BODY


class At(NamedTuple):
    """Where and when a part stands: what `apply` may know beyond the part itself."""

    position: int
    """Journal position of the entry's end: what depends on the part waits for it."""
    time: int
    body_position: int
    body_length: int
    body_crc: int


class Body(NamedTuple):
    """Bytes to be stored, with the checksum they carry themselves."""

    data: Buffer
    crc: int


NOTHING: Sequence[Body] = ()


def encode(parts: Sequence[Part], bodies: Sequence[Body], time: int) -> tuple[bytes, list[int]]:
    """Header and part table of an entry, and where each body lies from the start of the entry."""
    sizes = [len(body.data) for body in bodies]
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    table = []
    for part in parts:
        body_at = body_length = body_crc = 0
        if part.body >= 0:
            body_at, body_length, body_crc = starts[part.body], sizes[part.body], bodies[part.body].crc
        table.append(
            PART.pack(
                part.target,
                part.kind,
                VERSION,
                part.flags,
                part.messages,
                part.base,
                body_at,
                body_length,
                body_crc,
                len(part.detail),
            )
        )
        if part.detail:
            table.append(part.detail)
    packed = b"".join(table)
    head = bytearray(HEADER_BYTES)
    before = HEADER_BYTES + len(packed)
    HEADER.pack_into(head, 0, before + total, 0, len(parts), 0, len(packed), time)
    head[4:8] = crc32(packed, crc32(memoryview(head)[CRC_FROM:])).to_bytes(4, "little")
    return bytes(head) + packed, [before + start for start in starts]


class StoredPart(NamedTuple):
    """A part as read back: where its body lies, from the start of the entry."""

    part: Part
    body_at: int
    body_length: int
    body_crc: int


class StoredEntry(NamedTuple):
    """An entry as read back."""

    length: int
    time: int
    parts: list[StoredPart]


class Malformed(Exception):
    """Bytes that are not an entry: torn or rotten, the reader knows which."""


def decode(view: memoryview, at: int, end: int) -> StoredEntry:
    """The entry at `at` of `view`, which must lie before `end`. Raises `Malformed`."""
    if end - at < HEADER_BYTES:
        raise Malformed("entry header")
    length, crc, count, reserved, table_length, time = HEADER.unpack_from(view, at)
    table_end = at + HEADER_BYTES + table_length
    if length > end - at or table_end > at + length or reserved:
        raise Malformed("entry lengths")
    if crc32(view[at + CRC_FROM : table_end]) != crc:
        raise Malformed("part table checksum")
    parts = []
    bodies_at = HEADER_BYTES + table_length
    where = at + HEADER_BYTES
    for _ in range(count):
        fields = PART.unpack_from(view, where)
        target, kind, _, flags, messages, base, body_at, body_length, body_crc, detail = fields
        where += PART_BYTES
        part = Part(target, kind, base, messages, flags, bytes(view[where : where + detail]))
        where += detail
        parts.append(StoredPart(part, bodies_at + body_at, body_length, body_crc))
    return StoredEntry(length, time, parts)


def encode_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    """(first, messages) pairs as the detail of a SETTLE."""
    return b"".join([RANGE.pack(first, messages) for first, messages in ranges])


def settle_ranges(part: Part) -> list[tuple[int, int]]:
    """Every (first, messages) range of a SETTLE."""
    if not part.detail:
        return [(part.base, part.messages)]
    return [(part.base, part.messages), *RANGE.iter_unpack(part.detail)]
