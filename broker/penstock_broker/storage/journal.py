"""The journal: entries gather into blocks, blocks are written one at a time, positions grow.

    gathered ── Write ──► written, a sync is due within … ── Write with sync, or Sync ──► durable
    who waits for it …    in a weaker mode is released                               … and all others

Invariants: an entry lies in one block, a block in one file. One write or sync is under way; a sync covers
all that was written before it began. Every file but the last is wholly durable. Nothing is released to
anybody before the block it depends on is written or, as its mode says, durable. Files are prepared ahead
and recycled. Unless the disk has ample room, a publish is only taken where a file that is ready has room
for its block, and another one is left to what frees space (settles, commits, deletes): no disk that fills
later can hold it up.

The journal knows bytes and positions. What an entry means, and when a file may go, others know.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Generic, Protocol, TypeVar

from penstock_broker.durability import FSYNC
from penstock_broker.storage import entries
from penstock_broker.storage.blocks import (
    BLOCK_HEADER_BYTES,
    BlockHeader,
    encode_block_header,
    encode_file_header,
    padded,
)
from penstock_broker.storage.entries import At, Body, Part
from penstock_broker.storage.files import PAGE_BYTES, Drop, Job, Prepare, Sync, Write
from penstock_broker.storage.gathered import NEVER, NOW, Block, JournalFile, Reserved, Room
from penstock_protocol.errors import Busy, TooLarge

BLOCK_BYTES_MAX = 4 << 20
GATHERED_BYTES_MAX = 3 * BLOCK_BYTES_MAX
"""What publishes may gather before the disk has taken it; settles go beyond, they are small."""
BUFFERS_KEPT = 3
SPARES = 2
FAST_FILL_MS = 2_000
"""A file filled faster than this makes the next one twice as large."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Sizes in bytes."""

    budget: int
    file_min: int
    file_max: int


class Places(Protocol):
    """Where journal positions lie: what readers need of a journal."""

    written: int

    def locate(self, position: int) -> tuple[JournalFile, int]:
        """The file that holds `position`, and where in it."""
        ...

    def unwritten(self, position: int, length: int) -> bytes | None:
        """A copy of bytes that are gathered or on their way; None if they are written."""
        ...


