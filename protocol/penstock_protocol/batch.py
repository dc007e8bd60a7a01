"""Batches: the unit of append, checksum, idempotence and delivery. The same bytes from client to client.

    offset  size         field
    0       4            length        bytes of the whole batch
    4       4            crc32         over bytes 8 … length
    8       1            version       1
    9       1            flags         bit 0 bodies are lz4, bit 1 sparse, bit 2 bodies are zstd
    10      2            count         messages, 1 … 10,000
    12      2            columns       entries of the column table
    14      2            epoch         of the producer (reserved, zero)
    16      8            producer_id   0 = the batch is not sequenced
    24      4            sequence      counts batches per (producer id, address); 0 if it is not sequenced
    28      4            inflated      bytes of the bodies before they were compressed; 0 if they are not
    32      8 * columns  column table  kind u8, width u8, reserved u16, length u32
    …       4 * count    ends          u32: cumulative ends of the bodies, before compression
    …                    columns       in table order; width 1, 2, 4 or 8: an array of such unsigned
                                       integers; width 0: u32[count] cumulative ends, then the cells
    …                    bodies        concatenated; or compressed, all of them at once

Little-endian. A column exists only if a message of the batch uses it, so a plain message has none. A
cell of width 0 is one msgpack value; an empty cell means "absent". A batch is immutable: whoever needs
a part of it makes a cut (new header and checksum, the same bytes), never a decode.

Message i of a batch that begins at offset n has offset n + i. In a sparse batch, which a broker makes of one
when some of its messages are gone, it has offset n + DELTA[i]: the first delta is 0, and they grow.

Bodies alone are compressed, by clients, and inflated by clients; what a broker looks at stands outside. A
part of a compressed batch keeps all of the compressed bodies, and says where its own begin in them: body i is
START[i] … START[i] + ends[i] - ends[i - 1] of what was inflated.
"""

import sys
from array import array
from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from struct import Struct
from typing import NamedTuple, TypeAlias

from penstock_protocol.checksum import Buffer, crc32
from penstock_protocol.errors import Invalid, TooLarge
from penstock_protocol.limits import (
    BATCH_BYTES_MAX,
    BATCH_COLUMNS_MAX,
    BATCH_COUNT_MAX,
    BATCH_OVERHEAD_BYTES_MAX,
    COMPRESSION_RATIO_MAX,
    INFLATED_BYTES_MAX,
)

HEADER = Struct(
    "<"
    "I"  # length
    "I"  # crc32
    "B"  # version
    "B"  # flags
    "H"  # count
    "H"  # columns
    "H"  # epoch
    "Q"  # producer_id
    "I"  # sequence
    "I"  # inflated
)
HEADER_BYTES = 32
assert HEADER.size == HEADER_BYTES
COLUMN = Struct("<BBHI")  # kind, width, reserved, length
COLUMN_BYTES = 8
assert COLUMN.size == COLUMN_BYTES
FLAGS_AT = 9
CRC_FROM = 8
_NO_HEADER = bytes(HEADER_BYTES)
VERSION = 1
LZ4, SPARSE, ZSTD = 1, 2, 4
CODECS = LZ4 | ZSTD
Compress: TypeAlias = Callable[[bytes], bytes]
WIDTHS = {0: "", 1: "B", 2: "H", 4: "I", 8: "Q"}


class Kind(IntEnum):
    """What a column holds. Numbers are part of the format; those not used yet are reserved."""

    KEY = 1  # width 0: bin
    HEADERS = 2  # width 0: flat map
    TIMESTAMP = 3  # width 8: ms since 1970 by the producer, 0 = none
    ABSENT = 4  # width 1: 1 = the value is null (a tombstone), its body is empty; 0 = it is there
    DELAY = 5  # width 8: not delivered before that many ms after the append; 0 = none
    TTL = 6  # width 8: expires that many ms after the append; 0 = when the queue says
    PRIORITY = 7  # width 1: 0 … 9, 9 first
    MESSAGE_GROUP = 8  # width 0: str
    DEDUP_ID = 9  # width 0: str
    REPLY_TO = 10  # width 0: str, a queue
    CORRELATION_ID = 11  # width 0: str
    CONTENT_TYPE = 12  # width 0: str
    JOB_KEY = 13  # width 0: str
    DELTA = 14  # width 4: offset less that of the first message; in sparse batches alone
    AT = 15  # width 8: not delivered before that time, ms since 1970; 0 = none
    ON_CONFLICT = 16  # width 1: see `OnConflict`
    HISTORY = 17  # width 0: map, what became of it so far; the broker's
    CHECKPOINT = 18  # width 0: bin, how far the last try got; the broker's
    START = 19  # width 4: where the body begins in the inflated bodies; the broker's


