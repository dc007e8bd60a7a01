"""A machine with one directory, in memory: what its kernel shows and what its device holds.

Both are apart until a sync brings them together, so a power cut can be tried at any moment. What a
crash may do is what `storage/files.py` says of a disk: 512-byte sectors that were not synced persist in
any subset; names that were not synced are there or not, one by one; a rename is one change. Sectors of
a failed sync stay shown but are not stored, and no later sync stores them.
"""

import errno
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from random import Random
from typing import NamedTuple

from penstock_protocol.checksum import Buffer

SECTOR_BYTES = 512
TORN_ONE_IN = 16
"""A random crash tears one in so many of the sectors it keeps: new bytes in front, old ones behind."""


class Call(NamedTuple):
    """One system call: what a fault can hit, and what a crash can fall behind."""

    kind: str  # create, rename, unlink, sync_directory, write, sync, read
    name: str


class Inode:
    """A file without its name. `dirty`: sectors that a sync would store, `lost`: those that a failed
    sync gave up on; both with the order in which they were written."""

    __slots__ = ("dirty", "lost", "shown", "stored", "unreadable")

    def __init__(self, content: Buffer = b"") -> None:
        self.shown = bytearray(content)
        self.stored = bytearray(content)
        self.dirty: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.unreadable: set[int] = set()

    def write(self, offset: int, data: Buffer, order: int) -> None:
        """Change what is shown."""
        _overwrite(self.shown, offset, data)
        for sector in sectors_of(offset, len(data)):
            self.dirty[sector] = order
            self.lost.pop(sector, None)

    def store(self) -> None:
        """Bring what is dirty to the device."""
        for sector in self.dirty:
            _overwrite(self.stored, sector * SECTOR_BYTES, self.sector(sector))
        self.dirty.clear()

    def give_up(self) -> None:
        """The device refused: the sectors count as clean and are not stored."""
        self.lost.update(self.dirty)
        self.dirty.clear()

    def evict(self) -> None:
        """The kernel drops what it shows of lost sectors; the device's bytes are read again."""
        for sector in self.lost:
            at = sector * SECTOR_BYTES
            size = len(self.sector(sector))
            self.shown[at : at + size] = self.stored[at : at + size].ljust(size, b"\0")
        self.lost.clear()

    def sector(self, number: int) -> bytearray:
        """The bytes shown of one sector, fewer at the end of the file."""
        return self.shown[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]

    def unsynced(self) -> Iterator[tuple[int, int]]:
        """(order, sector) of every sector whose bytes are not stored."""
        for written in (self.dirty, self.lost):
            for sector, order in written.items():
                if self.stored[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] != self.sector(sector):
                    yield order, sector

    @property
    def pinned(self) -> bool:
        """A view of the file is alive: a bytearray cannot be resized under one."""
        try:
            self.shown.append(0)
        except BufferError:
            return True
        self.shown.pop()
        return False


class Unsynced(NamedTuple):
    """One thing that a crash keeps or loses: a sector of an inode, or (sector -1) a change of names."""

    order: int
    sector: int
    inode: Inode | None
    change: Mapping[str, Inode | None]


