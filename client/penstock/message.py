"""One message under a lease: a place in a run, decoded as it is touched, and the block that settles it.

    async with message:   leaving it by                                   does (staged, see settle.py)
                          its end                                         ack
                          Retry, another Exception                        nack, the reason is the exception
                          DeadLetter                                      dead-letter
                          CancelledError, KeyboardInterrupt, …            release
                          anything, but already settled, or no lease      nothing

Leaving never waits, never hides the exception, and raises nothing of its own.
"""

import asyncio
from collections.abc import Iterator
from copy import copy
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, TypeVar

from penstock.codecs import Codec
from penstock.outgoing import delay_ms
from penstock.runs import NOT_DECODED, LeasedRun, Piece
from penstock.settle import Verdict, capped
from penstock.values import Duration, Header, Headers, History, history_of, instant_of
from penstock_protocol.batch import Kind
from penstock_protocol.messages.queues import Outcome
from penstock_protocol.slices import REDELIVERED, REPLAYED

T = TypeVar("T")
V = TypeVar("V")


class Retry(Exception):
    """Raised inside `async with message` or a handler: failed, back after `delay` (None: the queue's retry
    curve, 0: at once). The reason is the exception it is raised from, if any. Raises `Invalid`, which is a
    failure like any other."""

    def __init__(self, delay: Duration | None = None) -> None:
        super().__init__("asked for by the handler")
        if delay is not None:
            delay_ms(delay)
        self.delay = delay


