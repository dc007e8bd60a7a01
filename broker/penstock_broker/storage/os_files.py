"""Files on a real disk: with `os_bulk` the only room that touches `os` and `mmap`.

Invariants: a descriptor is never closed while a thread works with it; a file that is mapped was
zero-filled or written in full, so a store or a look never meets a hole (a hole turns a full disk into
SIGBUS); a name that was made is synced with its directory before anybody hears of it.

It knows names, bytes and jobs; what stands in a file, others know.
"""

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock

from penstock_broker.storage.files import (
    Copy,
    Drop,
    Extent,
    Job,
    Load,
    Prepare,
    Rename,
    Space,
    StorageError,
    Sync,
    Write,
)
from penstock_broker.storage.os_bulk import BUFFERS_MAX, STAGE_BYTES, BulkWrite, Stages
from penstock_protocol.checksum import Buffer

LOCK_NAME = "lock"
DESCRIPTORS_MAX = 256
"""Open files kept for the next use; those in use at this moment come on top."""
DIRECT_BYTES_MIN = 64 << 10
"""A copy of less goes through the page cache."""
CHUNK_BYTES = 1 << 20
CACHED_CHUNKS_MAX = 512
"""Of what is read, so many chunks stay in the page cache for whoever reads the same soon."""

_ZEROS = memoryview(bytes(STAGE_BYTES))
_NOT_AT_ONCE = (errno.EAGAIN, errno.EOPNOTSUPP)


class _Descriptor:
    """One open file: how many work with it, and whether its name is gone. `with` it, once it is borrowed; a
    class of its own, since a generator would cost as much as the rest of a small write."""

    __slots__ = ("_lock", "fd", "forgotten", "users")

    def __init__(self, fd: int, lock: Lock) -> None:
        self.fd = fd
        self._lock = lock
        self.users = 1
        self.forgotten = False

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self.users -= 1
            if self.forgotten and not self.users:
                os.close(self.fd)


