"""Messages of the queue verbs. Times are milliseconds; names are text; ranges and batches are payload."""

from enum import IntEnum
from typing import Any, NamedTuple


class Outcome(IntEnum):
    """What a NACK asks for."""

    RETRY = 0  # failed: back after a delay
    RELEASE = 1  # not tried: back at once, no attempt counted
    DEAD_LETTER = 2  # to the dead-letter queue, no retries burnt


class Enqueue(NamedTuple):
    """Append one batch (payload) to a queue, durably, all or nothing."""

    queue: str
    payload: Any


class Confirm(NamedTuple):
    """The batch is durable as `durability` says. Messages have the offsets `first` … `first + messages` of
    `partition`; `log` is the uuid in their ids; `credit` bytes may be published again. `payload`: those of
    them that are not new, see slices.py; empty if all are."""

    partition: int
    first: int
    messages: int
    duplicate: bool
    durability: str
    credit: int
    time: int
    log: bytes
    payload: Any = b""


class Receive(NamedTuple):
    """Lease up to `messages` messages for this principal, waiting up to `wait` ms for the first. `settle`:
    they are settled before they leave the broker (at most once), and have no lease."""

    queue: str
    messages: int
    wait: int
    visibility: int | None = None
    settle: bool = False


class Delivery(NamedTuple):
    """`slices` slices and their batches. Empty when the wait ended without a message."""

    slices: int
    payload: Any


class Consume(NamedTuple):
    """Start push delivery under a number of the client's choice. Subscriptions of a lower `priority` get
    nothing while one of a higher has credit; `settle` as in Receive. `payload`: u64 tokens of leases this
    session still holds from an earlier life of the subscription; its others are released."""

    queue: str
    subscription: int
    credit: int
    visibility: int | None
    priority: int
    settle: bool
    payload: Any


class Credit(NamedTuple):
    """`messages` more may be delivered to the subscription. Has no reply."""

    subscription: int
    messages: int


class Stop(NamedTuple):
    """No more deliveries; the reply comes behind the last one."""

    subscription: int


class Deliver(NamedTuple):
    """Pushed by the broker (correlation 0) to a subscription. Without slices: the subscription ended,
    because its queue is gone."""

    subscription: int
    slices: int
    payload: Any


class Ack(NamedTuple):
    """Settle the ranges (payload) as done."""

    queue: str
    payload: Any


class Nack(NamedTuple):
    """Return or dead-letter the ranges (payload). `delay` None: the queue's retry curve."""

    queue: str
    outcome: int
    delay: int | None
    reason: str | None
    payload: Any


class Extend(NamedTuple):
    """The leases of the ranges (payload) end `extend` ms from now."""

    queue: str
    extend: int
    payload: Any


class Checkpoint(NamedTuple):
    """How far work on one message has got: the range of that message (24 bytes), then up to 64 KiB that the
    next try is given. Durable. `extend`: its lease ends that many ms from now."""

    queue: str
    extend: int
    payload: Any


class Reply(NamedTuple):
    """Ack one message and enqueue the answer to it in another queue, both or neither. Payload: the range of
    the message (24 bytes), then a batch."""

    queue: str
    to: str
    payload: Any


class Settled(NamedTuple):
    """How many messages were settled, returned or extended; `payload`: the ranges that were stale."""

    messages: int
    payload: Any


class CreateQueue(NamedTuple):
    """Create a queue; `name` None: the broker names it. `if_exists`: check, alter or keep."""

    name: str | None
    settings: dict[str, Any]
    if_exists: str


class AlterQueue(NamedTuple):
    """Change settings of an existing queue."""

    name: str
    settings: dict[str, Any]


class DeleteQueue(NamedTuple):
    """Delete a queue with its messages."""

    name: str


class ListQueues(NamedTuple):
    """Descriptions of queues in name order, behind `after`, at most `limit`."""

    prefix: str
    after: str
    limit: int


class DescribeQueue(NamedTuple):
    """Settings, uuid and counts of one queue."""

    name: str


class Purge(NamedTuple):
    """Settle every message that is not in flight. The reply is a document: {"purged": n}."""

    queue: str


class Resume(NamedTuple):
    """Messages of a group that was parked are delivered again. The reply is a document: {"resumed": bool}."""

    queue: str
    message_group: str


class Reschedule(NamedTuple):
    """A message that is not in flight becomes ready at `at` (ms since 1970; 0: now), or is gone (None).
    By its id: the uuid and offset of where it was first appended. The reply is a document: {"found":
    bool}."""

    queue: str
    log: bytes
    offset: int
    at: int | None


class Transfer(NamedTuple):
    """Move, or copy, up to `limit` messages and 1 MiB of a queue to another, in one entry each, from offset
    `cursor` on. `to` None: where each died. `state`: ready, delayed, waiting or settled (which are copied).
    `where` may hold reason, since, until (ms), header, value, id_log, id_offset. `dry`: only count.
    The reply is a document: {"messages": n, "bytes": n, "next": cursor or None}."""

    queue: str
    to: str | None
    state: str
    limit: int
    cursor: int
    where: dict[str, Any]
    dry: bool = False


class Find(NamedTuple):
    """Messages in any state for which `where` holds (see Transfer), from offset `cursor` on: at most `limit`,
    and as far as one look reads. Goes on at `next` of the reply, if that is not None."""

    queue: str
    limit: int
    cursor: int
    where: dict[str, Any]


class Found(NamedTuple):
    """What FIND found, as in a delivery, and the state of each message."""

    slices: int
    states: tuple[str, ...]
    next: int | None
    payload: Any


HERE = bytes(16)
"""For the log of an id in EXPLAIN and RESCHEDULE: the offset is one of the queue's own, as in a cursor."""
PARTITION = 1 << 48
"""A cursor is the number of a partition times that, and an offset there."""


class Explain(NamedTuple):
    """Why a message is where it is, by its id; `story`: and its life, read out of the journal. The reply is a
    document."""

    queue: str
    log: bytes
    offset: int
    story: bool = False


class Peek(NamedTuple):
    """Up to `limit` messages in a state (ready, held, delayed, in_flight, waiting), without a lease."""

    queue: str
    limit: int
    state: str
