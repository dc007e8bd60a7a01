"""What no message may go through in queues with features. Each rule yields what it saw."""

from collections.abc import Iterator
from itertools import combinations, pairwise

from tests.sim.evidence import Delivery, Queue, fell
from tests.sim.history import LANE
from tests.sim.journeys import FINISHING, Journey, Journeys, Stay

ATTEMPTS_KEPT = 50


# of what became of every message


def lost(journeys: Journeys) -> Iterator[str]:
    """Confirmed, and never delivered anywhere."""
    for journey, fate in unfinished(journeys):
        if fate == "lost":
            yield f"{journey.value} was confirmed by {journey.home.name} and never delivered"


def dirty_read(journeys: Journeys) -> Iterator[str]:
    """Delivered, then gone without a settle."""
    for journey, fate in unfinished(journeys):
        if fate == "dirty read":
            yield f"{journey.value} was delivered and vanished without a settle"


def dead_letter_split(journeys: Journeys) -> Iterator[str]:
    """In both queues, or in neither."""
    for journey, fate in unfinished(journeys):
        if fate == "dead letter":
            yield f"{journey.value} is in neither queue"
    yield from (what for moved, what in both(journeys) if not moved)


def transfer_split(journeys: Journeys) -> Iterator[str]:
    """The same of messages that somebody may have moved."""
    for journey, fate in unfinished(journeys):
        if fate == "transfer":
            yield f"{journey.value} is neither where it was nor where it was moved to"
    yield from (what for moved, what in both(journeys) if moved)


def reply(journeys: Journeys) -> Iterator[str]:
    """Acked and not answered, or the other way round."""
    for journey, fate in unfinished(journeys):
        if fate == "reply":
            yield f"{journey.value} is the answer to what was acked, and is nowhere"
    for queue in journeys.queues:
        for settles in queue.settles.values():
            for settle in settles:
                if settle.op.f != "reply" or settle.sure:
                    continue
                known = [answer for value in settle.op.asked["values"] for answer in journeys.of(value)]
                answered = [answer.value for answer in known if answer.stays]
                later = [each for each in queue.deliveries[settle.offset] if each.token > settle.token]
                if answered and later:
                    yield f"{later[0].value} came again, though {answered[0]} answers it"


def unfinished(journeys: Journeys) -> Iterator[tuple[Journey, str]]:
    """Messages that nobody finished, and what must have become of them."""
    for journey in journeys:
        if journeys.finished(journey) or journeys.excused(journey):
            continue
        if journey.stays:
            yield journey, _fate_of(journeys, journey.ordered[-1])
        elif journey.append.op.f == "reply" and journey.append.sure:
            yield journey, "reply"
        elif journey.append.sure:
            moves = [op for op in journeys.moves(journey.home) if op.end > journey.append.op.start]
            yield journey, "transfer" if moves else "lost"


def _fate_of(journeys: Journeys, stay: Stay) -> str:
    if journeys.moves(stay.queue):
        return "transfer"
    dies = any(stay.queue.exhausted(delivery) for delivery in stay.leased) or stay.settles("dead_letter")
    return "dead letter" if dies else "dirty read"


def both(journeys: Journeys) -> Iterator[tuple[bool, str]]:
    """Messages that were in two places at once, and whether somebody may have moved them."""
    for journey in journeys:
        stays = journey.ordered
        if len(stays) < 2 or journeys.maybe_copied(journey):
            continue
        for one, other in combinations(stays, 2):
            moved = bool(journeys.moves(one.queue) or journeys.moves(other.queue))
            where = f"{one.offset} of {one.queue.name} and at {other.offset} of {other.queue.name}"
            if one.last > other.first:
                yield moved, f"{journey.value} is at {where}"
            elif any(settle.sure for settle in one.settles(*FINISHING)):
                yield moved, f"{journey.value} is at {where}, though it was acked in the former"


def delivered_twice(journeys: Journeys) -> Iterator[str]:
    """At most once, and again."""
    for journey in journeys:
        if journeys.maybe_copied(journey):
            continue
        everywhere = [delivery for stay in journey.stays for delivery in stay.deliveries]
        once = [delivery for delivery in everywhere if delivery.once]
        if len(once) > 1:
            yield f"{journey.value} was settled and delivered twice"
        for one in once:
            later = [each for each in everywhere if not each.once and each.start > one.end]
            if later:
                yield f"{journey.value} was settled and delivered, and came under {later[0].token}"


# of what is told of a message


def history(journeys: Journeys) -> Iterator[str]:
    """A dead letter tells of every try, and where it comes from."""
    for journey in journeys:
        if journeys.maybe_copied(journey):
            continue
        for stay in journey.stays:
            yield from _tries_of(journey, stay)
        if not journeys.maybe_moved(journey):
            yield from _origin(journey)
            yield from _deaths(journey)


def _tries(delivery: Delivery) -> int:
    return len(delivery.history["attempts"]) if delivery.history else 0