class _Descriptors:
    """Open files of one directory by name, the longest unused closed first. Safe in threads."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._lock = Lock()
        self._open: dict[str, _Descriptor] = {}

    def borrow(self, name: str, *, new: bool = False) -> _Descriptor:
        """The descriptor of `name`, open for reading and writing until its `with` ends; `new`: the file is
        made, and must not exist."""
        descriptor = None if new else self.take(name)
        return descriptor or self._open_new(name, os.O_CREAT | os.O_EXCL if new else 0)

    def forget(self, name: str) -> None:
        """`name` is no longer that file: the descriptor is closed once nobody works with it."""
        with self._lock:
            self._forget(name)

    def close(self) -> None:
        """Forget every name."""
        with self._lock:
            for name in list(self._open):
                self._forget(name)

    def take(self, name: str) -> _Descriptor | None:
        """The descriptor of `name` if it is open."""
        with self._lock:
            descriptor = self._open.pop(name, None)
            if descriptor is not None:
                self._open[name] = descriptor
                descriptor.users += 1
            return descriptor

    def _open_new(self, name: str, flags: int) -> _Descriptor:
        fd = os.open(name, os.O_RDWR | flags, 0o640, dir_fd=self._directory)  # may wait: not under the lock
        with self._lock:
            self._forget(name)  # a thread that was faster keeps its own until it is done
            descriptor = self._open[name] = _Descriptor(fd, self._lock)
            idle = [name for name, each in self._open.items() if not each.users]
            for unused in idle[: max(0, len(self._open) - DESCRIPTORS_MAX)]:
                self._forget(unused)
            return descriptor

    def _forget(self, name: str) -> None:
        descriptor = self._open.pop(name, None)
        if descriptor is not None:
            descriptor.forgotten = True
            if not descriptor.users:
                os.close(descriptor.fd)


class _Cached:
    """Which chunks of files reads left in the page cache: the longest unread leaves it. Safe in threads.

    So somebody who reads all that is old does not push out what everybody reads at the end; and the pages of
    what he has read serve for what he reads next: in a virtual machine a fresh one costs more than its bytes.
    """

    def __init__(self, descriptors: _Descriptors) -> None:
        self._descriptors = descriptors
        self._lock = Lock()
        self._chunks: dict[tuple[str, int], None] = {}

    def read(self, name: str, offset: int, length: int) -> None:
        """These bytes were read just now."""
        with self._lock:
            for number in range(offset // CHUNK_BYTES, -(-(offset + length) // CHUNK_BYTES)):
                self._chunks.pop((name, number), None)
                self._chunks[name, number] = None
            unread = list(islice(self._chunks, max(0, len(self._chunks) - CACHED_CHUNKS_MAX)))
            for chunk in unread:
                del self._chunks[chunk]
        for file, number in unread:
            descriptor = self._descriptors.take(file)
            if descriptor is not None:  # it is worth no opening of a file, which may wait, or fail
                with descriptor as fd:
                    os.posix_fadvise(fd, number * CHUNK_BYTES, CHUNK_BYTES, os.POSIX_FADV_DONTNEED)


class OsFiles:
    """The data directory at `path`. Implements `Files`."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._directory = -1
        self._locked = -1
        self._maps: dict[str, mmap.mmap] = {}
        self._stages = Stages()

    def lock(self) -> None:
        """Make the directory if need be and take it. A second call does nothing.

        Raises `StorageError`, one line: in use (by which process), not writable, not a directory.
        """
        if self._locked >= 0:
            return
        try:
            _make_directory(self._path)
            self._directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
            self._descriptors = _Descriptors(self._directory)
            self._cached = _Cached(self._descriptors)
            self._locked = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o640, dir_fd=self._directory)
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._locked, 0)
            os.pwrite(self._locked, b"%d\n" % os.getpid(), 0)
            os.fsync(self._locked)
            os.fsync(self._directory)
        except BlockingIOError:
            holder = os.pread(self._locked, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.close()
            raise StorageError(f"data directory {self._path} is in use by process {holder}") from None
        except OSError as error:
            self.close()
            what = f"{error.filename or self._path}: {error.strerror}"
            raise StorageError(f"data directory {self._path} cannot be used: {what}") from None

    def names(self) -> dict[str, int]:
        """Every file with its size in bytes; the lock is not one of them."""
        with os.scandir(self._directory) as entries:
            looks = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
        return {
            name: look.st_size
            for name, look in looks.items()
            if stat.S_ISREG(look.st_mode) and name != LOCK_NAME
        }

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read now; for recovery and tools, never while serving. Short at the end of the file."""
        with self._descriptors.borrow(name) as fd:
            return _read(fd, offset, length)

    def view(self, name: str, offset: int, length: int) -> memoryview:
        """Bytes of a file that was prepared in this life, without a copy. The view pins the file's map."""
        return memoryview(self._maps[name])[offset : offset + length]

    def peek(self, name: str, offset: int, length: int) -> Buffer | None:
        """Bytes of any file if they are in memory already; None if that would wait for the disk."""
        buffer = bytearray(length)
        got = 0
        with self._descriptors.borrow(name) as fd, memoryview(buffer) as view:
            while got < length:
                try:
                    count = os.preadv(fd, [view[got:]], offset + got, os.RWF_NOWAIT)
                except OSError as error:
                    if error.errno in _NOT_AT_ONCE:
                        return None
                    raise
                if not count:
                    break
                got += count
        self._cached.read(name, offset, got)
        return buffer if got == length else buffer[:got]

    def unmap(self, name: str) -> bool:
        """Close the map of a file; False while any view of it is alive."""
        mapped = self._maps.get(name)
        if mapped is None:
            return True
        try:
            mapped.close()
        except BufferError:
            return False
        del self._maps[name]
        return True

    def space(self) -> Space:
        """Free (to this user) and total bytes of the file system."""
        found = os.statvfs(self._directory)
        return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def close(self) -> None:
        """Give up the lock, every descriptor, and every map that no view pins."""
        for name in list(self._maps):
            self.unmap(name)
        if self._directory >= 0:
            self._descriptors.close()
        for fd in (self._locked, self._directory):
            if fd >= 0:
                os.close(fd)
        self._locked = self._directory = -1

    def run(self, job: Job) -> object:
        """Do a job; raises `OSError` or `StorageError`. Called in threads, one job a call."""
        match job:
            case Write():
                self._write(job)
            case Sync():
                self._sync(job)
            case Prepare():
                self._prepare(job)
            case Drop():
                self._drop(job)
            case Rename():
                self._rename(job)
            case Copy():
                return self._copy(job)
            case Load():
                loaded = self.read(*job)
                self._cached.read(job.name, job.offset, len(loaded))
                return loaded
        return None

    def _write(self, job: Write) -> None:
        with self._descriptors.borrow(job.name) as fd:
            _append(fd, job.offset, job.data)
            if job.sync:
                os.fdatasync(fd)

    def _sync(self, job: Sync) -> None:
        # Its map keeps the file in memory, so a failed writeback is told here whichever descriptor wrote.
        with self._descriptors.borrow(job.name) as fd:
            os.fdatasync(fd)

    def _prepare(self, job: Prepare) -> None:
        if job.recycle is not None:
            if job.recycle in self._maps:
                raise StorageError(f"{job.recycle} is to be recycled while it is mapped")
            self._descriptors.forget(job.recycle)
            os.rename(job.recycle, job.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        new = job.recycle is None
        with self._descriptors.borrow(job.name, new=new) as fd, self._unlinked_on_failure(job.name):
            self._zero_fill(job.name, fd, job.size)
            _write(fd, 0, job.header)
            os.fdatasync(fd)
            os.fsync(self._directory)
            self._maps[job.name] = mmap.mmap(fd, job.size, access=mmap.ACCESS_READ)

    def _copy(self, job: Copy) -> int:
        if self._exists(job.name):
            with self._descriptors.borrow(job.name) as fd:
                return self._take_steps(fd, job)
        with self._descriptors.borrow(job.name, new=True) as fd, self._unlinked_on_failure(job.name):
            return self._take_steps(fd, job)

    def _take_steps(self, fd: int, job: Copy) -> int:
        written = 0
        for step in job.steps:
            self._zero_fill(job.name, fd, step.offset)
            size = sum(piece.length if isinstance(piece, Extent) else len(piece) for piece in step.pieces)
            with self._bulk(job.name, fd, step.offset, size, or_zeros=job.or_zeros) as bulk:
                written += bulk.write(step.pieces)
        os.fsync(self._directory)  # an older file, too: who made it may not have come so far
        return written

    def _zero_fill(self, name: str, fd: int, size: int) -> None:
        """Make a file at least `size` bytes long by writing, so that a full disk is noticed here and now."""
        start = os.fstat(fd).st_size
        if start < size:
            zeros = (_ZEROS[: size - at] for at in range(start, size, STAGE_BYTES))
            with self._bulk(name, fd, start, size - start) as bulk:
                bulk.write(zeros)

    @contextmanager
    def _bulk(
        self, name: str, fd: int, offset: int, size: int, *, or_zeros: bool = False
    ) -> Iterator[BulkWrite]:
        """What writes `size` bytes from `offset` of a file on."""
        with self._direct(name, size) as direct, self._stages.borrow() as stage:
            yield BulkWrite(fd, direct, offset, stage, self._descriptors.borrow, or_zeros=or_zeros)

    @contextmanager
    def _direct(self, name: str, size: int) -> Iterator[int | None]:
        """A file once more, to be written past the page cache, where `size` bytes are worth it and it can."""
        if size < DIRECT_BYTES_MIN:
            yield None
            return
        try:
            fd = os.open(name, os.O_WRONLY | os.O_DIRECT, dir_fd=self._directory)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def _drop(self, job: Drop) -> None:
        self._descriptors.forget(job.name)
        os.unlink(job.name, dir_fd=self._directory)
        os.fsync(self._directory)

    def _rename(self, job: Rename) -> None:
        self._descriptors.forget(job.name)
        os.rename(job.name, job.to, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._directory)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def _unlinked_on_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._descriptors.forget(name)
            os.unlink(name, dir_fd=self._directory)
            raise


def _make_directory(path: Path) -> None:
    """The directory and what is missing above it, each name durable."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(mode=0o750, exist_ok=True)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _read(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes, or what there is before the end of the file."""
    data = os.pread(fd, length, offset)
    while data and len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _write(fd: int, offset: int, data: Buffer) -> int:
    """Write all of `data`; how many bytes. After a short write the rest is tried, for only that tells why."""
    written = 0
    with memoryview(data) as view:
        while written < len(view):
            written += os.pwrite(fd, view[written:], offset + written)
    return written


def _append(fd: int, offset: int, buffers: Sequence[Buffer]) -> None:
    """Write `buffers` one behind the other. A short write is an error here: the file was filled before."""
    for at in range(0, len(buffers), BUFFERS_MAX):
        some = buffers[at : at + BUFFERS_MAX]
        size = sum(map(len, some))
        if os.pwritev(fd, some, offset) < size:
            raise OSError(errno.EIO, f"a write of {size} bytes came back short")
        offset += size
