"""The queue verbs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock_broker.answers import Reading, Run
from penstock_broker.queues import judging, looking, notes
from penstock_broker.queues.handout import Subscription, Waiter
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_protocol import limits
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Invalid
from penstock_protocol.messages import queues as q
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done
from penstock_protocol.slices import Range, decode_ranges, encode_ranges

if TYPE_CHECKING:
    from penstock_broker.answers import Call
    from penstock_broker.core import Core

TOKEN_BYTES = 8


def check_between(name: str, value: int, low: int, high: int) -> None:
    """Raises `Invalid` naming value and range."""
    if not low <= value <= high:
        raise Invalid(f"{name}={value} is not allowed", hint=f"allowed: {low:,} to {high:,}")


def enqueue(core: "Core", call: "Call", request: q.Enqueue) -> None:
    """Append a batch, answered when it is durable."""
    core.publish(call, core.queue(request.queue), 0, request.payload)


def receive(core: "Core", call: "Call", request: q.Receive) -> None:
    """Wait for messages under bearer leases."""
    check_between("messages", request.messages, 1, limits.RECEIVE_MESSAGES_MAX)
    check_between("wait", request.wait, 0, limits.WAIT_MS_MAX)
    _check_visibility(request.visibility)
    queue = core.queue(request.queue)
    if queue.policy.single_active:
        raise Invalid(
            f"queue {queue.name!r} has a single active consumer: it takes no receive",
            hint="consume from it",
        )
    core.lifetimes.claim(queue, call.connection.session)
    queue.used_at = call.now.mono
    deadline = call.now.mono + request.wait
    waiter = Waiter(
        call, call.connection, request.messages, request.visibility, deadline, settle=request.settle
    )
    call.connection.waits[call.correlation] = queue, waiter
    queue.handout.add(waiter)
    core.deliveries.touch(queue)


def _check_visibility(visibility: int | None) -> None:
    if visibility is not None:
        check_between("visibility", visibility, 1, limits.VISIBILITY_MS_MAX)


def _ranges(payload: memoryview) -> list[Range]:
    ranges = decode_ranges(payload)
    if not ranges:
        raise Invalid("a settle names at least one range")
    return ranges


def _by_lane(queue: Queue, ranges: list[Range]) -> list[tuple[Queue, list[Range]]]:
    """Which machine of the queue each range is for; what fits none is stale in the first."""
    if len(queue.lanes) == 1:
        return [(queue, ranges)]
    lanes: dict[Queue, list[Range]] = {}
    for item in ranges:
        lane = queue.lanes[item.partition] if item.partition < len(queue.lanes) else queue
        lanes.setdefault(lane, []).append(item)
    return list(lanes.items())


def _answer_settled(core: "Core", call: "Call", messages: int, stale: list[Range]) -> None:
    if stale:
        core.stale_settles += sum(item.messages for item in stale)
    core.answer(call, q.Settled(messages, encode_ranges(stale)))


def ack(core: "Core", call: "Call", request: q.Ack) -> None:
    """Settle as done."""
    queue = core.queue(request.queue)
    messages = 0
    gone: list[Range] = []
    parts = []
    for lane, ranges in _by_lane(queue, _ranges(request.payload)):
        runs, stale = lane.claim(ranges, core.deliveries.services, call.now.wall)
        gone += stale
        if runs:
            parts.append(lane.settle_part(runs, Settled.ACKED))
            messages += sum(count for _, count in runs)
    if parts:
        core.engine.append(parts, wall=call.now.wall, within=queue.within)
        core.deliveries.settled(queue, call.now)
    _answer_settled(core, call, messages, gone)


def nack(core: "Core", call: "Call", request: q.Nack) -> None:
    """Return after a delay, release, or dead-letter."""
    queue = core.queue(request.queue)
    ranges = _ranges(request.payload)
    check_between("outcome", request.outcome, 0, max(q.Outcome))
    if request.delay is not None:
        check_between("delay", request.delay, 0, limits.DELAY_MS_MAX)
    if request.reason is not None and len(request.reason.encode()) > limits.REASON_BYTES_MAX:
        raise Invalid(f"a reason takes at most {limits.REASON_BYTES_MAX:,} bytes")
    outcome = q.Outcome(request.outcome)
    if outcome is q.Outcome.DEAD_LETTER and queue.policy.dead_letter is None:
        raise Invalid(
            f"queue {queue.name!r} has no dead-letter queue",
            hint="ack the message, or create the queue with dead_letter=",
        )
    lanes = _by_lane(queue, ranges)
    messages, left = 0, len(lanes)
    gone: list[Range] = []

    def one_done(count: int, stale: list[Range]) -> None:
        nonlocal messages, left
        messages, left = messages + count, left - 1
        gone.extend(stale)
        if not left:
            _answer_settled(core, call, messages, gone)

    for lane, some in lanes:
        _return(core, call, request, lane, some, one_done)


def _return(
    core: "Core",
    call: "Call",
    request: q.Nack,
    queue: Queue,
    ranges: list[Range],
    then: Callable[[int, list[Range]], None],
) -> None:
    """Ranges of one machine come back; `then` when all of it is applied."""
    outcome = q.Outcome(request.outcome)
    leased = [run for item in ranges for run in queue.leases.find(item.token, item.first, item.messages)]
    runs, stale = queue.claim(ranges)
    messages = sum(count for _, count in runs)

    def done() -> None:
        then(messages, stale)

    if outcome is q.Outcome.DEAD_LETTER and runs:
        tries = notes.tries(leased, call.now.wall, "rejected", request.reason)
        dead = judging.dead(queue, runs, "rejected", request.reason, tries)
        core.burial.bury(queue, dead, call.now, done)
        core.deliveries.touch(queue)
        return
    if outcome is q.Outcome.RETRY and runs:
        queue.counters["nacked"] += messages
        tries = notes.tries(leased, call.now.wall, "nacked", request.reason)
        core.deliveries.failed(queue, runs, request.delay, call.now, tries, done)
        return
    if runs:
        core.deliveries.release(queue, runs, call.now)
    done()


def extend(core: "Core", call: "Call", request: q.Extend) -> None:
    """Let leases end later, counted from now."""
    check_between("extend", request.extend, 0, limits.VISIBILITY_MS_MAX)
    queue = core.queue(request.queue)
    deadline = call.now.mono + request.extend
    extended = 0
    stale = []
    for lane, ranges in _by_lane(queue, _ranges(request.payload)):
        for item in ranges:
            known = item.partition == lane.partition
            leased = lane.leases.extend(item.token, item.first, item.messages, deadline) if known else 0
            extended += leased
            if leased < item.messages:
                stale.append(item)
        core.deliveries.arm(lane, call.now)
    _answer_settled(core, call, extended, stale)


def consume(core: "Core", call: "Call", request: q.Consume) -> None:
    """Begin push delivery; leases of an earlier life of the subscription are kept if they are named."""
    check_between("credit", request.credit, 0, limits.PREFETCH_MESSAGES_MAX)
    _check_visibility(request.visibility)
    check_between("priority", request.priority, 0, limits.PRIORITY_MAX)
    if len(request.payload) % TOKEN_BYTES:
        raise Invalid("held tokens are 8 bytes each")
    queue = core.queue(request.queue)
    session = call.connection.session
    assert session is not None, "the link lets nothing pass before HELLO"
    if request.subscription in session.subscriptions:
        raise Invalid(f"subscription {request.subscription} is in use", hint="choose another number")
    core.lifetimes.claim(queue, session)
    if len(session.subscriptions) >= limits.SUBSCRIPTIONS_MAX:
        raise Invalid(f"a session has at most {limits.SUBSCRIPTIONS_MAX:,} subscriptions")
    held = {
        int.from_bytes(request.payload[at : at + TOKEN_BYTES], "little")
        for at in range(0, len(request.payload), TOKEN_BYTES)
    }
    core.deliveries.release_held(session, queue, request.subscription, held, call.now)
    subscription = Subscription(
        session,
        request.subscription,
        queue,
        request.credit,
        request.visibility,
        request.priority,
        settle=request.settle,
    )
    queue.used_at = call.now.mono
    session.subscriptions[request.subscription] = subscription
    session.queues[queue] = None
    queue.handout.add(subscription)
    core.deliveries.touch(queue)
    core.answer(call, Done())


def credit(core: "Core", call: "Call", request: q.Credit) -> None:
    """More may be delivered to a subscription. One that ended meanwhile needs none."""
    session = call.connection.session
    subscription = session.subscriptions.get(request.subscription) if session else None
    if subscription is not None:
        subscription.credit = min(subscription.credit + request.messages, limits.PREFETCH_MESSAGES_MAX)
        core.deliveries.touch(subscription.queue)


def stop(core: "Core", call: "Call", request: q.Stop) -> None:
    """End push delivery; nothing comes behind the reply."""
    session = call.connection.session
    subscription = session.subscriptions.pop(request.subscription, None) if session else None
    if subscription is not None:
        subscription.queue.handout.remove(subscription)
        for lane in subscription.queue.lanes:
            core.deliveries.touch(lane)
    # One that ended by itself may still have to be told so; and what was settled for it is on its way.
    core.answer(call, Done(), None if subscription is None or subscription.settle else 0)


def purge(core: "Core", call: "Call", request: q.Purge) -> None:
    """Settle all that is not in flight."""
    queue = core.queue(request.queue)
    parts, purged = [], 0
    for lane in queue.lanes:
        runs = looking.unsettled_ranges(lane)
        if runs:
            parts.append(lane.settle_part(runs, Settled.PURGED))
            purged += sum(messages for _, messages in runs)
    if parts:
        core.engine.append(parts, wall=call.now.wall, within=queue.within)
        core.deliveries.settled(queue, call.now)
    core.answer(call, Document(pack_document({"purged": purged})))


def peek(core: "Core", call: "Call", request: q.Peek) -> None:
    """Look, without a lease. Of a dead-letter queue, all that counts as ready: who looks there wants to see
    what died, whoever of its message group died before it."""
    check_between("limit", request.limit, 1, limits.RECEIVE_MESSAGES_MAX)
    if request.state not in looking.NAMED:
        raise Invalid(f"state={request.state!r} is not allowed", hint=f"allowed: {', '.join(looking.NAMED)}")
    queue = core.queue(request.queue)
    state = looking.NAMED[request.state]
    queue = next((lane for lane in queue.lanes if lane.count(state)), queue)
    with_held = core.registry.takes_dead_letters(request.queue)
    runs = _peeked(queue, state, request.limit, with_held=with_held)
    if not runs:
        core.answer(call, q.Delivery(0, b""))
        return

    def finish(slices: int, payload: tuple[Buffer, ...], _: int) -> q.Delivery:
        return q.Delivery(slices, payload)

    core.answer_reading(call, Reading(queue.log, queue.partition, runs, finish, queue=queue))


def _peeked(queue: Queue, state: State, limit: int, *, with_held: bool) -> list[Run]:
    runs: list[Run] = []
    size = limits.DELIVERY_BYTES_MAX
    for first, messages, history in looking.ranges(queue, state, limit, with_held=with_held):
        fits, used = queue.log.fit(first, messages, size)
        if used > size and runs:
            break
        flags = looking.flags_of(queue, first)
        runs.append(Run(first, fits, 0, 0, history.failures + 1, history.deliveries, flags))
        size -= used
        if fits < messages or size <= 0:
            break
    return runs
