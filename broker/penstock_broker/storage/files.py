"""All file work of the broker: jobs that run in a thread, and the few looks that never block.

A job is a value. The core emits it, the shell runs it in a thread (`Files.run`), the result comes back
as a call (`Core.done`). Names are relative to the data directory, which is flat. `OsFiles` alone
touches `os` and `mmap`; the simulator has its own implementation of the same protocol.

What is assumed of the disk: a sync that returned 0 was honoured; unsynced 512-byte sectors persist in
any subset and order; a new or renamed name is durable only after the directory was synced.
"""

import errno
from typing import NamedTuple, Protocol, TypeAlias

from penstock_protocol.checksum import Buffer

PAGE_BYTES = 4096
UNREADABLE = (errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EILSEQ, errno.EUCLEAN)
"""What a read fails with when the device, or the file system's own checksum, has lost the bytes."""


class StorageError(Exception):
    """The disk, or what is on it, is not as it must be. Loud: the broker does not go on over it."""


class StorageFailed(StorageError):
    """A write or sync failed: what was applied cannot be taken back, so the broker stops (exit code 4)."""


class Damaged(StorageError):
    """Bytes that a job copied fail the checksum they were recorded with."""


class Extent(NamedTuple):
    """A run of bytes in a file; `crc` (crc32) is checked when it is copied, unless None."""

    name: str
    offset: int
    length: int
    crc: int | None = None


class Prepare(NamedTuple):
    """Make a file of `size` bytes ready for appends: `recycle` renamed, or zero-filled from nothing, with
    `header` as its first bytes, all of it and its name durable. A failed one leaves no file behind."""

    name: str
    size: int
    header: bytes
    recycle: str | None


class Write(NamedTuple):
    """Write `data` at `offset` of a prepared file, then fdatasync if `sync`. Runs alone, in order, in the
    flusher."""

    name: str
    offset: int
    data: tuple[Buffer, ...]
    sync: bool = True


class Sync(NamedTuple):
    """fdatasync a file that was written to in this life. Runs in the flusher, too."""

    name: str


class Load(NamedTuple):
    """Read `length` bytes. Result: bytes, shorter at the end of the file."""

    name: str
    offset: int
    length: int


class Step(NamedTuple):
    """One run of pieces to be written from `offset` on and made durable before the next step begins."""

    offset: int
    pieces: tuple[Buffer | Extent, ...]


class Copy(NamedTuple):
    """Write a file (made if need be, its name durable) step by step. Result: bytes written. `or_zeros`: what
    cannot be read becomes zeros, for whoever reads the copy checks it."""

    name: str
    steps: tuple[Step, ...]
    or_zeros: bool = False


class Drop(NamedTuple):
    """Unlink a file and sync the directory."""

    name: str


class Rename(NamedTuple):
    """Give a file another name, which is not taken, and sync the directory. For tools."""

    name: str
    to: str


Job: TypeAlias = Prepare | Write | Sync | Load | Copy | Drop | Rename


class Space(NamedTuple):
    """The file system the data directory is on, in bytes."""

    free: int
    total: int


class Readable(Protocol):
    """A data directory as recovery and tools see it: nothing is changed through it."""

    def names(self) -> dict[str, int]:
        """Every file with its size in bytes."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read now, never while serving. Short at the end of the file."""
        ...


class Files(Readable, Protocol):
    """One data directory."""

    def lock(self) -> None:
        """Take the directory for the life of this object. `StorageError` says who is in the way."""
        ...

    def run(self, job: Job) -> object:
        """Do a job; raises `OSError` or `StorageError`. Called in threads, one job a call."""
        ...

    def view(self, name: str, offset: int, length: int) -> memoryview:
        """Bytes of a file that was prepared in this life, without a copy. The view pins the file's map."""
        ...

    def peek(self, name: str, offset: int, length: int) -> Buffer | None:
        """Bytes of any file if they are in memory already; None if that would wait for the disk."""
        ...

    def unmap(self, name: str) -> bool:
        """Close the map of a file; False while any view of it is alive."""
        ...

    def space(self) -> Space:
        """Free and total bytes of the file system."""
        ...

    def close(self) -> None:
        """Give up the lock and every descriptor."""
        ...