def _tries_of(journey: Journey, stay: Stay) -> Iterator[str]:
    """At one place they grow with the failures. The last try may be noted, and a crash come before
    the death."""
    for one, other in pairwise(stay.leased):
        grown, failed = _tries(other) - _tries(one), other.attempt - one.attempt
        died = fell(stay.queue.world.crashes, one.start, other.end)
        if (grown < failed or (grown > failed and not died)) and _tries(other) < ATTEMPTS_KEPT:
            yield f"{journey.value} under {other.token}: {failed} more failures, {grown} more tries told of"


def _origin(journey: Journey) -> Iterator[str]:
    home = journey.home.name.partition("#")[0]
    for delivery in (delivery for stay in journey.stays for delivery in stay.deliveries):
        told = delivery.history
        if told is None:
            continue
        offset = None if journey.append.offset is None else journey.append.offset % LANE
        if told["queue"] != home or (offset is not None and told["offset"] != offset):
            yield f"{journey.value} says it is {told['offset']} of {told['queue']}; it is {offset} of {home}"


def _deaths(journey: Journey) -> Iterator[str]:
    """In a dead-letter queue it tells of all the tries before."""
    failures = 0
    for stay in journey.ordered:
        if stay.queue.sources:
            first = stay.leased[0]
            if first.history is None:
                yield f"{journey.value} is a dead letter without a history"
            elif _tries(first) < min(failures, ATTEMPTS_KEPT):
                yield f"{journey.value} failed {failures} times and tells of {_tries(first)} tries"
        else:
            sure = {settle.token for settle in stay.settles("nack", "dead_letter") if settle.sure}
            failures += max(len(sure), *(delivery.attempt - 1 for delivery in stay.leased))


def checkpoint(journeys: Journeys) -> Iterator[str]:
    """A try has the last checkpoint that was confirmed before it, or a later one."""
    for queue in journeys.queues:
        for handouts in queue.handouts:
            made = [each for each in queue.settles.get(handouts[0].offset, ()) if each.op.f == "checkpoint"]
            for delivery in handouts if made else ():
                before = [each for each in made if each.token < delivery.token]
                sure = [each.op for each in before if each.sure]
                last = max(sure, key=lambda op: op.start, default=None)
                allowed = {
                    each.op.asked["checkpoint"]
                    for each in before
                    if last is None or each.op.end >= last.start
                }
                if delivery.checkpoint not in (allowed if last else allowed | {None}):
                    said = last.asked["checkpoint"] if last else None
                    yield f"{delivery.value} under {delivery.token} has {delivery.checkpoint}, not {said}"


# of schedules


def schedule(journeys: Journeys) -> Iterator[str]:
    """A message for each run, in its time, and none without."""
    world = journeys.world
    for name, op in world.schedules.items():
        queue = world.queue(op.asked["queue"])
        seen = _runs_seen(queue, name)
        if not op.possible and seen:
            yield f"{name} was refused, and ran"
        if queue.moved_in() or not op.ok:
            continue
        runs = world.runs.get(name)
        if runs is not None and len(seen) > runs:
            yield f"{name} ran {runs} times and enqueued {len(seen)} messages"
        if runs is not None and len(seen) < runs and not _may_vanish(journeys, op.asked["queue"]):
            yield f"{name} ran {runs} times, and {len(seen)} messages are there"
        for number, (_, time) in enumerate(sorted(seen.items())):
            due = op.answer["first"] + number * op.asked["every"]
            if time < due - 0.0005:
                yield f"{name} ran for the {number + 1}. time at {time:g}, before {due:g}"


def _runs_seen(queue: Queue, name: str) -> dict[int, float]:
    """Offset → append time of what a schedule enqueued, be it delivered there or as a dead letter."""
    seen: dict[int, float] = {}
    for delivery in (*queue.by_value.get(name, ()), *queue.once):
        if delivery.value == name and not delivery.replayed:
            seen[delivery.offset] = delivery.time
    for delivery in queue.dead_letters.by_value.get(name, ()) if queue.dead_letters else ():
        told = delivery.history
        if told is not None:
            seen[told["offset"]] = told["first_at"] / 1000
    return seen


def _may_vanish(journeys: Journeys, name: str) -> bool:
    """Messages may leave the queue without ever having been delivered there."""
    queue = journeys.world.queue(name)
    settings = queue.special or {}
    return (
        not queue.drained
        or any(op.possible for op in queue.ops["purge"])
        or settings.get("ttl") is not None
        or bool(settings.get("content_dedup"))
        or settings.get("overflow", "reject") != "reject"
        or bool(settings.get("once"))
        or any(op.asked.get("once") for op in queue.ops["receive"])
        or bool(journeys.moves(queue))
        or (queue.dead_letters is not None and not queue.dead_letters.drained)
        or any(op.possible for op in (queue.dead_letters or queue).ops["purge"])
    )