class OnConflict(IntEnum):
    """What becomes of a message whose job key is taken by one that is not done."""

    REJECT = 0  # refused: Conflict
    KEEP = 1  # the older one stays, and its offset is answered as a duplicate
    REPLACE = 2  # the older one goes, unless it is in flight: then this one runs after it
    RUN_AFTER = 3  # delivered when those before it are done


WIDTH_OF = {
    **{Kind.KEY: 0, Kind.HEADERS: 0, Kind.TIMESTAMP: 8, Kind.ABSENT: 1},
    **{Kind.DELAY: 8, Kind.TTL: 8, Kind.PRIORITY: 1, Kind.MESSAGE_GROUP: 0, Kind.DEDUP_ID: 0},
    **{Kind.REPLY_TO: 0, Kind.CORRELATION_ID: 0, Kind.CONTENT_TYPE: 0, Kind.JOB_KEY: 0},
    **{Kind.DELTA: 4, Kind.AT: 8, Kind.ON_CONFLICT: 1, Kind.HISTORY: 0, Kind.CHECKPOINT: 0},
    **{Kind.START: 4},
}
"""Bytes of a value of each column; 0: cells of any length."""
TRAITS = frozenset(
    {
        *(Kind.DELAY, Kind.TTL, Kind.PRIORITY, Kind.MESSAGE_GROUP),
        *(Kind.DEDUP_ID, Kind.JOB_KEY, Kind.AT, Kind.ON_CONFLICT),
    }
)
"""Columns that decide how a queue treats a message. A topic takes none of them."""
BROKERS = frozenset({Kind.HISTORY, Kind.CHECKPOINT, Kind.START})
"""Columns that the broker adds to a copy of its own; nobody publishes them."""


class Column(NamedTuple):
    """Where one column lies: `at` and `length` in bytes from the start of the batch."""

    kind: int
    width: int
    at: int
    length: int


def to_u32(values: Sequence[int]) -> bytes:
    """Little-endian u32 array."""
    out = array("I", values)
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()


def from_u32(view: memoryview) -> list[int]:
    """The inverse of `to_u32`; `view` has a multiple of four bytes."""
    if sys.byteorder == "big":
        swapped = array("I", view.tobytes())
        swapped.byteswap()
        return swapped.tolist()
    return view.cast("I").tolist()


