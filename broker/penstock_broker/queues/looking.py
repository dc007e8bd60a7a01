"""What can be seen of a queue's messages, without touching them."""

from penstock_broker.queues.histories import FIRST_TRY, FRESH, History
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State

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


def ranges(queue: Queue, state: State, limit: int) -> list[tuple[int, int, History]]:
    """Runs in a state, oldest first, at most `limit` messages, cut where histories differ."""
    plain = plain_history(state)
    runs = list(queue.states.ranges(state, limit))
    if state is State.READY:
        runs += queue.states.ranges(State.SPECIAL, limit)
        fresh = queue.log.end - queue.states.cursor
        runs = sorted([*runs, (queue.states.cursor, fresh)] if fresh else runs)
    out = []
    for first, messages, history in queue.histories.runs(runs, plain):
        if limit > 0:
            out.append((first, min(messages, limit), history))
        limit -= messages
    return out


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
    """State → append time (ms) of its oldest message."""
    times = {}
    for name, state in NAMED.items():
        first = ranges(queue, state, 1) if queue.count(state) else []
        if first:
            times[name] = queue.log.time(first[0][0])
    return times
