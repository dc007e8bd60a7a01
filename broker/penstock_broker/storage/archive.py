"""What one run of the archiver moves, and how it is laid out: blocks, stretches, segments.

Bytes move verbatim, log by log. A batch of which everything is settled is not copied (batches are the
unit: one with anything alive moves whole). A log with much to move writes into its own open segment, the
others share the common one. This room makes plans; when they are carried out, the archiver knows.
"""

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, TypeAlias

from penstock_broker.storage import entries
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.files import Copy, Extent, Step
from penstock_broker.storage.journal import Places
from penstock_broker.storage.log import Log, Young
from penstock_broker.storage.node import COMMON, NODE, Node
from penstock_broker.storage.segment import (
    Indexed,
    Row,
    encode_head,
    encode_index,
    head_bytes,
    index_bytes,
    segment_name,
)
from penstock_protocol.checksum import Buffer

RUN_BYTES_MAX = 8 << 20
"""So that a run is soon done, and the next can wait its turn: see the archiver's pace."""
RUN_ROWS_MAX = 4_096
SLICE_ROWS = 128
"""So many rows are looked at in one turn, and not twice as many: under 1 ms."""
OWN_BYTES_MIN = 256 << 10
"""A log with less to move shares the common segment."""
SEGMENT_BYTES = 64 << 20
"""A segment that has so much is sealed."""
BLOCK_BYTES_TARGET = 256 << 10
"""A block is closed when the next batch would take it beyond this."""
BLOCK_ROWS_MAX = 512


class Owner(Protocol):
    """A machine with a log."""

    @property
    def log(self) -> Log:
        """Its log."""
        ...

    def is_alive(self, first: int, messages: int) -> bool:
        """Something in that range is wanted."""
        ...

    def alive(self, first: int, messages: int) -> int:
        """How many messages in that range are wanted."""
        ...


class Batch(NamedTuple):
    """A batch to be moved: its stamps, and its bytes or where they lie. `messages`: offsets it spans."""

    base: int
    messages: int
    time: int
    origin_log: bytes
    origin_first: int
    crc: int
    length: int
    data: Buffer | Extent


class Moved(NamedTuple):
    """What a run does to one log: in that range of offsets the batches are what remains. `alive`: messages in
    them, if that is less than the offsets they span. `detail`: of a part that moves nothing."""

    owner: Owner
    kind: Kind
    base: int
    messages: int
    batches: list[Batch]
    alive: int | None = None
    detail: bytes = b""

    @property
    def weight(self) -> int:
        """Bytes of the batches."""
        return sum(batch.length for batch in self.batches)


Gathering: TypeAlias = Generator[Moved | Extent | None, Buffer, None]
"""Yields what it found; None when it has worked long enough for one turn; or what must be loaded first,
which is then sent to it (nothing, where that could not be read)."""


class Run(NamedTuple):
    """What is done in order: the parts that begin new segments, the files that are written, and the parts
    that say where bytes lie then."""

    begun: list[Part]
    copies: list[Copy]
    parts: list[Part]
    size: int
    """Bytes to be written."""
    moved: Counter[Kind]
    """Bytes of batches."""


class Target:
    """A segment file being written to."""

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.start = self.end = at
        self.pieces: list[Buffer | Extent] = []

    def lay_out(self, move: Moved) -> bytes:
        """Append its batches as one stretch; its STRETCH."""
        owner, batches = move.owner, move.batches
        log, at = owner.log.uuid, self.end
        index = []
        for block in _blocks(batches):
            index.append(Indexed(block[0].base, block[0].time, self.end - at, 0))
            self._lay_out_block(log, block)
            index[-1] = index[-1]._replace(length=self.end - at - index[-1].at)
        if index_bytes(len(index)):
            self.pieces.append(encode_index(log, self.number, index))
            self.end += index_bytes(len(index))
        first, last = batches[0], batches[-1]
        messages = last.base + last.messages - first.base
        alive = owner.alive(first.base, messages)
        if move.alive is not None:
            alive = min(alive, move.alive)
        where = self.number, len(index), self.end - at, at
        return entries.STRETCH.pack(first.base, messages, alive, *where, first.time, last.time)

    def _lay_out_block(self, log: bytes, batches: Sequence[Batch]) -> None:
        at = head_bytes(len(batches))
        rows = []
        for batch in batches:
            origin = batch.origin_log, batch.origin_first
            rows.append(Row(batch.base, batch.time, *origin, batch.messages, at, batch.length, batch.crc))
            at += batch.length
        self.pieces.append(encode_head(log, self.number, rows))
        self.pieces.extend(batch.data for batch in batches)
        self.end += at

    def copy(self, *, or_zeros: bool) -> Copy:
        """The job that writes it."""
        return Copy(segment_name(self.number), (Step(self.start, tuple(self.pieces)),), or_zeros)