class Journal(Generic[T]):
    """Appends entries and says when they are written and durable. `T` is whatever waits for that."""

    def __init__(self, settings: JournalSettings, random: Random, boot: int) -> None:
        self.settings = settings
        self.boot = boot
        self._random = random
        self.end = 0
        """Position behind the last entry reserved."""
        self.written = 0
        """Everything below was handed to the kernel: it survives the death of this process."""
        self.durable = 0
        """W: everything below is on stable storage."""
        self.time = 0
        """Wall clock of the newest entry; never runs backwards."""
        self._sequence = 0
        self._blocks: deque[Block[T]] = deque()
        """Oldest first; the last one gathers."""
        self._in_flight: Write | Sync | None = None
        self._due = NEVER
        """The mono ms by which a sync of what is written must begin."""
        self._late: list[T] = []
        """Who waits for a sync of what is written."""
        self._buffers: list[bytearray] = []
        self._buffer_bytes = min(BLOCK_BYTES_MAX, settings.file_max - PAGE_BYTES)
        self.released: list[T] = []
        """What waited and now may leave, in position order."""
        self.files: list[JournalFile] = []
        """Files with blocks, oldest first; the last one is written to."""
        self.bytes = 0
        """Of all of them."""
        self._starts: list[int] = []
        self._spares: list[JournalFile] = []
        self._preparing: dict[str, JournalFile] = {}
        self._recyclable: list[tuple[str, int]] = []
        self._number = 0
        self._wanted = 0
        """Size of a file that a publish was refused for."""
        self.file_size = settings.file_min
        self.entries_total = 0
        self.bytes_total = 0
        self.ample = False
        """The disk has so much room that files can be counted on before they are ready."""
        self.full = False
        """The last attempt to prepare a file failed for want of space."""

    # ---- Opening

    def open(self, position: int, sequence: int, number: int, files: list[JournalFile]) -> None:
        """Continue at `position` with block `sequence`; file numbers go on from `number`."""
        self.end = self.written = self.durable = position
        self._sequence = sequence
        self._number = number
        self.files = files
        self.bytes = sum(file.size for file in files)
        self._starts = [file.start for file in files]

    def new_file(self, size: int, recycle: str | None = None) -> tuple[JournalFile, Prepare]:
        """A file to be prepared, with the job that does it."""
        self._number += 1
        file = JournalFile(self._number, self._random.getrandbits(64), size, viewable=True)
        return file, Prepare(file.name, size, encode_file_header(file.number, file.salt, size), recycle)

    def use(self, file: JournalFile, start: int, wall: int) -> None:
        """Make a prepared file the one that is written to; its first block has position `start`."""
        file.start = start
        file.since = wall
        self.files.append(file)
        self.bytes += file.size
        self._starts.append(start)

    def rewritten(self, blocks: int, size: int) -> None:
        """Recovered blocks of `size` bytes were written to the new file as they were, and are durable."""
        self._sequence += blocks
        self.files[-1].used += size
        self.end = self.written = self.durable = self.end + size

    def keep(self, name: str, size: int) -> bool:
        """Keep a file that holds nothing needed, to be recycled; False if it has not the usual size, or the
        budget is used up. Checkpoints free a third of the budget at once: filling as much anew would cost as
        much as writing it."""
        kept = sum(has for _, has in self._recyclable)
        if size != self.file_size or self.bytes + kept + size > self.settings.budget:
            return False
        self._recyclable.append((name, size))
        return True

    # ---- Appending

    def reserve(
        self, parts: Sequence[Part], bodies: Sequence[Body], wall: int, *, publish: bool, within: int = FSYNC
    ) -> Reserved:
        """Take room for one entry and say where its parts will stand; `copy` must follow. `within`: ms that
        its sync may wait.

        Raises `TooLarge` for an entry beyond half the budget and, for publishes, `Busy` when every block
        buffer is full, or no file is ready for it. Nothing has changed then.
        """
        self.time = max(self.time, wall)
        head, starts = entries.encode(parts, bodies, self.time)
        length = starts[-1] + len(bodies[-1].data) if bodies else len(head)
        block = self._block_for(length, publish=publish)
        block.within = min(block.within, within)
        start = block.start + block.used
        end = start + length
        places = []
        for part in parts:
            body = part.body
            if body >= 0:
                data, crc = bodies[body]
                places.append(At(end, self.time, start + starts[body], len(data), crc))
            else:
                places.append(At(end, self.time, 0, 0, 0))
        return Reserved(head, bodies, length, places)

    def copy(self, reserved: Reserved) -> None:
        """Copy the bytes of a reserved entry into the gathering block."""
        block = self._blocks[-1]
        at = block.used
        view = block.view
        head = reserved.head
        view[at : at + len(head)] = head
        at += len(head)
        for data, _ in reserved.bodies:
            size = len(data)
            view[at : at + size] = data
            at += size
        block.used = at
        block.entries += 1
        self.entries_total += 1
        self.end = block.start + at

    def wait(self, position: int, waiter: T, within: int = FSYNC) -> None:
        """Put `waiter` into `released` once everything below `position` is durable; in a weaker mode than
        fsync, once it is written."""
        if position <= (self.written if within else self.durable):
            self.released.append(waiter)
            return
        block = self._block_of(position)
        if block is None:
            self._late.append(waiter)
        else:
            block.waiting.append((within, waiter))
        if not within:
            self._hurry(block)

    def demand(self, position: int) -> None:
        """Make W pass `position` as soon as it can, whatever the mode of what stands there."""
        if position > self.durable:
            self._hurry(self._block_of(position))

    def _hurry(self, block: Block[T] | None) -> None:
        if block is None:
            self._due = NOW
        else:
            block.due = NOW

    def _block_of(self, position: int) -> Block[T] | None:
        """The block that ends at `position` or behind; None if all below is written."""
        if position <= self.written:
            return None
        for block in self._blocks:
            if position <= block.end:
                return block
        raise AssertionError(f"position {position} was never appended")

    def _block_for(self, length: int, *, publish: bool) -> Block[T]:
        block = self._blocks[-1] if self._blocks else None
        sealed = self._writing and len(self._blocks) == 1
        gathering = None if sealed else block
        if gathering is not None:
            most = gathering.most_published if publish else gathering.most
            if gathering.used + length <= most:
                return gathering
        needed = BLOCK_HEADER_BYTES + length
        if needed + PAGE_BYTES > self.settings.budget // 2:
            raise TooLarge(f"a change of {length:,} bytes; the journal takes {self.settings.budget // 2:,}")
        alone = needed > self._buffer_bytes
        size = padded(needed) if alone else self._buffer_bytes
        coming = max(needed, min(size, self.file_size - PAGE_BYTES))
        counted_on = self.ample and coming >= size  # whatever is ready: it need not be looked at
        room = Room(coming, coming) if counted_on else self._room(alone=alone)
        if publish:
            self._check_full(needed)
            if padded(needed) > room.published and not self.ample:
                self._wanted = padded(needed) + PAGE_BYTES
                raise Busy("the next journal files are being prepared", retry_after=0.01)
        buffer = bytearray(size) if alone or not self._buffers else self._buffers.pop()
        if self.ample:
            room = Room(max(room.most, coming), max(room.most, coming))
        elif room.most < needed:
            room = Room(coming, 0)
        start = padded(self.end) if block is None else block.end
        fresh: Block[T] = Block(start, buffer, room, alone=alone)
        self._blocks.append(fresh)
        return fresh

    def _room(self, *, alone: bool) -> Room:
        """For one more block behind those that are gathered, which go where `_next_write` will put them."""
        file = self.files[-1] if self.files else None
        left = file.size - file.used if file is not None else 0
        spares = self._spares.copy()
        for block in islice(self._blocks, int(self._writing), None):
            size = padded(block.used)
            if block.alone or size > left:
                file = self._fitting(spares, size, alone=block.alone)
                if file is None:
                    return Room(0, 0)
                spares.remove(file)
                left = file.size - PAGE_BYTES
            left -= size
        here = 0 if alone else left
        if not alone and not self.full:
            spares = [file for file in spares if not self._is_large(file)]
        most = max([here, *(file.size - PAGE_BYTES for file in spares)])
        return Room(most, most if len(spares) > 1 else here if spares else here - self.settings.file_min)

    def _check_full(self, size: int) -> None:
        """Raise `Busy` if publishes have gathered as much as they may."""
        if sum(block.used for block in self._blocks) + size > GATHERED_BYTES_MAX + self._buffer_bytes:
            raise Busy("every block buffer is full: the disk is slower than the publishers", retry_after=0.01)

    # ---- Writing

    @property
    def sync_at(self) -> int | None:
        """The mono ms at which a sync is due though nothing is written till then."""
        return self._due if self._due < NEVER and self._in_flight is None else None

    @property
    def _writing(self) -> bool:
        """The oldest block is on its way."""
        return isinstance(self._in_flight, Write)

    def jobs(self, mono: int, wall: int) -> list[Job]:
        """What is to be done now: the next write or sync, and files to prepare ahead."""
        for block in self._blocks:
            if block.within < NEVER:
                block.due = min(block.due, mono + block.within)
                block.within = NEVER
        jobs: list[Job] = []
        if self._in_flight is None:
            if self._blocks and self._blocks[0].entries:
                self._in_flight = self._next_write(mono, wall)
            if self._in_flight is None and self._due <= mono:
                self._in_flight = Sync(self.files[-1].name)
            if self._in_flight is not None:
                jobs.append(self._in_flight)
        jobs += self._prepares()
        return jobs

    def _next_write(self, mono: int, wall: int) -> Write | Sync | None:
        """The write of the oldest block; the sync that must come before it; None if no file is ready."""
        block = self._blocks[0]
        size = padded(block.used)
        file = self.files[-1] if self.files else None
        if file is None or block.alone or file.size - file.used < size:
            if file is not None and self.durable < self.written:
                return Sync(file.name)
            file = self._roll(block, size, wall)
            if file is None:
                return None
        self.time = max(self.time, wall)
        header = BlockHeader(
            file.number,
            file.salt,
            self.boot,
            self._sequence,
            block.start,
            self.durable,
            self.time,
            block.used,
            block.entries,
        )
        block.view[:BLOCK_HEADER_BYTES] = encode_block_header(header)
        block.view[block.used : size] = bytes(size - block.used)  # whole pages: no read before the write
        self._sequence += 1
        write = Write(file.name, file.used, (block.view[:size],), min(block.due, self._due) <= mono)
        file.used += size
        return write

    def _is_large(self, file: JournalFile) -> bool:
        """Made for one entry that no usual file has room for."""
        return file.size > self.settings.file_max

    def _fitting(self, spares: list[JournalFile], size: int, *, alone: bool) -> JournalFile | None:
        """The smallest that has room for a block. A large one is kept for the entry that it was made for,
        which would never find one otherwise; unless no other can be made."""
        fits = [file for file in spares if file.size - PAGE_BYTES >= size]
        if not alone and not self.full:
            fits = [file for file in fits if not self._is_large(file)]
        return min(fits, key=lambda file: file.size, default=None)

    def _roll(self, block: Block[T], size: int, wall: int) -> JournalFile | None:
        file = self._fitting(self._spares, size, alone=block.alone)
        if file is None:
            return None
        self._spares.remove(file)
        if self.files and wall - self.files[-1].since < FAST_FILL_MS and not block.alone:
            self.file_size = min(self.file_size * 2, self.settings.file_max)
        self.use(file, block.start, wall)
        return file

    def _prepares(self) -> list[Job]:
        jobs: list[Job] = []
        if self.full:
            return jobs
        ahead = [*self._spares, *self._preparing.values()]
        needed, most = max(self._wanted, self._needed()), self.settings.file_max
        usual = [file for file in ahead if file.size <= most]
        if not needed and len(usual) >= SPARES:
            return jobs
        if self.file_size < needed <= most:
            self.file_size = min(1 << (needed - 1).bit_length(), most)
        sizes = [self.file_size] * max(0, SPARES - len(usual))
        if needed > most and not any(file.size >= needed for file in ahead):
            sizes.append(-(-needed // most) * most)
        elif 0 < needed <= most and not any(file.size >= needed for file in usual):
            sizes = sizes or [self.file_size]
        self._wanted = 0
        for size in sizes:
            recycle = next((name for name, has in self._recyclable if has == size), None)
            if recycle is not None:
                self._recyclable = [item for item in self._recyclable if item[0] != recycle]
            file, job = self.new_file(size, recycle)
            self._preparing[file.name] = file
            jobs.append(job)
        return jobs

    def _needed(self) -> int:
        """Size of the file without which the oldest block cannot be written; 0 if none is needed."""
        if not self._blocks or self._writing:
            return 0
        block = self._blocks[0]
        size = padded(block.used)
        file = self.files[-1] if self.files and not block.alone else None
        return size + PAGE_BYTES if file is None or file.size - file.used < size else 0

    def prepared(self, job: Prepare, *, ok: bool) -> None:
        """A Prepare ended; a failed one is tried again when `full` is reset."""
        file = self._preparing.pop(job.name)
        if ok:
            self._spares.append(file)
        else:
            self.full = True
            if job.recycle is None and self.file_size > self.settings.file_min:
                self.file_size = max(self.settings.file_min, self.file_size // 2)

    def done(self) -> None:
        """The write or sync in flight is done: who waited for no more than that is released."""
        job, self._in_flight = self._in_flight, None
        assert job is not None, "nothing is in flight"
        block = self._blocks.popleft() if isinstance(job, Write) else None
        if block is not None:
            self.written = block.end
            self.end = max(self.end, self.written)
            self._due = min(self._due, block.due)
        synced = job.sync if isinstance(job, Write) else True
        if synced:
            self.durable = self.written
            self._due = NEVER
            self.released += self._late
            self._late.clear()
        if block is not None:
            self._release(block, synced=synced)

    def _release(self, block: Block[T], *, synced: bool) -> None:
        """Of a block that is written: who waited for it, and its buffer."""
        for within, waiter in block.waiting:
            (self.released if within or synced else self._late).append(waiter)
        block.waiting.clear()
        block.view.release()
        self.bytes_total += padded(block.used)
        if not block.alone and len(self._buffers) < BUFFERS_KEPT:
            self._buffers.append(block.buffer)

    # ---- Reading and retiring

    def locate(self, position: int) -> tuple[JournalFile, int]:
        """The file that holds `position`, and where in it."""
        file = self.files[bisect_right(self._starts, position) - 1]
        return file, position - file.start + PAGE_BYTES

    def unwritten(self, position: int, length: int) -> bytes | None:
        """A copy of bytes that are gathered or on their way; None if they are written."""
        block = self._block_of(position + length)
        if block is None:
            return None
        at = position - block.start
        return bytes(block.view[at : at + length])

    def retire(self, file: JournalFile) -> Drop | None:
        """Take a file out of the journal: keep it for recycling, or a job to drop it."""
        at = self.files.index(file)
        del self.files[at], self._starts[at]
        self.bytes -= file.size
        return None if self.keep(file.name, file.size) else Drop(file.name)

    def surrender(self) -> list[Drop]:
        """Jobs that drop what was kept to be recycled."""
        jobs = [Drop(name) for name, _ in self._recyclable]
        self._recyclable.clear()
        return jobs

    @property
    def outgrown(self) -> bool:
        """What was kept to be recycled has not the usual size any more."""
        return bool(self._recyclable) and self._recyclable[0][1] != self.file_size

    @property
    def idle(self) -> bool:
        """Nothing is gathered or in flight."""
        return not self._blocks

    @property
    def spare_bytes(self) -> int:
        """Bytes that can still be appended without a new file."""
        return sum(file.size - PAGE_BYTES for file in self._spares)

    @property
    def gathered(self) -> int:
        """Bytes that wait to be handed to the disk."""
        if not self._blocks:
            return 0
        begun = self._blocks[0].end if self._writing else self._blocks[0].start
        return max(0, self.end - begun)
