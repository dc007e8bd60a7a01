"""What no queue may show. Each rule yields what it saw; `checker.py` names the rules.

Hand-outs of one message are ordered by their lease tokens; everything else by intervals of time that do
not overlap. A rule that cannot tell says nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.sim import place_rules
from tests.sim.evidence import ENDING, Delivery, Queue, Settle, fell, peak_before
from tests.sim.history import LANE, NEVER, Op

STUCK_SECONDS = 5.0
"""A ready message is stuck after two leases and this, while somebody asks for it."""
TICK_SECONDS = 0.001
"""The broker's clock has whole milliseconds."""
EXTENDING = ("extend", "checkpoint")
STATES = ("ready", "delayed", "in_flight", "waiting", "settled")
OUTCOMES = ("acked", "dead_lettered", "expired", "purged")
NEWER_OUTCOMES = ("duplicate", "moved")
"""What older histories do not count."""


# of what became of every message


def lost(queue: Queue) -> Iterator[str]:
    """Confirmed, and never delivered anywhere."""
    for value, fate in unfinished(queue):
        if fate == "lost" and value in queue.confirmed:
            yield f"{value} was confirmed and never delivered"


def dirty_read(queue: Queue) -> Iterator[str]:
    """Delivered once, then gone without a settle."""
    for value, fate in unfinished(queue):
        if fate == "dirty read":
            yield f"{value} was delivered and vanished without a settle"


def dead_letter_split(queue: Queue) -> Iterator[str]:
    """In both queues, or in neither."""
    dead = queue.dead_letters
    if dead is None:
        return
    for value, fate in unfinished(queue) if dead.drained else ():
        if fate == "dead letter":
            yield f"{value} is in neither queue"
    for back, deliveries in queue.by_value.items() if queue.special is None else ():
        since = min((there.end for there in dead.by_value.get(back, ())), default=NEVER)
        if any(here.start > since for here in deliveries):
            yield f"{back} was delivered after it had become a dead letter"
    for settle, later in overtaken(queue, "dead_letter"):
        if later.end >= settle.op.start:
            yield f"{later.value} became a dead letter under {settle.token}, and came under {later.token}"


def resurrected(queue: Queue) -> Iterator[str]:
    """Delivered after its receipt."""
    for settle, later in overtaken(queue, "ack", "reply"):
        if later.end >= settle.op.start:
            yield f"{later.value} was acked under {settle.token}, and came under {later.token}"


def unfinished(queue: Queue) -> Iterator[tuple[str, str]]:
    """Values of a drained queue that nobody finished there, and what must have become of them."""
    stats = queue.ops["stats"]
    if queue.special is not None or not queue.drained or (stats and stats[-1].answer.get("waiting")):
        return
    dead = queue.dead_letters.by_value if queue.dead_letters else {}
    for value, append in queue.attempted.items():
        deliveries = queue.by_value.get(value, [])
        acked = any(queue.of_lease(delivery, "ack") for delivery in deliveries)
        if acked or value in dead or queue.maybe_purged(append):
            continue
        if any(
            queue.exhausted(delivery) or queue.of_lease(delivery, "dead_letter") for delivery in deliveries
        ):
            yield value, "dead letter"
        else:
            yield value, "dirty read" if deliveries else "lost"


def overtaken(queue: Queue, *fs: str) -> Iterator[tuple[Settle, Delivery]]:
    """Settles that were accepted though the message was handed out again under a later token."""
    for deliveries in queue.handouts:
        for settle in queue.settles.get(deliveries[0].offset, ()):
            if settle.sure and settle.op.f in fs and settle.token < deliveries[-1].token:
                yield settle, next(later for later in deliveries if later.token > settle.token)


def double_effect(queue: Queue) -> Iterator[str]:
    """One value at two offsets, though nothing was moved here; a schedule says the same again and again, and
    a record may die once in each queue over its topic."""
    over_topics = [source for source in queue.sources if (source.special or {}).get("source")]
    if not queue.moved_in() and len(over_topics) < 2:
        scheduled = queue.world.schedules
        yield from place_rules.double_effect(queue, but_for=scheduled)


# of leases


def double_lease(queue: Queue) -> Iterator[str]:
    """Two live tokens of one message, or a token that is not larger than the one before."""
    for settle, later in overtaken(queue, *ENDING, *EXTENDING):
        if later.end < settle.op.start:
            yield f"a late {settle.op.f} under {settle.token} was accepted; {later.token} held the message"
    for deliveries in queue.handouts:
        for one, other in pairwise(deliveries):
            if one.token == other.token:
                yield f"{one.value} came twice under {one.token}"
            elif other.end < one.start:
                yield f"{one.value} came under {other.token}, later under the smaller {one.token}"
            elif other.end < leased_until(queue, one, other.end):
                yield f"{one.value} came under {other.token} while {one.token} was live"


