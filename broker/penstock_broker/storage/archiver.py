"""The archiver: keeps the journal within its budget, and segments from holding more dead bytes than alive.

    journal file over age or budget → gather → [SEGMENT durable] → files written → [ARCHIVED durable] → freed
    sealed segment, little of it alive → evacuated the same way, with MOVED → [DROPPED durable] → unlinked

One run at a time, made in slices between turns. Runs are paced while there is time, so that their syncs
leave the disk to the journal's. Nothing here would be missed after a crash: a run that was not recorded
never was, and what it wrote is written over.
"""

import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from penstock_broker.storage import archive
from penstock_broker.storage.archive import Gathering, Moved, Run
from penstock_broker.storage.compactor import Compacted, Compactor
from penstock_broker.storage.entries import Kind, Part
from penstock_broker.storage.evacuation import Evacuation
from penstock_broker.storage.files import Drop, Extent, Job, Load, StorageError
from penstock_broker.storage.gathered import JournalFile
from penstock_broker.storage.journal import Journal, JournalSettings
from penstock_broker.storage.log import Use
from penstock_broker.storage.node import NODE, Node
from penstock_broker.storage.reads import Reads
from penstock_broker.storage.segment import segment_name
from penstock_protocol.checksum import Buffer

ARCHIVE_AGE_MS = 60_000
PACE_BYTES_PER_MS = 100_000
"""While the journal holds less than PRESSURE of its budget."""
PRESSURE = 0.75
EVACUATE_EVERY_MS = 10_000
READ_TRIES = 3
"""What cannot be read so often is given up, so that it does not hold up all others for ever."""

T = TypeVar("T")


class Owners(Protocol):
    """The machines of the node, as the archiver sees them."""

    def owners(self) -> Iterable[archive.Owner]:
        """Machines with a log."""
        ...

    def get(self, uuid: bytes) -> object | None:
        """The machine of that uuid."""
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


class Host(Protocol[T]):
    """The engine, as the archiver uses it."""

    reads: Reads
    disk_written: int

    @property
    def journal(self) -> Journal[T]:
        """The one journal."""
        ...

    @property
    def sizes(self) -> JournalSettings:
        """Of the journal."""
        ...

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

    def load(self, load: Load, then: Callable[[object], None]) -> None:
        """Run a Load and hand its result (bytes, or the exception) to `then`."""
        ...

    def is_read(self, name: str) -> bool:
        """A job reads that file."""
        ...

    def unmap(self, name: str) -> bool:
        """Close the map of a file; False while any view of it is alive."""
        ...


