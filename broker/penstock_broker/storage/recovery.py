"""Recovery: from what is on the disk to what was known, and what must be made durable before serving.

    checkpoint (the best snapshot of each machine) → every block behind it, in order → the end

A block is proven when a later block exists, for the next write begins only after the last sync returned.
A bad block at or above the largest W seen is torn: it and all behind it never counted. A bad block below
is rot: the start is refused, naming file and position. The last whole block is unproven: it is written
again into this start's fresh file, for what the page cache holds need not be on the disk.

Nothing is changed on disk here; recovering twice, or dying half-way, gives the same.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol

from penstock_broker.storage import checkpoint
from penstock_broker.storage.blocks import (
    BLOCK_MAGIC,
    PREFIX,
    BlockHeader,
    StoredBlock,
    bad_body,
    decode_block,
    decode_block_header,
    decode_file_header,
    padded,
)
from penstock_broker.storage.entries import At, Part
from penstock_broker.storage.files import PAGE_BYTES, Readable, StorageError

LOOK_BYTES = 256 << 10
"""Read at once when looking for the first block of a file."""


class Fold(Protocol):
    """What recovery feeds: the machines of the node."""

    def restore(self, chosen: checkpoint.Chosen) -> None:
        """A machine as a checkpoint had it."""
        ...

    def replay(self, part: Part, at: At) -> None:
        """A part of the journal; the machine skips what its snapshot already reflects."""
        ...


class OldFile(NamedTuple):
    """A journal file as found. `first`: header of its first whole block, None if it has none; `start`:
    journal position of its first page behind the header, where that block stands unless rot took others."""

    name: str
    number: int
    salt: int
    size: int
    first: BlockHeader | None
    start: int


class Report(NamedTuple):
    """What recovery found."""

    position: int
    """Where the journal goes on: the start of the unproven block, or the end."""
    sequence: int
    """Of the block to be written there."""
    boot: int
    """Largest boot number seen."""
    time: int
    """Largest wall clock seen, ms."""
    number: int
    """Largest file number seen."""
    files: list[OldFile]
    """Files with blocks that may still be needed, the unproven one's too, oldest first, with their ends in
    `used`."""
    used: list[int]
    unused: list[OldFile]
    """Files without a block that counts."""
    unproven: StoredBlock | None
    torn: str | None
    """What was cut, for the log; None if nothing was."""
    slots: list[checkpoint.Slot]
    entries: int


def recover(files: Readable, fold: Fold) -> Report:
    """Bring `fold` to the state on the disk. Raises `StorageError` where the disk forbids to serve."""
    slots = checkpoint.read_all(files)
    names = files.names()
    if not slots and any(name in names for name in checkpoint.SLOTS) and _needs_checkpoint(files, names):
        raise StorageError(
            "both checkpoints are damaged and the journal before them is gone: "
            "restore a backup of the directory"
        )
    start = slots[0].oldest if slots else 0
    for position, chosen in checkpoint.choose(files, slots):
        start = min(start, position)
        if chosen is not None:
            fold.restore(chosen)
    found = [_look(files, name, size) for name, size in sorted(names.items()) if _is_journal(name)]
    return _Reader(files, found, start).run(fold, slots)


def _is_journal(name: str) -> bool:
    return name.startswith(PREFIX)


def _needs_checkpoint(files: Readable, names: dict[str, int]) -> bool:
    """The journal does not begin at its beginning."""
    looked = [_look(files, name, size) for name, size in names.items() if _is_journal(name)]
    firsts = [file.first.sequence for file in looked if file.first is not None]
    return not firsts or min(firsts) > 0


def _look(files: Readable, name: str, size: int) -> OldFile:
    """The file's header and its first whole block. A damaged header is no loss while a block repeats what
    it said: the file of a crash in Prepare has no block of its number."""
    number = int(name.removeprefix(PREFIX)) if name.removeprefix(PREFIX).isdigit() else 0
    header = decode_file_header(files.read(name, 0, PAGE_BYTES))
    salt = header.salt if header is not None and header.number == number else None
    for at in range(PAGE_BYTES, size, LOOK_BYTES):
        view = memoryview(files.read(name, at, LOOK_BYTES))
        for where in range(0, len(view), PAGE_BYTES):
            block = decode_block_header(view, where)
            if block is not None and block.file == number and salt in (None, block.salt):
                start = block.position - (at + where - PAGE_BYTES)
                return OldFile(name, number, block.salt, size, block, start)
    return OldFile(name, number, salt or 0, size, None, 0)


class _Reader:
    """Walks the blocks of all files in order, one block behind what it has seen."""

    def __init__(self, files: Readable, found: list[OldFile], start: int) -> None:
        self._files = files
        self._start = start
        self.order: list[OldFile] = []
        self.unused = [file for file in found if file.first is None]
        self.number = max((file.number for file in found), default=0)
        self.boot = 0
        self.time = 0
        self.entries = 0
        self.largest_durable = 0
        self.torn: str | None = None
        self.used: dict[str, int] = {}
        self._put_in_order([(file.first, file) for file in found if file.first is not None])

    def _put_in_order(self, found: list[tuple[BlockHeader, OldFile]]) -> None:
        """Files whose blocks count, oldest first. What a life found behind its beginning, it wrote again or
        dropped; and a file that begins with a torn block never began."""
        end: int | None = None
        for first, file in sorted(found, key=lambda each: (each[0].boot, each[0].sequence), reverse=True):
            if end is None and (why := self._torn_beginning(file, first)) is not None:
                self.torn = self.torn or f"{file.name} at byte {PAGE_BYTES}: {why}"
                self.unused.append(file)
            elif end is not None and first.sequence >= end:
                self.unused.append(file)
            else:
                end = first.sequence
                self.order.insert(0, file)

    def _torn_beginning(self, file: OldFile, first: BlockHeader) -> str | None:
        """Why the file's first block is bad, if nothing is behind it. It may be the copy of a block that
        stands whole in the file before."""
        data = memoryview(self._files.read(file.name, 0, file.size))
        block = decode_block(data, PAGE_BYTES, first)
        why = block.bad or bad_body(block)
        if (
            why is None
            or first.position > file.start
            or self._later(file, data, PAGE_BYTES, first.sequence + 1)
        ):
            return None
        return why

    def run(self, fold: Fold, slots: list[checkpoint.Slot]) -> Report:
        self.largest_durable = max((slot.newest for slot in slots), default=0)
        self._check_beginning(bool(slots))
        last: StoredBlock | None = None
        before: BlockHeader | None = None
        for block in self._blocks():
            if last is not None:
                self._apply(fold, last)
                before = last.header
            last = block
        if last is not None and (why := bad_body(last)) is not None:
            if last.header.position < self.largest_durable:
                raise StorageError(
                    f"journal position {last.header.position} is proven durable, but rotten: {why}"
                )
            self.torn = f"the last block, at position {last.header.position}: {why}"
            last = None
        if last is not None:
            self._apply(fold, last)
        position, sequence = self._end(last, before)
        end = position if last is None else position + padded(last.header.length)
        if end < self.largest_durable:
            raise StorageError(
                f"the journal ends at {end}, but was durable up to {self.largest_durable}: "
                "files are missing or damaged; restore a backup of the directory"
            )
        files, used = self._files_below(position)
        return Report(
            position,
            sequence,
            self.boot,
            self.time,
            self.number,
            files,
            used,
            [*self.unused, *(file for file in self.order if file not in files)],
            last,
            self.torn,
            slots,
            self.entries,
        )

    def _check_beginning(self, has_checkpoint: bool) -> None:
        if not self.order:
            if has_checkpoint:
                raise StorageError("there is a checkpoint, but no journal: restore a backup of the directory")
        elif self.order[0].start > self._start:
            raise StorageError(
                f"the journal begins at {self.order[0].start}, but is needed from {self._start}: "
                "files are missing; restore a backup of the directory"
            )

    def _end(self, last: StoredBlock | None, before: BlockHeader | None) -> tuple[int, int]:
        if last is not None:
            return last.header.position, last.header.sequence
        if before is not None:
            return before.position + padded(before.length), before.sequence + 1
        if self.order and self.order[0].first is not None:
            first = self.order[0].first
            return first.position, first.sequence
        return 0, 0

    def _files_below(self, position: int) -> tuple[list[OldFile], list[int]]:
        kept = [
            file
            for file in self.order
            if file.first is not None and self.used.get(file.name, 0) and file.start <= position
        ]
        return kept, [self.used[file.name] for file in kept]

    def _apply(self, fold: Fold, block: StoredBlock) -> None:
        header = block.header
        self.boot = max(self.boot, header.boot)
        self.time = max(self.time, header.time)
        self.largest_durable = max(self.largest_durable, header.durable)
        for at, entry in block.entries:
            end = header.position + at + entry.length
            where = header.position + at
            self.entries += 1
            for stored in entry.parts:
                body = where + stored.body_at
                fold.replay(stored.part, At(end, entry.time, body, stored.body_length, stored.body_crc))

    def _blocks(self) -> Iterator[StoredBlock]:
        """Whole blocks in sequence order, up to the first that is torn. Raises `StorageError` for rot."""
        expected: int | None = None
        for file, first, stop in self._needed():
            if expected is not None and first > expected:
                raise self._rot(file, PAGE_BYTES, "blocks before its first one are missing")
            expected = yield from self._blocks_of(file, first, stop)

    def _needed(self) -> list[tuple[OldFile, int, int | None]]:
        """Files to be read, each with its first sequence and that of its follower."""
        needed: list[tuple[OldFile, int, int | None]] = []
        for file, follower in zip(self.order, [*self.order[1:], None], strict=False):
            assert file.first is not None
            stop = follower.first.sequence if follower is not None and follower.first is not None else None
            if follower is not None and follower.start <= self._start:
                self.used[file.name] = PAGE_BYTES + follower.start - file.start
                continue  # every machine reflects it already
            if file.first.position > file.start:
                raise self._rot(file, PAGE_BYTES, "a block is missing or damaged")
            needed.append((file, file.first.sequence, stop))
        return needed

    def _blocks_of(self, file: OldFile, expected: int, stop: int | None) -> Generator[StoredBlock, None, int]:
        data = memoryview(self._files.read(file.name, 0, file.size))
        at = PAGE_BYTES
        while expected != stop:
            header = decode_block_header(data, at) if at < len(data) else None
            if header is None or not _is_of(header, file) or header.sequence != expected:
                self._check_torn(file, data, at, expected, stop, "a block is missing or damaged")
                break
            reflected = header.position + header.length <= self._start
            block = StoredBlock(header, data[at : at + header.length], [], None)
            block = block if reflected else decode_block(data, at, header)
            if block.bad is not None:
                self._check_torn(file, data, at, expected, stop, block.bad)
                break
            expected += 1
            at += padded(header.length)
            self.used[file.name] = at
            yield block
        return expected

    def _check_torn(
        self, file: OldFile, data: memoryview, at: int, expected: int, stop: int | None, why: str
    ) -> None:
        """Block `expected` is bad: torn if nothing newer was ever written, rot if something was."""
        if stop is not None or self._later(file, data, at, expected + 1):
            raise self._rot(file, at, why)
        if self._later(file, data, at, expected) or (
            data[at : at + 4] == BLOCK_MAGIC and decode_block_header(data, at) is None
        ):
            self.torn = f"{file.name} at byte {at}: {why}"

    @staticmethod
    def _later(file: OldFile, data: memoryview, at: int, sequence: int) -> bool:
        """The header of a block from `sequence` on stands at `at` or behind."""
        return any(
            header.sequence >= sequence and _is_of(header, file)
            for where in range(at, len(data), PAGE_BYTES)
            if (header := decode_block_header(data, where)) is not None
        )

    def _rot(self, file: OldFile, at: int, why: str) -> StorageError:
        return StorageError(
            f"{file.name} is damaged at byte {at}: {why}. It was confirmed as durable, so nothing is dropped "
            "silently; restore a backup of the directory"
        )


def _is_of(header: BlockHeader, file: OldFile) -> bool:
    """Written in this use of the file, not left from an earlier one."""
    return header.file == file.number and header.salt == file.salt
