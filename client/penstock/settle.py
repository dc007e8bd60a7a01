"""Settles of one client: gathered over a loop turn, merged into ranges, one frame per verdict.

A *staged* settle has no caller that waits: if it is lost or comes too late, the message is delivered again,
and the user hears of it by log and event alone. An awaited one shares the frame and learns of its own
ranges. The settler knows ranges, not messages: who stages marks them as settled first. A settle that was
sent again after a lost socket may find its ranges stale because the first one worked, or because their lease
died with the broker: nobody can tell, so its outcome is unknown.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from penstock.connection import Wire
from penstock.errors import Error, Invalid, OutcomeUnknown, Stale, TooLarge
from penstock.events import SettleFailed, SettleStale
from penstock.values import shown
from penstock_protocol.limits import CHECKPOINT_BYTES_MAX, RANGES_MAX, REASON_BYTES_MAX
from penstock_protocol.messages.queues import (
    Ack,
    Checkpoint,
    Deliver,
    Delivery,
    Extend,
    Nack,
    Outcome,
    Reply,
)
from penstock_protocol.slices import Range, decode_ranges, decode_slices, encode_ranges

log = logging.getLogger("penstock")


class Verdict(NamedTuple):
    """What shall become of messages of a queue. `outcome` None: acked. `delay_ms` None: the queue's curve."""

    queue: str
    outcome: Outcome | None = None
    delay_ms: int | None = None
    reason: str | None = None

    def request(self, ranges: Sequence[Range]) -> Ack | Nack:
        """The frame that asks for it."""
        payload = encode_ranges(ranges)
        if self.outcome is None:
            return Ack(self.queue, payload)
        return Nack(self.queue, self.outcome, self.delay_ms, self.reason, payload)


class Answer(NamedTuple):
    """What became of one gathered frame: which ranges were stale, or why it failed. `resent`: an earlier
    sending of it may have worked."""

    stale: tuple[Range, ...] = ()
    error: Error | None = None
    resent: bool = False


class Gathered:
    """The ranges of one verdict in one loop turn."""

    __slots__ = ("answer", "ranges")

    def __init__(self, answer: "asyncio.Future[Answer]") -> None:
        self.ranges: list[Range] = []
        self.answer = answer


class Key(NamedTuple):
    """Settles with the same key share a frame."""

    verdict: Verdict
    staged: bool
    timeout: float | None


