"""What may be sent again, when, and what a timeout means. Pure: no clock, no socket.

Invariant: nothing here lets a change happen twice. A request that the broker refused as `AGAIN` changed
nothing; one whose socket was lost is repeated only because every verb is idempotent on the broker's side
(publishes by sequence, settles by lease token, the rest by name), or its caller says when it is not
(see transfer.py).
"""

from collections.abc import Iterator
from random import Random

from penstock_protocol import errors as e
from penstock_protocol.messages import groups as g
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t

PAUSE_INITIAL = 0.05
PAUSE_MAX = 5.0
"""Seconds between tries: 0.05, doubled, at most 5, each half fixed and half chance."""

AGAIN = (e.Busy, e.Closing, e.NotOwner)
"""Refusals the client answers by itself: nothing was written, and the same bytes may succeed later."""

WAITS = (q.Receive, t.Fetch)
"""Requests the broker may park: their end is hastened by CANCEL."""

READS = (
    *WAITS,
    *(q.Peek, q.ListQueues, q.DescribeQueue, q.Find, q.Explain, c.ListSchedules, t.ListProducers),
    *(t.Offset, t.Offsets, t.ListTopics, t.DescribeTopic, t.ListGroups, t.DescribeGroup),
    *(s.Hello, s.Ping, g.Join, g.Heartbeat, g.Leave),
)
"""Requests that change nothing lasting: when they time out there is nothing to find out."""


def pauses(random: Random, initial: float = PAUSE_INITIAL, longest: float = PAUSE_MAX) -> Iterator[float]:
    """Seconds to wait before each further try: exponential, with jitter, without end."""
    step = initial
    while True:
        yield step * random.uniform(0.5, 1)
        step = min(2 * step, longest)


def pause_after(error: e.Error, steps: Iterator[float]) -> float:
    """Seconds until a request refused as `AGAIN` is sent again: the curve's, or more if asked for."""
    return max(next(steps), error.retry_after or 0.0)
