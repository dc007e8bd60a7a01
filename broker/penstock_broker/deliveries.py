"""Hands ready messages to who waits for them, queue by queue, once per turn.

Leases, waits and deadlines of all queues and partitions come together here; what returns to a queue
(expired, released, refused) is judged by the queue and journalled from here.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from penstock_broker import past
from penstock_broker.alarms import Alarms
from penstock_broker.answers import Answer, Call, Reading, Run
from penstock_broker.burial import Burial, Then
from penstock_broker.clock import Now
from penstock_broker.durability import OS_MS
from penstock_broker.filtering import SCANNED_BYTES_MAX, SCANNED_RECORDS_MAX, TELL_MS, Filter
from penstock_broker.meters import Histogram
from penstock_broker.queues import judging, notes
from penstock_broker.queues.handout import Subscription, Taker, Waiter
from penstock_broker.queues.outcomes import Grant, Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.session import Connection, Session
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.log import Log
from penstock_broker.topics.partition import Partition
from penstock_protocol import verbs
from penstock_protocol.checksum import Buffer
from penstock_protocol.errors import Corrupt, OffsetOutOfRange
from penstock_protocol.limits import DELIVERY_BYTES_MAX
from penstock_protocol.messages.queues import Deliver, Delivery
from penstock_protocol.messages.topics import Fetch, Fetched
from penstock_protocol.where import Where

DELIVER = next(verb for verb in verbs.VERBS if verb.request is Deliver)
PARKED_RETRY_MS = 1_000


class Sender(Protocol):
    """Where answers go."""

    def answer(self, call: Call, message: object, position: int | None = None, within: int = OS_MS) -> None:
        """Answer once `position` (None: everything so far) is durable in its mode."""
        ...


class Deliveries:
    """The hand-out of one node."""

    def __init__(
        self, engine: Engine[Answer], burial: Burial, alarms: Alarms[Hashable], sender: Sender
    ) -> None:
        self._engine = engine
        self._burial = burial
        self._alarms = alarms
        self._sender = sender
        self._touched: dict[Queue | Partition, None] = {}
        """Queues and partitions where somebody may get something this turn, in order."""
        self.waits = Histogram()
        """From the append of messages to their first hand-out."""
        self.services = Histogram()
        """From their hand-out to their ack."""
        self.stopped = False
        """The node stops: nothing is handed out, and no lease runs out, any more."""

    def touch(self, target: Queue | Partition) -> None:
        """Something may be handed out there now."""
        if isinstance(target, Queue):
            if target.borrowed:
                self._touched.update(dict.fromkeys(target.in_turn()))
        elif target.readers:
            self._touched.update(dict.fromkeys(target.readers))
        self._touched[target] = None

    def run(self, now: Now) -> None:
        """Hand out all there is to whoever waits."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for target in touched:
                if isinstance(target, Queue):
                    if not self._burial.knows(target):
                        continue  # it was deleted in this turn
                    self._hand_out(target, now)
                else:
                    for parked in target.satisfied():
                        self.answer_fetch(target, parked.call, parked.request, now, parked.deadline)
                self.arm(target, now)
            for target in touched:
                if isinstance(target, Queue):
                    for waiter in target.handout.overdue(now.mono):
                        self.answer_nothing(waiter)

    def arm(self, target: Queue | Partition, now: Now) -> None:
        """Be woken when time next matters there."""
        if self.stopped:
            return
        if isinstance(target, Queue):
            if target.retry_at is None and target.count(State.WAITING) > len(target.damaged):
                target.retry_at = now.mono + PARKED_RETRY_MS
            self._alarms.set(target, target.next_deadline(now.mono, now.wall))
        else:
            self._alarms.set(target, target.next_deadline())

    def due(self, target: Queue | Partition, now: Now) -> None:
        """What time has brought about: leases, delays and waits that are over. At a queue nobody is told of
        nothing but behind the hand-out that follows."""
        if isinstance(target, Queue):
            if not self.stopped:
                self._expire(target, now)
        else:
            for parked in target.overdue(now.mono):
                self.answer_fetch(target, parked.call, parked.request, now)
        self.touch(target)

    # ---- Queues

    def _expire(self, queue: Queue, now: Now) -> None:
        runs = queue.expire(now.mono)
        if runs:
            self.failed(
                queue, [run[:2] for run in runs], None, now, notes.tries(runs, now.wall, "lease expired")
            )
        queue.wake(now.wall)
        if queue.retry_at is not None and queue.retry_at <= now.mono:
            queue.retry_at = None
            self._burial.retry(queue, now)

    def _hand_out(self, queue: Queue, now: Now) -> None:
        if queue.borrowed and queue.log.start > queue.states.head and not self.stopped:
            runs = queue.indexes.gone(queue.log.start)
            if runs:
                self.expired(queue, runs, now)
        left = queue.indexes.used and len(queue.indexes.expiries) and self._forget_expired(queue, now)
        while not self.stopped and not left and (ready := queue.available(now.mono)) > 0:
            shares = queue.handout.round(ready)
            if not shares:
                break
            for taker, share in shares:
                self._give(queue, taker, share, now)

    def _forget_expired(self, queue: Queue, now: Now) -> bool:
        """What has expired is gone before anything is handed out. True: there is more than one turn
        manages."""
        if self.stopped:
            return False
        runs = queue.indexes.expired(now.wall)
        if runs:
            self.expired(queue, runs, now)
        when = queue.indexes.expiries.next()
        return when is not None and when <= now.wall

    def expired(
        self, queue: Queue, runs: Sequence[tuple[int, int]], now: Now, tries: Sequence[notes.Row] = ()
    ) -> None:
        """Messages whose time is over are gone, or go to the dead-letter queue. `tries`: what they came back
        from."""
        messages = sum(count for _, count in runs)
        queue.counters["expired"] += messages
        keeps = queue.policy.on_expiry == "dead_letter" and runs[0][0] >= queue.log.start
        if keeps and queue.policy.dead_letter is not None:
            queue.seize([run for run in runs if queue.states.state(run[0]) != State.IN_FLIGHT])
            queue.indexes.dying(runs)
            self._burial.bury(queue, judging.dead(queue, runs, "expired", None, tries), now)
            return
        part = queue.settle_part(runs, Settled.EXPIRED)
        self._engine.append([part], wall=now.wall, within=queue.within)

    def _give(self, queue: Queue, taker: Taker, share: int, now: Now) -> None:
        subscription = taker if isinstance(taker, Subscription) else None
        holder, number = (subscription.session, subscription.number) if subscription else (None, 0)
        queue.used_at = now.mono
        session = taker.connection.session if isinstance(taker.connection, Connection) else None
        consumer = session.client if session is not None else ""
        grants = queue.take(share, DELIVERY_BYTES_MAX, taker.visibility, holder, number, consumer)
        taker.credit -= sum(grant.messages for grant in grants)
        if isinstance(taker, Waiter):
            queue.unpark(taker)
            call: Call = taker.call
            call.connection.waits.pop(call.correlation, None)
        else:
            assert subscription is not None
            call = Call(subscription.session.connection, DELIVER, 0, now)

        def finish(slices: int, payload: object, _: int) -> Deliver | Delivery:
            return Deliver(number, slices, payload) if subscription else Delivery(slices, payload)

        def started(at: Now) -> bool:
            if taker.ended and subscription is not None:
                return False
            if self._expired_on_the_way(queue, grants, at):
                if isinstance(taker, Waiter):
                    self._wait_again(queue.front, taker)
                return False
            for grant in grants:
                queue.started(grant.lease, at.mono, at.wall)
                if grant.delivery == 1:
                    self.waits.observe((at.wall - queue.log.time(grant.first)) / 1000, grant.messages)
            self.arm(queue, at)
            return True

        def settle(message: Any, at: Now) -> None:
            """At most once: the messages are settled, and leave when that is durable."""
            runs = [run[:2] for g in grants for run in queue.leases.take(g.lease.token, g.first, g.messages)]
            part = queue.settle_part(runs, Settled.ACKED)
            end = self._engine.append([part], wall=at.wall, within=queue.within)
            self.settled(queue, at)
            wait_for = call.connection.behind(end, queue.within)
            self._engine.wait(wait_for, Answer(call, message), queue.within)

        def lost() -> None:
            for grant in grants:
                taker.credit += queue.undo(grant.lease)
            self.touch(queue)

        runs = [self._run(queue, grant, settle=taker.settle) for grant in grants]
        reading = Reading(
            queue.log,
            queue.partition,
            runs,
            finish,
            started,
            lost,
            settle if taker.settle else None,
            queue=queue,
        )
        position = call.connection.behind(self._position(queue, grants), queue.within)
        self._engine.wait(position, Answer(call, None, reading), queue.within)

    def _expired_on_the_way(self, queue: Queue, grants: Sequence[Grant], now: Now) -> bool:
        """Some of it may not be delivered any more."""
        if not queue.indexes.used:
            return False
        if len(queue.indexes.expiries):
            self._forget_expired(queue, now)
        return any(queue.indexes.is_overdue(grant.first, grant.messages) for grant in grants)

    def _wait_again(self, queue: Queue, waiter: Waiter) -> None:
        """A RECEIVE did not get what it was to get."""
        waiter.ended = False
        queue.handout.add(waiter)
        waiter.call.connection.waits[waiter.call.correlation] = queue, waiter

    def _run(self, queue: Queue, grant: Grant, *, settle: bool) -> Run:
        """A grant as it is sent; what is settled as it is sent has no lease."""
        lease, known, noted = grant.lease, queue.indexes.notes, None
        if known and grant.messages == 1:
            noted = lambda batch, time: past.tried(batch, queue.name, grant.first, time, known)  # noqa: E731
        token, visibility = (0, 0) if settle else (lease.token, lease.visibility)
        return Run(
            grant.first, grant.messages, token, visibility, grant.attempt, grant.delivery, grant.flags, noted
        )

    def _position(self, queue: Queue, grants: Sequence[Grant]) -> int:
        """What the delivery depends on: its newest batch, and what let it go; all of the queue if it tells of
        failures."""
        newest = max(grant.first + grant.messages for grant in grants)  # not the last, with priorities
        position = max(queue.log.position(newest - 1), queue.indexes.decided_at)
        return max(queue.changed_at, position) if any(grant.attempt > 1 for grant in grants) else position

    def failed(
        self,
        queue: Queue,
        runs: Sequence[tuple[int, int]],
        delay: int | None,
        now: Now,
        tries: Sequence[notes.Row],
        then: Then | None = None,
    ) -> None:
        """Messages whose try failed: back later, or to the dead-letter queue; `then` when all is applied.
        `tries`: what is to be remembered of it."""
        verdict = judging.failed(queue, runs, delay, now.wall, tries)
        if verdict.returned:
            rows = [row for run in verdict.returned for row in notes.within(tries, *run[:2])]
            parts = [*notes.noted(queue.uuid, rows), queue.return_part(verdict.returned)]
            self._engine.append(parts, wall=now.wall, within=queue.within)
            queue.wake(now.wall)
        if verdict.expired:
            self.expired(queue, verdict.expired, now, tries)
        self._burial.bury(queue, verdict.dead, now, then)
        self.touch(queue)

    def settled(self, queue: Queue, now: Now) -> None:
        """Messages are done: the next of a message group may go, or one more in flight."""
        for lane in queue.lanes:
            if len(lane.handout) and lane.ready:
                self.touch(lane)
            else:
                self.arm(lane, now)

    def note(self, queue: Queue, rows: Sequence[notes.Row], now: Now, *, publish: bool = False) -> None:
        """Remember something of messages. `publish`: it takes room as a publish does, and is refused so."""
        parts = notes.noted(queue.uuid, rows)
        self._engine.append(parts, wall=now.wall, publish=publish, within=queue.within)

    def release(self, queue: Queue, runs: Sequence[tuple[int, int]], now: Now) -> None:
        """Messages that were not tried: ready at once, or dead if handed out too often."""
        verdict = judging.released(queue, runs)
        if verdict.expired:
            self.expired(queue, verdict.expired, now)
        self._burial.bury(queue, verdict.dead, now)
        self.touch(queue)

    def set_aside(self, queue: Queue, error: Corrupt) -> None:
        """Messages whose bytes are damaged hold up nobody behind them."""
        queue.set_aside(error.detail["first"], error.detail["messages"], (State.READY, State.SPECIAL))
        self.touch(queue)

    def release_held(
        self, session: Session, queue: Queue, number: int | None, held: set[int], now: Now
    ) -> None:
        """Release what a session holds in a queue (through one subscription), but for `held` tokens. Where it
        was the one that got everything, somebody else is now."""
        for lane in queue.lanes:
            self._release_held(session, lane, number, held, now)
            self.touch(lane)

    def _release_held(
        self, session: Session, queue: Queue, number: int | None, held: set[int], now: Now
    ) -> None:
        for lease in queue.leases:
            ours = lease.holder is session and number in (None, lease.subscription)
            if ours and lease.token not in held:
                if lease.started:
                    taken = queue.leases.take(lease.token, lease.first, lease.messages)
                    self.release(queue, [run[:2] for run in taken], now)
                else:
                    queue.undo(lease)

    def answer_nothing(self, waiter: Waiter) -> None:
        """The wait of a RECEIVE is over."""
        waiter.call.connection.waits.pop(waiter.call.correlation, None)
        self._sender.answer(waiter.call, Delivery(0, b""))

    # ---- Partitions

    def answer_fetch(
        self, partition: Partition, call: Call, request: Fetch, now: Now, deadline: int = 0
    ) -> None:
        """Answer a FETCH with what there is from its offset on. Up to `deadline` (mono ms) it waits on behind
        that, if it is to be answered in parts; where nothing fits its `where` it does so, too, but not long.
        """
        log, offset, waits = partition.log, request.offset, call.connection.waits
        start, end = log.start, log.end
        if (request.in_parts or request.where) and offset < end and now.mono < deadline:
            waits[call.correlation] = partition, None
        else:
            waits.pop(call.correlation, None)
        if offset == end:
            fetched = Fetched(0, start, end, offset, b"")
            self._sender.answer(call, fetched, partition.changed_at, partition.within)
            return
        chosen = Filter(Where(request.where)) if request.where else None

        def finish(
            slices: int, payload: tuple[Buffer, ...], behind: int
        ) -> Fetched | OffsetOutOfRange | None:
            refusal = partition.out_of_range(offset)  # while it was loaded
            if refusal is not None:
                return refusal
            if chosen is not None:
                partition.records_filtered += chosen.skipped
            rest = _rest(log, request, chosen, behind, payload) if call.correlation in waits else None
            if rest is not None:
                until = deadline if slices else min(deadline, now.mono + TELL_MS)
                self.park(partition, call, rest, until, now)
                if behind < log.end:
                    self.touch(partition)
            return Fetched(slices, start, end, behind, payload) if slices or rest is None else None

        most, size = request.records, request.size
        scanned = (most, size) if chosen is None else (SCANNED_RECORDS_MAX, SCANNED_BYTES_MAX)
        runs = [Run(offset, log.reach(offset, *scanned) - offset)]
        reading = Reading(
            log, partition.number, runs, finish, messages_max=most, size_max=size, chosen=chosen
        )
        self._engine.wait(partition.changed_at, Answer(call, None, reading), partition.within)

    def park(self, partition: Partition, call: Call, request: Fetch, deadline: int, now: Now) -> None:
        """Let a FETCH wait for records until `deadline` (mono ms)."""
        call.connection.waits[call.correlation] = partition, partition.park(call, request, deadline)
        self.arm(partition, now)

    # ---- Ends

    def forget(self, connection: Connection) -> None:
        """The connection is gone: nobody waits on it any more, and others may be given what it was to get."""
        session = connection.session
        if session is not None and session.connection is connection:
            for subscription in session.subscriptions.values():
                for lane in subscription.queue.lanes:
                    self.touch(lane)
        for target, wait in connection.waits.values():
            target.unpark(wait)
        connection.waits.clear()


def _is_near(log: Log, offset: int) -> bool:
    """There is no more behind it than one look takes."""
    return log.reach(offset, SCANNED_RECORDS_MAX, SCANNED_BYTES_MAX) >= log.end


def _rest(
    log: Log, request: Fetch, chosen: Filter | None, behind: int, payload: Sequence[Buffer]
) -> Fetch | None:
    """What a FETCH that came by all before `behind` waits on for; None: it is answered."""
    if not payload:
        tired = chosen is None or chosen.tired
        return None if tired or not _is_near(log, behind) else request._replace(offset=behind)
    records = request.records - (behind - request.offset - (chosen.skipped if chosen else 0))
    size = request.size - sum(map(len, payload))
    if not request.in_parts or records <= 0 or size <= 0:
        return None
    return request._replace(offset=behind, records=records, size=size)