def leased_until(queue: Queue, held: Delivery, now: float) -> float:
    """Until when a lease was surely live, as far as anybody can tell at `now`."""
    ended = any(settle.op.start <= now for settle in queue.of_lease(held, *ENDING))
    if ended or queue.voided(held, now):
        return -NEVER
    until = held.start + held.lease
    for settle in queue.of_lease(held, *EXTENDING):
        extended = settle.op.start + settle.op.asked["lease"]
        if settle.op.start <= now:
            until = extended if settle.op.end < now else min(until, extended)
    return until


def unflagged_redelivery(queue: Queue) -> Iterator[str]:
    """Delivered before, and does not say so."""
    for deliveries in queue.handouts:
        for place, delivery in enumerate(deliveries):
            if not delivery.redelivered and (place or delivery.delivery > 1):
                yield f"{delivery.value} under {delivery.token} was delivered before"


def early(queue: Queue) -> Iterator[str]:
    """Back before the delay of its nack was over; a forward jump of the wall clock shortens it."""
    for deliveries in queue.handouts:
        for one, other in pairwise(deliveries):
            for settle in queue.of_lease(one, "nack"):
                asked, delay = settle.op.start, settle.op.asked["delay"] or 0
                jumped = sum(max(0, by) for at, by in queue.world.jumps if asked <= at <= other.end)
                early = other.end < asked + delay - jumped - TICK_SECONDS
                if settle.sure and early and not queue.rescheduled(one.offset):
                    yield f"{one.value} came back before its delay of {delay} s"


