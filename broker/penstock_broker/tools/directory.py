"""Data directories on a real disk, from outside: one that is looked at, and one that a backup is made in.

The only room of the tools that touches `os`. Nothing is read through a map, for rot under a map kills the
process. A name is opened anew for every read, so that what was recycled meanwhile is noticed.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock_broker.storage import blocks, checkpoint, segment
from penstock_broker.storage.files import StorageError
from penstock_broker.storage.os_files import LOCK_NAME

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
CHUNK_BYTES = 4 << 20
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
"""Why a file cannot be linked and must be copied: another file system, or one without links."""


def is_known(name: str) -> bool:
    """A broker makes files of such names."""
    return name in checkpoint.SLOTS or name.startswith((blocks.PREFIX, segment.PREFIX))


class Directory:
    """The data directory at `path`, to be read. Raises `StorageError` if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locked = -1
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StorageError(
                f"cannot look into {path}: {error.strerror}; type the directory of `penstock serve --data`"
            ) from None
        if not any(map(is_known, self.names())):
            self.close()
            raise StorageError(f"{path} holds no journal: type the directory of `penstock serve --data`")

    def names(self) -> dict[str, int]:
        """Every file with its size in bytes; the lock is not one of them."""
        with os.scandir(self.fd) as found:
            looks = {}
            for entry in found:
                try:
                    looks[entry.name] = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # a running broker has recycled it meanwhile
        return {
            name: look.st_size
            for name, look in looks.items()
            if stat.S_ISREG(look.st_mode) and name != LOCK_NAME
        }

    def size(self, name: str) -> int:
        """Bytes of one file. Raises `FileNotFoundError`."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read now. Short at the end of the file."""
        with _opened(name, os.O_RDONLY, self.fd) as fd:
            return _read(fd, offset, length)

    def lock(self) -> None:
        """Keep every broker out until `close`. Raises `StorageError` that says which process is in the way.
        A directory without a lock file was never served."""
        try:
            self._locked = os.open(LOCK_NAME, os.O_RDONLY, dir_fd=self.fd)
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return
        except BlockingIOError:
            raise StorageError(
                f"data directory {self.path} is in use by process {self._holder()}: stop it first"
            ) from None

    def in_use(self) -> str | None:
        """The process that has the directory, None if none has."""
        try:
            self.lock()
        except StorageError:
            return self._holder()
        finally:
            self._unlock()
        return None

    def close(self) -> None:
        """Give up the lock and the directory."""
        self._unlock()
        os.close(self.fd)

    def _holder(self) -> str:
        return self.read(LOCK_NAME, 0, 32).decode("ascii", "replace").strip() or "unknown"

    def _unlock(self) -> None:
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1


def _read(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes, or what there is before the end of the file."""
    pieces = []
    while length:
        piece = os.pread(fd, length, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


class Destination:
    """A directory that is made for a backup: new or empty. Raises `StorageError` if it is not.

    `clear` takes back all that was put there; nothing else is ever unlinked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: set[str] = set()
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        if os.listdir(self._fd):
            self.close()
            raise StorageError(f"{path} is not empty: type a new directory for the backup")

    def link(self, source: Directory, name: str) -> None:
        """Give a file of the source a second name here; copy it where that cannot be."""
        try:
            os.link(name, name, src_dir_fd=source.fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            self.copy(source, name, source.size(name))
        self._made.add(name)

    def copy(self, source: Directory, name: str, size: int) -> None:
        """The first `size` bytes of a file of the source, on stable storage, and zeros up to its length."""
        self._made.add(name)
        with _opened(name, os.O_RDONLY, source.fd) as old, _opened(name, NEW, self._fd) as new:
            os.ftruncate(new, os.fstat(old).st_size)
            _copy(old, new, size)

    def part(self, name: str, size: int) -> None:
        """Make a file here one of its own, with its first `size` bytes, whoever else has a name for it."""
        own = f"{name}.copy"
        self._made.add(own)
        with _opened(name, os.O_RDONLY, self._fd) as old, _opened(own, NEW, self._fd) as new:
            _copy(old, new, size)
        os.rename(own, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._made.discard(own)

    def drop(self, name: str) -> None:
        """Take a file away again, if it is there."""
        self._made.discard(name)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def sync(self) -> None:
        """Make the names durable, and that of the directory."""
        os.fsync(self._fd)
        with _opened("..", os.O_RDONLY | os.O_DIRECTORY, self._fd) as parent:
            os.fsync(parent)

    def clear(self) -> None:
        """Take away everything that was put here."""
        for name in list(self._made):
            self.drop(name)

    def close(self) -> None:
        """Give up the directory."""
        os.close(self._fd)


@contextmanager
def _opened(name: str, flags: int, directory: int) -> Iterator[int]:
    fd = os.open(name, flags, 0o640, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _copy(source: int, target: int, size: int) -> None:
    """Copy `size` bytes, or what there is, and sync."""
    at = 0
    while at < size and (piece := os.pread(source, min(CHUNK_BYTES, size - at), at)):
        written = 0
        while written < len(piece):
            written += os.pwrite(target, piece[written:], at + written)
        at += len(piece)
    os.fsync(target)
