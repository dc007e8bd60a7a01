"""Batches: the unit of append, checksum, idempotence and delivery. The same bytes from client to client.

    offset  size         field
    0       4            length        bytes of the whole batch
    4       4            crc32         over bytes 8 … length
    8       1            version       1
    9       1            flags         bit 0 compressed (reserved), bit 1 sparse
    10      2            count         messages, 1 … 10,000
    12      2            columns       entries of the column table
    14      2            epoch         of the producer (reserved, zero)
    16      8            producer_id   0 = the batch is not sequenced
    24      4            sequence      counts batches per (producer id, address); 0 if it is not sequenced
    28      4            reserved      zero
    32      8 * columns  column table  kind u8, width u8, reserved u16, length u32
    …       4 * count    ends          u32: cumulative ends of the bodies
    …                    columns       in table order; width 1, 2, 4 or 8: an array of such unsigned
                                       integers; width 0: u32[count] cumulative ends, then the cells
    …                    bodies        concatenated

Little-endian. A column exists only if a message of the batch uses it, so a plain message has none. A
cell of width 0 is one msgpack value; an empty cell means "absent". A batch is immutable: whoever needs
a part of it makes a cut (new header and checksum, the same bytes), never a decode.

Message i of a batch that begins at offset n has offset n + i. In a sparse batch, which a broker makes of one
when some of its messages are gone, it has offset n + DELTA[i]: the first delta is 0, and they grow.
"""

import sys
from array import array
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from struct import Struct
from typing import NamedTuple

