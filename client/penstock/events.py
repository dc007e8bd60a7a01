"""What the client tells the callable given as `connect(on_event=…)`: facts that no call returns.

Events are said, never asked: nothing waits for a callback, and nothing depends on what it does.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock.values import TopicPartition

if TYPE_CHECKING:
    from penstock.message import Message


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class ConnectionLost(Event):
    """The socket is gone; the client is connecting again."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConnectFailed(Event):
    """One try to connect failed; the next follows in `retry_in` seconds."""

    address: str
    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Reconnected(Event):
    """There is a socket again. `resumed`: the broker still knew the session, so its leases live on."""

    address: str
    resumed: bool


@dataclass(frozen=True, slots=True)
class SettleStale(Event):
    """A settle came too late for `messages` messages: they were or will be delivered again."""

    queue: str
    messages: int


@dataclass(frozen=True, slots=True)
class SettleFailed(Event):
    """A staged settle could not be sent to its end: its messages are delivered again after their leases."""

    queue: str
    messages: int
    error: Exception


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """The leases of `messages` messages that are buffered or in hand could not be extended: they were or
    will be delivered to others."""

    queue: str
    messages: int


@dataclass(frozen=True, slots=True)
class CommitFailed(Event):
    """An automatic commit of a group's offsets failed; the next one covers what it would have."""

    group: str
    topic: str
    error: Exception


@dataclass(frozen=True, slots=True)
class PartitionsLost(Event):
    """A member of a group lost its membership, and with it these partitions: what of them was not committed
    is read again by whoever has them now. It has joined again; if that happens often, something blocks the
    event loop for longer than the session timeout, or a body runs longer than the rebalance timeout."""

    group: str
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class LateReply(Event):
    """An answer came for which nobody waits any more: whoever wants it all the same takes it from here. The
    `Timeout` of the request had the same `detail["correlation_id"]`; its codec is gone, the body is bytes."""

    message: "Message[Any]"
