"""Publishes of one client: gathered into batches, sent within credit, sent until their outcome is known.

A message goes from the caller into the batch that gathers for its address, and its caller waits on a future;
at the end of the loop turn the batches are sent. What a reply means for the order of things is the lanes'
business; here are credit, the pending bound, time, and who is told what.

Invariants: a batch ends exactly once, as confirmed, refused or unknown; a caller that leaves never takes a
batch with it that was sent; what is gathered or unconfirmed stays below `max_pending_bytes` plus one batch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from copy import copy
from functools import partial
from random import Random
from typing import Any, TypeAlias, TypeVar

from penstock import retry
from penstock.bulk import Bulk, Stretch
from penstock.confirms import understood
from penstock.connection import Wire
from penstock.errors import Busy, ClientClosed, Disconnected, Error, OutcomeUnknown, Refused, TooLarge
from penstock.inquiry import Inquiries
from penstock.lanes import Address, Batch, Caller, Lane, Outcome, Stage
from penstock.producers import Producers
from penstock.values import Cells
from penstock_protocol.errors import Cancelled, SequenceGap
from penstock_protocol.limits import MESSAGE_BYTES_MAX_DEFAULT, PRODUCER_ID_NAMED_MIN
from penstock_protocol.messages.queues import Confirm

__all__ = ["Address", "Cells", "Publisher", "Route", "Stretch"]

T = TypeVar("T")
V = TypeVar("V", bound=Sequence[Any])
R = TypeVar("R")

Route: TypeAlias = Callable[[], Address]
"""Chooses the address of a batch when the batch is begun (sticky round robin). Hashable."""

OWN_TIME_SHARE = 0.9
"""A message joins a batch that has at least this share of the client's timeout left."""


