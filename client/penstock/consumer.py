"""Push delivery: messages of a queue that come by themselves and wait here, as many as the prefetch allows.

`held` are the runs with messages that wait or are in hand; one timer extends their leases, as ranges. The
leases belong to the session and outlive a lost socket: after a reconnect the consumer subscribes again with
the tokens it holds, and extends at once to learn which of them are gone; those messages leave the buffer.

What was settled when it was sent (`settle=True`) has no lease: nothing of it is held, extended or given back.

Invariant: what the broker delivers is taken by the application, or given back when the consumer stops; what
cannot be given back is still taken then, up to the broker's last word. No task is spent on a message, and
none on the consumer: everything but `anext` happens in callbacks.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from penstock import checks, retry
from penstock.errors import ClientClosed, Error, Invalid, NotFound, Timeout
from penstock.events import LeaseLost
from penstock.message import Message
from penstock.prefetch import Prefetch
from penstock.runs import LeasedRun, Piece
from penstock.settle import Verdict, in_frames
from penstock.values import shown
from penstock_protocol.limits import PRIORITY_MAX
from penstock_protocol.messages.queues import Consume, Credit, Deliver, Extend, Outcome, Settled, Stop
from penstock_protocol.slices import Range, decode_ranges, encode_ranges

if TYPE_CHECKING:
    from penstock.queue import Queue

T = TypeVar("T")

LEAVE_SECONDS_MAX = 5.0
"""How long leaving the block waits for the broker; the rest goes on by itself."""


class Consumer(Generic[T]):
    """`async with queue.consume() as c: async for message in c: async with message: …`

    Several tasks may iterate one consumer. `anext` is cancel-safe: a message is taken or stays. The loop ends
    after `stop`, and raises `NotFound` when the queue is deleted. Leaving the block gives back every message
    not settled by then.
    """

    def __init__(
        self,
        queue: "Queue[T]",
        *,
        prefetch: int | None,
        max_processing: float,
        priority: int = 0,
        settle: bool = False,
    ) -> None:
        if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
            raise Invalid(f"priority={shown(priority)}: it can be 0 to {PRIORITY_MAX}, {PRIORITY_MAX} first")
        checks.flag("settle", settle)
        self._queue = queue
        self._wire = queue.client.wire
        self._prefetch = Prefetch(prefetch)
        self._max_processing = max_processing
        self._priority = priority
        self._settle = settle
        self._number = self._wire.next_subscription()
        self._buffer: deque[LeasedRun[T]] = deque()
        self._next = 0
        """Index, in the first run of the buffer, of the next message to take."""
        self._buffered = 0
        self._held: set[LeasedRun[T]] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._lease_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._begun: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._failure: Error | None = None

    # The application's side

    async def __aenter__(self) -> "Consumer[T]":
        if self._begun is not None:
            raise RuntimeError("a consumer is used once; call queue.consume() again")
        client = self._queue.client
        if self._wire.closed:
            raise ClientClosed("the client is closed")
        self._begun = asyncio.get_running_loop().create_future()
        self._wire.subscribe(self._number, self._delivered, self._subscribe)
        client.consumers.add(self)
        try:
            self._subscribe()
            async with asyncio.timeout(client.timeout):
                await self._begun
        except BaseException as error:
            self.stop()
            client.consumers.discard(self)
            if isinstance(error, TimeoutError) and not isinstance(error, Error):
                raise Timeout(f"{self._queue.name!r} was not subscribed to in {client.timeout:g} s") from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if not self._wire.closed:
            self._give_back((run, first, count) for run in list(self._held) for first, count in run.spans())
        if self._timer is not None:
            self._timer.cancel()
        self._queue.client.consumers.discard(self)
        await self.closed()

    def __aiter__(self) -> "Consumer[T]":
        return self

    async def __anext__(self) -> Message[T]:
        if self._begun is None:
            raise RuntimeError("enter the consumer first: `async with queue.consume() as c`")
        waited = False
        while True:
            now = asyncio.get_running_loop().time()
            message = self._take(now)
            if message is not None:
                self._prefetch.taken(now, waited=waited)
                self._grant()
                return message
            if self._failure is not None:
                raise self._failure
            if self._ended is not None and not self._has_last_words():
                raise StopAsyncIteration
            waited = True
            self._prefetch.ran_dry()
            self._grant()
            await self._arrival()

    def stop(self) -> None:
        """No more credit: messages not started are released, and the loop ends once it asks for the next.
        Those in hand stay leased until the block is left. With `settle=True` the loop ends behind the last
        message that was sent. May be called from a signal handler of the loop."""
        if self._begun is None or self._ended is not None:
            return
        self._ended = asyncio.get_running_loop().create_future()
        if not self._settle:
            waiting, self._buffer = self._buffer, deque()
            begin, self._next, self._buffered = self._next, 0, 0
            for run in waiting:
                self._give_back((run, first, count) for first, count in run.spans(begin))
                begin = 0
        self._wake(len(self._waiters))
        if not self._begun.done():
            self._begun.set_exception(ClientClosed("the client was closed"))
        self._post_stop()

    async def closed(self) -> None:
        """Wait, after `stop`, until nothing more can arrive, for at most 5 s."""
        if self._ended is not None and self._wire.connected:
            await asyncio.wait([self._ended], timeout=LEAVE_SECONDS_MAX)

    def _has_last_words(self) -> bool:
        """Whether messages may still come that cannot be given back."""
        return self._settle and self._wire.connected and self._ended is not None and not self._ended.done()

    def _take(self, now: float) -> Message[T] | None:
        while self._buffer:
            run, index = self._buffer[0], self._next
            self._buffered -= 1
            self._next += 1
            if self._next == run.stamps.messages:
                self._buffer.popleft()
                self._next = 0
            if self._settle:
                return Message(run, index)
            if run.is_settled(index):
                continue
            if run.expires(index) <= now:
                run.settle(index, 1)
                continue
            run.started[index] = now
            return Message(run, index)
        return None

    async def _arrival(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._wake(1)
            elif waiter in self._waiters:  # else `_wake` has passed it over
                self._waiters.remove(waiter)
            raise

    def _wake(self, count: int) -> None:
        while count and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    # The broker's side

    def _subscribe(self) -> None:
        """Say what is held and what may come. Called after every handshake; STOP goes behind it."""
        tokens = {run.stamps.token for run in self._held} | self._queue.settler.tokens()
        over = self._ended is not None or self._failure is not None
        credit = 0 if over else self._prefetch.subscribed(self._buffered)
        held = b"".join(token.to_bytes(8, "little") for token in tokens)
        consume = Consume(self._queue.name, self._number, credit, None, self._priority, self._settle, held)
        self._wire.post(consume, self._subscribed)
        if self._ended is not None:
            self._post_stop()
        self._extend()

    def _subscribed(self, reply: Any) -> None:
        if isinstance(reply, retry.AGAIN):
            self._later(reply, partial(self._subscribe_again, self._wire.connections))
        elif isinstance(reply, Error):
            self._fail(reply)
        elif reply is not None and self._begun is not None and not self._begun.done():
            self._begun.set_result(None)

    def _subscribe_again(self, connections: int) -> None:
        if self._ended is None and self._wire.connections == connections:
            self._subscribe()

    def _later(self, refusal: Error, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(refusal.retry_after or retry.PAUSE_INITIAL, call)

    def _fail(self, error: Error) -> None:
        self._failure = error
        if not self._settle:
            self._buffer.clear()
            self._next = self._buffered = 0
        self._wake(len(self._waiters))
        if self._begun is not None and not self._begun.done():
            self._begun.set_exception(error)

    def _post_stop(self) -> None:
        self._wire.post(Stop(self._number), self._stopped)

    def _stopped(self, reply: Any) -> None:
        """The barrier behind the last DELIVER; None: the socket was lost, the next one brings it."""
        if isinstance(reply, retry.AGAIN):
            self._later(reply, self._post_stop)
            return
        if reply is None and not self._wire.closed:
            self._wake(len(self._waiters))
            return
        self._wire.unsubscribe(self._number)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._wake(len(self._waiters))

    def _delivered(self, deliver: Deliver) -> None:
        if not deliver.slices:
            self._fail(NotFound(f"the queue {self._queue.name!r} was deleted"))
        elif (self._ended is not None or self._failure is not None) and not self._settle:
            self._queue.settler.release(self._queue.name, deliver)
        else:
            try:
                self._buffer_runs(self._queue.runs(deliver), len(deliver.payload))
            except Error as error:
                self._fail(error)

    def _buffer_runs(self, runs: list[LeasedRun[T]], size: int) -> None:
        messages = sum(run.stamps.messages for run in runs)
        self._buffer.extend(runs)
        self._buffered += messages
        self._prefetch.delivered(messages, size)
        if not self._settle:
            self._hold(runs)
        self._wake(messages)

    def _hold(self, runs: list[LeasedRun[T]]) -> None:
        for run in runs:
            run.holders = self._held
        self._held.update(runs)
        lease_ms = runs[-1].stamps.lease
        if self._timer is None or lease_ms < self._lease_ms:
            self._arm(lease_ms)
        self._lease_ms = lease_ms

    def _grant(self) -> None:
        credit = self._prefetch.grant(self._buffered) if self._ended is None else 0
        if credit:
            self._wire.send(Credit(self._number, credit))

    # Leases

    def _arm(self, lease_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(lease_ms / 3000, self._tick)

    def _tick(self) -> None:
        self._arm(self._lease_ms)
        self._extend()

    def _extend(self) -> None:
        """Extend everything held by the length of a lease; after a lost socket, the next handshake does."""
        now = asyncio.get_running_loop().time()
        pieces = list(self._extendable(now))
        extended = partial(self._extended, pieces, now + self._lease_ms / 1000)
        for ranges in in_frames([run.range(first, count) for run, first, count in pieces]):
            self._wire.post(Extend(self._queue.name, self._lease_ms, encode_ranges(ranges)), extended)

    def _extendable(self, now: float) -> Iterator[Piece[T]]:
        for run in self._held:
            over = {i for i, since in run.started.items() if now - since >= self._max_processing}
            for first, count in run.spans():
                if over.isdisjoint(range(first, first + count)):
                    yield run, first, count
                else:
                    yield from ((run, i, 1) for i in range(first, first + count) if i not in over)

    def _extended(self, pieces: list[Piece[T]], until: float, reply: Any) -> None:
        if not isinstance(reply, Settled):
            return
        for run, first, count in pieces:
            run.extend(first, count, until)
        stale = decode_ranges(reply.payload)
        lost = sum(run.lose(gone) for run in list(self._held) for gone in stale)
        if lost:
            self._wire.emit(LeaseLost(self._queue.name, lost))

    def _give_back(self, pieces: Iterable[Piece[T]]) -> None:
        ranges: list[Range] = []
        for run, first, count in pieces:
            run.settle(first, count)
            ranges.append(run.range(first, count))
        if ranges:
            self._queue.settler.stage(Verdict(self._queue.name, Outcome.RELEASE), ranges)
