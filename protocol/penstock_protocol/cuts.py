"""Parts of batches as batches of their own: new tables, header and checksum, the same bytes, never a decode.

A part of a compressed batch carries all of its compressed bodies: whoever makes small cuts of large ones
repeats them in each.
"""

from collections.abc import Sequence
from itertools import accumulate

from penstock_protocol.batch import (
    COLUMN,
    SPARSE,
    WIDTH_OF,
    BatchView,
    Kind,
    sealed,
    to_u32,
)
from penstock_protocol.checksum import Buffer


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


def _picked(batch: BatchView, runs: Sequence[tuple[int, int]]) -> bytearray:
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
    if batch.codec:
        bodies = [batch.bodies()]
        if Kind.START not in columns:
            columns[Kind.START] = [to_u32(_starts(batch.ends(), runs))]
    return _joined(batch, count, columns, ends, bodies, sparse=sparse)


def with_cells(batch: BatchView, kind: Kind, cells: Sequence[bytes]) -> bytearray:
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
) -> bytearray:
    """A batch of the same producer from its parts."""
    kinds = sorted(columns)
    table = [COLUMN.pack(kind, WIDTH_OF[Kind(kind)], 0, sum(map(len, columns[kind]))) for kind in kinds]
    data = [piece for kind in kinds for piece in columns[kind]]
    parts = [*table, ends, *data, *bodies]
    flags = batch.codec | (SPARSE if sparse else 0)
    return sealed(count, len(table), batch.producer_id, batch.sequence, parts, flags, batch.inflated)


def _starts(ends: Sequence[int], runs: Sequence[tuple[int, int]]) -> list[int]:
    """Where each piece of the runs begins."""
    found: list[int] = []
    for first, end in runs:
        if first:
            found += ends[first - 1 : end - 1]
        else:
            found += [0, *ends[: end - 1]]
    return found


def _gathered(ends: Sequence[int], pieces: memoryview, runs: Sequence[tuple[int, int]]) -> list[Buffer]:
    """The pieces of each run: where each of them ends now, then their bytes."""
    moved: list[int] = []
    found: list[Buffer] = []
    size = 0
    for first, end in runs:
        begin = ends[first - 1] if first else 0
        if end - first == 1:
            moved.append(ends[first] - begin + size)
        else:
            moved += [each - begin + size for each in ends[first:end]]
        found.append(pieces[begin : ends[end - 1]])
        size = moved[-1]
    return [to_u32(moved), *found]
