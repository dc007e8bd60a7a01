"""Gives up damaged messages or records, in one short life of a broker that serves nobody."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from penstock_broker.clock import Clock
from penstock_broker.core import Core
from penstock_broker.outputs import Close, Send
from penstock_broker.queues.looking import unsettled_ranges
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.settings import CoreSettings
from penstock_broker.storage import archive
from penstock_broker.storage.archive import Batch, Moved
from penstock_broker.storage.entries import Kind
from penstock_broker.storage.files import Extent, Files, StorageError
from penstock_broker.storage.log import Log, Stretch
from penstock_broker.storage.segment import decode_head, segment_name, walk
from penstock_broker.tools.command import RANDOM, Failed
from penstock_broker.tools.doctor import Case
from penstock_broker.tools.logs import FOREVER, Damage, Places, damages, index_of
from penstock_broker.tools.walk import journal_names, readable
from penstock_broker.topics.partition import Partition


class Given(NamedTuple):
    """What is given up of one log, between `first` and `last`."""

    uuid: bytes
    label: str
    noun: str
    first: int
    last: int
    runs: list[tuple[int, int]]
    """(first, messages) that are wanted, and cannot be read."""
    damages: list[Damage]

    @property
    def messages(self) -> int:
        """How many."""
        return sum(messages for _, messages in self.runs)

    @property
    def becomes(self) -> str:
        """What they are then."""
        if self.noun == "message":
            return "they count as purged; their offsets are not used again"
        return "their offsets are a hole: who fetches there goes on behind it"


def given_up(case: Case, log: str, first: int, last: int) -> Given:
    """What a range comes to. Raises `Failed` if not all of it is damaged, or nothing can be done."""
    if case.report is None:
        raise Failed(f"a start is refused, mend that first: {case.refused}")
    owner = next((each for each in case.registry.owners() if case.names.address(each.uuid) == log), None)
    if owner is None:
        raise Failed(
            f"there is no queue or partition {log!r}: write jobs for a queue, orders/0 for a partition"
        )
    if owner.uuid in case.registry.corrupt:
        raise Failed(f"{case.names.label(owner.uuid)} is corrupt as a whole: delete it when the broker is up")
    places = Places(case.files, case.survey, case.report)
    found = [each for each in damages(case.files, places, owner) if each.first <= last and _end(each) > first]
    runs = list(_wanted(owner, first, last))
    for low, messages in runs:
        _check_damaged(log, found, low, low + messages)
    if not runs:
        raise Failed(f"nothing of {log}:{first}-{last} is there any more")
    if isinstance(owner, Partition):
        low, high = min(each.first for each in found), max(_end(each) for each in found) - 1
        if low < first or high > last:
            raise Failed(f"records are damaged batch by batch: name {log}:{low}-{high}")
    noun = "message" if isinstance(owner, Queue) else "record"
    return Given(owner.uuid, case.names.label(owner.uuid), noun, first, last, runs, found)


def _end(damage: Damage) -> int:
    return damage.first + damage.messages


def _wanted(owner: Queue | Partition, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Runs in the range that are in the log and not settled."""
    if isinstance(owner, Queue):
        everything = unsettled_ranges(owner)
    else:
        everything = [(owner.log.start, owner.log.end - owner.log.start)]
    for begin, messages in everything:
        low, high = max(begin, first), min(begin + messages, last + 1)
        if low < high:
            yield low, high - low


def _check_damaged(log: str, found: list[Damage], first: int, end: int) -> None:
    """Raises `Failed` if something in first … end can be read."""
    at = first
    for damage in sorted(found):
        if damage.first > at:
            break
        at = max(at, _end(damage))
    if at < end:
        raise Failed(f"{log}:{at} is not damaged: name what `penstock doctor` names, and no more")


# Doing it


def give_up(files: Files, given: Given, clock: Clock) -> None:
    """Start, record it, stop in order; no time passes, so nothing else becomes due. Raises `StorageError`
    where a start is refused."""
    usual = CoreSettings()
    size = max(files.names()[name] for name in journal_names(files))
    settings = replace(usual, journal_file_bytes_min=min(size, usual.journal_file_bytes_min))
    core = Core(files, settings, RANDOM, clock.now())
    owner = core.registry.owner(given.uuid)
    assert owner is not None, "recovered a moment ago"
    if isinstance(owner, Queue):
        part = owner.settle_part(given.runs, Settled.PURGED)
        core.engine.append([part], wall=clock.now().wall)
        core.engine.flush(clock.now().wall)
    else:
        for moves in _moves(files, core, Without(owner, given.first, given.last + 1)):
            _carry_out(files, core, moves, clock)
    core.stop(clock.now())
    while not core.stopped:
        for output in core.drain(clock.now()):
            if not isinstance(output, Send | Close):
                try:
                    result = files.run(output)
                except (OSError, StorageError) as error:
                    result = error
                core.done(output, result, clock.now())


class Without:
    """A partition but for a range, as the archiver sees it: nobody wants that."""

    def __init__(self, owner: Partition, first: int, end: int) -> None:
        self._owner = owner
        self.first = first
        self.end = end

    @property
    def log(self) -> Log:
        """Its log."""
        return self._owner.log

    def is_alive(self, first: int, messages: int) -> bool:
        """Something in that range is wanted."""
        given = first >= self.first and first + messages <= self.end
        return not given and self._owner.is_alive(first, messages)

    def alive(self, first: int, messages: int) -> int:
        """How many messages in that range are wanted."""
        return self._owner.alive(first, messages)


def _moves(files: Files, core: Core, owner: Without) -> Iterator[list[Moved]]:
    """Stretches are written again without the range; young batches move up to its end, without it, too."""
    log = owner.log
    for stretch in list(log.stretches(owner.first)):
        if stretch.first < owner.end:
            batches = _kept(files, owner, stretch)
            yield [Moved(owner, Kind.MOVED, stretch.first, stretch.messages, batches)]
    young = [row.position for row in log.young_rows(FOREVER, owner.first) if row.base < owner.end]
    while young and log.young_position is not None and log.young_position <= young[-1]:
        found = archive.gather([owner], core.engine.journal, young[-1] + 1)
        yield [each for each in found if isinstance(each, Moved)]


def _kept(files: Files, owner: Without, stretch: Stretch) -> list[Batch]:
    name, log = segment_name(stretch.segment), owner.log.uuid
    data = readable(files, name, stretch.at, stretch.length) if name in files.names() else memoryview(b"")
    batches = []
    for block in index_of(data, log, stretch) or walk(data, log, stretch.segment):
        rows = decode_head(data[block.at : block.at + block.length], log, stretch.segment) or []
        for row in rows:
            at = block.at + row.at
            if owner.is_alive(row.base, row.messages):
                extent = Extent(name, stretch.at + at, row.length)
                stamps = row.base, row.messages, row.time, row.origin_log, row.origin_first
                batches.append(Batch(*stamps, row.crc, row.length, extent))
    return batches


def _carry_out(files: Files, core: Core, moves: list[Moved], clock: Clock) -> None:
    """As the archiver does it: segments begun, files written, then said where bytes lie."""
    engine = core.engine
    plan = archive.lay_out(moves, core.registry.node)
    if plan.begun:
        engine.append(plan.begun, wall=clock.now().wall)
        engine.flush(clock.now().wall)
    for copy in plan.copies:
        files.run(copy)
    engine.append(plan.parts, wall=clock.now().wall)
    engine.flush(clock.now().wall)
