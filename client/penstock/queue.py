"""The handle of one queue: a name, a codec and the calls. It keeps no state; making one costs nothing. What
operators do with a queue is in operations.py.

Invariant: a message that the broker leased to a call of this handle is either given to the caller or
released, however the call ends.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from penstock import checks, codecs
from penstock.batching import Address, Stretch
from penstock.confirms import receipt
from penstock.consumer import Consumer
from penstock.errors import Invalid, Stale
from penstock.message import Message
from penstock.operations import QueueOperations
from penstock.outgoing import EnqueueOptions, Outgoing, RequestOptions, delay_ms, message_cells
from penstock.runs import LeasedRun
from penstock.settle import Settler, Verdict, capped, overlap, raise_stale
from penstock.values import (
    Cells,
    Duration,
    Headers,
    QueueStats,
    Receipt,
    described,
    ms_of,
    seconds_of,
    shown,
)
from penstock.views import Messages, Receipts
from penstock.worker import work
from penstock_protocol.batch import BatchBuilder
from penstock_protocol.limits import RECEIVE_MESSAGES_MAX, VISIBILITY_MS_MAX, WAIT_MS_MAX
from penstock_protocol.messages.queues import (
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

PEEKED = ("ready", "held", "delayed", "in_flight", "waiting")
"""States that `peek` looks at."""


class Queue(QueueOperations[T]):
    """A queue by name. Whether it exists is found out by the first call (`NotFound`). Raises `Invalid` for
    what cannot be a name or a codec."""

    def __init__(self, client: "Client", name: str, codec: codecs.Codec[T]) -> None:
        super().__init__(client, name, codec)
        self._address = Address(Enqueue, name, 0)

    @property
    def settler(self) -> Settler:
        """Where settles of its messages go."""
        return self.client.settler

    # Enqueue

    async def enqueue(
        self, body: T | bytes | str, *, timeout: float | None = None, **options: Unpack[EnqueueOptions]
    ) -> Receipt:
        """Append one message; durable on return. Concurrent calls share a batch.

        Options: `headers`, `delay` or `at`, `ttl`, `priority`, `message_group`, `dedup_id`, `job_key` with
        `on_conflict`, `reply_to`, `correlation_id`, `content_type`; the meaning of each is in `Outgoing`.

        Cancelled before its frame is built, it is taken back; later, only the waiting ends. Raises
        `QueueFull`, `TooLarge`, `DiskFull`, `NotFound`, `Invalid`; `Conflict` if its job key is taken;
        `OutcomeUnknown` at the timeout.
        """
        if timeout is not None:
            checks.timeout(timeout)
        cells = message_cells(Outgoing(body, **options), self.client.wire.now_ms) if options else ()
        encoded = self.codec.encode(body)
        return await self.client.publisher.publish(self._address, encoded, cells, receipt, timeout=timeout)

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
        refuses longer input (`TooLarge`, nothing sent). A message whose job key is taken is refused alone:
        the others are durable, and in the end `BatchError` tells which it was.
        """
        checks.iterable("items", items)
        checks.flag("atomic", atomic)
        if timeout is not None:
            checks.timeout(timeout)
        plain = self._address if self.codec is codecs.raw else None
        return await self.client.publisher.many(
            items, self._encode, _receipts, plain=plain, atomic=atomic, timeout=timeout
        )

    def _encode(self, item: Any) -> tuple[Address, bytes, Cells]:
        if isinstance(item, Outgoing):
            cells = message_cells(item, self.client.wire.now_ms)
            return self._address, self.codec.encode(item.body), cells
        return self._address, self.codec.encode(item), ()

    async def request(
        self, body: T | bytes | str, timeout: Duration = 5.0, **options: Unpack[RequestOptions]
    ) -> Message[T]:
        """Enqueue one message and wait for the answer to it (`Message.reply`), which goes through this
        handle's codec and is settled already. Options as in `enqueue`; with `ttl=` nobody works on it too
        late.

        Raises `Timeout` if there is no answer in time, enqueueing included: it may be handled all the same,
        and an answer that still comes is an event (`events.LateReply`). And what `enqueue` raises.
        """
        if options:  # before there is a queue for answers
            message_cells(Outgoing(body, **options), self.client.wire.now_ms)
        return await self.client.requests.ask(self, body, seconds_of(timeout, "timeout"), options)

    def batch_of_one(self, item: Outgoing) -> bytes:
        """A message that is not published by itself."""
        builder = BatchBuilder()
        builder.add(self.codec.encode(item.body), message_cells(item, self.client.wire.now_ms))
        return bytes(builder.encode())

    # Receive

    async def receive(
        self,
        max_messages: int = 1,
        *,
        wait: Duration = 20.0,
        visibility_timeout: Duration | None = None,
        settle: bool = False,
        timeout: float | None = None,
    ) -> Messages[T]:
        """Lease up to `max_messages` (at most 10,000, and what fits 1 MiB), waiting for the first.

        Empty when `wait` is over. `visibility_timeout` None: the queue's setting. Bearer leases: only time
        ends them, and any connection of the same principal may settle. `settle=True`: at most once (AMQP's
        no-ack): they are settled before they are sent, and lost if they do not arrive. `timeout` None: the
        wait and the client's timeout. Raises `NotFound`, `Invalid`, `Timeout`.
        """
        checks.whole("max_messages", max_messages, 1, RECEIVE_MESSAGES_MAX)
        checks.flag("settle", settle)
        visibility = None if visibility_timeout is None else _visibility(visibility_timeout)
        left = ms_of(wait, "wait")
        if timeout is not None:
            checks.timeout(timeout)
        while True:
            now = min(left, WAIT_MS_MAX)
            left -= now
            delivery = await self.client.wire.request(
                Receive(self.name, max_messages, now, visibility, settle),
                timeout=self.client.timeout + now / 1000 if timeout is None else timeout,
                on_late=None if settle else self._received_late,
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

    def consume(
        self,
        *,
        prefetch: int | None = None,
        max_processing: Duration = 3600.0,
        priority: int = 0,
        settle: bool = False,
    ) -> Consumer[T]:
        """Messages pushed as they come: `async with q.consume() as c: async for m in c: async with m: …`.

        `prefetch`: how many may wait here (at most 1,000); None adapts, from 1 up to one second of measured
        work. Leases are extended until a message was in hand for `max_processing`. `priority`, 0 to 9: a
        consumer gets nothing while one of a higher priority can take more (RabbitMQ: x-priority).
        `settle=True`: at most once, as in `receive`; what waits here is lost with the process.
        """
        return Consumer(
            self,
            prefetch=prefetch,
            max_processing=seconds_of(max_processing, "max_processing"),
            priority=priority,
            settle=settle,
        )

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
        await work(self, handler, concurrency=concurrency, grace=seconds_of(grace, "grace"))

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
        after = None if delay is None else delay_ms(delay)
        await self._settle(Verdict(self.name, Outcome.RETRY, after, capped(reason)), messages, timeout)

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
        checkpoint: bytes | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Their leases end `seconds` from now, at most 12 h; not durable. Raises `Stale` if any is gone.

        `checkpoint`: see `Message.extend`; for a single message.
        """
        extend_ms = ms_of(seconds, "seconds", 0, VISIBILITY_MS_MAX)
        pieces = self._pieces(messages)
        ranges = [run.range(first, count) for run, first, count in pieces]
        if checkpoint is None:
            stale = await self.settler.extend(self.name, ranges, extend_ms, timeout)
        elif len(ranges) == 1 and ranges[0].messages == 1:
            stale = await self.settler.checkpoint(self.name, ranges[0], extend_ms, checkpoint, timeout)
        else:
            raise Invalid("a checkpoint is of one message", hint="extend them one by one")
        until = asyncio.get_running_loop().time() + seconds_of(seconds)
        for run, first, count in pieces:
            run.extend(first, count, until)
            for gone in stale:
                run.lose(gone)
        raise_stale(self.name, overlap(ranges, stale))

    async def reply(
        self,
        message: Message[T],
        body: Any,
        headers: Headers | None = None,
        content_type: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Answer a message and ack it, both or neither: see `Message.reply`."""
        if not isinstance(message, Message):
            raise _no_messages(message)
        to = message.reply_to
        if to is None:
            raise Invalid("the message names no queue for an answer (reply_to)", hint="ack it instead")
        ((run, first, count),) = self._pieces(message)
        answer = self.batch_of_one(
            Outgoing(body, headers, correlation_id=message.correlation_id, content_type=content_type)
        )
        try:
            await self.settler.reply(self.name, run.range(first, count), to, answer, timeout)
        except Stale:
            run.settle(first, count)
            raise
        run.settle(first, count)

    async def _settle(
        self, verdict: Verdict, messages: Message[T] | Iterable[Message[T]], timeout: float | None
    ) -> None:
        pieces = self._pieces(messages)
        if timeout is not None:
            checks.timeout(timeout)
        for run, first, count in pieces:
            run.settle(first, count)
        ranges = [run.range(first, count) for run, first, count in pieces]
        await self.settler.settle(verdict, ranges, timeout)

    def _pieces(self, messages: Message[T] | Iterable[Message[T]]) -> list[tuple[LeasedRun[T], int, int]]:
        if isinstance(messages, Message | Messages):
            pieces = list(cast("Message[T] | Messages[T]", messages).pieces())
        else:
            try:
                pieces = [piece for message in messages for piece in message.pieces()]
            except (AttributeError, TypeError) as error:
                raise _no_messages(messages) from error
        for run, _, _ in pieces:
            if run.queue.name != self.name:
                raise Invalid(f"a message of {run.queue.name!r} cannot be settled in {self.name!r}")
            if not run.stamps.token:
                raise Invalid(
                    "a message that was peeked, found or received with settle=True has no lease to settle",
                    hint="receive it without settle=True",
                )
        return pieces

    # Look

    async def peek(
        self, limit: int = 10, *, state: str = "ready", timeout: float | None = None
    ) -> Messages[T]:
        """Up to `limit` messages (and what fits 1 MiB) in a state, without a lease.

        `state`: ready, held (behind another of their message group or job key), delayed, in_flight or
        waiting.
        """
        checks.whole("limit", limit, 1, RECEIVE_MESSAGES_MAX)
        checks.choice("state", state, PEEKED)
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


def _visibility(timeout: Duration) -> int:
    return ms_of(timeout, "visibility_timeout", 1, VISIBILITY_MS_MAX)


def _no_messages(given: object) -> Invalid:
    return Invalid(f"messages={shown(given)} is no message", hint="pass what receive returned, or some of it")


def _receipt_in(stretch: Stretch, index: int) -> Receipt:
    return receipt(stretch.confirm, stretch.first + index)


def _receipts(stretches: list[Stretch]) -> Receipts[Receipt]:
    return Receipts(stretches, [stretch.messages for stretch in stretches], _receipt_in)
