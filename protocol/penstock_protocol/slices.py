"""Delivery envelopes and settle ranges: the fixed-size records around batches on the wire.

A delivery's payload is its slices, then one batch (or cut of one) per slice, in the same order.

    offset  size  field (slice, 80 bytes)
    0       8     token          of the lease; 0 = no lease (FETCH, PEEK)
    8       8     first          offset of the first message
    16      8     origin_first   offset of the first message where it was first appended
    24      8     time           append time, ms since 1970
    32      16    origin_log     uuid of the log where it was first appended
    48      4     lease          ms left of the lease when sent
    52      4     partition      0 for a plain queue
    56      4     messages       messages of the batch that follows
    60      4     attempt        failures + 1
    64      4     delivery       hand-outs so far, this one included
    68      4     flags          bit 0 redelivered (may have been delivered before)
    72      4     batch_length   bytes of the batch that follows
    76      4     crc32          over bytes 0 … 76 and the batch's own crc32 value

    offset  size  field (range, 24 bytes: ACK, NACK, EXTEND and their answers)
    0       8     token
    8       8     first
    16      4     partition
    20      4     messages

    offset  size  field (exception, 16 bytes: CONFIRM of a batch in which not all are new)
    0       4     number         of the message in its batch
    4       4     status         1 duplicate: the message at `offset` stands for it
                                 2 conflict: its job key is taken by the message at `offset`; refused
    8       8     offset

Little-endian. The stamps are the broker's, the batch is the sender's; the slice's checksum ties both
together without touching the batch.
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from penstock_protocol.checksum import Buffer, crc32
from penstock_protocol.errors import Corrupt, Invalid
from penstock_protocol.limits import RANGES_MAX

SLICE = Struct(
    "<"
    "Q"  # token
    "Q"  # first
    "Q"  # origin_first
    "Q"  # time
    "16s"  # origin_log
    "I"  # lease
    "I"  # partition
    "I"  # messages
    "I"  # attempt
    "I"  # delivery
    "I"  # flags
    "I"  # batch_length
)
CRC = Struct("<I")
SLICE_BYTES = SLICE.size + CRC.size
assert SLICE_BYTES == 80
RANGE = Struct("<QQII")  # token, first, partition, messages
RANGE_BYTES = 24
assert RANGE.size == RANGE_BYTES
EXCEPTION = Struct("<IIQ")  # number, status, offset
EXCEPTION_BYTES = 16
assert EXCEPTION.size == EXCEPTION_BYTES

REDELIVERED = 1
REPLAYED = 2
"""Flags of a slice. Replayed: it was settled before, and somebody asked for it again."""
BATCH_CRC_AT = 4
"""Where a batch keeps its own checksum."""


class Slice(NamedTuple):
    """The stamps of consecutive messages that share them all."""

    token: int
    first: int
    origin_first: int
    time: int
    origin_log: bytes
    lease: int
    partition: int
    messages: int
    attempt: int
    delivery: int
    flags: int
    batch_length: int


class Status(IntEnum):
    """Why a message of a confirmed batch is not a new one."""

    DUPLICATE = 1
    CONFLICT = 2


class Exceptional(NamedTuple):
    """A message of a confirmed batch that is not a new one."""

    number: int
    status: int
    offset: int


class Range(NamedTuple):
    """Consecutive messages under one lease."""

    token: int
    first: int
    partition: int
    messages: int


def encode_slice(stamps: Slice, batch_crc: int) -> bytes:
    """The 80 bytes of a slice in front of a batch whose own checksum is `batch_crc`."""
    head = SLICE.pack(*stamps)
    return head + CRC.pack(crc32(CRC.pack(batch_crc), crc32(head)))


def decode_slices(payload: memoryview, count: int) -> list[tuple[Slice, memoryview]]:
    """Each slice of a delivery with its batch. Raises `Corrupt` if lengths or checksums do not hold."""
    out = []
    at = count * SLICE_BYTES
    if at > len(payload):
        raise Corrupt("a delivery is shorter than its slices")
    for i in range(count):
        head = payload[i * SLICE_BYTES : i * SLICE_BYTES + SLICE.size]
        stamps = Slice._make(SLICE.unpack(head))
        batch = payload[at : at + stamps.batch_length]
        (crc,) = CRC.unpack_from(payload, i * SLICE_BYTES + SLICE.size)
        if len(batch) < stamps.batch_length or len(batch) < BATCH_CRC_AT + CRC.size:
            raise Corrupt("a delivery is shorter than its batches")
        if crc != crc32(batch[BATCH_CRC_AT : BATCH_CRC_AT + CRC.size], crc32(head)):
            raise Corrupt("a slice of a delivery fails its checksum")
        out.append((stamps, batch))
        at += stamps.batch_length
    if at != len(payload):
        raise Corrupt("a delivery is longer than its batches")
    return out


def encode_ranges(ranges: Iterable[Range]) -> bytes:
    """Ranges as the payload of ACK, NACK, EXTEND and their replies."""
    return b"".join([RANGE.pack(*item) for item in ranges])


def decode_ranges(payload: memoryview) -> list[Range]:
    """The inverse of `encode_ranges`. Raises `Invalid` for a malformed list or one above the limit."""
    if len(payload) % RANGE_BYTES or len(payload) > RANGES_MAX * RANGE_BYTES:
        raise Invalid(f"a settle carries at most {RANGES_MAX:,} ranges of {RANGE_BYTES} bytes")
    out = [Range._make(fields) for fields in RANGE.iter_unpack(payload)]
    if not all(item.messages for item in out):
        raise Invalid("a range of a settle is empty")
    return out


def encode_exceptions(exceptions: Iterable[Exceptional]) -> bytes:
    """Exceptions as the payload of CONFIRM."""
    return b"".join([EXCEPTION.pack(*each) for each in exceptions])


def decode_exceptions(payload: Buffer) -> list[Exceptional]:
    """The inverse of `encode_exceptions`. Raises `Invalid` for a malformed list."""
    if len(payload) % EXCEPTION_BYTES:
        raise Invalid(f"exceptions of a confirm are {EXCEPTION_BYTES} bytes each")
    return [Exceptional._make(fields) for fields in EXCEPTION.iter_unpack(payload)]