def gather(owners: Iterable[Owner], journal: Places, below: int) -> Gathering:
    """What lies below journal position `below`, log by log, up to the bounds of a run. A log that changes
    meanwhile is looked at as it is when its turn comes."""
    rows = size = looked = 0
    for owner in owners:
        log = owner.log
        position = log.young_position
        if position is None or position >= below:
            continue
        batches: list[Batch] = []
        done = 0
        while some := list(islice(log.young_rows(below, done), SLICE_ROWS)):
            for row in some:
                rows += 1
                done = row.base + row.messages
                if owner.is_alive(row.base, row.messages):
                    batches.append(_batch(row, journal))
                    size += row.length
                if size >= RUN_BYTES_MAX:
                    break
            if size >= RUN_BYTES_MAX or rows >= RUN_ROWS_MAX:
                break
            looked += len(some)
            if looked >= SLICE_ROWS:  # of many small logs, several in one turn
                looked = 0
                yield None
        if done:
            yield Moved(owner, Kind.ARCHIVED, done - 1, 1, batches)
        if size >= RUN_BYTES_MAX or rows >= RUN_ROWS_MAX:
            return


def lay_out(moves: Iterable[Moved], node: Node, leave: int = -1, *, or_zeros: bool = False) -> Run:
    """Files and parts for what was gathered; nothing goes into segment `leave`. `or_zeros`: what cannot be
    read is given up."""
    run = Run([], [], [], 0, Counter())
    targets: dict[bytes, Target] = {}
    numbers = iter(range(node.segment_next, 1 << 63))
    for move in moves:
        log = move.owner.log.uuid
        detail = move.detail
        if move.batches:
            owner = log if move.weight >= OWN_BYTES_MIN else COMMON
            if owner not in targets:
                targets[owner] = _target(owner, node, leave, numbers, run.begun)
            detail = targets[owner].lay_out(move)
        run.moved[move.kind] += move.weight
        run.parts.append(Part(log, move.kind, move.base, move.messages, 0, detail))
    for target in targets.values():
        run.copies.append(target.copy(or_zeros=or_zeros))
        size = entries.SIZE.pack(target.end)
        run.parts.append(Part(NODE, Kind.WRITTEN, target.number, detail=size))
    return run._replace(size=sum(target.end - target.start for target in targets.values()))


def _target(owner: bytes, node: Node, leave: int, numbers: Iterator[int], begun: list[Part]) -> Target:
    number = node.open.get(owner)
    if number not in (None, leave) and node.segments[number].size < SEGMENT_BYTES:
        return Target(number, node.segments[number].size)
    fresh = next(numbers)
    begun.append(Part(NODE, Kind.SEGMENT, fresh, detail=owner))
    return Target(fresh, 0)


def _batch(row: Young, journal: Places) -> Batch:
    file, at = journal.locate(row.position)
    extent = Extent(file.name, at, row.length)
    return Batch(
        row.base, row.messages, row.time, row.origin_log, row.origin_first, row.crc, row.length, extent
    )


def _blocks(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Runs of batches that together make one block."""
    block: list[Batch] = []
    size = 0
    for batch in batches:
        if len(block) == BLOCK_ROWS_MAX or (block and size + batch.length > BLOCK_BYTES_TARGET):
            yield block
            block, size = [], 0
        block.append(batch)
        size += batch.length
    if block:
        yield block
