"""What can be seen of a queue's messages, without touching them."""

from collections.abc import Iterator

from penstock_broker.queues.histories import FIRST_TRY, FRESH, History
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_protocol.limits import INT_MAX
from penstock_protocol.slices import REPLAYED

NAMED = {
    "ready": State.READY,
    "held": State.HELD,
    "delayed": State.DELAYED,
    "in_flight": State.IN_FLIGHT,
    "waiting": State.WAITING,
}
"""States by the names users have for them. Ready has those that are SPECIAL, too."""


def plain_history(state: State) -> History:
    """Of a message in that state of which nothing is kept: only one in flight was handed out."""
    return FIRST_TRY if state is State.IN_FLIGHT else FRESH


def ranges(
    queue: Queue, state: State, limit: int, *, with_held: bool = False
) -> list[tuple[int, int, History]]:
    """Runs in a state, oldest first, at most `limit` messages, cut where histories differ. `with_held`: what
    is ready as counts have it, with messages behind others of their group."""
    plain = plain_history(state)
    runs = list(queue.states.ranges(state, limit))
    if state is State.READY:
        for more in (State.SPECIAL, State.HELD) if with_held else (State.SPECIAL,):
            runs += queue.states.ranges(more, limit)
        fresh = queue.log.end - queue.states.cursor
        runs = sorted([*runs, (queue.states.cursor, fresh)] if fresh else runs)
    out = []
    for first, messages, history in queue.histories.runs(runs, plain):
        if limit > 0:
            shown = _alike(queue, first, min(messages, limit))
            out += [(begin, count, history) for begin, count in shown]
        limit -= messages
    return out


def _alike(queue: Queue, first: int, messages: int) -> Iterator[tuple[int, int]]:
    """A run cut where messages that were replayed, and others, are neighbours."""
    end = first + messages
    if queue.indexes.replayed:
        for offset in range(first + 1, end):
            if flags_of(queue, offset) != flags_of(queue, first):
                yield first, offset - first
                first = offset
    yield first, end - first


def flags_of(queue: Queue, offset: int) -> int:
    """Of the slice that shows a message."""
    return REPLAYED if offset in queue.indexes.replayed else 0


def unsettled_ranges(queue: Queue, limit: int | None = None) -> list[tuple[int, int]]:
    """Every run that is neither settled nor in flight; at most the oldest `limit` messages."""
    everything = queue.log.end if limit is None else limit
    runs = [
        run
        for state in (State.READY, State.SPECIAL, State.DELAYED, State.WAITING, State.HELD)
        for run in queue.states.ranges(state, everything)
    ]
    if queue.states.cursor < queue.log.end:
        runs.append((queue.states.cursor, queue.log.end - queue.states.cursor))
    out = []
    left = everything
    for first, messages in sorted(runs):
        if left > 0:
            out.append((first, min(messages, left)))
        left -= messages
    return out


def oldest_times(queue: Queue) -> dict[str, int]:
    """State → append time (ms) of its oldest message. One that retention took while somebody has it has no
    time any more, and does not count."""
    times = {}
    for name, state in NAMED.items():
        first = min(_firsts(queue, state), default=None) if queue.count(state) else None
        if first is not None:
            times[name] = queue.log.time(first)
    return times


def _firsts(queue: Queue, state: State) -> Iterator[int]:
    """The first messages in that state that the log still has: of what is ready, one of each kind."""
    states, start = queue.states, queue.log.start
    for each in (State.READY, State.SPECIAL) if state is State.READY else (state,):
        for first, messages in states.ranges(each, queue.log.end):
            if first + messages > start:
                yield max(first, start)
                break
    if state is State.READY and states.cursor < queue.log.end:
        yield max(states.cursor, start)


def throttled(queue: Queue) -> int:
    """Message groups that are over their rate, and tenants of which more waits than their cap lets out."""
    groups, states = queue.indexes.groups, queue.states
    most = groups.rules.concurrency if groups.rules.fair else None
    if most is None or not states.counts[State.HELD]:
        return groups.throttled
    full = {group for group in map(groups.of.get, groups.out) if group is not None and group.out >= most}
    capped = [
        group
        for group in full
        if not group.is_job
        and not group.parked
        and any(groups.of.get(each) is group and states.state(each) == State.HELD for each in group.waiting)
    ]
    return groups.throttled + len(capped)


def located(queue: Queue, log: bytes, offset: int) -> int | None:
    """Where the message with that id is now, or where it was last; None if it never was here, or its bytes
    alone would tell. What came back is meant where it is, not where it was."""
    states = queue.states
    if log == queue.log.uuid:
        again = queue.indexes.copies.newest(offset, states.has_alive)
        return again if again is not None else offset if offset < queue.log.end else None
    found = queue.log.offset_of(log, offset)
    if found is None or states.state(found) != State.SETTLED:
        return found
    for row in queue.log.young_rows(INT_MAX, found + 1):
        there = row.base + offset - row.origin_first
        if row.origin_log == log and row.base <= there < row.base + row.messages:
            found = there if states.state(there) != State.SETTLED else found
    return found
