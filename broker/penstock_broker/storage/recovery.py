"""Recovery: from what is on the disk to what was known, and what must be made durable before serving.

    checkpoint (the best snapshot of each machine) → every block behind it, in order → the end

A block is proven by a W above its beginning: that of a later block, or of a checkpoint. A bad block at or
above the largest W seen is torn: it and all behind it never counted, even what is whole. A bad block below
is rot: the start is refused, naming file and position. Whole blocks that nothing proves are written again
into this start's fresh file, for what the page cache holds need not be on the disk.

Nothing is changed on disk here; recovering twice, or dying half-way, gives the same.
"""

from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol

from penstock_broker.storage import checkpoint
from penstock_broker.storage.blocks import (
    BLOCK,
    BLOCK_HEADER_BYTES,
    BLOCK_MAGIC,
    CUT,
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
from penstock_broker.storage.files import PAGE_BYTES, UNREADABLE, Readable, StorageError

LOOK_BYTES = 256 << 10
"""Read at once when looking for the first block of a file."""
LOST_PAGE = b"\xff" * PAGE_BYTES
"""Stands for a page that cannot be read: neither a block nor the zeros behind the last one."""


class Fold(Protocol):
    """What recovery feeds: the machines of the node."""

    def restore(self, chosen: checkpoint.Chosen) -> None:
        """A machine as a checkpoint had it."""
        ...

    def replay(self, part: Part, at: At) -> None:
        """A part of the journal; the machine skips what its snapshot already reflects."""
        ...

    def cut(self, position: int) -> None:
        """What stood in the journal there is lost: repair cut it. What does not follow on is corrupt."""
        ...


class OldFile(NamedTuple):
    """A journal file as found. `first`: header of its first whole block, None if it has none; `start`:
    journal position of its first page behind the header, where that block stands unless rot took others;
    `suspect`: why there may have been more in it than can be seen, None if nothing says so."""

    name: str
    number: int
    salt: int
    size: int
    first: BlockHeader | None
    start: int
    suspect: str | None


class Report(NamedTuple):
    """What recovery found."""

    position: int
    """Where the journal goes on: the start of the first unproven block, or the end."""
    sequence: int
    """Of the block to be written there."""
    boot: int
    """Largest boot number seen, in what was cut as well."""
    time: int
    """Largest wall clock seen, ms."""
    number: int
    """Largest file number seen."""
    files: list[OldFile]
    """Files with blocks that may still be needed, the unproven ones' too, oldest first, with their ends in
    `used`."""
    used: list[int]
    unused: list[OldFile]
    """Files without a block that counts."""
    unproven: list[StoredBlock]
    """Whole blocks, bodies too, that are to be made durable before anything is served; all of one file."""
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
    return _Reader(files, found, start, slots).run(fold)


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
    header = decode_file_header(_read(files, name, 0, PAGE_BYTES))
    salt, made = None, 2 * PAGE_BYTES
    if header is not None and header.number == number:
        salt, made = header.salt, header.size
    suspect = None
    if size < made:
        suspect = f"{name} is {size:,} bytes long: it was being made, or its end is lost"
    for at in range(PAGE_BYTES, size, LOOK_BYTES):
        view = memoryview(_read(files, name, at, LOOK_BYTES))
        for where in range(0, len(view), PAGE_BYTES):
            block = decode_block_header(view, where)
            if block is not None and block.file == number and salt in (None, block.salt):
                start = block.position - (at + where - PAGE_BYTES)
                return OldFile(name, number, block.salt, size, block, start, suspect)
    bare = OldFile(name, number, salt or 0, size, None, 0, suspect)
    page = memoryview(_read(files, name, PAGE_BYTES, PAGE_BYTES))
    if suspect is None and (page == LOST_PAGE or _is_damaged(page, 0, bare)):
        return bare._replace(suspect=f"{name} at byte {PAGE_BYTES}: its first block is damaged")
    return bare


def _read(files: Readable, name: str, at: int, length: int) -> bytes:
    """Bytes of a journal file from a page on; a page that the disk cannot read is LOST_PAGE."""
    try:
        return files.read(name, at, length)
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
    if length <= PAGE_BYTES:
        return LOST_PAGE[:length]
    pages = range(at, at + length, PAGE_BYTES)
    return b"".join([_read(files, name, page, min(PAGE_BYTES, at + length - page)) for page in pages])


class _Reader:
    """Walks the blocks of all files in order."""

    def __init__(
        self, files: Readable, found: list[OldFile], start: int, slots: list[checkpoint.Slot]
    ) -> None:
        self._files = files
        self._start = start
        self._slots = slots
        self.order: list[OldFile] = []
        self.unused = [file for file in found if file.first is None]
        self.number = max((file.number for file in found), default=0)
        self.boot = max((file.first.boot for file in found if file.first is not None), default=0)
        self.time = 0
        self.entries = 0
        self.durable = max((slot.newest for slot in slots), default=0)
        """The largest W seen."""
        self.torn: str | None = None
        self.used: dict[str, int] = {}
        self.last: BlockHeader | None = None
        self.unproven: list[StoredBlock] = []
        self._put_in_order([(file.first, file) for file in found if file.first is not None])

    def _put_in_order(self, found: list[tuple[BlockHeader, OldFile]]) -> None:
        """Files whose blocks count, oldest first. What a life found behind its beginning, it wrote again or
        dropped; and a file that begins with a torn block never began. The newest one names the largest W."""
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
        """Why the first block of the newest file is bad, unless a W proves it. It may be the copy of a block
        that stands whole in the file before: the copies behind it were written first."""
        data = memoryview(_read(self._files, file.name, 0, file.size))
        for header in _headers(data, file, PAGE_BYTES):
            self.durable = max(self.durable, header.durable)
        if file.start < self.durable:
            return None
        if first.position > file.start:
            return "a block is missing or damaged"
        block = decode_block(data, PAGE_BYTES, first)
        return block.bad or bad_body(block)

    def run(self, fold: Fold) -> Report:
        self._check_beginning()
        for block in self._blocks():
            self._apply(fold, block)
            self.last = block.header
            if not self._is_proven(block.header):
                self.unproven.append(block)
        end, sequence = self._end()
        if end < self.durable:
            raise StorageError(
                f"the journal ends at {end}, but was durable up to {self.durable}: "
                "files are missing or damaged; restore a backup of the directory"
            )
        suspects = [file.suspect for file in (*self.unused, *self.order[-1:]) if file.suspect is not None]
        self.torn = self.torn or next(iter(suspects), None)
        if self.unproven:
            end, sequence = self.unproven[0].header.position, self.unproven[0].header.sequence
        files, used = self._files_below(end)
        return Report(
            end,
            sequence,
            self.boot,
            self.time,
            self.number,
            files,
            used,
            [*self.unused, *(file for file in self.order if file not in files)],
            self.unproven,
            self.torn,
            self._slots,
            self.entries,
        )

    def _is_proven(self, header: BlockHeader) -> bool:
        """W lies above where the block begins, so the sync that moved it there covered all of the block."""
        return header.position < self.durable

    def _check_beginning(self) -> None:
        if not self.order:
            if self._slots:
                raise StorageError("there is a checkpoint, but no journal: restore a backup of the directory")
        elif self.order[0].start > self._start:
            raise StorageError(
                f"the journal begins at {self.order[0].start}, but is needed from {self._start}: "
                "files are missing; restore a backup of the directory"
            )

    def _end(self) -> tuple[int, int]:
        """Position and sequence behind the last whole block."""
        if self.last is not None:
            return self.last.position + padded(self.last.length), self.last.behind
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
        if header.flags & CUT:
            fold.cut(header.position)
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
        data = memoryview(_read(self._files, file.name, 0, file.size))
        at = PAGE_BYTES
        while expected != stop:
            header = decode_block_header(data, at) if at < len(data) else None
            if header is None or not _is_of(header, file) or header.sequence != expected:
                self._check_torn(file, data, at, expected, stop, "a block is missing or damaged")
                break
            block = self._decoded(data, at, header)
            if block.bad is not None:
                self._check_torn(file, data, at, expected, stop, block.bad)
                break
            expected = header.behind
            at += padded(header.length)
            self.used[file.name] = at
            yield block
        return expected

    def _decoded(self, data: memoryview, at: int, header: BlockHeader) -> StoredBlock:
        """The block at `at`, looked at as closely as is needed."""
        if header.position + header.length <= self._start:  # every machine reflects it already
            return StoredBlock(header, data[at : at + header.length], [], None)
        block = decode_block(data, at, header)
        if block.bad is None and not self._is_proven(header):
            return block._replace(bad=bad_body(block))
        return block

    def _check_torn(
        self, file: OldFile, data: memoryview, at: int, expected: int, stop: int | None, why: str
    ) -> None:
        """Block `expected` is bad: rot if a W proves it, else torn. Nothing may ever have stood there."""
        lost = data[at : at + PAGE_BYTES] == LOST_PAGE
        begun = _is_damaged(data, at, file)
        later = any(header.sequence >= expected for header in _headers(data, file, at))
        why = "it cannot be read" if lost else why
        if stop is not None or ((lost or begun or later) and file.start + at - PAGE_BYTES < self.durable):
            raise self._rot(file, at, why)
        if lost or begun or later:
            self.torn = f"{file.name} at byte {at}: {why}"

    def _rot(self, file: OldFile, at: int, why: str) -> StorageError:
        return StorageError(
            f"{file.name} is damaged at byte {at}: {why}. It was confirmed as durable, so nothing is dropped "
            "silently; restore a backup of the directory, or see `penstock doctor`"
        )


def _headers(data: memoryview, file: OldFile, at: int) -> Iterator[BlockHeader]:
    """Every block header that stands in a file from `at` on."""
    for where in range(at, len(data), PAGE_BYTES):
        header = decode_block_header(data, where)
        if header is not None and _is_of(header, file):
            yield header


def _is_damaged(data: memoryview, at: int, file: OldFile) -> bool:
    """A block was begun at `at` in this use of the file, and its header does not hold: its magic, or the
    number or salt of the file are there. Damage to one of them leaves the others."""
    if len(data) - at < BLOCK_HEADER_BYTES or decode_block_header(data, at) is not None:
        return False
    magic, _, _, number, salt = BLOCK.unpack_from(data, at)[:5]
    return bool(magic == BLOCK_MAGIC or number == file.number or (salt and salt == file.salt))


def _is_of(header: BlockHeader, file: OldFile) -> bool:
    """Written in this use of the file, not left from an earlier one."""
    return header.file == file.number and header.salt == file.salt
