"""What no queue with features may show. Each rule yields what it saw; a rule that cannot tell says nothing.

Times by which the broker decides are judged by its own stamps: when it says a message was appended, and when
it was handed out.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

from tests.sim.evidence import Append, Delivery, Queue, fell, maybe_away
from tests.sim.history import NEVER
from tests.sim.queue_rules import leased_until

from penstock_broker.queues.leases import BOOT_SHIFT

JOB = "\0"
HALF_MS = 0.0005
"""Stamps are whole milliseconds: what differs by less is the same."""
LOWEST, HIGHEST = 0, 9


def at_home(queue: Queue, delivery: Delivery) -> Append | None:
    """How a message was enqueued that is where it was enqueued, not where it was moved to."""
    append = queue.own.get(delivery.value or "")
    if append is None or delivery.replayed:
        return None
    if append.offset is None:
        return None if queue.moved_in() else append
    return append if append.offset == delivery.offset else None


def everything(queue: Queue) -> Iterator[Delivery]:
    """All that was delivered, under a lease or at most once."""
    for handouts in queue.handouts:
        yield from handouts
    yield from queue.once


# of time


def early(queue: Queue) -> Iterator[str]:
    """Before it was due, by the broker's own clock."""
    for delivery in everything(queue):
        append = at_home(queue, delivery)
        if append is None or delivery.at is None or delivery.attempt > 1 or not queue.special:
            continue
        due = _due(queue, delivery, append.traits)
        if delivery.at < due - HALF_MS:
            yield f"{delivery.value} was handed out at {delivery.at:.3f}, and due at {due:.3f}"


def _due(queue: Queue, delivery: Delivery, traits: Mapping[str, Any]) -> float:
    """The earliest time at which a message may have been due that never failed."""
    settings = queue.special or {}
    delay = traits.get("delay") or (0 if traits.get("at") else settings["delay"])
    due: float = max(traits.get("at", 0), delivery.time + delay)
    changes = queue.rescheduled(delivery.offset)
    told = [op for op in changes if op.end < delivery.start and op.answer.get("found")]
    last = max(told, key=lambda op: op.start, default=None)
    open_ones = [op for op in changes if last is None or op.end >= last.start]
    times = [op.asked["at"] or 0.0 for op in open_ones]
    return min(times) if last is not None else min([due, *times])


def expired_delivered(queue: Queue) -> Iterator[str]:
    """After its time to live was over, by the broker's own clock."""
    longest = (queue.special or {}).get("ttl")
    for delivery in everything(queue):
        append = at_home(queue, delivery)
        lives = [longest, append.traits.get("ttl") if append is not None else None]
        life = min((each for each in lives if each is not None), default=None)
        if life is not None and delivery.at is not None and delivery.at > delivery.time + life - HALF_MS:
            yield f"{delivery.value} was handed out at {delivery.at:.3f}, its {life} s were over"


# of message groups


def group_order(queue: Queue) -> Iterator[str]:
    """One after the other: nothing of a group is handed out after something behind it was."""
    settings = queue.special or {}
    strict = not settings.get("fair") and settings.get("group_failure") != "skip"
    single = settings.get("group_concurrency") in (None, 1)
    for name, handouts in grouped(queue).items():
        reached = -1
        for delivery in handouts if name[0] == JOB or (strict and single) else ():
            if delivery.offset < reached:
                yield f"{delivery.value} came under {delivery.token}, behind {reached} of {name!r}"
            reached = max(reached, delivery.offset)


def group_concurrency(queue: Queue) -> Iterator[str]:
    """More of a group in flight at once than may be."""
    settings = queue.special or {}
    cap = settings.get("group_concurrency") or (NEVER if settings.get("fair") else 1)
    for name, handouts in grouped(queue).items():
        most = 1 if name[0] == JOB else cap
        live: list[Delivery] = []
        for delivery in handouts if most < NEVER else ():
            live = [one for one in live if delivery.end < leased_until(queue, one, delivery.end)]
            others = {one.offset for one in live} - {delivery.offset}
            if len(others) >= most:
                yield f"{delivery.value} of {name!r} came under {delivery.token} beside {sorted(others)}"
            live.append(delivery)


def grouped(queue: Queue) -> dict[str, list[Delivery]]:
    """Message group, or job key, → its hand-outs in their order."""
    found: dict[str, list[Delivery]] = defaultdict(list)
    for handouts in queue.handouts:
        for delivery in handouts:
            append = queue.attempted.get(delivery.value or "") if queue.special is not None else None
            if append is None:
                continue
            job = append.traits.get("job") if at_home(queue, delivery) is not None else None
            group = JOB + job if job is not None else append.traits.get("group")
            if group is not None:
                found[group].append(delivery)
    return {name: sorted(handouts, key=lambda each: each.token) for name, handouts in found.items()}


# of priority


def priority_inversion(queue: Queue) -> Iterator[str]:
    """Handed out while one that goes before it was ready: it had been appended, nothing held it back, and its
    first hand-out in that life came later. Who was lost meanwhile may have had it in between, or it was about
    to be sent together with one that expired on the way: then all of them wait again."""
    settings = queue.special
    if settings is None or settings["fair"] or settings["priority_ageing"]:
        return
    ready: dict[tuple[int, int], list[Delivery]] = defaultdict(list)
    for first in (each for handouts in queue.handouts for each in handouts):
        if _goes_by_rank(queue, first):
            ready[life(first), rank(queue, first)].append(first)
    tops = {of: Latest(sorted(firsts, key=lambda first: first.offset)) for of, firsts in ready.items()}
    for delivery in (each for handouts in queue.handouts for each in handouts):
        own = rank(queue, delivery)
        for other in range(own):
            latest = tops.get((life(delivery), other))
            passed = latest(delivery.at) if latest is not None and delivery.at is not None else None
            if passed is None or passed.token < delivery.token:
                continue
            if not maybe_away(queue, passed) and not maybe_undone(queue, passed):
                yield f"{delivery.value} came under {delivery.token}, before {passed.value}"


