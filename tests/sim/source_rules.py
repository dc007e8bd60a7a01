"""What no queue over a topic may show. Each rule yields what it saw; a rule that cannot tell says nothing."""

from collections.abc import Iterator

from tests.sim.evidence import Delivery, Queue
from tests.sim.history import LANE


def too_old(queue: Queue) -> Iterator[str]:
    """It begins with what is produced from its creation on, and handed out what was there before."""
    if (queue.special or {}).get("source_start") == "latest":
        for delivery in delivered(queue):
            append = queue.own.get(delivery.value or "")
            if append is not None and append.op.end < queue.settings["time"]:
                yield f"{delivery.value} had been produced before the queue was created"


def trimmed_delivered(queue: Queue) -> Iterator[str]:
    """Handed out though retention had taken it: somebody had been told before who then asked for more."""
    for delivery in delivered(queue):
        number, offset = divmod(delivery.offset, LANE)
        log = queue.lanes.get(number)
        start = log.start_known(delivery.start) if log is not None else 0
        if offset < start:
            yield f"{delivery.value} came from {offset} of partition {number}, which begins at {start:g}"


def delivered(queue: Queue) -> Iterator[Delivery]:
    """All that was handed out, under a lease or at most once."""
    for handouts in queue.handouts:
        yield from handouts
    yield from queue.once
