"""How fast messages may be handed out and moved: token buckets, judged over every window of time.

Hand-outs in the order of their tokens: from one to another as many went as lie between, in no more time than
from the earliest moment of the one to the latest of the other. What the history does not show would only make
more of them, and what was handed out in another life of the broker counts for itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.sim.evidence import Delivery, Queue, maybe_away
from tests.sim.feature_rules import at_home, life
from tests.sim.history import NEVER

BURST_SECONDS = 0.1
"""A queue that was idle may be ahead by so much of its rate, a message group by the next; at least by one."""
GROUP_BURST_SECONDS = 1.0
STEPS_A_SECOND = 10
"""Moving at a rate is done in at least so many steps a second."""
TICK_SECONDS = 0.001


def rate(queue: Queue) -> Iterator[str]:
    """More messages within some time than the rate of the queue allows."""
    most = (queue.special or {}).get("rate")
    if most is None:
        return
    lives: dict[int, list[Delivery]] = defaultdict(list)
    for handouts in queue.handouts:
        for delivery in handouts:
            lives[life(delivery)].append(delivery)
    for found in lives.values():
        yield from too_many(queue, found, most, BURST_SECONDS)


def group_rate(queue: Queue) -> Iterator[str]:
    """The same of each message group, or tenant. Counted is what surely came from its turn in the group: not
    what was released or never reached anybody, for that may go again at once; and nothing at all where a
    message that expired on the way makes others wait again."""
    settings = queue.special or {}
    most = settings.get("group_rate")
    if most is None or settings["ttl"] is not None or any("ttl" in each.traits for each in queue.appends):
        return
    groups: dict[tuple[int, str], list[Delivery]] = defaultdict(list)
    for first in (handouts[0] for handouts in queue.handouts):
        append = at_home(queue, first)
        if append is None or first.delivery > 1 or "job" in append.traits or maybe_away(queue, first):
            continue
        name = append.traits.get("group", "" if settings["fair"] else None)
        if name is not None:
            groups[life(first), name].append(first)
    for (_, name), found in groups.items():
        yield from (f"{name!r}: {what}" for what in too_many(queue, found, most, GROUP_BURST_SECONDS))


def too_many(queue: Queue, found: Iterable[Delivery], most: float, burst: float) -> Iterator[str]:
    """The last of each run of hand-outs that is longer than `most` a second allow."""
    ordered = sorted(found, key=lambda delivery: delivery.token)
    allowed = burst * most + 1
    least = NEVER
    for number, delivery in enumerate(ordered):
        begin, end = moments(delivery)
        if end >= queue.opened:
            return
        least = min(least, number - begin * most)
        over = number + 1 - (end + TICK_SECONDS) * most - least - allowed
        if over > 0:
            yield f"{delivery.value} under {delivery.token} came {over / most:.3f} s ahead of {most:g}/s"
            least = NEVER


def moments(delivery: Delivery) -> tuple[float, float]:
    """Between which times it was handed out."""
    handed = delivery.handed
    return (delivery.start, delivery.end) if handed is None else (handed, handed)


def transfer_rate(queue: Queue) -> Iterator[str]:
    """More messages moved, redriven or replayed than the rate allows that was asked for."""
    for op in queue.ops["transfer"]:
        most = op.asked.get("rate")
        if op.ok and most is not None:
            allowed = (op.end - op.start) * most + max(1.0, most / STEPS_A_SECOND) + 1
            if op.answer["messages"] > allowed:
                yield f"{op.answer['messages']} moved in {op.end - op.start:.3f} s, at {most:g}/s"
