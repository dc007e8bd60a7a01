"""The archiver: keeps the journal within its budget. What is alive in the oldest journal file moves into
segments, then the file is freed; segments that hold nothing alive are dropped.

Order: segment written and synced, directory synced → the ARCHIVED parts durable → the journal file may
go. DROPPED durable → the segment may go. It holds no state that a crash would miss.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from penstock_broker.storage import archive
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.files import Drop, Job
from penstock_broker.storage.journal import Journal, JournalFile, JournalSettings
from penstock_broker.storage.node import NODE, Node
from penstock_broker.storage.segment import segment_name

ARCHIVE_AGE_MS = 60_000

T = TypeVar("T")


class Owners(Protocol):
    """The machines of the node, as the archiver sees them."""

    def owners(self) -> Iterable[archive.Owner]:
        """Machines with a log."""
        ...

    def get(self, uuid: bytes) -> object | None:
        """The machine of that uuid."""
        ...

    @property
    def corrupt(self) -> Collection[bytes]:
        """Machines whose snapshots are damaged: what they hold here is not their state."""
        ...


class Host(Protocol[T]):
    """The engine, as the archiver uses it."""

    @property
    def journal(self) -> Journal[T]:
        """The one journal."""
        ...

    @property
    def sizes(self) -> JournalSettings:
        """Of the journal."""
        ...

    disk_written: int

    @property
    def covered(self) -> int:
        """Journal position that both checkpoints have behind them."""
        ...

    def append(self, parts: Sequence[Part], *, wall: int) -> int:
        """One entry of the engine's own; what must be durable before what follows from it."""
        ...

    def start(self, job: Job, then: Callable[[object], None], jobs: list[Job]) -> None:
        """Put a job into `jobs`; `then` takes its result."""
        ...

    def is_read(self, name: str) -> bool:
        """A job reads that file."""
        ...

    def unmap(self, name: str) -> bool:
        """Close the map of a file; False while any view of it is alive."""
        ...


class Archiver(Generic[T]):
    """Of one engine."""

    def __init__(self, host: Host[T], owners: Owners, node: Node, use: Counter[int]) -> None:
        self._host = host
        self._owners = owners
        self._node = node
        self._use = use
        """Blocks per segment, kept by the logs."""
        self._run: tuple[int, archive.Run] | None = None
        """A planned run, and the position that must be durable before its file is written."""
        self._busy = False
        self._failed = False
        self._free_mark: int | None = None
        """What must be durable before the oldest journal file goes, once nothing in it is alive."""
        self._dropping: list[tuple[int, str]] = []
        self._newest: JournalFile | None = None
        self.look = True
        """Something changed that may let moving or freeing go on. That looks at every log, so it is done
        when a file was begun or freed, a checkpoint or a run is done, and once a second."""
        self.quiet = False
        """Nothing is appended of the engine's own accord any more: the node stops."""

    def step(self, wall: int, jobs: list[Job]) -> None:
        """Go on with whatever can go on."""
        if self._run is not None:
            self._start(self._run, jobs)
        if self._free_mark is not None:
            self._free(jobs)
        journal = self._host.journal
        if self.look or self._newest is not journal.files[-1]:
            self.look = False
            self._newest = journal.files[-1]
            self._archive(wall)
            self._free(jobs)
        if self._dropping:
            self._drop(jobs)

    def tick(self, wall: int) -> None:
        """Once a second: try again what failed, drop what is dead."""
        self._failed = False
        self._drop_segments(wall)
        self.look = True

    def _start(self, planned: tuple[int, archive.Run], jobs: list[Job]) -> None:
        """Write the planned segment, once it is durable that it was begun."""
        position, run = planned
        if self._host.journal.durable >= position and run.copy is not None:
            self._run = None
            self._host.start(run.copy, lambda result: self._done_archive(run, result), jobs)

    def _archive(self, wall: int) -> None:
        """Plan to move what is alive out of the oldest journal file, if that is due."""
        journal = self._host.journal
        if self.quiet or self._busy or self._failed or len(journal.files) < 2:
            return
        aged = wall - journal.files[1].since > ARCHIVE_AGE_MS
        if not aged and journal.bytes <= self._host.sizes.budget // 2:
            return
        below = journal.files[1].start
        if self._oldest_young() >= below:
            return
        run = archive.plan(self._owners.owners(), journal, below, self._node.segment_next)
        if run.copy is None:
            self._host.append(run.parts, wall=wall)
            self.look = True
            return
        self._busy = True
        self._run = (self._host.append([Part(NODE, Kind.SEGMENT, self._node.segment_next)], wall=wall), run)

    def _done_archive(self, run: archive.Run, result: object) -> None:
        self._busy = False
        if isinstance(result, BaseException):
            # Its leftover is dropped, and the run planned again, with the next tick.
            self._failed = True
            return
        self.look = True
        assert isinstance(result, int)
        self._host.disk_written += result
        parts = [part for part in run.parts if self._owners.get(part.target) is not None]
        if parts and not self.quiet:
            self._host.append(parts, wall=self._host.journal.time)

    def _drop_segments(self, wall: int) -> None:
        """Give up segments that hold nothing alive: DROPPED is durable before the file goes. Where a corrupt
        machine has its bytes, nobody knows."""
        if self._busy or self.quiet or self._owners.corrupt:
            return
        dead = [number for number in sorted(self._node.segments) if not self._use[number]]
        if dead:
            position = self._host.append([Part(NODE, Kind.DROPPED, number) for number in dead], wall=wall)
            self._dropping += [(position, segment_name(number)) for number in dead]

    def _drop(self, jobs: list[Job]) -> None:
        waiting = []
        for position, name in self._dropping:
            if position <= self._host.journal.durable and not self._host.is_read(name):
                jobs.append(Drop(name))
            else:
                waiting.append((position, name))
        self._dropping = waiting

    def _oldest_young(self) -> int:
        positions = (owner.log.young_position for owner in self._owners.owners())
        return min(
            (position for position in positions if position is not None), default=self._host.journal.end
        )

    def _free(self, jobs: list[Job]) -> None:
        """Free the oldest journal file when all five conditions hold."""
        journal = self._host.journal
        while len(journal.files) > 1:
            file, end = journal.files[0], journal.files[1].start
            if self._host.covered < end or self._host.is_read(file.name):
                return
            if self._free_mark is None:
                if self._oldest_young() < end:
                    return
                self._free_mark = journal.end
                journal.demand(self._free_mark)
            if journal.durable < self._free_mark or not self._host.unmap(file.name):
                return
            self._free_mark = None
            self.look = True
            drop = journal.retire(file)
            if drop is not None:
                jobs.append(drop)