class BatchView:
    """A checked look at one batch: where things lie, nothing decoded.

    Raises `Invalid` for bytes that are not a well-formed batch of version 1 and `TooLarge` for one above
    the limits. `view` may be longer than the batch; `.length` says where it ends.
    """

    __slots__ = (
        *("_ends", "bodies_at", "codec", "column_table", "count", "crc", "inflated", "length"),
        *("producer_id", "sequence", "sparse", "view"),
    )

    def __init__(self, data: Buffer, *, verify: bool = True) -> None:
        view = memoryview(data)
        if len(view) < HEADER_BYTES:
            raise Invalid("a batch is shorter than its header", hint="the sender's encoder is faulty")
        (length, crc, version, flags, count, columns, epoch, producer_id, sequence, inflated) = (
            HEADER.unpack_from(view)
        )
        if (
            length > len(view)
            or version != VERSION
            or ((flags or inflated) and not _flags_fit(flags, inflated))
            or epoch
            or not 1 <= count <= BATCH_COUNT_MAX
        ):
            raise Invalid("a batch header is malformed", hint="the sender's encoder is faulty")
        if columns > BATCH_COLUMNS_MAX or HEADER_BYTES + columns * COLUMN_BYTES + 4 * count > length:
            raise Invalid("a batch is shorter than its tables", hint="the sender's encoder is faulty")
        if verify and crc32(view[CRC_FROM:length]) != crc:
            raise Invalid("a batch fails its checksum", hint="it was damaged on the way; send it again")
        self.view = view[:length]
        self.length: int = length
        self.crc: int = crc
        self.count: int = count
        self.producer_id: int = producer_id
        self.sequence: int = sequence
        self.column_table: tuple[Column, ...] = self._columns(columns) if columns else ()
        self.bodies_at: int = HEADER_BYTES + columns * COLUMN_BYTES + 4 * count
        for column in self.column_table[-1:]:
            self.bodies_at = column.at + column.length
        self._ends: dict[int, list[int]] = {}
        """By where the arrays of cumulative ends lie: decoded once, however many cuts are made."""
        self.sparse: bool = flags & SPARSE != 0
        self.codec: int = flags & CODECS
        """LZ4, ZSTD, or 0: the bodies are as they are."""
        self.inflated: int = inflated
        if flags or (self.column_table and self.column_table[-1].kind >= Kind.DELTA):
            self._check_flagged_columns()

    def _columns(self, columns: int) -> tuple[Column, ...]:
        table = []
        at = HEADER_BYTES + columns * COLUMN_BYTES + 4 * self.count
        before = 0
        for i in range(columns):
            kind, width, reserved, length = COLUMN.unpack_from(self.view, HEADER_BYTES + i * COLUMN_BYTES)
            shortest = self.count * (width or 4)
            fixed_wrong = width and length != shortest
            if kind <= before or WIDTH_OF.get(kind) != width or reserved or length < shortest or fixed_wrong:
                raise Invalid(f"column {kind} of a batch is malformed or not supported here")
            table.append(Column(kind, width, at, length))
            before = kind
            at += length
        if at > self.length:
            raise Invalid("the columns of a batch reach beyond its end")
        return tuple(table)

    def _check_flagged_columns(self) -> None:
        deltas = self.integers(Kind.DELTA)
        if (deltas is not None) != self.sparse:
            raise Invalid("a batch is sparse without offset deltas, or has them and is not")
        if deltas and (deltas[0] or any(one >= other for one, other in pairwise(deltas))):
            raise Invalid("the offset deltas of a batch do not grow from 0")
        starts = self.integers(Kind.START)
        if starts and (not self.codec or max(starts) > self.inflated):
            raise Invalid("bodies of a batch start behind what is compressed, or nothing is")

    @property
    def deltas(self) -> Sequence[int]:
        """Offset of each message less that of the first."""
        return self.integers(Kind.DELTA) or range(self.count)

    @property
    def ends_at(self) -> int:
        """Where the array of body ends lies, from the start of the batch."""
        return HEADER_BYTES + len(self.column_table) * COLUMN_BYTES

    def ends(self) -> list[int]:
        """Cumulative ends of the bodies, relative to `bodies_at`. Not to be changed."""
        return self.ends_in(self.ends_at)

    def ends_in(self, at: int) -> list[int]:
        """The array of cumulative ends at byte `at`: of the bodies, or of a column's cells."""
        ends = self._ends.get(at)
        if ends is None:
            ends = self._ends[at] = from_u32(self.view[at : at + 4 * self.count])
        return ends

    def check(self, message_bytes_max: int) -> None:
        """What a broker demands of a batch before it lets it in: size limits, order of all ends, and that
        it does not contradict itself. Sparse ones are the broker's own."""
        if self.sequence and not self.producer_id:
            raise Invalid("a batch has a sequence without a producer id")
        if self.sparse:
            raise Invalid("a sparse batch cannot be published")
        if any(column.kind in BROKERS for column in self.column_table):
            raise Invalid("a batch has a column that only a broker adds")
        if self.codec:
            self._check_compression(message_bytes_max)
        size = self.inflated or self.length - self.bodies_at
        if self.count == 1:
            if size > message_bytes_max:
                raise TooLarge(f"message of {size:,} bytes; the limit is {message_bytes_max:,}")
            if self.bodies_at > BATCH_OVERHEAD_BYTES_MAX:
                raise TooLarge(
                    f"key and headers of {self.bodies_at:,} bytes; the limit is {BATCH_OVERHEAD_BYTES_MAX:,}"
                )
        elif self.length > BATCH_BYTES_MAX:
            raise TooLarge(f"batch of {self.length:,} bytes; the limit is {BATCH_BYTES_MAX:,}")
        self._check_ends(self.ends(), size)
        for column in self.column_table:
            if not column.width:
                self._check_ends(self.ends_in(column.at), column.length - 4 * self.count)
            elif column.kind == Kind.ABSENT:
                self._check_absent(self.view[column.at : column.at + self.count])

    def _check_compression(self, message_bytes_max: int) -> None:
        """No reader shall need more memory than he was told, or be sent what inflates beyond all measure."""
        compressed, inflated = self.length - self.bodies_at, self.inflated
        if inflated > INFLATED_BYTES_MAX:
            raise TooLarge(f"bodies that inflate to {inflated:,} bytes; the limit is {INFLATED_BYTES_MAX:,}")
        if not compressed < inflated <= COMPRESSION_RATIO_MAX * self.length:
            raise Invalid(
                f"{compressed:,} bytes of bodies that inflate to {inflated:,}: more than"
                f" {COMPRESSION_RATIO_MAX:,} times, or not at all",
                hint="send such a batch as it is",
            )
        longest = max(end - start for start, end in zip([0, *self.ends()], self.ends(), strict=False))
        if longest > message_bytes_max:
            raise TooLarge(f"message of {longest:,} bytes; the limit is {message_bytes_max:,}")

    def _check_absent(self, absent: memoryview) -> None:
        ends = self.ends()
        if any(
            mark > 1 or (mark and end > start)
            for mark, start, end in zip(absent, [0, *ends], ends, strict=False)
        ):
            raise Invalid("an absent value has a body, or a mark that is not 0 or 1")

    def _check_ends(self, ends: list[int], size: int) -> None:
        if ends[-1] != size or (self.count > 1 and ends != sorted(ends)):
            raise Invalid("the lengths inside a batch do not add up", hint="the sender's encoder is faulty")

    def bodies(self) -> memoryview:
        """All bodies, concatenated; of a compressed batch what they were compressed to."""
        return self.view[self.bodies_at :]

    def column(self, kind: int) -> Column | None:
        """The column of that kind, or None."""
        return next((column for column in self.column_table if column.kind == kind), None)

    def cells(self, kind: int) -> list[memoryview] | None:
        """Cells of a column of width 0, an empty view where absent; None without such a column."""
        column = self.column(kind)
        if column is None:
            return None
        ends = self.ends_in(column.at)
        data = self.view[column.at + 4 * self.count : column.at + column.length]
        starts = [0, *ends[:-1]]
        return [data[start:end] for start, end in zip(starts, ends, strict=True)]

    def integers(self, kind: int) -> list[int] | None:
        """Values of a column of fixed width; None without such a column."""
        column = self.column(kind)
        if column is None:
            return None
        values = array(WIDTHS[column.width], self.view[column.at : column.at + column.length].tobytes())
        if sys.byteorder == "big":
            values.byteswap()
        return values.tolist()


