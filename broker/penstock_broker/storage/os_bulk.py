"""What Copy and Prepare write in bulk, on a real disk: past the page cache, a stage full at a time.

    file    ···┌──┬──────┬──────┬──────┬──┐      whole pages go from the stage to the disk (O_DIRECT),
               └──┴──────┴──────┴──────┴──┘      what is less at either end goes through the cache
               head     pages      tail

Nobody reads soon what is moved to segments, so the cache is left to what is read. Through it, every byte
moved took a page of fresh memory, dear in a virtual machine that gives back what it does not use, and each
sync of it made the journal's wait: broker CPU of a topic written without pause was twice as much.

Bytes are read into the stage where they will stand: one copy, and small gaps between them are read over.
"""

import errno
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from penstock_broker.storage.files import PAGE_BYTES, Damaged, Extent
from penstock_protocol.checksum import Buffer, crc32

STAGE_BYTES = 512 << 10
"""Through the cache, which a file system without O_DIRECT leaves, it is synced after so many bytes: a sync of
the journal waits behind no more."""
GAP_BYTES_MAX = 64 << 10
"""Between two extents that one read fetches."""
BUFFERS_MAX = 1024
"""IOV_MAX of Linux: buffers one preadv takes."""


class Stages:
    """Memory that bulk writes go through, kept for the next one. Safe in threads."""

    def __init__(self) -> None:
        self._unused: list[mmap.mmap] = []

    @contextmanager
    def borrow(self) -> Iterator[mmap.mmap]:
        """One for the caller alone, until the block ends."""
        try:
            stage = self._unused.pop()
        except IndexError:
            stage = mmap.mmap(-1, STAGE_BYTES)
        try:
            yield stage
        finally:
            self._unused.append(stage)


class BulkWrite:
    """Pieces written one behind the other, from `offset` of a file on. `fd` is open for reading and writing,
    `direct` the same file with O_DIRECT, or None; `borrow` opens a file to copy from. `or_zeros`: what cannot
    be read becomes zeros."""

    def __init__(
        self,
        fd: int,
        direct: int | None,
        offset: int,
        stage: Buffer | mmap.mmap,
        borrow: Callable[[str], AbstractContextManager[int]],
        *,
        or_zeros: bool = False,
    ) -> None:
        self._fd = fd
        self._direct = direct
        self._stage = memoryview(stage)
        self._offset = offset
        self._low = self._used = offset % PAGE_BYTES
        self._base = offset - self._used
        """Where the first page of the stage lies in the file, and which of its bytes count."""
        self._borrow = borrow
        self._or_zeros = or_zeros
        self._gap = memoryview(bytearray(GAP_BYTES_MAX))
        self._name = ""
        self._from = self._behind = 0
        self._into: list[memoryview] = []
        """The read that comes next: of that file, from there to there, into these parts of the stage."""

    def write(self, pieces: Iterable[Buffer | Extent]) -> int:
        """Write them all, and sync; how many bytes. `Damaged` for an extent that is not what it was, and
        what was written is void then."""
        for piece in pieces:
            if not isinstance(piece, Extent):
                self._add(piece)
            elif piece.crc is None:
                self._extent(piece)
            else:
                self._checked(piece)
        self._read()
        end = self._base + self._used
        self._flush()
        os.fdatasync(self._fd)
        return end - self._offset

    def _add(self, data: Buffer) -> None:
        done = 0
        with memoryview(data) as view:
            while done < len(view):
                room = self._room(len(view) - done)
                room[:] = view[done : done + len(room)]
                done += len(room)

    def _room(self, size: int) -> memoryview:
        """The next bytes of the stage, up to `size` of them; there is at least one."""
        if self._used == len(self._stage):
            self._read()
            self._flush()
            if self._direct is None:
                os.fdatasync(self._fd)
        room = self._stage[self._used : self._used + size]
        self._used += len(room)
        return room

    # Reading

    def _extent(self, extent: Extent) -> None:
        """Its bytes come with the next read."""
        gap = extent.offset - self._behind
        near = extent.name == self._name and 0 <= gap <= GAP_BYTES_MAX
        if not near or len(self._into) > BUFFERS_MAX - 2:
            self._read()
        elif gap and self._into:
            self._into.append(self._gap[:gap])
        if not self._into:
            self._name, self._from = extent.name, extent.offset
        self._behind = extent.offset
        end = extent.offset + extent.length
        while self._behind < end:
            room = self._room(end - self._behind)
            if not self._into:  # the stage was full, and what was asked for is read
                self._from = self._behind
            self._into.append(room)
            self._behind += len(room)

    def _checked(self, extent: Extent) -> None:
        self._read()
        crc = done = 0
        while done < extent.length:
            part = self._room(extent.length - done)
            self._name, self._from, self._into = extent.name, extent.offset + done, [part]
            self._read()
            crc = crc32(part, crc)
            done += len(part)
        if crc != extent.crc:
            raise Damaged(f"{extent.name}: {extent.length} bytes at {extent.offset} fail their checksum")

    def _read(self) -> None:
        """Fetch what was asked for."""
        into, self._into = self._into, []
        if not into:
            return
        size = sum(map(len, into))
        with self._borrow(self._name) as source:
            try:
                got = os.preadv(source, into, self._from)
            except OSError:
                if not self._or_zeros:
                    raise
                got = 0
            if got < size:
                self._read_apart(source, into)

    def _read_apart(self, source: int, into: list[memoryview]) -> None:
        """The same once more, part by part, since it did not come whole."""
        at = self._from
        for part in into:
            try:
                got = _read_into(source, at, part)
            except OSError:
                if not self._or_zeros:
                    raise
                got = 0
            if got < len(part):
                if not self._or_zeros:
                    raise Damaged(f"{self._name} ends inside {len(part)} bytes at {at}")
                part[got:] = bytes(len(part) - got)
            at += len(part)

    # Writing

    def _flush(self) -> None:
        """Write what is in the stage. It is full, or this is the last time."""
        low, high = self._low, self._used
        first, last = -(-low // PAGE_BYTES) * PAGE_BYTES, high // PAGE_BYTES * PAGE_BYTES
        if self._direct is None or first >= last:
            first = last = high
        self._write(low, first)
        done = first + self._write_direct(first, last)
        self._write(done, high)
        self._base += len(self._stage)
        self._low = self._used = 0

    def _write(self, low: int, high: int) -> None:
        """Bytes of the stage through the cache. After a short write the rest is tried, for only that tells
        why."""
        while low < high:
            low += os.pwrite(self._fd, self._stage[low:high], self._base + low)

    def _write_direct(self, low: int, high: int) -> int:
        """Pages of the stage to the disk: how many bytes. What that does not take, the cache may."""
        if low == high or self._direct is None:
            return 0
        try:
            return os.pwrite(self._direct, self._stage[low:high], self._base + low)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct = None  # this disk wants other alignments
            return 0


def _read_into(fd: int, offset: int, part: memoryview) -> int:
    """Fill `part`: how many bytes came before the end of the file."""
    got = 0
    while got < len(part):
        count = os.preadv(fd, [part[got:]], offset + got)
        if not count:
            break
        got += count
    return got
