"""Files on a real disk: the only room that touches `os` and `mmap`.

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
from pathlib import Path
from threading import Lock

from penstock_broker.storage.files import (
    Copy,
    Damaged,
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
from penstock_protocol.checksum import Buffer, crc32

LOCK_NAME = "lock"
CHUNK_BYTES = 1 << 20
DESCRIPTORS_MAX = 256
"""Open files kept for the next use; those in use at this moment come on top."""
BUFFERS_MAX = 1024
"""IOV_MAX of Linux: buffers one pwritev takes."""
SYNCED_BYTES = 512 << 10
"""What is written in bulk is synced after so many bytes: a sync of the journal waits behind no more."""
GAP_BYTES_MAX = 64 << 10
"""Between two extents that one read fetches."""

_ZEROS = memoryview(bytes(SYNCED_BYTES))
_NOT_AT_ONCE = (errno.EAGAIN, errno.EOPNOTSUPP)


class _Descriptor:
    """One open file: how many work with it, and whether its name is gone."""

    __slots__ = ("fd", "forgotten", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.forgotten = False


class _Descriptors:
    """Open files of one directory by name, the longest unused closed first. Safe in threads."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._lock = Lock()
        self._open: dict[str, _Descriptor] = {}

    @contextmanager
    def borrow(self, name: str, *, new: bool = False) -> Iterator[int]:
        """The descriptor of `name`, open for reading and writing until the block ends; `new`: the file is
        made, and must not exist."""
        descriptor = None if new else self._take(name)
        if descriptor is None:
            descriptor = self._open_new(name, os.O_CREAT | os.O_EXCL if new else 0)
        try:
            yield descriptor.fd
        finally:
            with self._lock:
                descriptor.users -= 1
                if descriptor.forgotten and not descriptor.users:
                    os.close(descriptor.fd)

    def forget(self, name: str) -> None:
        """`name` is no longer that file: the descriptor is closed once nobody works with it."""
        with self._lock:
            self._forget(name)

    def close(self) -> None:
        """Forget every name."""
        with self._lock:
            for name in list(self._open):
                self._forget(name)

    def _take(self, name: str) -> _Descriptor | None:
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
            descriptor = self._open[name] = _Descriptor(fd)
            descriptor.users = 1
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


