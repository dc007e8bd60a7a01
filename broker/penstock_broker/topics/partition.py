"""A partition: an ordered log of records that anybody may read at any kept offset."""

import heapq
from struct import Struct
from typing import Any, NamedTuple

from penstock_broker.durability import FSYNC
from penstock_broker.producers import Outcome, Producers
from penstock_broker.storage import entries
from penstock_broker.storage.compaction import Cleaned
from penstock_broker.storage.entries import At, Kind, Part
from penstock_broker.storage.log import Log
from penstock_broker.topics.policy import Policy
from penstock_protocol.errors import OffsetOutOfRange

KIND = 4
"""Its kind in a checkpoint."""
SNAPSHOT = Struct("<QQQQQ")  # cleaned upto, horizon, since, at, removed


class Parked(NamedTuple):
    """A FETCH that waits for records, until `deadline` (mono ms)."""

    deadline: int
    order: int
    call: Any
    request: Any


class Partition:
    """One partition of a topic."""

    kind = KIND

    def __init__(self, uuid: bytes, topic: str, number: int, policy: Policy, log: Log) -> None:
        self.uuid = uuid
        self.topic = topic
        self.number = number
        self.policy = policy
        """Of the topic."""
        self.within = FSYNC
        """How long a sync of its changes may wait, ms: the mode of the topic or node."""
        self.log = log
        self.changed_at = 0
        self.producers = Producers()
        self.cleaned = Cleaned()
        self.records_dropped = 0
        """By retention, since the node started; offsets, holes included."""
        self.bytes_dropped = 0
        self.records_filtered = 0
        """That readers came by and did not want, since the node started."""
        self.readers: list[Any] = []
        """Queues over its records."""
        self._parked: list[Parked] = []
        self._order = 0

    # ---- Folding

    def apply(self, part: Part, at: At) -> None:
        """One part addressed to this partition."""
        if part.kind == Kind.APPEND:
            self.log.appended(part, at)
            if part.flags & entries.PRODUCER_FLAG:
                producer_id, sequence = entries.PRODUCER.unpack_from(part.detail)
                self.producers.appended(producer_id, sequence, Outcome(part.base, part.messages, at.time))
        elif part.kind == Kind.MOVED:
            self.log.moved(part)
        elif part.kind == Kind.TRIMMED:
            self.log.trim(part.base)
        elif part.kind == Kind.CLEANED:
            self.cleaned = Cleaned(part.base, *entries.CLEANED.unpack(part.detail))
        else:
            assert part.kind == Kind.ARCHIVED, f"a partition knows no part of kind {part.kind}"
            self.log.archived(part)
        self.changed_at = at.position

    def fits(self, part: Part) -> bool:
        """The part follows on from what is known here; it does, unless something before it was lost."""
        return self.log.fits(part, self.is_alive)

    def check_room(self, messages: int, size: int) -> None:
        """A partition takes what the disk takes; retention bounds it."""

    # ---- Reading

    def out_of_range(self, offset: int) -> OffsetOutOfRange | None:
        """The refusal of an offset below the start or beyond the end."""
        log = self.log
        if log.start <= offset <= log.end:
            return None
        return OffsetOutOfRange(
            f"offset {offset} of {self.topic}/{self.number} is not in {log.start} … {log.end}",
            detail={"start": log.start, "end": log.end},
        )

    def park(self, call: Any, request: Any, deadline: int) -> Parked:
        """Let a FETCH at the end wait for records."""
        self._order += 1
        parked = Parked(deadline, self._order, call, request)
        heapq.heappush(self._parked, parked)
        return parked

    def unpark(self, parked: Parked) -> bool:
        """End one wait; False if it had ended."""
        if parked not in self._parked:
            return False
        self._parked.remove(parked)
        heapq.heapify(self._parked)
        return True

    def satisfied(self) -> list[Parked]:
        """Parked FETCHes that have records now; they wait no more."""
        if not self._parked:
            return []
        end = self.log.end
        found = [parked for parked in self._parked if parked.request.offset < end]
        if found:
            self._parked = [parked for parked in self._parked if parked.request.offset >= end]
            heapq.heapify(self._parked)
        return sorted(found, key=lambda parked: parked.order)

    def overdue(self, mono: int) -> list[Parked]:
        """Parked FETCHes whose wait is over; they wait no more."""
        due = []
        while self._parked and self._parked[0].deadline <= mono:
            due.append(heapq.heappop(self._parked))
        return due

    def all_parked(self) -> list[Parked]:
        """Every parked FETCH; none waits any more."""
        parked, self._parked = self._parked, []
        return parked

    def next_deadline(self) -> int | None:
        """Mono ms of the next `overdue`."""
        return self._parked[0].deadline if self._parked else None

    def is_alive(self, first: int, messages: int) -> bool:
        """A record is kept until retention takes it."""
        return first + messages > self.log.start

    def alive(self, first: int, messages: int) -> int:
        """How many offsets in that range are kept."""
        return max(0, first + messages - max(first, self.log.start))

    # ---- Compaction

    @property
    def compacts(self) -> bool:
        """Older records of a key give way to the last."""
        return self.policy.compacts

    @property
    def tombstone_retention(self) -> int:
        """How long (ms) a tombstone outlives the records it took away."""
        return self.policy.tombstone_retention

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything durable, as bytes."""
        return SNAPSHOT.pack(*self.cleaned) + self.producers.snapshot() + self.log.snapshot()

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`."""
        self.cleaned = Cleaned(*SNAPSHOT.unpack_from(data))
        rest = data[SNAPSHOT.size :]
        self.log.restore(rest[self.producers.restore(rest) :])