class BatchBuilder:
    """Gathers messages and encodes them as one batch.

    Sizes are counted while adding, so that a caller can see beforehand whether one more fits.
    """

    __slots__ = ("_bodies", "_columns", "_ends", "size")

    def __init__(self) -> None:
        self._bodies: list[Buffer] = []
        self._ends: Sequence[int] = ()
        """Cumulative ends of the first of them, where they are known."""
        self._columns: dict[Kind, dict[int, bytes | int]] = {}
        self.size = HEADER_BYTES
        """Upper bound of the encoded length in bytes so far."""

    def __len__(self) -> int:
        return len(self._bodies)

    def add(self, body: Buffer, cells: Sequence[tuple[Kind, bytes | int]] = ()) -> None:
        """Add one message; `cells`: its column values (bytes: encoded msgpack, int: fixed width)."""
        index = len(self._bodies)
        self._bodies.append(body)
        self.size += len(body) + 4
        for kind, value in cells:
            column = self._columns.get(kind)
            if column is None:
                column = self._columns[kind] = {}
                self.size += COLUMN_BYTES + (WIDTH_OF[kind] or 4) * index
            column[index] = value
            self.size += len(value) if isinstance(value, bytes) else 0
        if self._columns:
            self.size += sum(WIDTH_OF[kind] or 4 for kind in self._columns)

    def extend(self, bodies: Sequence[Buffer], ends: Sequence[int] = ()) -> None:
        """Add plain messages, all at once. `ends`: their cumulative ends, if the caller has counted."""
        ends = ends or list(accumulate(map(len, bodies)))
        if not self._bodies:
            self._ends = ends
        self._bodies.extend(bodies)
        self.size += 4 * len(bodies) + (ends[-1] if ends else 0)
        if self._columns:
            self.size += len(bodies) * sum(WIDTH_OF[kind] or 4 for kind in self._columns)

    def encode(
        self, producer_id: int = 0, sequence: int = 0, codec: int = 0, compress: Compress | None = None
    ) -> bytearray:
        """The batch as bytes; its bodies through `compress` if that makes them smaller, and within bounds."""
        count = len(self._bodies)
        table, data = [], []
        for kind in sorted(self._columns):
            width = WIDTH_OF[kind]
            cells = self._columns[kind]
            if width:
                encoded = b"".join(int(cells.get(i, 0)).to_bytes(width, "little") for i in range(count))
            else:
                values = [bytes(cells.get(i, b"")) for i in range(count)]
                encoded = to_u32(list(accumulate(map(len, values)))) + b"".join(values)
            table.append(COLUMN.pack(kind, width, 0, len(encoded)))
            data.append(encoded)
        ends = self._ends if len(self._ends) == count else list(accumulate(map(len, self._bodies)))
        head = [*table, to_u32(ends), *data]
        if compress is not None:
            bodies = b"".join(self._bodies)
            compressed = compress(bodies)
            length = HEADER_BYTES + sum(map(len, head)) + len(compressed)
            if len(compressed) < len(bodies) <= min(COMPRESSION_RATIO_MAX * length, INFLATED_BYTES_MAX):
                parts = [*head, compressed]
                return sealed(count, len(table), producer_id, sequence, parts, codec, len(bodies))
        return sealed(count, len(table), producer_id, sequence, [*head, *self._bodies])


