"""The compactor: takes superseded records out of compacted logs, in the background.

    dirtiest log → read its dirty part, learn keys → read all of it below, in runs: MOVED → … → CLEANED

Only stretches are compacted; what is young is left to come. A pass has one block in memory at a time, beside
its map and what the run under way will write. Its runs are the archiver's, which carries them out and paces
them. A pass that ends early, in a crash or over damage, has done no harm: the next one begins where it did.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeAlias, TypeVar

from penstock_broker.storage import entries
from penstock_broker.storage.archive import RUN_BYTES_MAX, SLICE_ROWS, Batch, Gathering, Moved, Owner
from penstock_broker.storage.compaction import Cleaned, Latest, fates, remains
from penstock_broker.storage.entries import Kind
from penstock_broker.storage.evacuation import whole_index
from penstock_broker.storage.files import Extent
from penstock_broker.storage.log import Log, Stretch
from penstock_broker.storage.reads import Reads, block_extent
from penstock_broker.storage.segment import Row, decode_head
from penstock_protocol.batch import BatchView
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Invalid

LOOK_EVERY_MS = 5_000
"""Between looks for a log that is dirty enough. Kafka: log.cleaner.backoff.ms, 15 s."""
SLICE_RECORDS = 256
"""Records looked at in one turn: well under 1 ms."""
MERGE_BYTES = 1 << 20
"""Smaller stretches become one with their neighbours."""

R = TypeVar("R")
Steps: TypeAlias = Generator[Extent | None, Buffer, R]
"""Work in slices, as of a Gathering, and its result."""


class Compacted(Owner, Protocol):
    """A machine whose log is compacted."""

    @property
    def compacts(self) -> bool:
        """It is."""
        ...

    @property
    def cleaned(self) -> Cleaned:
        """How far."""
        ...

    @property
    def tombstone_retention(self) -> int:
        """How long (ms) tombstones are kept."""
        ...


class Find(Protocol):
    """The machines of the node."""

    def compacted(self) -> Iterable[Compacted]:
        """Machines whose logs are to be compacted, and whole."""
        ...

    def owner(self, uuid: bytes) -> Owner | None:
        """The machine with that log."""
        ...


class Unreadable(Exception):
    """Some of a stretch is damaged, or gone meanwhile."""

    def __init__(self, stretch: Stretch) -> None:
        super().__init__(stretch)
        self.stretch = stretch


def dirty_ratio(log: Log, cleaned: Cleaned) -> float:
    """The share of the bytes in stretches that no pass has looked at."""
    total = log.old_bytes(log.start)
    return log.old_bytes(cleaned.upto) / total if total else 0.0


class Pass:
    """One pass over one log. `upto`: how far the map reaches, once that is known."""

    def __init__(self, owner: Compacted, wall: int) -> None:
        self.owner = owner
        self.wall = wall
        self.latest = Latest()
        self.cursor = max(owner.cleaned.upto, owner.log.start)
        self.upto: int | None = None
        self.dropped = owner.cleaned.droppable(wall, owner.tombstone_retention)
        self.removed = 0
        self.tombstones = False


class Group:
    """Neighbouring stretches that become one."""

    def __init__(self, owner: Compacted, first: int) -> None:
        self.owner = owner
        self.first = self.end = first
        self.stretches = self.alive = self.size = 0
        self.changed = False
        self.batches: list[Batch] = []

    def add(self, stretch: Stretch, batches: Sequence[Batch], alive: int, *, changed: bool) -> None:
        """Take in one more, as it shall be."""
        self.stretches += 1
        self.end = stretch.end
        self.alive += alive
        self.size += sum(batch.length for batch in batches)
        self.changed = self.changed or changed
        self.batches += batches

    def moved(self) -> Iterator[Moved]:
        """What is to be done, if anything."""
        if self.changed or self.stretches > 1:
            span = self.end - self.first
            yield Moved(self.owner, Kind.MOVED, self.first, span, self.batches, self.alive)


class Compactor:
    """Of one node."""

    def __init__(self, find: Find, dirty_ratio_min: float) -> None:
        self._find = find
        self._dirty_ratio_min = dirty_ratio_min
        self._pass: Pass | None = None
        self._look_at = 0
        self.read_bytes = 0
        """By the gathering under way, so that it can be paced."""
        self._records = 0
        """Looked at in this slice."""
        self._damaged: set[bytes] = set()
        """Logs of which some cannot be read: they are left as they are, for this life."""
        self.passes = 0
        self.records_removed = 0

    @property
    def busy(self) -> bool:
        """A pass is under way."""
        return self._pass is not None

    def is_due(self, mono: int) -> bool:
        """There is something to do, or to look for."""
        return self.busy or mono >= self._look_at

    def abandon(self) -> None:
        """What was gathered was not carried out: the pass begins anew, later."""
        self._pass = None

    def gather(self, reads: Reads, mono: int, wall: int) -> Gathering:
        """A run's worth of the pass under way, or of the next one."""
        self.read_bytes = 0
        if self._pass is None or not self._is_wanted(self._pass):
            self._look_at = mono + LOOK_EVERY_MS
            self._pass = yield from self._choose(wall)
        if self._pass is None:
            return
        try:
            if self._pass.upto is None:
                yield from self._learn(self._pass, reads)
            else:
                yield from self._clean(self._pass, reads)
        except Unreadable as error:
            log, self._pass = self._pass.owner.log, None
            if next(log.stretches(error.stretch.first), None) == error.stretch:
                self._damaged.add(log.uuid)

    def _is_wanted(self, under_way: Pass) -> bool:
        owner = under_way.owner
        return self._find.owner(owner.log.uuid) is owner and owner.compacts

    def _choose(self, wall: int) -> Steps[Pass | None]:
        """The log that is dirtiest, if it is dirty enough, or one with tombstones whose time is over."""
        chosen, most = None, 0.0
        for number, owner in enumerate(list(self._find.compacted())):
            if number % SLICE_ROWS == SLICE_ROWS - 1:
                yield None
            if owner.log.uuid in self._damaged:
                continue
            ratio = dirty_ratio(owner.log, owner.cleaned)
            is_due = bool(owner.cleaned.droppable(wall, owner.tombstone_retention))
            if ratio > most and (is_due or ratio >= self._dirty_ratio_min):
                chosen, most = owner, ratio
            elif is_due and chosen is None:
                chosen = owner
        return Pass(chosen, wall) if chosen is not None else None

    # ---- The two halves of a pass

    def _learn(self, under_way: Pass, reads: Reads) -> Steps[None]:
        """Read the dirty part, as far as the map takes its keys."""
        log = under_way.owner.log
        while self.read_bytes < RUN_BYTES_MAX:
            stretch = next(log.stretches(under_way.cursor), None)
            if stretch is None:
                self._turn(under_way, under_way.cursor)
                return
            for blocks in (yield from self._blocks(under_way.owner, stretch, reads)):
                for row, view in (yield from self._batches(under_way.owner, stretch, blocks)):
                    if row.base + row.messages <= under_way.cursor:
                        continue
                    if not under_way.latest.has_room(view.count):
                        self._turn(under_way, row.base)
                        return
                    learning = under_way.latest.add(view, row.base)
                    while some := sum(islice(learning, SLICE_RECORDS)):
                        if self._is_slice_over(some):
                            yield None
                    under_way.cursor = row.base + row.messages
            under_way.cursor = stretch.end

    def _turn(self, under_way: Pass, upto: int) -> None:
        """All keys below `upto` are known: now all below can be cleaned."""
        under_way.upto = upto
        under_way.cursor = under_way.owner.log.start

    def _clean(self, under_way: Pass, reads: Reads) -> Gathering:
        """Make anew what lost records, up to the bounds of a run."""
        owner, log = under_way.owner, under_way.owner.log
        assert under_way.upto is not None
        group = Group(owner, under_way.cursor)
        while max(self.read_bytes // 2, group.size) < RUN_BYTES_MAX:
            stretch = next(log.stretches(under_way.cursor), None)
            if stretch is None or stretch.first >= under_way.upto:
                yield from group.moved()
                yield self._finished(under_way)
                return
            batches, alive, changed = yield from self._rewritten(under_way, stretch, reads)
            under_way.cursor = stretch.end
            if not changed and stretch.length >= MERGE_BYTES:
                yield from group.moved()
                group = Group(owner, stretch.end)
                continue
            if not group.stretches:
                group = Group(owner, stretch.first)
            group.add(stretch, batches, alive, changed=changed)
        yield from group.moved()

    def _finished(self, under_way: Pass) -> Moved:
        """The end of a pass, as an outcome."""
        assert under_way.upto is not None
        self._pass = None
        self.passes += 1
        self.records_removed += under_way.removed
        upto, _, since, at, removed = after = under_way.owner.cleaned.after(
            under_way.upto,
            under_way.wall,
            under_way.removed,
            dropped=under_way.dropped,
            tombstones=under_way.tombstones,
        )
        detail = entries.CLEANED.pack(after.horizon, since, at, removed)
        return Moved(under_way.owner, Kind.CLEANED, upto, 0, [], detail=detail)

    def _rewritten(
        self, under_way: Pass, stretch: Stretch, reads: Reads
    ) -> Steps[tuple[list[Batch], int, bool]]:
        """What remains of a stretch, how many records that is, and whether it is less than before."""
        owner = under_way.owner
        kept: list[Batch] = []
        alive = removed = 0
        for place in (yield from self._blocks(owner, stretch, reads)):
            for row, view in (yield from self._batches(owner, stretch, place)):
                stay: list[bool] = []
                judging = fates(view, row.base, under_way.latest, under_way.dropped)
                while some := list(islice(judging, SLICE_RECORDS)):
                    stay += [fate.stays for fate in some]
                    under_way.tombstones |= any(fate.stays and fate.tombstone for fate in some)
                    if self._is_slice_over(len(some)):
                        yield None
                alive += sum(stay)
                removed += view.count - sum(stay)
                if all(stay):
                    kept.append(_batch(row, place))
                    continue
                for delta, data in remains(view, stay):
                    kept.append(_made(row, delta, BatchView(data, verify=False)))
                    yield None
        under_way.removed += removed
        return kept, alive, removed > 0

    def _is_slice_over(self, records: int) -> bool:
        self._records += records
        if self._records < SLICE_RECORDS:
            return False
        self._records = 0
        return True

    # ---- Reading

    def _blocks(self, owner: Owner, stretch: Stretch, reads: Reads) -> Steps[list[Extent]]:
        index = yield from whole_index(owner, stretch, reads)
        if index is None:
            raise Unreadable(stretch)
        return [block_extent(stretch, block) for block in index]

    def _batches(self, owner: Owner, stretch: Stretch, place: Extent) -> Steps[list[tuple[Row, BatchView]]]:
        """The batches of a block, checked."""
        data = memoryview((yield place))
        self.read_bytes += place.length
        rows = decode_head(data, owner.log.uuid, stretch.segment)
        if rows is None:
            raise Unreadable(stretch)
        try:
            found = [(row, BatchView(data[row.at : row.at + row.length])) for row in rows]
        except Invalid as error:
            raise Unreadable(stretch) from error
        if any(view.crc != row.crc or view.length != row.length for row, view in found):
            raise Unreadable(stretch)
        return found


def _batch(row: Row, place: Extent) -> Batch:
    """A batch as it is."""
    extent = Extent(place.name, place.offset + row.at, row.length)
    origin = row.origin_log, row.origin_first
    return Batch(row.base, row.messages, row.time, *origin, row.crc, row.length, extent)


def _made(row: Row, delta: int, view: BatchView) -> Batch:
    """What remains of a batch from that delta on."""
    origin = row.origin_log, row.origin_first + delta
    span = view.deltas[-1] + 1
    return Batch(row.base + delta, span, row.time, *origin, view.crc, view.length, view.view)
