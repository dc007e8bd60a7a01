"""Which messages of a queue go next: neighbours that share all stamps, plain ones by their offset, special
ones in their order (see order.py).
"""

from typing import TYPE_CHECKING

from penstock_broker.queues.histories import FRESH
from penstock_broker.queues.states import Special, State
from penstock_protocol.slices import REDELIVERED, REPLAYED

if TYPE_CHECKING:
    from penstock_broker.queues.queue import Queue

Run = tuple[int, int, int, int, int]
"""First offset, messages, attempt, delivery, flags of a slice."""


def next_run(queue: "Queue", limit: int) -> Run | None:
    """The next messages to go that share all stamps: first, messages, attempt, delivery, flags."""
    states = queue.states
    first, messages = states.next_ready(queue.log.end, limit)
    special = states.next_special(limit) if states.counts[State.SPECIAL] else None
    if special is not None and (not messages or special.key < states.order.key(first)):
        return _next_special(queue, special, limit)
    if not messages:
        return None
    if special is not None and states.order.cuts:
        messages = states.order.before(special.key, first, messages)
    if first >= queue.suspect_below:
        return first, messages, 1, 1, 0
    return first, min(messages, queue.suspect_below - first), 1, 1, REDELIVERED


def _next_special(queue: "Queue", special: Special, limit: int) -> Run:
    """Neighbours of a special message that go with it."""
    states, histories, order = queue.states, queue.histories, queue.states.order
    first, replayed = special.first, queue.indexes.replayed
    history = histories.get(first, FRESH)
    most = min(limit, special.messages) if special.messages else limit
    if queue.indexes.notes or replayed or (order.cuts and not special.messages and not order.ageing):
        most = 1
    length = 1
    while (
        length < most
        and histories.get(first + length, FRESH) == history
        and (
            special.messages
            or (
                states.state(first + length) == State.SPECIAL
                and order.key(first + length) == special.key + length * order.step
            )
        )
    ):
        length += 1
    suspect_below = queue.indexes.suspect_below if special.messages else queue.suspect_below
    again = history.deliveries or first < suspect_below
    flags = (REDELIVERED if again else 0) | (REPLAYED if first in replayed else 0)
    if first < suspect_below:
        length = min(length, suspect_below - first)
    return first, length, history.failures + 1, history.deliveries + 1, flags