class Publisher:
    """All publishes of one client.

    `timeout`: seconds a batch may take, from its first message to its outcome. `linger`: seconds a batch
    waits for more messages, if nothing is behind it and nobody waits for room; 0 is the end of the loop turn.
    """

    def __init__(
        self, wire: Wire, *, random: Random, timeout: float, max_pending_bytes: int, linger: float
    ) -> None:
        self._wire = wire
        self._random = random
        self._timeout = timeout
        self._pending_max = max_pending_bytes
        self._linger = linger
        self._lanes: dict[Address, Lane] = {}
        self._gathering: dict[Address | Route, Batch] = {}
        self._ready: dict[Lane, None] = {}
        self._woken = False
        self._open = 0
        self._credit = 0
        self._pending = 0
        self._waiting: deque[tuple[asyncio.Future[Any], Callable[[], None]]] = deque()
        """Beyond the pending bound: who waits, and how it goes on."""
        self._message_bytes_max = MESSAGE_BYTES_MAX_DEFAULT
        self.producers = Producers(wire, self._wake, self._end)
        self.inquiries = Inquiries(self, wire)
        wire.on_connected(self._connected)

    # Gathering

    def publish(
        self,
        to: Address | Route,
        body: bytes,
        cells: Cells,
        view: Callable[[Confirm, int], R],
        *,
        timeout: float | None = None,
        expected_offset: int | None = None,
    ) -> "asyncio.Future[R]":
        """Gather one message; it goes out with whatever else this turn of the loop brings for `to`, or alone
        where it has to get `expected_offset`.

        The future's result is `view` of the confirm and the message's index in it. Its exceptions: what
        `view` raises because the message was refused alone; what the broker refuses; `Disconnected` or `Busy`
        if it was surely not sent in time, else `OutcomeUnknown`, whose `retry()` returns the result.
        Cancelling the future takes the message back unless it was sent. Raises `TooLarge`, `ClientClosed`.
        """
        self.check(body)
        loop = asyncio.get_running_loop()
        caller: asyncio.Future[R] = loop.create_future()
        if not self.is_full:
            self._gather(to, body, cells, (caller, view), timeout, expected_offset)
        else:
            gather = partial(self._gather, to, body, cells, (caller, view), timeout, expected_offset)
            self._queue_up(caller, gather)
            timeout = self._timeout if timeout is None else timeout
        if timeout is not None:
            timer = loop.call_later(timeout, self._caller_is_late, caller)
            caller.add_done_callback(lambda _: timer.cancel())
        return caller

    async def many(
        self,
        items: Iterable[T] | AsyncIterable[T],
        encode: Callable[[T], tuple[Address | Route, bytes, Cells]],
        view: Callable[[list[Stretch]], V],
        *,
        plain: Address | Route | None = None,
        atomic: bool = False,
        timeout: float | None = None,
        expected_offset: int | None = None,
    ) -> V:
        """Publish `items` in order, lazily, pipelined; `view` of where they are, in the order of the input.

        `encode` says of one item where it goes and what it is; it may raise. `plain`: where lists of bytes go
        without asking `encode` (None: it is asked for each). `timeout` is for each batch. Up to one batch it
        is all or nothing and raises the plain error; longer input raises `BatchError`. `expected_offset`: of
        the first item; with it `atomic` is set, and `encode` names one address for all of them.
        """
        bulk = Bulk(
            self, encode, view, plain=plain, atomic=atomic, timeout=timeout, expected_offset=expected_offset
        )
        return await bulk.run(items)

    def check(self, body: bytes) -> None:
        """Raises `TooLarge` for a body above the broker's limit, and `ClientClosed`."""
        if self._wire.closed:
            raise ClientClosed("the client is closed")
        if len(body) > self._message_bytes_max:
            raise TooLarge(f"message of {len(body):,} bytes; the limit is {self._message_bytes_max:,}")

    def check_all(self, bodies: Sequence[bytes], size: int) -> None:
        """The same for many, which have `size` bytes altogether."""
        if self._wire.closed or size > self._message_bytes_max:
            self.check(max(bodies, key=len))

    def _gather(
        self,
        to: Address | Route,
        body: bytes,
        cells: Cells,
        caller: Caller,
        timeout: float | None,
        expected_offset: int | None,
    ) -> None:
        batch = self._gathering.get(to) if expected_offset is None else None
        cost = batch.cost(body, cells) if batch is not None else 0
        if batch is None or not batch.gathering or not batch.fits(cost) or self._is_old(batch):
            batch = self._begin(to) if expected_offset is None else self._alone(to, expected_offset)
            cost = batch.cost(body, cells)
        batch.add(body, cells, cost)
        batch.callers.append(caller)
        self._pending += cost
        if timeout is not None and timeout > self._timeout:
            self._limit(batch, timeout)

    def _is_old(self, batch: Batch) -> bool:
        """Whether so much of its time is over that one who joined it now would not get his own."""
        assert batch.timer is not None
        return batch.timer.when() - asyncio.get_running_loop().time() < self._timeout * OWN_TIME_SHARE

    def _begin(self, to: Address | Route) -> Batch:
        """A batch that gathers for `to` from now on; the one before it is full, or sent."""
        before = self._gathering.get(to)
        if before is not None:
            before.gathering = False
            self._wake(before.lane)
        batch = self._gathering[to] = self.batch(to, self._tell_callers)
        batch.gathering = True
        self.submit(batch)
        return batch

    def _alone(self, to: Address | Route, expected_offset: int) -> Batch:
        """A batch that nobody joins, for one message."""
        batch = self.batch(to, self._tell_callers)
        batch.expected_offset = expected_offset
        self.submit(batch)
        return batch

    def batch(self, to: Address | Route, on_outcome: Callable[[Batch, Outcome], None]) -> Batch:
        """An empty batch for `to`. `on_outcome` is called once, when its outcome is known."""
        address = to() if callable(to) else to
        place = address._replace(codec=0) if address.codec else address
        lane = self._lanes.get(place)
        if lane is None:
            new_id = partial(self._random.randrange, 1, PRODUCER_ID_NAMED_MIN)
            anonymous = Lane(place, self._wire.producer_id, new_id)
            lane = self._lanes[place] = self.producers.lane(place) if place.producer else anonymous
        return Batch(lane, on_outcome, address.codec)

    def submit(self, batch: Batch, timeout: float | None = None) -> None:
        """Send it when its turn has come. Its outcome is known, or known to be unknown, within `timeout`
        seconds, or the client's timeout if that is longer."""
        self._limit(batch, max(self._timeout, timeout or 0))
        if batch.expected_offset is not None:
            for before in batch.lane.queue:
                before.gathering = False  # who comes later does not get in front of it
        batch.lane.queue.append(batch)
        self._pending += batch.size
        if batch.gathering and self._linger and not self.is_full:
            batch.lingers = True
            asyncio.get_running_loop().call_later(self._linger, self._lingered, batch)
        elif not self._sent_at_once(batch):
            self._wake(batch.lane)

    def _limit(self, batch: Batch, timeout: float) -> None:
        """It may take that many seconds from now, unless it may take longer already."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        if batch.timer is not None:
            if batch.timer.when() >= end:
                return
            batch.timer.cancel()
        batch.timer = loop.call_at(end, self._time_is_up, batch)

    @property
    def is_full(self) -> bool:
        """The pending bound is reached, or others wait for room already."""
        return self._pending >= self._pending_max or bool(self._waiting)

    async def room(self) -> None:
        """Return when less than the pending bound is gathered or unconfirmed."""
        if self.is_full:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue_up(turn, partial(turn.set_result, None))
            await turn

    def _queue_up(self, caller: "asyncio.Future[Any]", go_on: Callable[[], None]) -> None:
        """It goes on when there is room, for which no batch lingers any more."""
        if not self._waiting:
            self._hurry()
        self._waiting.append((caller, go_on))

    def _hurry(self) -> None:
        for lane in self._lanes.values():
            for batch in lane.queue:
                batch.lingers = False
            self._wake(lane)

    # Sending

    def _connected(self) -> None:
        welcome = self._wire.welcome
        assert welcome is not None
        self._credit = welcome.credit
        self._message_bytes_max = welcome.limits.get("message_bytes", MESSAGE_BYTES_MAX_DEFAULT)
        for lane in self._lanes.values():
            self._wake(lane)

    def _wake(self, lane: Lane) -> None:
        """Something about the lane has changed: look at the end of the turn what it can send."""
        self._ready[lane] = None
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Send what may be sent, one batch of each lane in turn."""
        self._woken = False
        while self._ready and self._wire.connected:
            lane = next(iter(self._ready))
            batch = lane.sendable()
            if batch is not None and batch.size > self._credit and self._open:
                return
            del self._ready[lane]
            if batch is not None:
                if self._still_wanted(batch):
                    self._send(lane.send())
                self._ready[lane] = None

    def _sent_at_once(self, batch: Batch) -> bool:
        """Send a batch that nobody joins here and now, unless something is in front of it: the broker is at
        work on it while the next one is made."""
        waits = self._ready or not self._wire.connected or (batch.size > self._credit and self._open)
        if waits or batch.gathering or not batch.count or batch.lane.sendable() is not batch:
            return False
        self._send(batch.lane.send())
        return True

    def _still_wanted(self, batch: Batch) -> bool:
        """Whether any of its callers still waits; the messages of the others are taken back."""
        if batch.data is not None or not batch.callers:
            return True
        before = batch.size
        batch.forget_gone()
        self._pending += batch.size - before
        if batch.count:
            return True
        batch.lane.remove(batch)
        self._end(batch, Cancelled("nobody waits for it"))
        return False

    def _send(self, batch: Batch) -> None:
        assert batch.data is not None
        self._credit -= len(batch.data)
        self._open += 1
        self._wire.post(batch.request(), partial(self._replied, batch))

    def _replied(self, batch: Batch, reply: Any) -> None:
        self._open -= 1
        if isinstance(reply, Confirm):
            self._credit += reply.credit
            reply = understood(reply)
        elif reply is not None:
            assert batch.data is not None
            self._credit += len(batch.data)
        lane = batch.lane
        if batch.stage is not Stage.OPEN:  # it was given up meanwhile
            if isinstance(reply, Confirm):
                batch.outcome = reply
            return
        if reply is None:
            lane.came_back(batch, lost=True)
        elif isinstance(reply, Confirm):
            lane.confirmed(batch)
            self._end(batch, reply)
        elif isinstance(reply, (*retry.AGAIN, SequenceGap)):
            self._refused_for_now(batch, reply)
        else:
            lane.refused(batch)
            self._end(batch, reply)
        if lane.pause and not lane.open and not lane.resting:
            lane.resting = True
            asyncio.get_running_loop().call_later(lane.pause, self._rested, lane)
        self._wake(lane)

    def _refused_for_now(self, batch: Batch, error: Error) -> None:
        """Send it again, behind its predecessors and after a pause if it was not just out of turn."""
        lane = batch.lane
        first = batch.sequence == lane.expected
        batch.refusal = error
        if isinstance(error, SequenceGap):
            expected = error.detail.get("expected", 0)
            if (
                first and batch.doubt and not expected
            ):  # it has forgotten this producer: nobody knows any more
                self._give_up(lane)
                return
            if first:
                lane.expected = expected
            batch.doubt = False
        if batch.withdrawn is not None and not batch.doubt:
            lane.refused(batch)
            self._end(batch, batch.withdrawn)
        else:
            if first or not isinstance(error, SequenceGap):
                lane.pauses = lane.pauses or retry.pauses(self._random)
                lane.pause = max(lane.pause, retry.pause_after(error, lane.pauses))
            lane.came_back(batch, lost=False)

    def _lingered(self, batch: Batch) -> None:
        batch.lingers = False
        self._wake(batch.lane)

    def _rested(self, lane: Lane) -> None:
        lane.pause = 0.0
        lane.resting = False
        self._wake(lane)

    # Outcomes

    def _end(self, batch: Batch, outcome: Outcome) -> None:
        """Its outcome is known, or known to be unknown. It has left its lane."""
        batch.outcome = outcome
        batch.gathering = False
        if batch.timer is not None:
            batch.timer.cancel()
            batch.timer = None
        self._pending -= batch.size
        batch.tell(outcome)
        if batch.lane.address.producer:
            self.producers.ended(batch.lane, outcome)
        batch.callers = []
        joiners, batch.joiners = batch.joiners, []
        for joiner in joiners:
            if not joiner.done():
                joiner.set_result(outcome)
        while self._waiting and self._pending < self._pending_max:
            caller, go_on = self._waiting.popleft()
            if not caller.done():
                go_on()

    def _tell_callers(self, batch: Batch, outcome: Outcome) -> None:
        for index, (caller, view) in enumerate(batch.callers):
            if caller.done():
                continue
            if isinstance(outcome, Confirm):
                try:
                    caller.set_result(view(outcome, index))
                except Refused as refused:  # this message alone
                    caller.set_exception(refused)
            elif isinstance(outcome, OutcomeUnknown):
                caller.set_exception(self.inquiries.unknown_one(batch, index, view))
            else:
                caller.set_exception(copy(outcome))

    def _time_is_up(self, batch: Batch) -> None:
        if batch.in_doubt:
            self._give_up(batch.lane)
        else:
            batch.lane.remove(batch)
            self._end(batch, batch.withdrawn or batch.refusal or self.not_sent())
            self._wake(batch.lane)

    def _give_up(self, lane: Lane) -> None:
        """The lane's open batches end as unknown: none of them can be confirmed without the first."""
        for batch in lane.give_up():
            self._end(batch, self.inquiries.unknown(batch))
        self._wake(lane)

    def _caller_is_late(self, caller: asyncio.Future[Any]) -> None:
        """Its own time is up; the batch goes on for the others, or without the message if not sent yet."""
        for lane in self._lanes.values():
            for batch in lane.batches():
                for index, (other, view) in enumerate(batch.callers):
                    if other is caller and batch.data is not None:
                        caller.set_exception(self.inquiries.unknown_one(batch, index, view))
                        return
        caller.set_exception(self.not_sent())

    def not_sent(self) -> Error:
        """Why a publish found no way out in time."""
        if self._wire.connected:
            return Busy("the publish found no room on the connection in time", hint="publish less at once")
        return Disconnected("the publish was not sent: there was no connection in time")

    def withdraw(self, batch: Batch, why: Error) -> None:
        """End a batch with `why` as soon as it is certain that it is not appended."""
        if batch.stage is Stage.DONE:
            return
        batch.withdrawn = why
        if not batch.in_doubt:
            batch.lane.remove(batch)
            self._end(batch, why)

    def outcome_of(self, batch: Batch) -> "asyncio.Future[Outcome]":
        """Its outcome, once it is known; for this package."""
        joiner: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        batch.joiners.append(joiner)
        return joiner

    # The end

    async def flush(self) -> None:
        """Return when everything given to `publish` and `many` so far has an outcome."""
        await self.room()
        self._hurry()
        outcomes = [self.outcome_of(batch) for lane in self._lanes.values() for batch in lane.batches()]
        if outcomes:
            await asyncio.wait(outcomes)

    def close(self) -> None:
        """Nothing is sent any more: what was sent ends as unknown, the rest as `ClientClosed`."""
        closed = ClientClosed("the client was closed before it was sent")
        waiting, self._waiting = self._waiting, deque()
        for caller, _ in waiting:
            if not caller.done():
                caller.set_exception(copy(closed))
        for lane in self._lanes.values():
            for batch in lane.batches():
                outcome = self.inquiries.unknown(batch) if batch.in_doubt else closed
                lane.remove(batch)
                self._end(batch, outcome)