from penstock_protocol.checksum import Buffer, crc32
from penstock_protocol.errors import Invalid, TooLarge
from penstock_protocol.limits import (
    BATCH_BYTES_MAX,
    BATCH_COLUMNS_MAX,
    BATCH_COUNT_MAX,
    BATCH_OVERHEAD_BYTES_MAX,
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
    "I"  # reserved
)
HEADER_BYTES = 32
assert HEADER.size == HEADER_BYTES
COLUMN = Struct("<BBHI")  # kind, width, reserved, length
COLUMN_BYTES = 8
assert COLUMN.size == COLUMN_BYTES
FLAGS_AT = 9
CRC_FROM = 8
VERSION = 1
SPARSE = 2
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
}
"""Bytes of a value of each column; 0: cells of any length."""
TRAITS = frozenset(
    {
        *(Kind.DELAY, Kind.TTL, Kind.PRIORITY, Kind.MESSAGE_GROUP),
        *(Kind.DEDUP_ID, Kind.JOB_KEY, Kind.AT, Kind.ON_CONFLICT),
    }
)
"""Columns that decide how a queue treats a message. A topic takes none of them."""
BROKERS = frozenset({Kind.HISTORY, Kind.CHECKPOINT})
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
        *("_ends", "bodies_at", "column_table", "count", "crc", "length"),
        *("producer_id", "sequence", "sparse", "view"),
    )

    def __init__(self, data: Buffer, *, verify: bool = True) -> None:
        view = memoryview(data)
        if len(view) < HEADER_BYTES:
            raise Invalid("a batch is shorter than its header", hint="the sender's encoder is faulty")
        (length, crc, version, flags, count, columns, epoch, producer_id, sequence, reserved) = (
            HEADER.unpack_from(view)
        )
        if (
            length > len(view)
            or version != VERSION
            or flags not in (0, SPARSE)
            or reserved
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
        self.sparse: bool = flags == SPARSE
        if self.sparse or (self.column_table and self.column(Kind.DELTA)):
            self._check_deltas()

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

    def _check_deltas(self) -> None:
        deltas = self.integers(Kind.DELTA)
        if (deltas is not None) != self.sparse:
            raise Invalid("a batch is sparse without offset deltas, or has them and is not")
        if deltas and (deltas[0] or any(one >= other for one, other in pairwise(deltas))):
            raise Invalid("the offset deltas of a batch do not grow from 0")

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
        if self.count == 1:
            if self.length - self.bodies_at > message_bytes_max:
                raise TooLarge(
                    f"message of {self.length - self.bodies_at:,} bytes; the limit is {message_bytes_max:,}"
                )
            if self.bodies_at > BATCH_OVERHEAD_BYTES_MAX:
                raise TooLarge(
                    f"key and headers of {self.bodies_at:,} bytes; the limit is {BATCH_OVERHEAD_BYTES_MAX:,}"
                )
        elif self.length > BATCH_BYTES_MAX:
            raise TooLarge(f"batch of {self.length:,} bytes; the limit is {BATCH_BYTES_MAX:,}")
        self._check_ends(self.ends(), self.length - self.bodies_at)
        for column in self.column_table:
            if not column.width:
                self._check_ends(self.ends_in(column.at), column.length - 4 * self.count)
            elif column.kind == Kind.ABSENT:
                self._check_absent(self.view[column.at : column.at + self.count])

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
        """All bodies, concatenated."""
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

    __slots__ = ("_bodies", "_columns", "size")

    def __init__(self) -> None:
        self._bodies: list[Buffer] = []
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

    def extend(self, bodies: Sequence[Buffer]) -> None:
        """Add plain messages, all at once."""
        self._bodies.extend(bodies)
        self.size += sum(map(len, bodies)) + 4 * len(bodies)
        if self._columns:
            self.size += len(bodies) * sum(WIDTH_OF[kind] or 4 for kind in self._columns)

    def encode(self, producer_id: int = 0, sequence: int = 0) -> bytes:
        """The batch as bytes."""
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
        ends = to_u32(list(accumulate(map(len, self._bodies))))
        tail = b"".join([*table, ends, *data, *self._bodies])
        return sealed(count, len(table), producer_id, sequence, tail)


def sealed(
    count: int, columns: int, producer_id: int, sequence: int, tail: bytes, *, sparse: bool = False
) -> bytes:
    """Header with checksum in front of `tail`, everything behind the header."""
    header = bytearray(HEADER_BYTES)
    length, flags = HEADER_BYTES + len(tail), SPARSE if sparse else 0
    HEADER.pack_into(header, 0, length, 0, VERSION, flags, count, columns, 0, producer_id, sequence, 0)
    crc = crc32(tail, crc32(memoryview(header)[CRC_FROM:]))
    header[4:8] = crc.to_bytes(4, "little")
    return bytes(header) + tail


def is_sparse(batch: Buffer) -> bool:
    """Offsets of its messages have holes."""
    return batch[FLAGS_AT] == SPARSE


def renumbered(batch: bytes, producer_id: int, sequence: int) -> bytes:
    """The same messages under another producer id and sequence."""
    _, _, _, _, count, columns, *_ = HEADER.unpack_from(batch)
    return sealed(count, columns, producer_id, sequence, batch[HEADER_BYTES:])


def cut(batch: BatchView, first: int, count: int) -> Buffer:
    """Messages `first` … `first + count` of the batch as a batch of their own; the whole one as it is."""
    if not first and count == batch.count:
        return batch.view
    return _picked(batch, [(first, first + count)])


def picked(batch: BatchView, indexes: Sequence[int]) -> Buffer:
    """Messages `indexes`, which grow, as a batch of their own. It begins at the offset of the first of them;
    each keeps its offset."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and runs[-1][1] == index:
            runs[-1] = runs[-1][0], index + 1
        else:
            runs.append((index, index + 1))
    return _picked(batch, runs)


def _picked(batch: BatchView, runs: Sequence[tuple[int, int]]) -> bytes:
    """Messages first … end of each run, without a decode."""
    view, total = batch.view, batch.count
    count = sum(end - first for first, end in runs)
    columns: dict[int, list[Buffer]] = {}
    for column in batch.column_table:
        at, width = column.at, column.width
        if width:
            columns[column.kind] = [view[at + first * width : at + end * width] for first, end in runs]
        else:
            cells = view[at + 4 * total : at + column.length]
            columns[column.kind] = _gathered(batch.ends_in(at), cells, runs)
    deltas = batch.deltas
    before = deltas[runs[0][0]]
    columns.pop(Kind.DELTA, None)
    sparse = deltas[runs[-1][1] - 1] - before >= count
    if sparse:
        columns[Kind.DELTA] = [to_u32([each - before for first, end in runs for each in deltas[first:end]])]
    ends, *bodies = _gathered(batch.ends(), batch.bodies(), runs)
    return _joined(batch, count, columns, ends, bodies, sparse=sparse)


def with_cells(batch: BatchView, kind: Kind, cells: Sequence[bytes]) -> bytes:
    """The same messages with a column of one msgpack value each (empty: absent), in the place of that column
    if they have it. For the broker's own copies: who sent a batch reads his own bytes again."""
    columns: dict[int, list[Buffer]] = {
        column.kind: [batch.view[column.at : column.at + column.length]] for column in batch.column_table
    }
    columns[kind] = [to_u32(list(accumulate(map(len, cells)))), *cells]
    ends = batch.view[batch.ends_at : batch.ends_at + 4 * batch.count]
    return _joined(batch, batch.count, columns, ends, [batch.bodies()], sparse=batch.sparse)


def _joined(
    batch: BatchView,
    count: int,
    columns: dict[int, list[Buffer]],
    ends: Buffer,
    bodies: Sequence[Buffer],
    *,
    sparse: bool,
) -> bytes:
    """A batch of the same producer from its parts."""
    kinds = sorted(columns)
    table = [COLUMN.pack(kind, WIDTH_OF[Kind(kind)], 0, sum(map(len, columns[kind]))) for kind in kinds]
    data = [piece for kind in kinds for piece in columns[kind]]
    tail = b"".join([*table, ends, *data, *bodies])
    return sealed(count, len(table), batch.producer_id, batch.sequence, tail, sparse=sparse)


def _gathered(ends: Sequence[int], pieces: memoryview, runs: Sequence[tuple[int, int]]) -> list[Buffer]:
    """The pieces of each run: where each of them ends now, then their bytes."""
    moved: list[int] = []
    found: list[Buffer] = []
    size = 0
    for first, end in runs:
        begin = ends[first - 1] if first else 0
        moved += [each - begin + size for each in ends[first:end]]
        found.append(pieces[begin : ends[end - 1]])
        size = moved[-1]
    return [to_u32(moved), *found]