class DeadLetter(Exception):
    """Raised inside `async with message` or a handler: to the dead-letter queue, no retries burnt. Raises
    `Invalid`, which is a failure like any other."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        capped(reason)
        self.reason = reason


class Message(Generic[T]):
    """A message as received. Two of the same place in the same delivery are equal."""

    __slots__ = ("_body", "_index", "_run")
    _body: T

    def __init__(self, run: LeasedRun[T], index: int) -> None:
        self._run = run
        self._index = index
        self._body = NOT_DECODED

    @property
    def id(self) -> str:
        """`<log uuid>:<offset>` of where it was first appended; it stays through dead letter and redrive."""
        return self._run.id(self._index)

    @property
    def queue(self) -> str:
        """Name of the queue."""
        return self._run.queue.name

    @property
    def partition(self) -> int:
        """0 for a plain queue."""
        return self._run.stamps.partition

    @property
    def offset(self) -> int:
        """Its offset in the queue."""
        return self._run.stamps.first + self._index

    @property
    def body(self) -> T:
        """The body through the queue's codec; bytes without one."""
        if self._body is NOT_DECODED:
            self._body = self._run.queue.codec.decode(self.raw)
        return self._body

    @property
    def raw(self) -> bytes:
        """The body as it was sent."""
        return self._run.raw(self._index)

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.raw.decode()

    @property
    def headers(self) -> dict[str, Header]:
        """The headers; empty without any."""
        return self._run.cell(Kind.HEADERS, self._index) or {}

    @property
    def delivery(self) -> int:
        """How often it was handed out, this time included."""
        return self._run.stamps.delivery

    @property
    def attempt(self) -> int:
        """Failures so far + 1."""
        return self._run.stamps.attempt

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""
        return bool(self._run.stamps.flags & REDELIVERED)

    @property
    def replayed(self) -> bool:
        """Whether it was settled before, and somebody asked for it again."""
        return bool(self._run.stamps.flags & REPLAYED)

    @property
    def enqueued_at(self) -> datetime:
        """When it was appended, by the broker's clock. UTC."""
        return instant_of(self._run.stamps.time)

    @property
    def key(self) -> bytes | None:
        """The key it was produced with, or None."""
        key: bytes | None = self._run.cell(Kind.KEY, self._index)
        return key

    @property
    def message_group(self) -> str | None:
        """The FIFO group it belongs to, or None."""
        return self._word(Kind.MESSAGE_GROUP)

    @property
    def priority(self) -> int:
        """0 unless it was enqueued with another."""
        return self._run.integer(Kind.PRIORITY, self._index)

    @property
    def reply_to(self) -> str | None:
        """The queue an answer is expected in, or None."""
        return self._word(Kind.REPLY_TO)

    @property
    def correlation_id(self) -> str | None:
        """What ties an answer to its question, or None."""
        return self._word(Kind.CORRELATION_ID)

    @property
    def content_type(self) -> str | None:
        """What the sender calls the form of the body, or None."""
        return self._word(Kind.CONTENT_TYPE)

    @property
    def checkpoint(self) -> bytes | None:
        """How far an earlier try had got, as it said by `extend(checkpoint=…)`, or None."""
        checkpoint: bytes | None = self._run.document(Kind.CHECKPOINT, self._index)
        return checkpoint

    @property
    def history(self) -> History | None:
        """What became of it so far, if it has failed, died or been moved before; else None."""
        document = self._run.document(Kind.HISTORY, self._index)
        return None if document is None else history_of(document)

    @property
    def lease_token(self) -> int:
        """Proof of this hand-out: it only grows per message, so `WHERE token < ?` fences in a database. 0
        without a lease: peeked, found, or received with `settle=True`."""
        return self._run.stamps.token

    @property
    def lease_remaining(self) -> float:
        """Seconds until the lease ends, as far as this client knows; 0 when it is over, by a settle too."""
        if self._run.is_settled(self._index):
            return 0.0
        return max(0.0, self._run.expires(self._index) - asyncio.get_running_loop().time())

    async def ack(self, *, timeout: float | None = None) -> None:
        """Settle it as done; durable on return. Raises `Stale` if the lease is gone."""
        await self._run.queue.ack(self, timeout=timeout)

    async def nack(
        self, delay: Duration | None = None, reason: str | None = None, *, timeout: float | None = None
    ) -> None:
        """It failed: back after `delay` (None: the queue's retry curve, 0: at once); durable on return.
        `reason` is cut at 1 KiB. Raises `Stale`."""
        await self._run.queue.nack(self, delay, reason, timeout=timeout)

    async def release(self, *, timeout: float | None = None) -> None:
        """It was not tried: back at once, no attempt counted; not durable. Raises `Stale`."""
        await self._run.queue.release(self, timeout=timeout)

    async def dead_letter(self, reason: str | None = None, *, timeout: float | None = None) -> None:
        """To the dead-letter queue, no retries burnt; durable on return. Raises `Stale`, and `Invalid` if
        the queue has none."""
        await self._run.queue.dead_letter(self, reason, timeout=timeout)

    async def extend(
        self, seconds: Duration, checkpoint: bytes | None = None, *, timeout: float | None = None
    ) -> None:
        """The lease ends `seconds` from now, at most 12 h (SQS: 12 h from the receive); not durable.

        `checkpoint`, at most 64 KiB, is what the next try finds in `.checkpoint` if this one fails; with it
        the call is durable. Raises `Stale`, `TooLarge`.
        """
        await self._run.queue.extend(self, seconds, checkpoint, timeout=timeout)

    async def reply(
        self,
        body: Any,
        headers: Headers | None = None,
        content_type: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Answer it and ack it, both or neither; durable on return. `body` goes through the queue's codec.

        Raises `Invalid` if it names no queue for an answer, `NotFound` if that is gone, because nobody waits
        any more (then ack it), and `Stale`, when nothing was sent.
        """
        await self._run.queue.reply(self, body, headers, content_type, timeout=timeout)

    async def __aenter__(self) -> "Message[T]":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run, index = self._run, self._index
        if not run.is_settled(index):
            run.settle(index, 1)
            run.queue.settler.stage(verdict_of(run.queue.name, error), (run.range(index, 1),))

    def through(self, codec: Codec[V]) -> "Message[V]":
        """The same message, its body through another codec."""
        run: Any = copy(self._run)
        run.queue = type(run.queue)(run.queue.client, run.queue.name, codec)
        return Message(run, self._index)

    def pieces(self) -> Iterator[Piece[T]]:
        """Where it lies, for who settles it."""
        yield self._run, self._index, 1

    def _word(self, kind: Kind) -> str | None:
        word: str | None = self._run.cell(kind, self._index)
        return word

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def _place(self) -> tuple[int, int]:
        return id(self._run), self._index

    def __repr__(self) -> str:
        return f"<Message {self.offset} of {self.queue!r}, attempt {self.attempt}>"


def verdict_of(queue: str, error: BaseException | None) -> Verdict:
    """What leaving the block by `error` (None: its end) means for the message."""
    if error is None:
        return Verdict(queue)
    if isinstance(error, DeadLetter):
        return Verdict(queue, Outcome.DEAD_LETTER, None, capped(error.reason))
    if not isinstance(error, Exception):
        return Verdict(queue, Outcome.RELEASE)
    delay = error.delay if isinstance(error, Retry) else None
    cause = error.__cause__ if isinstance(error, Retry) and error.__cause__ is not None else error
    reason = capped(f"{type(cause).__name__}: {cause}")
    return Verdict(queue, Outcome.RETRY, None if delay is None else delay_ms(delay), reason)