def sealed(
    count: int,
    columns: int,
    producer_id: int,
    sequence: int,
    parts: Sequence[Buffer],
    flags: int = 0,
    inflated: int = 0,
) -> bytearray:
    """Header with checksum in front of `parts`, everything behind the header; each is copied once."""
    data = bytearray().join([_NO_HEADER, *parts])
    fields = VERSION, flags, count, columns, 0, producer_id, sequence, inflated
    HEADER.pack_into(data, 0, len(data), 0, *fields)
    data[4:CRC_FROM] = crc32(memoryview(data)[CRC_FROM:]).to_bytes(4, "little")
    return data


def is_sparse(batch: Buffer) -> bool:
    """Offsets of its messages have holes."""
    return batch[FLAGS_AT] & SPARSE != 0


def renumbered(batch: Buffer, producer_id: int, sequence: int) -> bytearray:
    """The same messages under another producer id and sequence."""
    _, _, _, flags, count, columns, _, _, _, inflated = HEADER.unpack_from(batch)
    return sealed(count, columns, producer_id, sequence, [memoryview(batch)[HEADER_BYTES:]], flags, inflated)


def _flags_fit(flags: int, inflated: int) -> bool:
    """They are known, at most one says how it is compressed, and then it is said how large it was."""
    codec = flags & CODECS
    return not flags & ~(CODECS | SPARSE) and codec != CODECS and bool(codec) == bool(inflated)
