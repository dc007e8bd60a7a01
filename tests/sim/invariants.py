"""What must hold on the live core after every turn: named checks, each over one machine or the node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from penstock_broker.core import Core
from penstock_broker.queues.message_groups import MessageGroups
from penstock_broker.queues.outcomes import SETTLED_NAMES
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.storage.checkpoint import SLOTS
from penstock_broker.storage.log import Log, Stretch, Young
from penstock_broker.storage.segment import segment_name
from penstock_broker.topics.topic import Topic


def check(
    core: Core, names: Collection[str], busy: Collection[str], books: dict[bytes, int], *, thorough: bool
) -> None:
    """All of them; the thorough ones look at every message and file. `names`: files on the disk; `busy`:
    those of jobs under way; `books`: what `outcomes_add_up` keeps during a life."""
    durable_lies_below_end(core)
    journal_keeps_its_budget(core)
    for queue in core.registry.lanes():
        counts_add_up(queue)
    if not thorough:
        return
    files_are_known(core, names, busy)
    segments_are_counted(core)
    for topic in core.registry.topics.values():
        retention_keeps_its_limit(topic)
    for queue in core.registry.lanes():
        if queue.borrowed:
            retention_took_it_from_everybody(queue)
        outcomes_add_up(queue, books)
        nobody_has_a_message_twice(queue)
        histories_fit_states(queue)
        indexes_fit_states(queue)
    for owner in core.registry.owners():
        index_is_whole(core, owner.log)


def durable_lies_below_end(core: Core) -> None:
    """W never passes what was appended."""
    journal = core.engine.journal
    assert journal.durable <= journal.end


def journal_keeps_its_budget(core: Core) -> None:
    """Publishes stop at the budget and a file; what frees space, and what groups commit, may go beyond by a
    few files while a checkpoint is written, and the start takes one. Without working checkpoints nothing can
    be freed, and the next life begins with what there is, so a life answers for the files it began itself;
    what checkpoints cover is freed file by file."""
    journal, sizes = core.engine.journal, core.engine.sizes
    if core.engine.checkpoint_failed or not core.engine.covered:
        return
    most = 2 * sizes.budget + 17 * sizes.file_max
    begun = core.report.position
    needed = sum(
        file.size for file in journal.files if file.end > core.engine.covered and file.start >= begun
    )
    assert needed <= most, f"{needed:,} bytes of journal"


def counts_add_up(queue: Queue) -> None:
    """Every message of a queue is in exactly one state."""
    states = queue.states
    assert min(states.counts) >= 0, (queue.name, states.counts)
    assert states.head <= states.cursor <= queue.log.end, (states.head, states.cursor, queue.log.end)
    assert sum(states.counts) == states.cursor, (queue.name, states.counts, states.cursor)


def outcomes_add_up(queue: Queue, books: dict[bytes, int]) -> None:
    """In one life as many messages are settled as were acked, dead-lettered, expired, purged, duplicates and
    moved, together."""
    known = sum(queue.counters[name] for name in SETTLED_NAMES)
    before = queue.states.counts[State.SETTLED] - known
    assert books.setdefault(queue.uuid, before) == before, (queue.name, queue.counters, before)


def indexes_fit_states(queue: Queue) -> None:
    """Nothing is kept of a message that is settled; every message of a group is counted once, and one that is
    held will be let out."""
    indexes, states = queue.indexes, queue.states
    groups, notes = indexes.groups, indexes.notes
    kept = [groups.of, groups.out, groups.delayed, indexes.replayed, notes.attempts, notes.checkpoints]
    for offsets in (*kept, states.order.ranks, states.order.late):
        settled = [offset for offset in offsets if states.state(offset) == State.SETTLED]
        assert not settled, f"{queue.name}: something is kept of {settled}, which are settled"
    members = Counter(group.name for group in groups.of.values())
    counted = {name: group.members for name, group in groups.named.items() if group.members}
    assert members == counted, (queue.name, members, counted)
    held = [offset for offset, group in groups.of.items() if states.state(offset) == State.HELD]
    assert len(held) == states.counts[State.HELD], (queue.name, held, states.counts)
    lost = [offset for offset in held if offset not in _line_of(groups, offset)]
    assert not lost, f"{queue.name}: {lost} are held for ever"


def _line_of(groups: MessageGroups, offset: int) -> Collection[int]:
    """Where a message that is held waits: to go out, or, if it is out, to be tried again."""
    group = groups.of[offset]
    return groups.again.get(group, ()) if offset in groups.out else group.waiting


def retention_keeps_its_limit(topic: Topic) -> None:
    """Records are given up by size alone here, and never so many that less is left than the limit; what a
    move to a segment saves in headers may be missing then."""
    given_up = sum(partition.log.start for partition in topic.partitions)
    left = sum(partition.log.size_bytes for partition in topic.partitions)
    limit = topic.policy.size_max
    assert not given_up or (limit is not None and left >= limit // 2), f"{topic.name}: {left:,} of {limit}"


def retention_took_it_from_everybody(queue: Queue) -> None:
    """What the topic does not keep any more is no message of a queue over it, once nobody has it."""
    states, start = queue.states, queue.log.start
    left = {state for state, _, _ in states.spans(states.head, max(0, start - states.head))}
    assert left <= {State.SETTLED, State.IN_FLIGHT}, (queue.name, queue.partition, start, left)


def nobody_has_a_message_twice(queue: Queue) -> None:
    """Leases do not overlap, and what is leased is in flight; the broker itself may hold more."""
    leased: Counter[int] = Counter()
    for lease in queue.leases:
        for first, messages in lease.runs(lease.first, lease.messages):
            leased.update(range(first, first + messages))
    twice = [offset for offset, times in leased.items() if times > 1]
    assert not twice, f"{queue.name}: leased twice: {twice}"
    free = [offset for offset in leased if queue.states.state(offset) != State.IN_FLIGHT]
    assert not free, f"{queue.name}: leased and not in flight: {free}"


def histories_fit_states(queue: Queue) -> None:
    """A counted state is what a look at every message gives, and what has a history is not settled."""
    states = queue.states
    found: Counter[int] = Counter()
    for held, _, messages in states.spans(0, states.cursor):
        found[held] += messages
    for state in State:
        assert found[state] == states.counts[state], (queue.name, state, found, states.counts)


def index_is_whole(core: Core, log: Log) -> None:
    """What is not settled lies in a batch that lies in a file that is there."""
    journal = core.engine.journal
    for row in log.young_rows(journal.end):
        file, at = journal.locate(row.position)
        assert file.start <= row.position < file.end or core.engine.journal.durable <= row.position, row
        assert at + row.length <= file.size or journal.durable <= row.position
    looked = log.start
    for begin, messages in _wanted(core, log):
        looked = max(looked, begin)
        while looked < begin + messages:
            place = log.at(looked)
            assert place is not None, f"offset {looked} is lost"
            first = place.base if isinstance(place, Young) else place.first
            assert first <= looked < first + place.messages, f"offset {looked} is lost, next to {place}"
            if isinstance(place, Stretch):
                assert place.segment in core.engine.node.segments, place
            looked = first + place.messages


def _wanted(core: Core, log: Log) -> Iterator[tuple[int, int]]:
    """The runs of a log that are kept, and not settled."""
    owner = core.registry.owner(log.uuid)
    if not isinstance(owner, Queue):
        yield log.start, log.end - log.start
        return
    for state, first, messages in owner.states.spans(log.start, log.end - log.start):
        if state != State.SETTLED:
            yield first, messages


def segments_are_counted(core: Core) -> None:
    """What the node counts per segment is what the logs hold there."""
    held: Counter[int] = Counter()
    for owner in core.registry.owners():
        for stretch in owner.log.stretches():
            held[stretch.segment] += stretch.length
    assert held == core.registry.use.total(), (held, core.registry.use.total())
    for number, size in held.items():
        assert size <= core.engine.node.segments[number].size, number


def files_are_known(core: Core, names: Collection[str], busy: Collection[str]) -> None:
    """No file is left behind on the disk: somebody will recycle or drop it."""
    engine: Any = core.engine
    journal: Any = engine.journal
    files = [*journal.files, *journal._spares, *journal._preparing.values()]
    segments = {segment_name(number) for number in engine.node.segments}
    unused = {name for name, _ in journal._recyclable} | {name for _, name in engine.archiver._dropping}
    stray = set(names) - {file.name for file in files} - segments - unused - set(SLOTS) - set(busy)
    assert not stray, f"nobody knows {sorted(stray)}"
