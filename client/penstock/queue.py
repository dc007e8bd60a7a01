"""The handle of one queue: a name, a codec and the calls. It keeps no state; making one costs nothing.

Invariant: a message that the broker leased to a call of this handle is either given to the caller or
released, however the call ends.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from penstock import codecs
from penstock.batching import Address, Stretch
from penstock.consumer import Consumer
from penstock.errors import Invalid
from penstock.message import Message
from penstock.runs import LeasedRun, id_of
from penstock.settle import Settler, Verdict, capped, overlap, raise_stale
from penstock.values import (
    Cells,
    Duration,
    Headers,
    Outgoing,
    QueueStats,
    Receipt,
    cells_of,
    described,
    ms_of,
    seconds_of,
)
from penstock.views import Messages, Receipts
from penstock.worker import work
from penstock_protocol.limits import RECEIVE_MESSAGES_MAX, WAIT_MS_MAX
from penstock_protocol.messages.queues import (
    Confirm,
    Delivery,
    DescribeQueue,
    Enqueue,
    Outcome,
    Peek,
    Purge,
    Receive,
)
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import decode_slices

if TYPE_CHECKING:
    from penstock.client import Client

T = TypeVar("T")


class Queue(Generic[T]):
    """A queue by name. Whether it exists is found out by the first call (`NotFound`)."""

    def __init__(self, client: "Client", name: str, codec: codecs.Codec[T]) -> None:
        self.name = name
        self.codec = codec
        self.client = client
        self._address = Address(Enqueue, name, 0)

    @property
    def settler(self) -> Settler:
        """Where settles of its messages go."""
        return self.client.settler

    # Enqueue

    async def enqueue(
        self, body: T | bytes | str, *, headers: Headers | None = None, timeout: float | None = None
    ) -> Receipt:
        """Append one message; durable on return. Concurrent calls share a batch.

        Cancelled before its frame is built, it is taken back; later, only the waiting ends. Raises
        `QueueFull`, `TooLarge`, `DiskFull`, `NotFound`; `OutcomeUnknown` at the timeout.
        """
        cells = cells_of(headers=headers) if headers else ()
        encoded = self.codec.encode(body)
        return await self.client.publisher.publish(self._address, encoded, cells, _receipt, timeout=timeout)

    async def enqueue_many(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        atomic: bool = False,
        timeout: float | None = None,
    ) -> Receipts[Receipt]:
        """Append bodies or `Outgoing`s in order, taken from `items` as they are sent.

        Up to one batch (1 MiB, 10,000 messages) it is all or nothing and raises what `enqueue` raises. Longer
        input goes as batches in order; the first failure stops it and raises `BatchError`. `atomic=True`
        refuses longer input (`TooLarge`, nothing sent).
        """
        plain = self._address if self.codec is codecs.raw else None
        return await self.client.publisher.many(
            items, self._encode, _receipts, plain=plain, atomic=atomic, timeout=timeout
        )

    def _encode(self, item: Any) -> tuple[Address, bytes, Cells]:
        if isinstance(item, Outgoing):
            if (item.key, item.partition, item.timestamp) != (None, None, None):
                raise Invalid(
                    "a message of a queue has no key, partition or timestamp", hint="those are for topics"
                )
            return self._address, self.codec.encode(item.body), cells_of(headers=item.headers)
        return self._address, self.codec.encode(item), ()

    # Receive

    async def receive(
        self,
        max_messages: int = 1,
        *,
        wait: Duration = 20.0,
        visibility_timeout: Duration | None = None,
        timeout: float | None = None,
    ) -> Messages[T]:
        """Lease up to `max_messages` (at most 10,000, and what fits 1 MiB), waiting for the first.

        Empty when `wait` is over. `visibility_timeout` None: the queue's setting. Bearer leases: only time
        ends them, and any connection of the same principal may settle. `timeout` None: the wait and the
        client's timeout. Raises `NotFound`, `Invalid`, `Timeout`.
        """
        messages = min(max_messages, RECEIVE_MESSAGES_MAX)
        visibility = None if visibility_timeout is None else ms_of(visibility_timeout)
        left = ms_of(wait)
        while True:
            now = min(left, WAIT_MS_MAX)
            left -= now
            delivery = await self.client.wire.request(
                Receive(self.name, messages, now, visibility),
                timeout=self.client.timeout + now / 1000 if timeout is None else timeout,
                on_late=self._received_late,
            )
            if delivery.slices or not left:
                return Messages(self, self.runs(delivery))

    def _received_late(self, reply: Any) -> None:
        if isinstance(reply, Delivery):
            self.settler.release(self.name, reply)

    def runs(self, delivery: Any) -> list[LeasedRun[T]]:
        """The runs of a `Delivery` or `Deliver`. Raises `Corrupt`."""
        now = asyncio.get_running_loop().time()
        slices = decode_slices(delivery.payload, delivery.slices)
        return [LeasedRun(stamps, batch, self, now) for stamps, batch in slices]

    def consume(self, *, prefetch: int | None = None, max_processing: Duration = 3600.0) -> Consumer[T]:
        """Messages pushed as they come: `async with q.consume() as c: async for m in c: async with m: …`.

        `prefetch`: how many may wait here (at most 1,000); None adapts, from 1 up to one second of measured
        work. Leases are extended until a message was in hand for `max_processing`.
        """
        return Consumer(self, prefetch=prefetch, max_processing=seconds_of(max_processing))

    async def work(
        self,
        handler: Callable[[Message[T]], Awaitable[object]],
        *,
        concurrency: int = 10,
        grace: Duration = 30.0,
    ) -> None:
        """Run `handler` for each message, `concurrency` at a time, until SIGTERM or cancelled.

        A handler that returns acks; one that raises settles as `async with message` does, and the exception
        is logged. At the end running handlers get `grace`; what is not finished then is released.
        """
        await work(self, handler, concurrency=concurrency, grace=seconds_of(grace))

    # Settle

    async def ack(self, messages: Message[T] | Iterable[Message[T]], *, timeout: float | None = None) -> None:
        """Settle messages as done; durable on return. Raises `Stale` if the lease of any is gone (the others
        are settled), `OutcomeUnknown` at the timeout, or if the connection was lost meanwhile and the lease
        is gone since."""
        await self._settle(Verdict(self.name), messages, timeout)

    async def nack(
        self,
        messages: Message[T] | Iterable[Message[T]],
        delay: Duration | None = None,
        reason: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """They failed: back after `delay`, or after the queue's retry curve; durable on return."""
        delay_ms = None if delay is None else ms_of(delay)
        await self._settle(Verdict(self.name, Outcome.RETRY, delay_ms, capped(reason)), messages, timeout)

    async def release(
        self, messages: Message[T] | Iterable[Message[T]], *, timeout: float | None = None
    ) -> None:
        """They were not tried: back at once, no attempt counted; not durable."""
        await self._settle(Verdict(self.name, Outcome.RELEASE), messages, timeout)

    async def dead_letter(
        self,
        messages: Message[T] | Iterable[Message[T]],
        reason: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """To the dead-letter queue, no retries burnt; durable on return."""
        verdict = Verdict(self.name, Outcome.DEAD_LETTER, None, capped(reason))
        await self._settle(verdict, messages, timeout)

    async def extend(
        self,
        messages: Message[T] | Iterable[Message[T]],
        seconds: Duration,
        *,
        timeout: float | None = None,
    ) -> None:
        """Their leases end `seconds` from now, at most 12 h; not durable. Raises `Stale` if any is gone."""
        pieces = self._pieces(messages)
        ranges = [run.range(first, count) for run, first, count in pieces]
        stale = await self.settler.extend(self.name, ranges, ms_of(seconds), timeout)
        until = asyncio.get_running_loop().time() + seconds_of(seconds)
        for run, first, count in pieces:
            run.extend(first, count, until)
            for gone in stale:
                run.lose(gone)
        raise_stale(self.name, overlap(ranges, stale))

    async def _settle(
        self, verdict: Verdict, messages: Message[T] | Iterable[Message[T]], timeout: float | None
    ) -> None:
        pieces = self._pieces(messages)
        for run, first, count in pieces:
            run.settle(first, count)
        ranges = [run.range(first, count) for run, first, count in pieces]
        await self.settler.settle(verdict, ranges, timeout)

    def _pieces(self, messages: Message[T] | Iterable[Message[T]]) -> list[tuple[LeasedRun[T], int, int]]:
        if isinstance(messages, Message | Messages):
            pieces = list(cast("Message[T] | Messages[T]", messages).pieces())
        else:
            pieces = [piece for message in messages for piece in message.pieces()]
        for run, _, _ in pieces:
            if run.queue.name != self.name:
                raise Invalid(f"a message of {run.queue.name!r} cannot be settled in {self.name!r}")
            if not run.stamps.token:
                raise Invalid("a peeked message has no lease to settle", hint="receive it instead")
        return pieces

    # Look

    async def peek(
        self, limit: int = 10, *, state: str = "ready", timeout: float | None = None
    ) -> Messages[T]:
        """Up to `limit` messages (and what fits 1 MiB) in a state, without a lease.

        `state`: ready, delayed, in_flight or waiting.
        """
        delivery = await self.client.wire.request(Peek(self.name, limit, state), timeout=timeout)
        return Messages(self, self.runs(delivery))

    async def stats(self, *, timeout: float | None = None) -> QueueStats:
        """How many messages are in each state, the age of the oldest, bytes."""
        reply = await self.client.wire.request(DescribeQueue(self.name), timeout=timeout)
        return described(QueueStats, unpack_document(reply.payload)["stats"])

    async def purge(self, *, timeout: float | None = None) -> int:
        """Settle every message that is not in flight; how many those were."""
        reply = await self.client.wire.request(Purge(self.name), timeout=timeout)
        purged: int = unpack_document(reply.payload)["purged"]
        return purged

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"


def _receipt(confirm: Confirm, index: int) -> Receipt:
    offset = confirm.first + index
    return Receipt(id_of(confirm.log, offset), offset, confirm.duplicate, confirm.durability)


def _receipt_in(stretch: Stretch, index: int) -> Receipt:
    return _receipt(stretch.confirm, stretch.first + index)


def _receipts(stretches: list[Stretch]) -> Receipts[Receipt]:
    return Receipts(stretches, [stretch.messages for stretch in stretches], _receipt_in)