class Archiver(Generic[T]):
    """Of one engine."""

    def __init__(self, host: Host[T], owners: Owners, node: Node, use: Use, dirty_ratio_min: float) -> None:
        self._host = host
        self._owners = owners
        self._node = node
        self._use = use
        self._evacuation = Evacuation(owners, node, use)
        self._evacuate_at = 0
        self.compactor = Compactor(owners, dirty_ratio_min)
        self._steps: Gathering | None = None
        """What gathers the run that is being made."""
        self._loading = False
        """It waits for bytes."""
        self._gathered: list[Moved] = []
        self._run: tuple[int, Run] | None = None
        """A run laid out, and the position that must be durable before its files are written."""
        self._writing: Run | None = None
        self._left = 0
        """Its copies that are not done."""
        self._broken = False
        """One of them failed."""
        self._failed = False
        """A run did; the next is made with the next tick."""
        self._unread = 0
        """Runs in a row that failed because something could not be read."""
        self._mono = 0
        self._next_at = 0
        """mono ms before which no run begins, but under pressure."""
        self._paced = False
        self._free_mark: int | None = None
        """What must be durable before the oldest journal file goes, once nothing in it is alive."""
        self._dropping: list[tuple[int, str]] = []
        self._newest: JournalFile | None = None
        self.look = True
        """Something changed that may let moving or freeing go on. That looks at every log, so it is done
        when a file was begun or freed, a checkpoint or a run is done, and once a second."""
        self.quiet = False
        """Nothing is appended of the engine's own accord any more: the node stops."""
        self.bytes_moved: Counter[Kind] = Counter()

    def step(self, mono: int, wall: int, jobs: list[Job]) -> None:
        """Go on with whatever can go on."""
        self._mono = mono
        if self._steps is not None and not self._loading:
            self._gather(self._steps, None, wall)
        if self._run is not None:
            self._start(self._run, jobs)
        if self._free_mark is not None:
            self._free(jobs)
        newest = self._host.journal.files[-1]
        if self.look or self._newest is not newest or (self._paced and mono >= self._next_at):
            self.look = self._paced = False
            self._newest = newest
            self._free(jobs)  # first: while a run is made, nothing goes
            self._begin(wall)
        if self._dropping:
            self._drop(jobs)

    def tick(self, wall: int) -> None:
        """Once a second: try again what failed, drop what is dead."""
        self._failed = False
        self._drop_segments(wall)
        self.look = True

    @property
    def wake_at(self) -> int | None:
        """The mono ms at which there is more to do, whatever else happens."""
        if self._steps is not None and not self._loading:
            return self._mono
        return self._next_at if self._paced else None

    # ---- Making a run

    def _begin(self, wall: int) -> None:
        """Begin to make a run, if one is due."""
        journal = self._host.journal
        if self.quiet or self._failed or self._steps or self._run or self._writing:
            return
        if self._mono < self._next_at and journal.bytes < PRESSURE * self._host.sizes.budget:
            self._paced = True
            return
        below = self._due(wall)
        if below is not None:
            self._steps = archive.gather(list(self._owners.owners()), journal, below)
        elif self._mono >= self._evacuate_at and not self._owners.corrupt:
            self._evacuate_at = self._mono + EVACUATE_EVERY_MS
            self._steps = self._evacuation.gather(self._host.reads)
        elif self.compactor.is_due(self._mono):
            self._steps = self.compactor.gather(self._host.reads, self._mono, wall)
        if self._steps is not None:
            self._gather(self._steps, None, wall)

    def _due(self, wall: int) -> int | None:
        """Where the oldest journal file with something alive ends, if it is old, or those from it on take
        more than half of the budget."""
        journal = self._host.journal
        alive = self._oldest_young()
        taken = journal.bytes
        for file, follower in pairwise(journal.files):
            if alive < follower.start:  # not `file.end`: a recovered one's last block counts no more
                aged = wall - follower.since > ARCHIVE_AGE_MS
                return follower.start if aged or taken > self._host.sizes.budget // 2 else None
            taken -= file.size
        return None

    def _gather(self, steps: Gathering, answer: Buffer | None, wall: int) -> None:
        """One turn's worth of making a run; `answer` is what it had asked for."""
        while True:
            try:
                found = next(steps) if answer is None else steps.send(answer)
            except StopIteration:
                self._steps = None
                rest_ms = self.compactor.read_bytes // PACE_BYTES_PER_MS
                self._next_at = max(self._next_at, self._mono + rest_ms)
                self._paced = self.compactor.is_due(self._mono)
                self._lay_out(wall)
                return
            answer = None
            if found is None:
                return
            if isinstance(found, Moved):
                self._gathered.append(found)
            else:
                answer = self._host.reads.peek(found)
                if answer is None:
                    self._load(steps, found, wall)
                    return

    def _load(self, steps: Gathering, extent: Extent, wall: int) -> None:
        def got(result: object) -> None:
            self._loading = False
            self._gather(steps, result if isinstance(result, bytes) else b"", wall)

        self._loading = True
        self._host.load(Load(*extent[:3]), got)

    def _lay_out(self, wall: int) -> None:
        gathered, self._gathered = self._gathered, []
        if not gathered or self.quiet:
            return
        or_zeros = self._unread >= READ_TRIES
        run = archive.lay_out(gathered, self._node, self._evacuation.leaving, or_zeros=or_zeros)
        if run.copies:
            self._run = (self._host.append(run.begun, wall=wall) if run.begun else 0, run)
        else:
            self._record(run, wall)

    # ---- Carrying it out

    def _start(self, planned: tuple[int, Run], jobs: list[Job]) -> None:
        """Write the files, once it is durable that they were begun."""
        position, run = planned
        if self._host.journal.durable >= position:
            self._run, self._writing, self._left = None, run, len(run.copies)
            for copy in run.copies:
                self._host.start(copy, self._done_copy, jobs)

    def _done_copy(self, result: object) -> None:
        run = self._writing
        assert run is not None
        self._left -= 1
        if isinstance(result, int):
            self._host.disk_written += result
        else:
            self._broken = True
            unread = isinstance(result, StorageError) or getattr(result, "errno", 0) == errno.EIO
            self._unread += unread
        if self._left:
            return
        self._writing = None
        if self._broken:  # what it wrote does not count, and is written over
            self._broken, self._failed = False, True
            self.compactor.abandon()
            return
        self._unread = 0
        self._next_at = self._mono + run.size // PACE_BYTES_PER_MS
        if not self.quiet:
            self._record(run, self._host.journal.time)

    def _record(self, run: Run, wall: int) -> None:
        """Say where bytes lie now; of logs that were deleted meanwhile nothing."""
        self.look = True
        parts = [part for part in run.parts if self._owners.get(part.target) is not None]
        if parts:
            self._host.append(parts, wall=wall)
        self.bytes_moved += run.moved

    # ---- Giving up files

    def _drop_segments(self, wall: int) -> None:
        """Give up segments that hold nothing alive: DROPPED is durable before the file goes. Where a corrupt
        machine has its bytes, nobody knows."""
        if self.quiet or self._owners.corrupt:
            return
        run = self._writing or (self._run[1] if self._run else None)
        held = {part.base for part in run.parts if part.target == NODE} if run else set()
        dead = [n for n in sorted(self._node.segments) if not self._use.of(n) and n not in held]
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
        found = (owner.log.young_position for owner in self._owners.owners())
        return min((position for position in found if position is not None), default=self._host.journal.end)

    def _free(self, jobs: list[Job]) -> None:
        """Free the oldest journal file when all five conditions hold."""
        journal = self._host.journal
        if self._steps is not None or self._run is not None:
            return  # its bytes may be among those to be moved
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
