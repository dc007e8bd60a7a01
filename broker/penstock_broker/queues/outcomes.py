"""What a queue hands to whoever composes it: hand-outs, verdicts on what came back, how a message ended."""

from enum import IntEnum
from typing import NamedTuple

from penstock_broker.queues.leases import Lease


class Settled(IntEnum):
    """The outcome a message was settled with; flags of a SETTLE part."""

    ACKED = 0
    DEAD_LETTERED = 1
    EXPIRED = 2
    PURGED = 3


SETTLED_NAMES = tuple(outcome.name for outcome in Settled)
"""By number: an enumeration's own look-up costs more than the settling."""


class History(NamedTuple):
    """What is known of a message that did not go the plain way."""

    failures: int
    deliveries: int


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


class Verdict(NamedTuple):
    """What becomes of messages that came back: RETURN rows to journal, and dead letters."""

    returned: list[tuple[int, int, int, int]]
    """(first, messages, failures, due)."""
    dead: list[Dead]