class OsFiles:
    """The data directory at `path`. Implements `Files`."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._directory = -1
        self._locked = -1
        self._maps: dict[str, mmap.mmap] = {}

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

    def peek(self, name: str, offset: int, length: int) -> bytes | None:
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
        return bytes(buffer) if got == length else bytes(buffer[:got])

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
                return self.read(*job)
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
            _zero_fill(fd, job.size)
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
            _zero_fill(fd, step.offset)
            at = synced = step.offset
            for some in _together(step.pieces):
                if isinstance(some, Extent):
                    at += self._copy_extent(fd, at, some)
                else:
                    at += self._copy_together(fd, at, some, or_zeros=job.or_zeros)
                if at - synced >= SYNCED_BYTES:
                    os.fdatasync(fd)
                    synced = at
            os.fdatasync(fd)
            written += at - step.offset
        os.fsync(self._directory)  # an older file, too: who made it may not have come so far
        return written

    def _copy_together(
        self, fd: int, offset: int, pieces: Sequence[Buffer | Extent], *, or_zeros: bool
    ) -> int:
        """Pieces whose extents lie close together in one file: one read, one write."""
        extents = [piece for piece in pieces if isinstance(piece, Extent)]
        if not extents:
            return _write_all(fd, offset, [piece for piece in pieces if not isinstance(piece, Extent)])
        low, high = extents[0].offset, extents[-1].offset + extents[-1].length
        with self._descriptors.borrow(extents[0].name) as source:
            read = _read_or_zeros if or_zeros else _read_all
            whole = memoryview(read(source, low, high - low, extents))
        buffers: list[Buffer] = []
        for piece in pieces:
            if isinstance(piece, Extent):
                buffers.append(whole[piece.offset - low : piece.offset - low + piece.length])
            else:
                buffers.append(piece)
        return _write_all(fd, offset, buffers)

    def _copy_extent(self, fd: int, offset: int, extent: Extent) -> int:
        """Copy chunk by chunk; what was written is void when `Damaged` is raised at the end."""
        crc = copied = 0
        with self._descriptors.borrow(extent.name) as source:
            while copied < extent.length:
                size = min(CHUNK_BYTES, extent.length - copied)
                chunk = _read(source, extent.offset + copied, size)
                if len(chunk) < size:
                    raise Damaged(f"{extent.name} ends inside {extent.length} bytes at {extent.offset}")
                crc = crc32(chunk, crc)
                copied += _write(fd, offset + copied, chunk)
        if extent.crc is not None and crc != extent.crc:
            raise Damaged(f"{extent.name}: {extent.length} bytes at {extent.offset} fail their checksum")
        return copied

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


def _together(pieces: Sequence[Buffer | Extent]) -> Iterator[Extent | Sequence[Buffer | Extent]]:
    """Extents that are checked, one by one, and between them runs of what is not: buffers, and other
    extents of one file that lie in order, with small gaps, so that one read fetches them."""
    run: list[Buffer | Extent] = []
    low, last = 0, None
    for piece in pieces:
        if isinstance(piece, Extent):
            fits = last is None or (
                piece.name == last.name
                and 0 <= piece.offset - last.offset - last.length <= GAP_BYTES_MAX
                and piece.offset + piece.length - low <= SYNCED_BYTES
            )
            if run and not (piece.crc is None and fits):
                yield run
                run, last = [], None
            if piece.crc is not None:
                yield piece
                continue
            low = piece.offset if last is None else low
            last = piece
        run.append(piece)
        if len(run) == BUFFERS_MAX:
            yield run
            run, last = [], None
    if run:
        yield run


def _read_all(fd: int, offset: int, length: int, extents: Sequence[Extent]) -> Buffer:
    """`length` bytes, or `Damaged`."""
    data = _read(fd, offset, length)
    if len(data) < length:
        raise Damaged(f"{extents[0].name} ends inside {length} bytes at {offset}")
    return data


def _read_or_zeros(fd: int, offset: int, length: int, extents: Sequence[Extent]) -> Buffer:
    """`length` bytes; if they cannot be read at once, each extent for itself, and zeros for the others."""
    try:
        data = _read(fd, offset, length)
    except OSError:
        data = b""
    if len(data) == length:
        return data
    found = bytearray(length)
    for extent in extents:
        try:
            data = _read(fd, extent.offset, extent.length)
        except OSError:
            data = b""
        found[extent.offset - offset : extent.offset - offset + len(data)] = data
    return found


def _write_all(fd: int, offset: int, buffers: Sequence[Buffer]) -> int:
    """Write up to BUFFERS_MAX buffers one behind the other; how many bytes. After a short write the rest is
    tried, for only that tells why."""
    size = sum(map(len, buffers))
    written = os.pwritev(fd, buffers, offset)
    if written < size:
        _write(fd, offset + written, b"".join(buffers)[written:])
    return size


def _append(fd: int, offset: int, buffers: Sequence[Buffer]) -> None:
    """Write `buffers` one behind the other. A short write is an error here: the file was filled before."""
    for at in range(0, len(buffers), BUFFERS_MAX):
        some = buffers[at : at + BUFFERS_MAX]
        size = sum(map(len, some))
        if os.pwritev(fd, some, offset) < size:
            raise OSError(errno.EIO, f"a write of {size} bytes came back short")
        offset += size


def _zero_fill(fd: int, size: int) -> None:
    """Make the file at least `size` bytes long by writing, so that a full disk is noticed here and now."""
    for at in range(os.fstat(fd).st_size, size, SYNCED_BYTES):
        _write(fd, at, _ZEROS[: min(SYNCED_BYTES, size - at)])
        os.fdatasync(fd)
