"""Hands ready messages to who waits for them, queue by queue, once per turn.

Leases, waits and deadlines of all queues and partitions come together here; what returns to a queue
(expired, released, refused) is judged by the queue and journalled from here.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol

from penstock_broker.alarms import Alarms
from penstock_broker.answers import Answer, Call, Reading, Run
from penstock_broker.burial import Burial, Then
from penstock_broker.clock import Now
from penstock_broker.durability import OS_MS
from penstock_broker.queues.handout import Subscription, Taker, Waiter
from penstock_broker.queues.outcomes import Grant
from penstock_broker.queues.queue import Queue
from penstock_broker.queues.states import State
from penstock_broker.session import Connection, Session
from penstock_broker.storage.engine import Engine
from penstock_broker.topics.partition import Partition
from penstock_protocol import verbs
from penstock_protocol.errors import Corrupt, OffsetOutOfRange
from penstock_protocol.limits import DELIVERY_BYTES_MAX
from penstock_protocol.messages.queues import Deliver, Delivery
from penstock_protocol.messages.topics import Fetch, Fetched

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
        self.stopped = False
        """The node stops: nothing is handed out, and no lease runs out, any more."""

    def touch(self, target: Queue | Partition) -> None:
        """Something may be handed out there now."""
        self._touched[target] = None

    def run(self, now: Now) -> None:
        """Hand out all there is to whoever waits."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for target in touched:
                if isinstance(target, Queue):
                    self._hand_out(target, now)
                else:
                    for parked in target.satisfied():
                        self.answer_fetch(target, parked.call, parked.request)
                self.arm(target, now)

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
                self.answer_fetch(target, parked.call, parked.request)
        self.touch(target)

    # ---- Queues

    def _expire(self, queue: Queue, now: Now) -> None:
        runs = queue.expire(now.mono)
        if runs:
            self.failed(queue, runs, None, now)
        queue.wake(now.wall)
        if queue.retry_at is not None and queue.retry_at <= now.mono:
            queue.retry_at = None
            self._burial.retry(queue, now)

    def _hand_out(self, queue: Queue, now: Now) -> None:
        while not self.stopped and (ready := queue.available()) > 0:
            shares = queue.handout.round(ready)
            if not shares:
                break
            for taker, share in shares:
                self._give(queue, taker, share, now)
        for waiter in queue.overdue(now.mono):
            self.answer_nothing(waiter)

    def _give(self, queue: Queue, taker: Taker, share: int, now: Now) -> None:
        subscription = taker if isinstance(taker, Subscription) else None
        holder, number = (subscription.session, subscription.number) if subscription else (None, 0)
        grants = queue.take(share, DELIVERY_BYTES_MAX, taker.visibility, holder, number)
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
            for grant in grants:
                queue.started(grant.lease, at.mono)
            self.arm(queue, at)
            return True

        def lost() -> None:
            for grant in grants:
                taker.credit += queue.undo(grant.lease)
            self.touch(queue)

        runs = [
            Run(g.first, g.messages, g.lease.token, g.lease.visibility, g.attempt, g.delivery, g.flags)
            for g in grants
        ]
        reading = Reading(queue.log, 0, runs, finish, started, lost)
        position = call.connection.behind(self._position(queue, grants), queue.within)
        self._engine.wait(position, Answer(call, None, reading), queue.within)

    def _position(self, queue: Queue, grants: Sequence[Grant]) -> int:
        """What the delivery depends on: its newest batch, or all of the queue if it tells of failures."""
        last = grants[-1]
        if any(grant.attempt > 1 for grant in grants):
            return queue.changed_at
        return min(queue.changed_at, queue.log.position(last.first + last.messages - 1))

    def failed(
        self,
        queue: Queue,
        runs: Sequence[tuple[int, int]],
        delay: int | None,
        now: Now,
        then: Then | None = None,
    ) -> None:
        """Messages whose try failed: back later, or to the dead-letter queue; `then` when all is applied."""
        verdict = queue.failed(runs, delay, now.wall)
        if verdict.returned:
            part = queue.return_part(verdict.returned)
            self._engine.append([part], wall=now.wall, within=queue.within)
            queue.wake(now.wall)
        self._burial.bury(queue, verdict.dead, now, then)
        self.touch(queue)

    def release(self, queue: Queue, runs: Sequence[tuple[int, int]], now: Now) -> None:
        """Messages that were not tried: ready at once, or dead if handed out too often."""
        self._burial.bury(queue, queue.release(runs), now)
        self.touch(queue)

    def set_aside(self, queue: Queue, error: Corrupt) -> None:
        """Messages whose bytes are damaged hold up nobody behind them."""
        queue.set_aside(error.detail["first"], error.detail["messages"], (State.READY, State.SPECIAL))
        self.touch(queue)

    def release_held(
        self, session: Session, queue: Queue, number: int | None, held: set[int], now: Now
    ) -> None:
        """Release what a session holds in a queue (through one subscription), but for `held` tokens."""
        for lease in queue.leases:
            ours = lease.holder is session and number in (None, lease.subscription)
            if ours and lease.token not in held:
                if lease.started:
                    taken = queue.leases.take(lease.token, lease.first, lease.messages)
                    self.release(queue, [run[:2] for run in taken], now)
                else:
                    queue.undo(lease)
                    self.touch(queue)

    def answer_nothing(self, waiter: Waiter) -> None:
        """The wait of a RECEIVE is over."""
        waiter.call.connection.waits.pop(waiter.call.correlation, None)
        self._sender.answer(waiter.call, Delivery(0, b""))

    # ---- Partitions

    def answer_fetch(self, partition: Partition, call: Call, request: Fetch) -> None:
        """Answer a FETCH with what there is from its offset on."""
        call.connection.waits.pop(call.correlation, None)
        log, offset = partition.log, request.offset
        start, end = log.start, log.end
        if offset == end:
            fetched = Fetched(0, start, end, offset, b"")
            self._sender.answer(call, fetched, partition.changed_at, partition.within)
            return

        def finish(slices: int, payload: object, behind: int) -> Fetched | OffsetOutOfRange:
            gone = partition.out_of_range(offset)  # while it was loaded
            return gone or Fetched(slices, start, end, behind, payload)

        runs = [Run(offset, log.reach(offset, request.records, request.size) - offset)]
        most, size = request.records, request.size
        reading = Reading(log, partition.number, runs, finish, messages_max=most, size_max=size)
        self._engine.wait(partition.changed_at, Answer(call, None, reading), partition.within)

    # ---- Ends

    def forget(self, connection: Connection) -> None:
        """The connection is gone: nobody waits on it any more."""
        for target, wait in connection.waits.values():
            target.unpark(wait)
        connection.waits.clear()
