"""Leases: a consumer's timed right to a run of messages, in memory only.

A lease is (token, first, messages, deadline, holder), with a mask once part of it was settled. Its token
is one integer below 2^63 that only grows, across restarts too, so that a later hand-out of a message
always carries a larger one: it fences, and a late settle is stale. A lease whose part was extended on
its own is split under the same token.

    token    generation of the log (7 bits, 0 until logs move between nodes) | boot (20) | count (36)
"""

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter

BOOT_SHIFT = 36
BOOT_MAX = (1 << 20) - 1
NEVER = 2**63
HEAP_MIN = 64
"""Entries of a heap that are not worth to be looked through for those that are stale."""
_first_of = attrgetter("first")


class Tokens:
    """Makes tokens, for all queues of a node."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def begin(self, boot: int) -> None:
        """From now on tokens are of that life of the broker."""
        assert boot <= BOOT_MAX, "a data directory can be started a million times"
        self._next = boot << BOOT_SHIFT

    @property
    def begun(self) -> bool:
        """This life has begun: what is applied now happens now, and was not read back."""
        return self._next > 0

    def take(self) -> int:
        """A token larger than every one before."""
        self._next += 1
        return self._next


class Lease:
    """One hand-out, or a split-off part of it."""

    __slots__ = (
        "alive",
        "consumer",
        "deadline",
        "first",
        "holder",
        "mask",
        "messages",
        "since",
        "subscription",
        "token",
        "visibility",
    )

    def __init__(
        self,
        token: int,
        first: int,
        messages: int,
        visibility: int,
        holder: object | None,
        subscription: int,
        consumer: str = "",
    ) -> None:
        self.token = token
        self.first = first
        self.messages = messages
        self.visibility = visibility
        """ms, counted from the moment the delivery leaves the broker."""
        self.holder = holder
        """The session that holds it; None for a bearer lease and for the broker's own."""
        self.subscription = subscription
        self.consumer = consumer
        """Its name, for people."""
        self.since = 0
        """Wall ms at which the delivery left the broker."""
        self.deadline = NEVER
        self.alive = messages
        self.mask: bytearray | None = None
        """1 per message that is still leased; None while all are."""

    @property
    def started(self) -> bool:
        """The delivery has left the broker."""
        return self.deadline != NEVER

    def runs(self, first: int, messages: int) -> Iterator[tuple[int, int]]:
        """Runs still leased within a range of this lease."""
        if self.mask is None:
            yield first, messages
            return
        low, high = first - self.first, first - self.first + messages
        while (begin := self.mask.find(1, low, high)) >= 0:
            end = self.mask.find(0, begin, high)
            end = high if end < 0 else end
            yield self.first + begin, end - begin
            low = end

    def take(self, first: int, messages: int) -> None:
        """That run is not leased any more."""
        if self.mask is None:
            self.mask = bytearray(b"\1") * self.messages
        low = first - self.first
        self.mask[low : low + messages] = bytes(messages)
        self.alive -= messages

    def split(self, first: int, messages: int) -> list["Lease"]:
        """Up to three leases that together are this one: before the range, the range, behind it."""
        parts = []
        end = self.first + self.messages
        for begin, size in ((self.first, first - self.first), (first, messages), (first + messages, end)):
            size = size - begin if size == end else size
            if size <= 0:
                continue
            part = Lease(
                self.token, begin, size, self.visibility, self.holder, self.subscription, self.consumer
            )
            part.deadline, part.since = self.deadline, self.since
            if self.mask is not None:
                low = begin - self.first
                part.mask = self.mask[low : low + size]
                part.alive = part.mask.count(1)
            if part.alive:
                parts.append(part)
        return parts