class Settler:
    """Sends what was staged in a loop turn at its end. Never raises for staged settles."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._gathered: dict[Key, Gathered] = {}
        self._sending: dict[asyncio.Task[None], Gathered] = {}

    def stage(self, verdict: Verdict, ranges: Iterable[Range]) -> None:
        """Settle without waiting."""
        self._gather(Key(verdict, True, None)).ranges.extend(ranges)

    async def settle(
        self, verdict: Verdict, ranges: Sequence[Range], timeout: float | None = None, *, resent: bool = False
    ) -> None:
        """Settle and wait until it is durable (release: until it is done). Cancelled, it happens all the
        same. Raises `Stale` if any of `ranges` had lost its lease, `OutcomeUnknown` at the timeout, or if
        that may be because an earlier try worked (`resent`: there was one already)."""
        if not ranges:
            return
        gathered = self._gather(Key(verdict, False, timeout))
        gathered.ranges.extend(ranges)
        answer = await asyncio.shield(gathered.answer)
        if answer.error is not None:
            raise answer.error
        gone = overlap(ranges, answer.stale)
        if gone and (resent or answer.resent):
            raise OutcomeUnknown(
                f"the connection was lost while {gone} messages of {verdict.queue!r} were settled:"
                " that worked, or they will be delivered again",
                repeat=lambda: self.settle(verdict, ranges, timeout, resent=True),
            )
        raise_stale(verdict.queue, gone)

    async def extend(
        self, queue: str, ranges: Sequence[Range], extend_ms: int, timeout: float | None = None
    ) -> list[Range]:
        """Let the leases of `ranges` end `extend_ms` from now; which of them were stale."""
        stale: list[Range] = []
        for some in in_frames(ranges):
            reply = await self._wire.request(Extend(queue, extend_ms, encode_ranges(some)), timeout=timeout)
            stale += decode_ranges(reply.payload)
        return stale

    async def checkpoint(
        self, queue: str, message: Range, extend_ms: int, checkpoint: bytes, timeout: float | None = None
    ) -> list[Range]:
        """As `extend` for one message, and what its next try is given. Raises `TooLarge`, `Invalid`."""
        if not isinstance(checkpoint, bytes | bytearray | memoryview):
            raise Invalid(f"checkpoint={shown(checkpoint)} is not bytes", hint="encode it, text for instance")
        checkpoint = bytes(checkpoint)
        if len(checkpoint) > CHECKPOINT_BYTES_MAX:
            raise TooLarge(
                f"checkpoint of {len(checkpoint):,} bytes; the limit is {CHECKPOINT_BYTES_MAX:,}",
                hint="keep the state elsewhere, and its name here",
            )
        request = Checkpoint(queue, extend_ms, encode_ranges([message]) + checkpoint)
        reply = await self._wire.request(request, timeout=timeout)
        return decode_ranges(reply.payload)

    async def reply(
        self,
        queue: str,
        message: Range,
        to: str,
        batch: bytes,
        timeout: float | None = None,
        *,
        resent: bool = False,
    ) -> None:
        """Ack one message and enqueue the answer to it, both or neither. Raises as `settle` does."""
        again = asyncio.Event()
        request = Reply(queue, to, encode_ranges([message]) + batch)
        reply = await self._wire.request(request, timeout=timeout, on_resend=again.set)
        gone = overlap([message], decode_ranges(reply.payload))
        if gone and (resent or again.is_set()):
            raise OutcomeUnknown(
                f"the connection was lost while a message of {queue!r} was answered:"
                " that worked, or it will be delivered again",
                repeat=lambda: self.reply(queue, message, to, batch, timeout, resent=True),
            )
        raise_stale(queue, gone)

    def release(self, queue: str, delivery: Delivery | Deliver) -> None:
        """Give back a whole delivery that nobody waits for any more."""
        stamps = [stamps for stamps, _ in decode_slices(delivery.payload, delivery.slices)]
        ranges = [Range(each.token, each.first, each.partition, each.messages) for each in stamps]
        if ranges:
            self.stage(Verdict(queue, Outcome.RELEASE), ranges)

    def tokens(self) -> set[int]:
        """Tokens of the leases whose settle has no answer yet."""
        gathered = [*self._gathered.values(), *self._sending.values()]
        return {each.token for some in gathered for each in some.ranges}

    async def flush(self) -> None:
        """Wait until everything staged so far has its answer."""
        self._send_gathered()
        if self._sending:
            await asyncio.wait(self._sending)

    def _gather(self, key: Key) -> Gathered:
        gathered = self._gathered.get(key)
        if gathered is None:
            loop = asyncio.get_running_loop()
            if not self._gathered:
                loop.call_soon(self._send_gathered)
            gathered = self._gathered[key] = Gathered(loop.create_future())
        return gathered

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for key, each in gathered.items():
            task = asyncio.ensure_future(self._send(key, each))
            self._sending[task] = each
            task.add_done_callback(self._sending.pop)

    async def _send(self, key: Key, gathered: Gathered) -> None:
        try:
            answer = await self._answer(key, gathered.ranges)
        except Exception as error:  # ours, but whoever waits must not do so for ever
            gathered.answer.set_exception(error)
            return
        gathered.answer.set_result(answer)
        if key.staged and (answer.stale or answer.error):
            self._tell(key.verdict, gathered.ranges, answer)

    async def _answer(self, key: Key, ranges: list[Range]) -> Answer:
        stale: list[Range] = []
        resent = asyncio.Event()
        try:
            for some in in_frames(merged(ranges)):
                request = key.verdict.request(some)
                reply = await self._wire.request(request, timeout=key.timeout, on_resend=resent.set)
                stale += decode_ranges(reply.payload)
        except Error as error:
            return Answer(error=error)
        return Answer(tuple(stale), resent=resent.is_set())

    def _tell(self, verdict: Verdict, ranges: list[Range], answer: Answer) -> None:
        if answer.error is not None:
            messages = sum(each.messages for each in ranges)
            log.warning("settling %d messages of %r failed: %s", messages, verdict.queue, answer.error)
            self._wire.emit(SettleFailed(verdict.queue, messages, answer.error))
        else:
            messages = sum(each.messages for each in answer.stale)
            log.warning("the leases of %d settled messages of %r were gone", messages, verdict.queue)
            self._wire.emit(SettleStale(verdict.queue, messages))


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same messages in as few ranges as possible."""
    out: list[Range] = []
    lease, first, end = (0, 0), 0, 0
    for each in sorted(ranges, key=itemgetter(0, 2, 1)):
        if (each.token, each.partition) == lease and each.first <= end:
            end = max(end, each.first + each.messages)
            continue
        if end:
            out.append(Range(lease[0], first, lease[1], end - first))
        lease, first, end = (each.token, each.partition), each.first, each.first + each.messages
    if end:
        out.append(Range(lease[0], first, lease[1], end - first))
    return out


def in_frames(ranges: Sequence[Range]) -> Iterable[Sequence[Range]]:
    """`ranges` in as many pieces as they need frames."""
    return [ranges[at : at + RANGES_MAX] for at in range(0, len(ranges), RANGES_MAX)]


def overlap(ranges: Iterable[Range], stale: Iterable[Range]) -> int:
    """How many messages of `ranges` lie in `stale` ranges."""
    return sum(
        max(0, min(a.first + a.messages, b.first + b.messages) - max(a.first, b.first))
        for a in ranges
        for b in stale
        if (a.token, a.partition) == (b.token, b.partition)
    )


def raise_stale(queue: str, messages: int) -> None:
    """Raise `Stale` if `messages` of `queue` have lost their lease."""
    if messages:
        noun = "message" if messages == 1 else "messages"
        raise Stale(f"the lease of {messages} {noun} of {queue!r} is gone")


def capped(reason: str | None) -> str | None:
    """A reason within the protocol's limit of bytes; what UTF-8 does not have is escaped. Raises `Invalid`
    for one that is no text."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise Invalid(f"reason={shown(reason)} is not allowed", hint="allowed: text, or None")
    return reason.encode(errors="backslashreplace")[:REASON_BYTES_MAX].decode(errors="ignore")
