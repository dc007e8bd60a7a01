"""The `Files` of tests: one life of a broker on a `Disk` in memory.

    files.kill()        the process died, the machine lives on: the next life sees all that was written
    files.crash(keep)   the power went: the next life sees what was synced, and any part of the rest

Stricter than an operating system on purpose. A write outside a prepared file and any call from a life
that has ended are failed assertions, not silent damage.
"""

from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import assert_never

from tests.fakes.disk import Call, Disk, Inode

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

COLD_ONE_IN = 4
"""Of so many looks of a life with a `Random`, one finds its bytes not in memory."""

Steps = Generator[Call, None, object]


class MemoryFiles:
    """`random`: decides which peeks find their bytes cold; without one, none does."""

    def __init__(self, disk: Disk | None = None, *, random: Random | None = None) -> None:
        self.disk = disk or Disk()
        self._random = random
        self._mapped: dict[str, Inode] = {}
        self._over = False

    # lives

    def kill(self) -> "MemoryFiles":
        """End this life without a goodbye; the next one, on the same running machine."""
        self.close()
        return MemoryFiles(self.disk, random=self._random)

    def crash(self, keep: Collection[int] | Random = ()) -> "MemoryFiles":
        """A life after a power cut at this moment, on a copy of the machine (see `Disk.crashed`)."""
        return MemoryFiles(self.disk.crashed(keep), random=self._random)

    # Files

    def lock(self) -> None:
        """Take the directory; `StorageError` if another life has it."""
        if self.disk.owner not in (None, self):
            raise StorageError("the data directory is in use by another broker")
        self.disk.owner = self

    def names(self) -> dict[str, int]:
        """Every file with its size in bytes."""
        return {name: len(inode.shown) for name, inode in self.disk.names.items()}

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Read now."""
        assert not self._over, "a life that has ended reads nothing"
        return self.disk.read(name, offset, length)

    def run(self, job: Job) -> object:
        """Do a job from beginning to end."""
        self.disk.running.wait()
        with self.disk.mutex:
            steps = self.steps(job)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value

    def steps(self, job: Job) -> Steps:
        """Do a job call by call: yields behind each, so that a crash can fall between any two. The
        result is the generator's."""
        assert not self._over, "a life that has ended does nothing"
        match job:
            case Prepare():
                return self._prepare(job)
            case Write():
                return self._write(job)
            case Sync():
                return self._sync(job)
            case Load():
                return self._load(job)
            case Copy():
                return self._copy(job)
            case Drop():
                return self._drop(job)
            case Rename():
                return self._rename(job)
            case _:
                assert_never(job)

    def view(self, name: str, offset: int, length: int) -> memoryview:
        """Bytes without a copy; the view pins the file."""
        assert name in self._mapped, f"{name} was not prepared in this life, or is unmapped"
        return memoryview(self._mapped[name].shown).toreadonly()[offset : offset + length]

    def peek(self, name: str, offset: int, length: int) -> bytes | None:
        """Bytes, or None if they are cold."""
        if self._random is not None and not self._random.randrange(COLD_ONE_IN):
            return None
        return self.read(name, offset, length)

    def unmap(self, name: str) -> bool:
        """False while a view of the file is alive."""
        if name in self._mapped and self._mapped[name].pinned:
            return False
        self._mapped.pop(name, None)
        return True

    def space(self) -> Space:
        """Free and total bytes of the disk."""
        return Space(self.disk.free, self.disk.capacity)

    def close(self) -> None:
        """This life is over."""
        self._over = True
        if self.disk.owner is self:
            self.disk.owner = None

    # jobs

    def _prepare(self, job: Prepare) -> Steps:
        disk = self.disk
        if job.recycle is None:
            yield disk.create(job.name)
            content = job.header.ljust(job.size, b"\0")
        else:
            if job.recycle in self._mapped:
                raise StorageError(f"{job.recycle} is to be recycled while it is mapped")
            assert len(disk.find(job.recycle).shown) == job.size, "a file is recycled at its size"
            yield disk.rename(job.recycle, job.name)
            content = job.header
        with self._unlinked_on_failure(job.name):
            yield disk.write(job.name, 0, content)
            yield disk.sync(job.name)
            yield disk.sync_directory()
        self._mapped[job.name] = disk.find(job.name)
        return None

    def _write(self, job: Write) -> Steps:
        data = b"".join(job.data)
        end = job.offset + len(data)
        assert end <= len(self.disk.find(job.name).shown), f"{job.name} is written beyond its prepared size"
        yield self.disk.write(job.name, job.offset, data)
        if job.sync:
            yield self.disk.sync(job.name)
        return None

    def _sync(self, job: Sync) -> Steps:
        yield self.disk.sync(job.name)
        return None

    def _load(self, job: Load) -> Steps:
        data = self.disk.read(job.name, job.offset, job.length)
        yield Call("read", job.name)
        return data

    def _copy(self, job: Copy) -> Steps:
        if job.name in self.disk.names:
            return (yield from self._take_steps(job))
        yield self.disk.create(job.name)
        with self._unlinked_on_failure(job.name):
            return (yield from self._take_steps(job))

    def _take_steps(self, job: Copy) -> Steps:
        written = 0
        for step in job.steps:
            at = step.offset
            for piece in step.pieces:
                data = self._bytes_of(piece, or_zeros=job.or_zeros)
                yield self.disk.write(job.name, at, data)
                at += len(data)
            yield self.disk.sync(job.name)
            written += at - step.offset
        yield self.disk.sync_directory()
        return written

    def _bytes_of(self, piece: Buffer | Extent, *, or_zeros: bool) -> Buffer:
        if not isinstance(piece, Extent):
            return piece
        if or_zeros:
            return self._read_or_zeros(piece)
        data = self.disk.read(piece.name, piece.offset, piece.length)
        if len(data) < piece.length or (piece.crc is not None and crc32(data) != piece.crc):
            raise Damaged(f"{piece.name}: {piece.length} bytes at {piece.offset} fail their checksum")
        return data

    def _read_or_zeros(self, extent: Extent) -> bytes:
        """Like `OsFiles`, it reads twice before it gives up: with others, and alone."""
        for _ in range(2):
            with suppress(OSError):
                return self.disk.read(*extent[:3]).ljust(extent.length, b"\0")
        return bytes(extent.length)

    def _drop(self, job: Drop) -> Steps:
        yield self.disk.unlink(job.name)
        yield self.disk.sync_directory()
        return None

    def _rename(self, job: Rename) -> Steps:
        assert job.to not in self.disk.names, "nothing is renamed over another file"
        yield self.disk.rename(job.name, job.to)
        yield self.disk.sync_directory()
        return None

    @contextmanager
    def _unlinked_on_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, StorageError):
            self.disk.unlink(name)
            raise
