"""The engine: journal, checkpoints, archiver and reads of one data directory, as jobs and their results.

It appends entries and hands them to the fold (`Machines.apply`), says when they are durable, keeps the
journal within its budget, and brings everything back at the next start. It decides nothing about
messages. It does no I/O while serving: `jobs` lists what is to be done, `done` takes the results.
"""

import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from penstock_broker.durability import FSYNC
from penstock_broker.storage import archive, recovery
from penstock_broker.storage.archiver import Archiver
from penstock_broker.storage.blocks import BLOCK_HEADER_BYTES, StoredBlock, encode_block_header, padded
from penstock_broker.storage.checkpoint import HEADER_BYTES
from penstock_broker.storage.compactor import Compacted
from penstock_broker.storage.entries import NOTHING, At, Body, Part
from penstock_broker.storage.files import (
    PAGE_BYTES,
    Copy,
    Drop,
    Extent,
    Files,
    Job,
    Load,
    Prepare,
    Space,
    Step,
    StorageError,
    StorageFailed,
    Sync,
    Write,
)
from penstock_broker.storage.gathered import NOW, JournalFile
from penstock_broker.storage.journal import Journal, JournalSettings
from penstock_broker.storage.log import Use
from penstock_broker.storage.node import Node
from penstock_broker.storage.reads import Reads
from penstock_broker.storage.saver import Machine, Saver
from penstock_broker.storage.segment import segment_number
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Busy, DiskFull

AMPLE_BYTES = 1 << 30
"""With more than that left nobody fills the disk between two looks at it."""
SPACE_EVERY_MS = 1_000
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EROFS, errno.EACCES, errno.EPERM)
"""A file that cannot be made for such a reason will not be made in a second either."""
BUDGET_MAX = 1 << 30
SHARE_OF_DISK = 8
FILE_SHARE_OF_DISK = 32

T = TypeVar("T")


class Machines(recovery.Fold, Protocol):
    """All machines of the node, and the one way into them."""

    def apply(self, part: Part, at: At) -> None:
        """A part that was just appended."""
        ...

    def all(self) -> Iterable[Machine]:
        """Every machine, node and catalogue first."""
        ...

    def get(self, uuid: bytes) -> Machine | None:
        """The machine of that uuid."""
        ...

    def owners(self) -> Iterable[archive.Owner]:
        """Machines with a log."""
        ...

    def owner(self, uuid: bytes) -> archive.Owner | None:
        """The machine with that log."""
        ...

    def compacted(self) -> Iterable[Compacted]:
        """Machines whose logs are to be compacted, and whole."""
        ...

    @property
    def corrupt(self) -> Collection[bytes]:
        """Machines whose snapshots are damaged: what they hold here is not their state."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes in bytes. `budget` None: 1 GiB, at most an eighth of the file system. `dirty_ratio`: share of a
    log that is not compacted yet from which on it is."""

    budget: int | None
    file_min: int
    file_max: int
    dirty_ratio: float