def maybe_undone(queue: Queue, first: Delivery) -> bool:
    """Something else of the queue may have expired between its append and that hand-out."""
    since, until = queue.enqueued_at(first), first.end
    lives = (queue.special or {})["ttl"]
    for append in queue.appends:
        left = min((ttl for ttl in (append.traits.get("ttl"), lives) if ttl is not None), default=None)
        if left is None or not append.op.possible or append.value == first.value:
            continue
        jumped = any(append.op.start <= at <= until for at, _ in queue.world.jumps)
        if jumped or (append.op.start + left <= until and since <= append.op.end + left):
            return True
    return False


def rank(queue: Queue, delivery: Delivery) -> int:
    """9 less the priority: what is lower goes first. A plain message has the lowest priority."""
    append = queue.attempted.get(delivery.value or "")
    return HIGHEST - (append.traits.get("priority", LOWEST) if append is not None else LOWEST)


def life(delivery: Delivery) -> int:
    """In which life of the broker it was handed out."""
    return delivery.token >> BOOT_SHIFT


def _goes_by_rank(queue: Queue, first: Delivery) -> bool:
    append = at_home(queue, first)
    again = first.delivery > 1 or first.attempt > 1
    if append is None or again or queue.rescheduled(first.offset):
        return False
    held_back = {"delay", "at", "group", "job"} & append.traits.keys()
    return not held_back and not (queue.special or {})["delay"]


class Latest:
    """Of first hand-outs by offset: which of those appended before a time came last."""

    def __init__(self, firsts: list[Delivery]) -> None:
        self._times = list(accumulate((first.time for first in firsts), max))
        self._last = list(accumulate(firsts, lambda one, other: max(one, other, key=lambda d: d.token)))

    def __call__(self, time: float) -> Delivery | None:
        index = bisect_left(self._times, time)
        return self._last[index - 1] if index else None


# of ids and keys


def dedup(queue: Queue) -> Iterator[str]:
    """Two messages with one id within the window; or one that was called a duplicate, and is not."""
    settings = queue.special
    if settings is None:
        return
    window = settings["dedup_window"]
    known = _known(queue)
    by_id: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    seen: set[str] = set()
    for delivery in everything(queue):
        append = at_home(queue, delivery)
        if append is not None and append.twin is not None:
            yield f"{delivery.value} was called a duplicate of {append.twin}, and delivered"
        elif append is not None and append.value not in seen and "dedup" in append.traits:
            seen.add(append.value)
            by_id[append.traits["dedup"]].append((delivery.time, delivery.offset, append.value))
    for name, found in by_id.items():
        found.sort()
        for (time, _, one), (later, _, other) in pairwise(found):
            if later - time < window - HALF_MS:
                yield f"{one} and {other} have the id {name}, {later - time:.3f} s apart"
    for append in queue.appends:
        twin = known.get(append.twin) if append.twin is not None else None
        if twin is not None and not _alike(append, twin):
            yield f"{append.value} was called a duplicate of {twin.value}, which has another id"


def _known(queue: Queue) -> dict[int, Append]:
    """Offset → what was enqueued there, as far as anybody was told or saw."""
    found = {append.offset: append for append in queue.appends if append.offset is not None}
    for delivery in everything(queue):
        append = at_home(queue, delivery)
        if append is not None:
            found[delivery.offset] = append
    return found


def _alike(one: Append, other: Append) -> bool:
    names = ("dedup", "job")
    return any(name in one.traits and one.traits[name] == other.traits.get(name) for name in names)


def job_key(queue: Queue) -> Iterator[str]:
    """Two live messages with one key, though the later one wanted none beside it. One that was sent again
    in another life, whose clock may have fallen behind, cannot be told from an earlier one."""
    by_key: dict[str, list[tuple[int, float, Append, list[Delivery]]]] = defaultdict(list)
    for handouts in queue.handouts if queue.special is not None else ():
        append = at_home(queue, handouts[0])
        if append is not None and "job" in append.traits:
            entry = handouts[0].offset, handouts[0].time, append, handouts
            by_key[append.traits["job"]].append(entry)
    until_done = (queue.special or {}).get("job_scope") == "done"
    for key, entries in by_key.items():
        entries.sort(key=lambda entry: entry[0])
        for index, (_, time, append, _) in enumerate(entries):
            wish = append.traits["conflict"]
            again = fell(queue.world.crashes, append.op.start, append.op.end)
            behind = again and queue.world.stood(append.op.start)
            for _, _, other, handouts in entries[:index] if wish != "run_after" and not behind else ():
                if _is_beside(queue, handouts, time, was_queued=wish == "replace" or not until_done):
                    yield f"{append.value} was taken beside {other.value} with the key {key}"


def _is_beside(queue: Queue, handouts: list[Delivery], time: float, *, was_queued: bool) -> bool:
    """A message was not done at `time`; `was_queued`: and nobody had it then."""
    times = [delivery.at for delivery in handouts if delivery.at is not None]
    if was_queued:
        first = handouts[0]
        return bool(times) and min(times) > time and not first.redelivered and not maybe_away(queue, first)
    return any(each > time for each in times)
