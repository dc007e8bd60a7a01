"""Up to which offset a log may be given up, by age and by size.

A log is given up from its start on, in whole places: batches while they are young, stretches once they are
old. So it keeps what it should and perhaps somewhat more, never less. Pure: it looks at places and numbers.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from penstock_broker.storage.log import Place


def by_age(places: Iterable[Place], before: int) -> int | None:
    """The offset behind all places that hold nothing appended at or after `before` (ms); None without one."""
    start = None
    for place in places:
        if place.until >= before:
            break
        start = place.end
    return start


def by_size(logs: Sequence[Iterable[Place]], surplus: int, places_max: int) -> dict[int, int]:
    """Which of the logs to give up to where, so that at most `surplus` bytes in `places_max` places go, the
    oldest of all logs first: log number → offset. Kafka's rule: what would go below the limit stays."""
    starts: dict[int, int] = {}
    rest: list[Iterator[Place]] = [iter(places) for places in logs]
    oldest = [
        (place.since, number, place) for number, places in enumerate(rest) for place in islice(places, 1)
    ]
    heapq.heapify(oldest)
    while oldest and oldest[0][2].length <= surplus and places_max:
        _, number, place = heapq.heappop(oldest)
        surplus -= place.length
        places_max -= 1
        starts[number] = place.end
        for following in islice(rest[number], 1):
            heapq.heappush(oldest, (following.since, number, following))
    return starts