def sizes_for(settings: EngineSettings, space: Space) -> JournalSettings:
    """The journal's sizes on a file system of that size: it never takes more than an eighth of it, and a
    file never more than a thirty-second."""
    budget = settings.budget or min(BUDGET_MAX, space.total // SHARE_OF_DISK)
    share = padded(max(space.total // FILE_SHARE_OF_DISK, 16 * PAGE_BYTES))
    file_min = min(settings.file_min, share, padded(budget // 4))
    return JournalSettings(
        budget, file_min, max(file_min, min(settings.file_max, share, padded(budget // 8)))
    )


class Engine(Generic[T]):
    """One data directory in use. `T` is whatever waits for durability."""

    def __init__(
        self,
        files: Files,
        settings: EngineSettings,
        machines: Machines,
        node: Node,
        use: Use,
        random: Random,
    ) -> None:
        self._files = files
        self.node = node
        self._machines = machines
        self._use = use
        """What of each segment is pointed to, kept by the logs."""
        self._settings = settings
        self._random = random
        self._running: dict[int, tuple[Job, Callable[[object], None]]] = {}
        """Jobs under way by identity, with what takes their result."""
        self._reading: Counter[str] = Counter()
        self._pending: list[Job] = []
        self.space = Space(0, 0)
        self._space_at = 0
        self.disk_full = False
        self._look_from = 0
        """Journal position from which on publishes may have taken what was free at the last look."""
        self.disk_written = 0

    # ---- Opening

    def open(self, wall: int) -> recovery.Report:
        """Recover, and make this life's first file durable. Raises `StorageError` with one clear line."""
        self._files.lock()
        report = recovery.recover(self._files, self._machines)
        self.space = self._files.space()
        self.sizes = sizes_for(self._settings, self.space)
        self.journal: Journal[T] = Journal(self.sizes, self._random, report.boot + 1)
        self.reads = Reads(self._files, self.journal)
        self._saver = Saver(self._machines, report.slots, self.sizes.budget, report.entries)
        self.archiver: Archiver[T] = Archiver(
            self, self._machines, self.node, self._use, self._settings.dirty_ratio
        )
        self._open_journal(report, max(wall, report.time))
        self._prove_checkpoint(report)
        self._drop_leftovers()
        return report

    def _open_journal(self, report: recovery.Report, wall: int) -> None:
        journal = self.journal
        kept = []
        for old, used in zip(report.files, report.used, strict=True):
            file = JournalFile(old.number, old.salt, old.size, viewable=False)
            file.used = used
            file.start = old.start
            kept.append(file)
        journal.open(report.position, report.sequence, report.number, kept)
        journal.time = wall
        needed = sum(padded(block.header.length) for block in report.unproven)
        size = max(self.sizes.file_min, needed + 2 * PAGE_BYTES)
        # An unused file that is large enough: a start on a full disk needs no room then.
        recycle = min((file for file in report.unused if file.size >= size), key=_size, default=None)
        size, name = (size, None) if recycle is None else (recycle.size, recycle.name)
        fresh, job = journal.new_file(size, name)
        self._files.run(job)
        journal.use(fresh, report.position, wall)
        if report.unproven:
            self._write_again(report.unproven, fresh)
            journal.rewritten(len(report.unproven), needed)
        for unused in report.unused:
            if unused is not recycle and not journal.keep(unused.name, unused.size):
                self._pending.append(Drop(unused.name))

    def _write_again(self, blocks: Sequence[StoredBlock], file: JournalFile) -> None:
        """Recovered blocks into this life's file. The first one is the last to be written: until it stands
        there whole, the file counts for nothing, and all of them are read where they were."""
        pieces = [_copied(block, file, self.journal) for block in blocks]
        behind = file.used + sum(map(len, pieces[0]))
        if pieces[1:]:
            self._files.run(Write(file.name, behind, tuple(piece for some in pieces[1:] for piece in some)))
        self._files.run(Write(file.name, file.used, pieces[0]))

    def _prove_checkpoint(self, report: recovery.Report) -> None:
        """The page cache may show a header that was written by a life killed before it was synced: it is
        written again, before the other slot, the last one surely durable, is written over."""
        if report.slots:
            name = report.slots[0].name
            page = self._files.read(name, 0, HEADER_BYTES).ljust(PAGE_BYTES, b"\0")
            self._files.run(Copy(name, (Step(0, (page,)),)))

    def _drop_leftovers(self) -> None:
        """Segments that were DROPPED, by a life that ended before their files were."""
        for name in self._files.names():
            number = segment_number(name)
            if number is not None and number < self.node.segment_next and number not in self.node.segments:
                self._pending.append(Drop(name))

    def flush(self, wall: int) -> None:
        """Write everything gathered, here and now. For the start, before anybody is served."""
        while not self.journal.idle:
            for job in self.journal.jobs(NOW, wall):
                if isinstance(job, Write | Sync):
                    self._files.run(job)
                    self.journal.done()
                elif isinstance(job, Prepare):
                    self._done_prepare((job, self._tried(job)))

    def _tried(self, job: Prepare) -> object:
        """Its result: a start that found room for its own file goes on without the ones ahead."""
        try:
            return self._files.run(job)
        except OSError as error:
            return error

    # ---- Appending

    def append(
        self,
        parts: Sequence[Part],
        bodies: Sequence[Body] = NOTHING,
        *,
        wall: int,
        publish: bool = False,
        within: int = FSYNC,
    ) -> int:
        """One entry: reserved, applied, copied. Returns the position that what depends on it waits for.
        `within`: ms that its sync may wait, by the strictest of the objects it concerns.

        Raises, before anything changed, `TooLarge`, and for publishes `Busy` or `DiskFull`.
        """
        if publish:
            self._admit()
        journal = self.journal
        reserved = journal.reserve(parts, bodies, wall, publish=publish, within=within)
        apply = self._machines.apply
        for part, at in zip(parts, reserved.places, strict=True):
            apply(part, at)
        journal.copy(reserved)
        return reserved.places[-1].position

    def _admit(self) -> None:
        journal = self.journal
        if journal.end > self._look_from:
            self._judge_space()
        if self.disk_full or journal.full:
            why = "" if self.disk_full else ", but a journal file could not be made on it"
            raise DiskFull(f"the disk has {self.space.free:,} bytes left{why}", retry_after=1.0)
        if journal.bytes + journal.gathered > self.sizes.budget + self.sizes.file_max:
            raise Busy("the journal is over its budget until the archiver has moved on", retry_after=0.05)

    def wait(self, position: int, waiter: T, within: int = FSYNC) -> None:
        """Put `waiter` into `journal.released` once everything below `position` is durable; in a weaker mode
        than fsync, once it is written."""
        self.journal.wait(position, waiter, within)

    # ---- Jobs

    def jobs(self, mono: int, wall: int) -> list[Job]:
        """What is to be done now."""
        jobs, self._pending = self._pending, []
        self._checkpoint(jobs)
        self.archiver.step(mono, wall, jobs)
        if self.journal.outgrown:
            jobs += self.journal.surrender()
        for job in self.journal.jobs(mono, wall):  # last: what was appended above goes with this write
            self.start(job, self._done_prepare if isinstance(job, Prepare) else self._done_write, jobs)
        return jobs

    def load(self, load: Load, then: Callable[[object], None]) -> None:
        """Run a Load and hand its result (bytes, or the exception) to `then`."""
        self.start(load, then, self._pending)

    def done(self, job: Job, result: object) -> None:
        """The result of a job. Raises `StorageFailed` when the broker must stop."""
        found = self._running.pop(id(job), None)
        for name in _names_read(job):
            self._reading[name] -= 1
            if not self._reading[name]:
                del self._reading[name]
        if found is not None:
            found[1](result if not isinstance(job, Prepare) else (job, result))

    def start(self, job: Job, then: Callable[[object], None], jobs: list[Job]) -> None:
        """Put a job into `jobs`; `then` takes its result."""
        self._running[id(job)] = (job, then)
        for name in _names_read(job):
            self._reading[name] += 1
        jobs.append(job)

    def _done_write(self, result: object) -> None:
        if isinstance(result, BaseException):
            raise StorageFailed(
                f"the journal cannot be written: {result}; nothing more is confirmed"
            ) from result
        before = self.journal.written
        self.journal.done()
        self.disk_written += self.journal.written - before

    def _done_prepare(self, result: object) -> None:
        assert isinstance(result, tuple)
        job, outcome = result
        self.journal.prepared(job, ok=not isinstance(outcome, BaseException))
        if isinstance(outcome, BaseException) and job.recycle is not None:
            self._pending.append(Drop(job.recycle))  # it may still have its old name
        if isinstance(outcome, StorageError) or getattr(outcome, "errno", None) in GONE:
            raise StorageFailed(f"the data directory cannot be written to: {outcome}") from outcome

    def is_read(self, name: str) -> bool:
        """A job reads that file."""
        return bool(self._reading[name])

    def unmap(self, name: str) -> bool:
        """Close the map of a file; False while any view of it is alive."""
        return self._files.unmap(name)

    # ---- Checkpoints

    def _checkpoint(self, jobs: list[Job]) -> None:
        journal = self.journal
        over = journal.bytes > self.sizes.budget and len(journal.files) > 1
        if over and self._saver.covered < journal.files[1].start and not self._saver.failed:
            self._saver.request()  # files count, not what is in them: every start takes one
        copy = self._saver.step(self.journal.end, self.journal.durable, self.journal.entries_total)
        self.journal.demand(self._saver.needs)
        if copy is not None:
            self.start(copy, self._done_checkpoint, jobs)

    def _done_checkpoint(self, result: object) -> None:
        self._saver.written(result)
        self.archiver.look = True
        if isinstance(result, int):
            self.disk_written += result

    def checkpoint_now(self) -> None:
        """Ask for a checkpoint of the present state."""
        self._saver.request()

    @property
    def wake_at(self) -> int | None:
        """The mono ms at which there is more to do, whatever else happens."""
        if self._saver.encoding:
            return NOW
        archive_at, sync_at = self.archiver.wake_at, self.journal.sync_at
        if archive_at is None or sync_at is None:
            return archive_at if sync_at is None else sync_at
        return min(archive_at, sync_at)

    @property
    def covered(self) -> int:
        """Journal position that both checkpoints have behind them."""
        return self._saver.covered

    @property
    def checkpointing(self) -> bool:
        """A checkpoint was asked for or is under way."""
        return self._saver.busy

    @property
    def checkpoint_failed(self) -> bool:
        """The last attempt failed; the one before it still holds."""
        return self._saver.failed

    # ---- Time

    def tick(self, mono: int, wall: int) -> int:
        """Look after the disk's room, and try again what failed for want of it; when to look again (ms)."""
        if mono >= self._space_at:
            self._space_at = mono + SPACE_EVERY_MS
            self._judge_space()
            self.journal.full = False
            if self._saver.failed:
                self._saver.request()
            self.archiver.tick(wall)
        return self._space_at

    def _judge_space(self) -> None:
        """A byte published takes one of what is free, and one of what is kept to move it later."""
        journal = self.journal
        self.space = self._files.space()
        reserve = journal.bytes + 2 * self._saver.bytes + 2 * journal.file_size
        left = self.space.free + journal.spare_bytes - reserve
        self.disk_full = left < 0
        if self.disk_full:
            self._pending += journal.surrender()
        journal.ample = left > AMPLE_BYTES
        self._look_from = journal.end + max(left, 0) // 2

    def close(self) -> None:
        """Give up the directory."""
        self._files.close()


def _copied(block: StoredBlock, file: JournalFile, journal: Journal[T]) -> tuple[Buffer, ...]:
    """A block as it stands in another file: its header, what follows, and zeros up to the next page."""
    length = block.header.length
    header = block.header._replace(
        file=file.number, salt=file.salt, boot=journal.boot, durable=journal.durable
    )
    return encode_block_header(header), block.data[BLOCK_HEADER_BYTES:], bytes(padded(length) - length)


def _size(file: recovery.OldFile) -> int:
    return file.size


def _names_read(job: Job) -> Sequence[str]:
    """Files that a job reads from."""
    if isinstance(job, Write):
        return ()
    if isinstance(job, Load):
        return [job.name]
    if isinstance(job, Copy):
        return [piece.name for step in job.steps for piece in step.pieces if isinstance(piece, Extent)]
    return []