class Disk:
    """The machine. Its methods named like system calls return the `Call` they were."""

    def __init__(self, *, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.taken = 0
        """Bytes of `capacity` that someone else has filled."""
        self.honest = True
        """False: syncs do nothing and say they did, for control runs that must be caught losing data."""
        self.running = threading.Event()
        """Cleared: the device stalls, and no job begins."""
        self.running.set()
        self.mutex = threading.RLock()
        self.owner: object = None
        self.calls: list[Call] = []
        self.names: dict[str, Inode] = {}
        self._stored_names: dict[str, Inode] = {}
        self._changes: list[Unsynced] = []
        self._faults: dict[int, tuple[int, bool]] = {}
        self._order = 0

    @property
    def free(self) -> int:
        """Bytes that can still be allocated."""
        used = sum(len(inode.shown) for inode in self.names.values())
        return max(0, self.capacity - self.taken - used)

    # faults

    def fail(self, call: int, code: int, *, short: bool = False) -> None:
        """The `call`-th call from now on (1 = the next) fails with errno `code`; `short`: a write that
        got half of its bytes in before."""
        self._faults[len(self.calls) + call] = (code, short)

    def heal(self) -> None:
        """Failures that have not struck yet never will."""
        self._faults.clear()

    def flip(self, name: str, offset: int, mask: int) -> None:
        """A byte rots: it is XORed with `mask`, wherever it is."""
        self.damage(name, offset, bytes([self.names[name].shown[offset] ^ mask]))

    def damage(self, name: str, offset: int, content: bytes) -> None:
        """A misdirected write: other bytes stand at `offset`, in the cache and on the device."""
        inode = self.names[name]
        for image in (inode.shown, inode.stored):
            assert offset + len(content) <= len(image), "damage changes bytes, not sizes"
            image[offset : offset + len(content)] = content

    def truncate(self, name: str, size: int) -> None:
        """The tail of a file is gone."""
        inode = self.names[name]
        del inode.shown[size:], inode.stored[size:]

    def spoil(self, name: str, offset: int) -> None:
        """The sector around `offset` answers every read with EIO."""
        self.names[name].unreadable.add(offset // SECTOR_BYTES)

    def drop_caches(self) -> None:
        """The kernel forgets what it need not keep; after a failed sync that shows what was lost."""
        for inode in self.names.values():
            inode.evict()

    # crashes

    def unsynced(self) -> list[Unsynced]:
        """What a crash would decide about, in the order in which it was done."""
        sectors = [
            Unsynced(order, sector, inode, {})
            for inode in self._inodes()
            for order, sector in inode.unsynced()
        ]
        return sorted([*self._changes, *sectors], key=lambda unit: unit[:2])

    def crashed(self, keep: Collection[int] | Random = ()) -> "Disk":
        """The machine after a power cut: what was synced and, of `unsynced()`, what stands at the places
        in `keep`; a `Random` chooses for itself, and tears some sectors."""
        units = self.unsynced()
        random, kept = (keep, _chosen(len(units), keep)) if isinstance(keep, Random) else (None, keep)
        stored = {id(inode): bytearray(inode.stored) for inode in self._inodes()}
        names: dict[str, Inode | None] = dict(self._stored_names)
        for unit in (units[i] for i in sorted(kept)):
            names.update(unit.change)
            if unit.inode is not None:
                _overwrite(stored[id(unit.inode)], unit.sector * SECTOR_BYTES, _kept_bytes(unit, random))
        after = Disk(capacity=self.capacity)
        after.taken, after.honest = self.taken, self.honest
        for name, inode in names.items():
            if inode is not None:
                after.names[name] = image = Inode(stored[id(inode)])
                image.unreadable = set(inode.unreadable)
        after._stored_names = dict(after.names)
        return after

    def crashes(
        self, random: Random, *, prefixes: int = 32, samples: int = 64
    ) -> Iterator[tuple[str, "Disk"]]:
        """The machines that a power cut now may leave, each with a word on what it kept: nothing, all,
        prefixes in the order of writing (every one, or `prefixes` of them), `samples` random subsets."""
        count = len(self.unsynced())
        yield f"none of {count} kept", self.crashed()
        if not count:
            return
        yield f"all {count} kept", self.crashed(range(count))
        lengths = range(1, count)
        for length in lengths if len(lengths) <= prefixes else sorted(random.sample(lengths, prefixes)):
            yield f"the first {length} of {count} kept", self.crashed(range(length))
        for sample in range(samples):
            yield f"random subset {sample} of {count} kept", self.crashed(random)

    def _inodes(self) -> list[Inode]:
        changed = [inode for unit in self._changes for inode in unit.change.values() if inode is not None]
        every = [*self._stored_names.values(), *self.names.values(), *changed]
        return list({id(inode): inode for inode in every}.values())

    # system calls

    def create(self, name: str) -> Call:
        """Make an empty file; its name is not durable yet."""
        call, _ = self._enter("create", name)
        if name in self.names:
            raise _error(errno.EEXIST, name)
        self._change({name: Inode()})
        return call

    def rename(self, source: str, name: str) -> Call:
        """One change of two names."""
        call, _ = self._enter("rename", name)
        self._change({source: None, name: self.find(source)})
        return call

    def unlink(self, name: str) -> Call:
        """Take a name away; a view of the file stays alive."""
        call, _ = self._enter("unlink", name)
        self.find(name)
        self._change({name: None})
        return call

    def sync_directory(self) -> Call:
        """Make the names durable."""
        call, _ = self._enter("sync_directory", ".")
        if self.honest:
            self._stored_names = dict(self.names)
            self._changes.clear()
        return call

    def write(self, name: str, offset: int, data: Buffer) -> Call:
        """Write as much as there is room for; less than all is an error."""
        call, code = self._enter("write", name, writing=True)
        inode = self.find(name)
        room = max(0, self.free + len(inode.shown) - offset)
        fits = min(len(data), room, len(data) // 2 if code else len(data))
        self._order += 1
        inode.write(offset, bytes(data[:fits]), self._order)
        if code or fits < len(data):
            raise _error(code or errno.ENOSPC, name)
        return call

    def sync(self, name: str) -> Call:
        """Make the content and size of a file durable."""
        inode = self.find(name)
        try:
            call, _ = self._enter("sync", name)
        except OSError:
            inode.give_up()
            raise
        if self.honest:
            inode.store()
        return call

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file, fewer at its end."""
        self._enter("read", name)
        inode = self.find(name)
        if not inode.unreadable.isdisjoint(sectors_of(offset, length)):
            raise _error(errno.EIO, name)
        return bytes(inode.shown[offset : offset + length])

    def find(self, name: str) -> Inode:
        """The file of that name; `FileNotFoundError` without one."""
        if name not in self.names:
            raise _error(errno.ENOENT, name)
        return self.names[name]

    def _enter(self, kind: str, name: str, *, writing: bool = False) -> tuple[Call, int]:
        """Count a call. Raises the error it is to fail with, or returns that of a short write."""
        call = Call(kind, name)
        self.calls.append(call)
        code, short = self._faults.pop(len(self.calls), (0, False))
        if code and not (short and writing):
            raise _error(code, name)
        return call, code

    def _change(self, change: dict[str, Inode | None]) -> None:
        self._order += 1
        self._changes.append(Unsynced(self._order, -1, None, change))
        for name, inode in change.items():
            if inode is None:
                del self.names[name]
            else:
                self.names[name] = inode


def sectors_of(offset: int, length: int) -> range:
    """The sectors that a run of bytes touches."""
    return range(offset // SECTOR_BYTES, -(-(offset + length) // SECTOR_BYTES)) if length else range(0)


def _overwrite(image: bytearray, offset: int, data: Buffer) -> None:
    end = offset + len(data)
    if end > len(image):
        image.extend(bytes(end - len(image)))
    image[offset:end] = data


def _chosen(count: int, random: Random) -> list[int]:
    likely = random.choice((0.05, 0.5, 0.95))
    return [i for i in range(count) if random.random() < likely]


def _kept_bytes(unit: Unsynced, random: Random | None) -> bytearray:
    """What reached the device of a sector; a random crash leaves some torn."""
    assert unit.inode is not None
    whole = unit.inode.sector(unit.sector)
    if random is not None and not random.randrange(TORN_ONE_IN):
        return whole[: random.randrange(1, len(whole) + 1)]
    return whole


def _error(code: int, name: str) -> OSError:
    return OSError(code, os.strerror(code), name)
