"""What became of a message so far, as the HISTORY column that a dead letter and a message under another try
carry: where it was first, since when, and every try that failed.

    queue, offset   where it was enqueued first       last_at    when it died, ms; 0 if it has not
    first_at        when, ms                          reason     of its last death, or nil
    attempts        rows of [consumer, start, end, outcome, error]
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from penstock_broker.queues.notes import ATTEMPTS_MAX, Attempt, Notes, Row
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.checksum import Buffer
from penstock_protocol.cuts import with_cells


def history(
    before: Buffer | None, queue: str, offset: int, first_at: int, attempts: Iterable[Attempt]
) -> dict[str, Any]:
    """The history of a message at `offset` of `queue`, on top of the one it came with."""
    known: dict[str, Any] = msgpack.unpackb(before) if before else {
        "queue": queue, "offset": offset, "first_at": first_at, "last_at": 0, "reason": None, "attempts": [],
    }  # fmt: skip
    known["attempts"] = [*known["attempts"], *attempts][-ATTEMPTS_MAX:]
    return known


def cells_of(batch: BatchView) -> Sequence[Buffer | None]:
    """The history that each message of a batch came with."""
    return batch.cells(Kind.HISTORY) or [None] * batch.count


def died(
    batch: BatchView,
    queue: str,
    first: int,
    time: int,
    notes: Notes,
    reason: str,
    now: int,
    last: Iterable[Row] = (),
) -> Buffer:
    """A batch of `queue` from `first` on as it enters the dead-letter queue. `last`: the tries it died of."""
    cells = []
    latest = {offset: Attempt(*row[3:]) for row in last for offset in range(row[1], row[1] + row[2])}
    for delta, before in zip(batch.deltas, cells_of(batch), strict=True):
        offset = first + delta
        attempts = [*notes.attempts.get(offset, ()), *([latest[offset]] if offset in latest else ())]
        known = history(before, queue, offset, time, attempts)
        cells.append(_packed(known | {"last_at": now, "reason": reason}))
    return with_cells(batch, Kind.HISTORY, cells)


def tried(batch: BatchView, queue: str, offset: int, time: int, notes: Notes) -> Buffer | None:
    """A batch of one message that is delivered again, with what is noted of it; None if nothing is."""
    data: Buffer | None = None
    attempts, checkpoint = notes.attempts.get(offset), notes.checkpoints.get(offset)
    if attempts:
        known = history(cells_of(batch)[0], queue, offset, time, attempts)
        data = with_cells(batch, Kind.HISTORY, [_packed(known)])
    if checkpoint is not None:
        batch = batch if data is None else BatchView(data, verify=False)
        data = with_cells(batch, Kind.CHECKPOINT, [_packed(checkpoint)])
    return data


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
