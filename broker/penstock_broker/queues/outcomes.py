"""What a queue hands to whoever composes it: hand-outs, verdicts on what came back, how a message ended."""

from enum import IntEnum
from typing import NamedTuple

from penstock_broker.queues.leases import Lease
from penstock_broker.queues.notes import Row
from penstock_broker.storage.entries import Part


class Settled(IntEnum):
    """The outcome a message was settled with; flags of a SETTLE part."""

    ACKED = 0
    DEAD_LETTERED = 1
    EXPIRED = 2
    PURGED = 3
    DUPLICATE = 4  # of one that was enqueued before
    MOVED = 5  # by somebody, into another queue


SETTLED_NAMES = tuple(outcome.name for outcome in Settled)
"""By number: an enumeration's own look-up costs more than the settling."""


class Grant(NamedTuple):
    """Consecutive messages handed out under one lease, with the stamps they share."""

    lease: Lease
    first: int
    messages: int
    attempt: int
    delivery: int
    flags: int


class Dead(NamedTuple):
    """Messages that go to the dead-letter queue, and why (rejected, max_attempts, max_deliveries)."""

    first: int
    messages: int
    reason: str
    failures: int
    text: str | None = None
    """What whoever rejected it said."""
    tries: tuple[Row, ...] = ()
    """The try that it died of, as rows of a NOTED (see notes.py): it is part of the entry that buries it."""


class Admission(NamedTuple):
    """How a batch enters a queue: the flags and detail of its APPEND, the exceptions its confirm names, and
    the SETTLEs that belong to the same entry."""

    flags: int = 0
    detail: bytes = b""
    exceptions: bytes = b""
    settles: tuple[Part, ...] = ()
    gone: frozenset[int] = frozenset()
    """Offsets that these settle: of the batch itself, and of messages it takes the place of."""


PLAIN = Admission()


class Verdict(NamedTuple):
    """What becomes of messages that came back: RETURN rows to journal, dead letters, and what has expired."""

    returned: list[tuple[int, int, int, int]]
    """(first, messages, failures, due)."""
    dead: list[Dead]
    expired: list[tuple[int, int]]