def order(queue: Queue) -> Iterator[str]:
    """First deliveries to one process come in the order of offsets, unless somebody was lost before: what
    never reached him comes later than what others got meanwhile. Over a topic: in each partition."""
    if queue.special is not None and not queue.lanes:
        return
    losses = queue.world.losses
    firsts: dict[tuple[str, int], list[Delivery]] = defaultdict(list)
    for first, *_ in queue.handouts:
        if not first.redelivered:
            firsts[first.process, first.offset // LANE].append(first)
    for (process, _), deliveries in firsts.items():
        reached = peak_before((delivery.end, delivery.offset) for delivery in deliveries)
        for delivery in deliveries:
            if delivery.offset < reached(delivery.start):
                begin, end = queue.enqueued_at(delivery), delivery.end
                if not any(since <= end and begin <= until for since, until in losses):
                    yield f"{process} got {delivery.offset} after {reached(delivery.start):g}"


# of counts


def count(queue: Queue) -> Iterator[str]:
    """Attempts are failures and one, deliveries are hand-outs, and both have their limits; what was moved
    here keeps its own, and is handed out once at least."""
    attempts, deliveries = (queue.settings.get(name) or NEVER for name in ("max_attempts", "max_deliveries"))
    if queue.moved_in():
        attempts = deliveries = NEVER
    for handouts in queue.handouts:
        for one in handouts:
            if not 1 <= one.attempt <= one.delivery or one.attempt > attempts or one.delivery > deliveries:
                yield f"{one.value}: attempt {one.attempt} and delivery {one.delivery} under {one.token}"
        for one, other in pairwise(handouts):
            least, most = growth(queue, one, other)
            if not least <= other.attempt - one.attempt <= most:
                yield f"{one.value}: attempt {one.attempt}, then {other.attempt} under {other.token}"
        yield from tries(queue, handouts)


def growth(queue: Queue, one: Delivery, other: Delivery) -> tuple[int, float]:
    """How many failures lie between two hand-outs that a history shows one behind the other."""

    def surely(f: str) -> bool:
        return any(settle.sure for settle in queue.of_lease(one, f))

    ran_out = not queue.voided(one, other.end) and not queue.of_lease(one, *ENDING)
    handed_out = other.delivery - one.delivery
    most = NEVER if fell(queue.world.crashes, one.start, other.end) else handed_out - surely("release")
    return int(surely("nack") or ran_out), most


def tries(queue: Queue, handouts: list[Delivery]) -> Iterator[str]:
    """Not more than max_attempts and one for each crash; a dead letter had all of them."""
    limit, last = queue.settings.get("max_attempts"), handouts[-1]
    uncounted = sum(queue.voided(one, NEVER) or bool(queue.of_lease(one, "release")) for one in handouts)
    if limit and len(handouts) - uncounted > limit:
        yield f"{last.value}: {len(handouts)} tries of {limit}"
    excused = (
        queue.special is not None
        or queue.exhausted(last)
        or any(queue.of_lease(one, "dead_letter") for one in handouts)
    )
    dead = queue.dead_letters and last.value in queue.dead_letters.by_value
    if dead and queue.all_seen and not excused:
        yield f"{last.value}: a dead letter after attempt {last.attempt}"


# of time


def stuck(queue: Queue) -> Iterator[str]:
    """Ready for long, and somebody who asked got nothing."""
    lease, backoff = (queue.settings.get(name, NEVER) for name in ("lease", "backoff"))
    if queue.special is not None:
        return
    slack = 2 * lease + STUCK_SECONDS
    asked = peak_before((op.end, op.start) for op in hungry(queue, slack))
    dead = queue.dead_letters.by_value if queue.dead_letters else {}
    for append in queue.attempted.values():
        deliveries = queue.by_value.get(append.value, [])
        buried_unseen = append.value in dead and not queue.all_seen
        if queue.maybe_purged(append) or buried_unseen:
            continue
        if append.value in queue.confirmed:
            first = deliveries[0].start if deliveries else NEVER
            if asked(first) >= append.op.end + slack:
                yield f"{append.value} stayed ready from {append.op.end:g} on"
        for one, other in pairwise([*deliveries, None]):
            assert one is not None
            if asked(other.start if other else NEVER) >= ready_again(queue, one, backoff) + slack:
                yield f"{append.value} did not come back after {one.token}"


def hungry(queue: Queue, slack: float) -> Iterator[Op]:
    """Receives that got nothing, when for a while nothing had happened that can hide a message: a crash, a
    lost connection, a receive with an unknown end. Nothing is handed to who does not read."""
    unknown = [op.start + op.asked["wait"] for op in queue.ops["receive"] if op.outcome == "unknown"]
    lost_at = [time for times in queue.world.disconnects.values() for time in times]
    hidden = sorted([*queue.world.crashes, *lost_at, *unknown])
    for op in queue.ops["receive"]:
        quiet = bisect_left(hidden, op.end) == bisect_left(hidden, op.start - slack)
        blocks = queue.world.blocks.get(op.process, ())
        blocked = any(since <= op.end and op.start <= until for since, until in blocks)
        if op.ok and not op.answer["messages"] and quiet and not blocked:
            yield op


def ready_again(queue: Queue, held: Delivery, backoff: float) -> float:
    """When a message that was handed out was ready again at the latest; NEVER if it need not be."""
    if queue.exhausted(held):
        return NEVER
    ready = held.end + held.lease + backoff
    for settle in queue.of_lease(held, *ENDING, "extend"):
        asked = settle.op.asked
        match settle.op.f:
            case "ack" | "dead_letter" | "reply":
                return NEVER
            case "extend":
                ready = max(ready, settle.op.end + asked["lease"] + backoff)
            case "nack" if asked["delay"] and queue.world.stood(settle.op.end):
                return NEVER
            case "nack":
                ready = max(ready, settle.op.end + (backoff if asked["delay"] is None else asked["delay"]))
    return ready


# of sums


def books(queue: Queue) -> Iterator[str]:
    """What the broker counts adds up, and agrees with what the clients know."""
    for op in queue.ops["stats"]:
        if op.ok:
            yield from sums(op)
            yield from clients_disagree(queue, op)


def sums(stats: Op) -> Iterator[str]:
    """The broker's own figures."""
    said = stats.answer
    states = sum(said[state] for state in STATES)
    if said["total"] != states:
        yield f"{said['total']} ever enqueued, {states} in all states together"
    outcomes = sum(said.get(outcome, 0) for outcome in (*OUTCOMES, *NEWER_OUTCOMES))
    if said.keys() >= set(OUTCOMES) and outcomes != said["settled"]:
        yield f"{said['settled']} settled, {outcomes} by outcome"


def clients_disagree(queue: Queue, stats: Op) -> Iterator[str]:
    """The broker's figures and those of the clients; dead letters come from nobody."""

    def settled(f: str, *, sure: bool) -> int:
        found = [settle for settles in queue.settles.values() for settle in settles if settle.op.f == f]
        before = [settle for settle in found if settle.op.start < stats.start and (settle.sure or not sure)]
        return len({settle.offset for settle in before})

    earlier = [append.op for append in queue.appends if append.op.start < stats.start]
    bounds = {
        "acked": (settled("ack", sure=True), settled("ack", sure=False)),
        "dead_lettered": (settled("dead_letter", sure=True), NEVER),
    }
    scheduled = any(op.asked["queue"] == queue.name for op in queue.world.schedules.values())
    if not (queue.sources or queue.moved_in() or scheduled):
        bounds["total"] = (sum(op.ok for op in earlier), sum(op.possible for op in earlier))
    for name, (least, most) in bounds.items():
        if name in stats.answer and not least <= stats.answer[name] <= most:
            yield f"{stats.answer[name]} {name}; the clients know of {least} to {most}"