class Leases:
    """The leases of one queue, by token and by deadline."""

    def __init__(self) -> None:
        self._by_token: dict[int, list[Lease]] = {}
        self._heap: list[tuple[int, int, int]] = []
        """(deadline, token, first); entries that no longer fit their lease are skipped."""
        self._heap_max = HEAP_MIN

    def __bool__(self) -> bool:
        return bool(self._by_token)

    def __iter__(self) -> Iterator[Lease]:
        for parts in list(self._by_token.values()):
            yield from list(parts)

    def add(self, lease: Lease) -> None:
        """A new hand-out. Its time does not run yet."""
        self._by_token[lease.token] = [lease]

    def find(self, token: int, first: int, messages: int) -> list[tuple[int, int, Lease]]:
        """The runs of a range that are leased, each with its lease."""
        parts = self._by_token.get(token, [])
        end = first + messages
        begin, behind = _overlapping(parts, first, end)
        return [
            (*run, lease)
            for lease in parts[begin:behind]
            for run in lease.runs(
                max(first, lease.first), min(end, lease.first + lease.messages) - max(first, lease.first)
            )
        ]

    def start(self, lease: Lease, now: int, wall: int = 0) -> None:
        """The delivery left the broker: from now on (mono ms) the lease lasts its visibility timeout."""
        lease.since = wall
        if any(lease is part for part in self._by_token.get(lease.token, ())):
            lease.deadline = now + lease.visibility
            self._due_at(lease)

    def take(self, token: int, first: int, messages: int) -> list[tuple[int, int, Lease]]:
        """End the lease of a range; the runs that were leased, each with its lease. What is missing from
        the answer was stale."""
        parts = self._by_token.get(token)
        if parts is None:
            return []
        out = []
        end = first + messages
        begin, behind = _overlapping(parts, first, end)
        left = []
        for lease in parts[begin:behind]:
            low, high = max(first, lease.first), min(end, lease.first + lease.messages)
            if lease.mask is None and high - low == lease.messages:
                out.append((low, high - low, lease))
                lease.alive = 0
            else:
                runs = list(lease.runs(low, high - low))
                out += [(*run, lease) for run in runs]
                for run in runs:
                    lease.take(*run)
            if lease.alive:
                left.append(lease)
        parts[begin:behind] = left
        if not parts:
            del self._by_token[token]
        return out

    def extend(self, token: int, first: int, messages: int, deadline: int) -> int:
        """Let a range end at `deadline` (mono ms); how many of its messages were leased. What has not left
        the broker yet is nobody's to extend: `start` must find its lease whole."""
        held = self._by_token.get(token)
        if held is None or not held[0].started:
            return 0
        extended = 0
        end = first + messages
        begin, behind = _overlapping(held, first, end)
        kept: list[Lease] = []
        for lease in held[begin:behind]:
            low, high = max(first, lease.first), min(end, lease.first + lease.messages)
            parts = [lease] if high - low == lease.messages else lease.split(low, high - low)
            for part in parts:
                if low <= part.first < high:
                    part.deadline = deadline
                    extended += part.alive
            kept += parts
        held[begin:behind] = kept  # first: whoever cleans up the heap looks here for what is due
        for part in kept:
            self._due_at(part)
        return extended

    def expired(self, now: int) -> list[Lease]:
        """Leases whose time is over; the caller ends them with `take`."""
        due: list[Lease] = []
        while self._heap and self._heap[0][0] <= now:
            deadline, token, first = heapq.heappop(self._heap)
            parts = self._by_token.get(token, ())
            due += [lease for lease in parts if lease.first == first and lease.deadline == deadline]
        return due

    def next_deadline(self) -> int | None:
        """Mono ms at which `expired` may have something."""
        return self._heap[0][0] if self._heap else None

    def _due_at(self, lease: Lease) -> None:
        """Remember the lease's deadline, and forget those that fit no lease before they are most of all."""
        heapq.heappush(self._heap, (lease.deadline, lease.token, lease.first))
        if len(self._heap) > self._heap_max:
            self._heap = [(held.deadline, held.token, held.first) for held in self if held.deadline < NEVER]
            heapq.heapify(self._heap)
            self._heap_max = 2 * len(self._heap) + HEAP_MIN


def _overlapping(parts: Sequence[Lease], first: int, end: int) -> tuple[int, int]:
    """The slice of a lease's parts, which are in order, that may share messages with a range."""
    begin = bisect_right(parts, first, key=_first_of)
    if begin and parts[begin - 1].first + parts[begin - 1].messages > first:
        begin -= 1
    return begin, bisect_left(parts, end, begin, key=_first_of)
