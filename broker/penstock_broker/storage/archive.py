"""The archiver's plan: what of the oldest journal file is alive, and how it is laid out in a segment.

Bytes move verbatim, log by log in runs. A message settled before that is not copied (batches are the
unit: one with anything alive moves whole). Order: segment written and synced, directory synced → the
ARCHIVED parts durable → the journal file may go.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from penstock_broker.storage import entries
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.files import Copy, Extent, Step
from penstock_broker.storage.journal import Places
from penstock_broker.storage.log import Log, Young
from penstock_broker.storage.segment import BLOCK_BYTES_TARGET, Row, encode_head, head_bytes, segment_name
from penstock_protocol.checksum import Buffer

RUN_BYTES_MAX = 64 << 20
RUN_ROWS_MAX = 2_048
BLOCK_ROWS_MAX = 512
"""Bounds of one run, dead batches included, so that planning stays short; the next run takes up the rest."""


class Owner(Protocol):
    """A machine with a log."""

    @property
    def log(self) -> Log:
        """Its log."""
        ...

    def is_alive(self, first: int, messages: int) -> bool:
        """Something in that range is not settled."""
        ...


class Run(NamedTuple):
    """One run: the parts that say where bytes will lie, and the job that brings them there (None if
    nothing was alive)."""

    parts: list[Part]
    copy: Copy | None


def plan(owners: Iterable[Owner], journal: Places, below: int, segment: int) -> Run:
    """Move what is alive below journal position `below` into segment file `segment`."""
    parts: list[Part] = []
    pieces: list[Buffer | Extent] = []
    at = rows = 0
    for owner in owners:
        log = owner.log
        position = log.young_position
        if position is None or position >= below:
            continue
        detail = []
        last = None
        for block in _blocks(log.young_rows(below), owner):
            last = block[-1]
            rows += len(block)
            alive = [row for row in block if owner.is_alive(row.base, row.messages)]
            if alive:
                length = _lay_out(alive, log, journal, segment, pieces)
                first, end = alive[0].base, alive[-1].base + alive[-1].messages
                detail.append(entries.BLOCK.pack(first, end - first, at, length, segment))
                at += length
            if at >= RUN_BYTES_MAX or rows >= RUN_ROWS_MAX:
                break
        if last is not None:
            parts.append(Part(log.uuid, Kind.ARCHIVED, last.base, last.messages, 0, b"".join(detail)))
        if at >= RUN_BYTES_MAX or rows >= RUN_ROWS_MAX:
            break
    return Run(parts, Copy(segment_name(segment), (Step(0, tuple(pieces)),)) if pieces else None)


def _blocks(rows: Iterable[Young], owner: Owner) -> Iterable[list[Young]]:
    """Runs of batches that together make one segment block; dead batches weigh nothing."""
    block: list[Young] = []
    size = 0
    for row in rows:
        weight = row.length if owner.is_alive(row.base, row.messages) else 0
        if len(block) == BLOCK_ROWS_MAX or (block and size + weight > BLOCK_BYTES_TARGET):
            yield block
            block, size = [], 0
        block.append(row)
        size += weight
    if block:
        yield block


def _lay_out(
    batches: Sequence[Young], log: Log, journal: Places, segment: int, pieces: list[Buffer | Extent]
) -> int:
    """Append one block to `pieces`; its length in bytes."""
    at = head_bytes(len(batches))
    rows = []
    extents = []
    for batch in batches:
        origin = batch.origin_log, batch.origin_first
        rows.append(Row(batch.base, batch.time, *origin, batch.messages, at, batch.length, batch.crc))
        file, where = journal.locate(batch.position)
        extents.append(Extent(file.name, where, batch.length))
        at += batch.length
    pieces.append(encode_head(log.uuid, segment, rows))
    pieces.extend(extents)
    return at
