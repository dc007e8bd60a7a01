"""Message groups: which of its messages may be delivered now.

    join ──> HELD, waiting in order ──promote──> SPECIAL, out ──> delivered, settled: leave

A group lets at most `concurrency` messages out at a time (1: strict order, as SQS FIFO has it), in the order
of their offsets. A message that is out stays so until it is settled, however often it is tried: so a failing
head holds up its own group and nobody else's. With failure="skip" it steps aside while its delay lasts; with
"park" nothing more goes out once one was dead-lettered, until somebody resumes the group.

In a fair queue a group is a tenant: no order within, turns between them by stride scheduling (the tenant
with the smallest pass goes next, and its pass grows by 1 / weight), so that a long backlog of one delays the
others by one turn at most. A job key is a group of its own that lets one message out at a time.

Nothing here is durable but who is in which group and which are parked: what is out follows from the rest. A
group exists while it has messages or is parked.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgpack

from penstock_broker.queues.runs import neighbours
from penstock_broker.queues.states import Event, State, States

JOB_PREFIX = "\0"
"""Of the names of groups that are job keys: no message group can be called so."""
PARKED_MAX = 100_000
"""Groups of one queue that are parked. Beyond it a message that would park one more waits, as a dead letter
without room does, until some are resumed."""
BURST_MS = 1_000
"""A group that was idle may be that much ahead of its rate."""


class Rules(NamedTuple):
    """What the queue's policy says of its groups. `concurrency` None: any number; `rate`: messages per second
    and group."""

    fair: bool = False
    concurrency: int | None = 1
    skip: bool = False
    rate: float | None = None
    weights: Mapping[str, float] = {}


class Group:
    """One group."""

    __slots__ = (
        "is_job",
        "latest",
        "members",
        "name",
        "next_at",
        "out",
        "parked",
        "queued",
        "turn",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_job = name.startswith(JOB_PREFIX)
        self.waiting: list[int] = []
        """Heap: offsets that have not gone out, and some that are not here any more."""
        self.members = 0
        """Messages that are not settled."""
        self.out = 0
        self.latest = -1
        """Offset of the message that went out last."""
        self.parked = False
        self.queued = False
        """It is in line for a turn, or to be looked at."""
        self.turn = 0.0
        """Its pass: the tenant with the smallest goes next."""
        self.next_at = 0.0
        """By its rate: the mono ms its next message may go at, less the burst."""


class MessageGroups:
    """The groups of one queue."""

    __slots__ = (
        *("_line", "_number", "_now", "_next", "_sleeping", "_turn", "delayed"),
        *("again", "named", "of", "out", "parked", "rules", "states"),
    )

    def __init__(self, states: States) -> None:
        self.states = states
        self.rules = Rules()
        self.named: dict[str, Group] = {}
        self.of: dict[int, Group] = {}
        """Offset → group, of every message that is in one and not settled."""
        self.out: set[int] = set()
        self.delayed: set[int] = set()
        """Messages that are out and wait for another try."""
        self.again: dict[Group, list[int]] = {}
        """Of groups with a rate: heap of messages that are out, and whose next try waits for it; and of some
        that do not any more."""
        self.parked: set[str] = set()
        self._line: list[tuple[float, int, Group]] = []
        """Heap of tenants that may let a message out, by turn: in a fair queue."""
        self._next: deque[Group] = deque()
        """Groups that may let messages out, in the order they came: in any other."""
        self._sleeping: list[tuple[float, int, Group]] = []
        """Heap of groups that are over their rate, by the mono ms they may go on at."""
        self._number = 0
        self._turn = 0.0
        """Pass of the tenant that had the last turn."""

    def obey(self, rules: Rules) -> None:
        """From now on those are the rules: every group is looked at anew."""
        if rules == self.rules:
            return
        afresh = rules.rate != self.rules.rate
        self.rules = rules
        self._line, self._sleeping = [], []
        self._next.clear()
        for group in self.named.values():
            group.queued = False
            group.next_at = 0.0 if afresh else group.next_at
            self._queue(group)

    # ---- Coming and going

    def join_all(self, first: int, names: Sequence[str | None], prefix: str = "") -> None:
        """A batch was appended at `first`: its messages with a name join the group of that name. They are
        READY or DELAYED."""
        if not names:
            return
        joining = [(offset, prefix + name) for offset, name in enumerate(names, first) if name is not None]
        state = self.states.state
        for begin, messages in neighbours(offset for offset, _ in joining if state(offset) == State.READY):
            self.states.move(begin, messages, Event.HOLD)
        for offset, name in joining:
            self._join(offset, name)

    def join(self, offset: int, name: str) -> None:
        """The same of one message."""
        self.join_all(offset, [name])

    def _join(self, offset: int, name: str) -> None:
        group = self.named.get(name)
        if group is None:
            group = self.named[name] = Group(name)
            group.parked = name in self.parked
        group.members += 1
        self.of[offset] = group
        heapq.heappush(group.waiting, offset)
        self._queue(group)

    def leave(self, offset: int) -> None:
        """A message was settled."""
        group = self.of.pop(offset, None)
        if group is None:
            return
        group.members -= 1
        if offset in self.out:
            self._step_back(offset, group)
        if not group.members and not group.queued:
            if self.rules.rate is None:
                del self.named[group.name]
            else:
                self._queue(group)

    def failed(self, offset: int) -> None:
        """A message waits for another try."""
        if offset in self.out:
            if self._passes(self.of[offset]):
                self._step_back(offset, self.of[offset])
            else:
                self.delayed.add(offset)

    def held(self, offset: int) -> bool:
        """The delay of a message is over: whether it is still not its turn, though."""
        self.delayed.discard(offset)
        group = self.of.get(offset)
        out = offset in self.out
        if group is None or (out and (self.rules.rate is None or group.is_job)):
            return False
        heapq.heappush(self.again.setdefault(group, []) if out else group.waiting, offset)
        self._queue(group)
        return True

    def park(self, offset: int) -> None:
        """A message was dead-lettered, and its group waits for somebody to resume it."""
        group = self.of.get(offset)
        if group is not None and not group.is_job:
            group.parked = True
            self.parked.add(group.name)

    def over_parked(self, first: int, messages: int) -> int:
        """How many groups too many would be parked if those messages died."""
        of = self.of
        groups = {of[offset] for offset in range(first, first + messages) if offset in of}
        more = sum(1 for group in groups if not group.parked and not group.is_job)
        return max(0, len(self.parked) + more - PARKED_MAX) if more else 0

    def resume(self, name: str) -> None:
        """The group goes on."""
        self.parked.discard(name)
        group = self.named.get(name)
        if group is not None:
            group.parked = False
            self._queue(group)

    def _step_back(self, offset: int, group: Group) -> None:
        self.out.discard(offset)
        self.delayed.discard(offset)
        group.out -= 1
        self._queue(group)

    # ---- Whose turn it is

    def promote(self, wanted: int, mono: int) -> None:
        """Let messages out: in a fair queue until `wanted` are ready, else all that may go."""
        while self._sleeping and self._sleeping[0][0] <= mono:
            group = heapq.heappop(self._sleeping)[2]
            group.queued = False
            self._queue(group)
        left = wanted - self.states.counts[State.SPECIAL]
        ready: list[int] = []
        while self._next:
            group = self._next.popleft()
            group.queued = False
            while self._let_out(group, mono, ready):
                pass
            self._look_after(group, mono)
        while self._line and len(ready) < left:
            turn, _, group = heapq.heappop(self._line)
            group.queued = False
            self._turn = max(self._turn, turn)
            if self._let_out(group, mono, ready):
                group.turn = turn + 1 / self.rules.weights.get(group.name, 1.0)
                self._queue(group)
            else:
                self._look_after(group, mono)
        ready.sort()
        for first, messages in neighbours(ready):
            self.states.move(first, messages, Event.RECALL)

    def _look_after(self, group: Group, mono: int) -> None:
        """It lets nothing more out now: without messages it is forgotten."""
        if not group.members and self.named.get(group.name) is group and not self._rests(group, mono):
            del self.named[group.name]

    def _let_out(self, group: Group, mono: int, ready: list[int]) -> bool:
        """Let its next message out, if there is one and it may: it belongs to those that are `ready`. One
        that is out already goes first: it is tried again."""
        if group in self.again:
            offset = self._next_again(group)
            if offset is not None:
                if self._may_go(group, mono):
                    heapq.heappop(self.again[group])
                    ready.append(offset)
                    return True
                return False
        most = 1 if group.is_job else self.rules.concurrency
        waiting = group.waiting
        while waiting and not group.parked and (most is None or group.out < most):
            offset = waiting[0]
            state = self.states.state(offset)
            gone = self.of.get(offset) is not group or offset in self.out
            if gone or (state != State.HELD and self._passes(group)):
                heapq.heappop(waiting)
                continue
            if state == State.HELD and not self._may_go(group, mono):
                return False
            heapq.heappop(waiting)
            group.out += 1
            group.latest = offset
            self.out.add(offset)
            if state == State.DELAYED:
                self.delayed.add(offset)
            elif state == State.HELD:
                if self.rules.fair:
                    self.states.order.ranks[offset] = self._number
                ready.append(offset)
            return True
        return False

    def _next_again(self, group: Group) -> int | None:
        """The first of its messages that wait to be tried again; None, and nothing kept, if there is none."""
        again = self.again[group]
        while again:
            offset = again[0]
            twice = offset in again[1:3]  # put off once more: the same number is a child of the top
            if self.of.get(offset) is group and self.states.state(offset) == State.HELD and not twice:
                return offset
            heapq.heappop(again)
        del self.again[group]
        return None

    def _passes(self, group: Group) -> bool:
        """A message that waits for its time, or is dead and waits for room, holds up nobody behind it."""
        return (self.rules.fair or self.rules.skip) and not group.is_job

    def _may_go(self, group: Group, mono: int) -> bool:
        """Its rate allows one more now; otherwise it sleeps until it does."""
        rate = self.rules.rate
        if rate is None or group.is_job:
            return True
        group.next_at = max(group.next_at, mono - BURST_MS)
        if group.next_at > mono:
            self._sleep(group)
            return False
        group.next_at += 1000 / rate
        return True

    def _rests(self, group: Group, mono: int) -> bool:
        """It has no messages, but is not forgotten before its rate allows another one."""
        if self.rules.rate is None or group.next_at <= mono:
            return False
        self._sleep(group)
        return True

    def _sleep(self, group: Group) -> None:
        group.queued = True
        self._number += 1
        heapq.heappush(self._sleeping, (group.next_at, self._number, group))

    def _queue(self, group: Group) -> None:
        if not group.queued:
            group.queued = True
            if not self.rules.fair:
                self._next.append(group)
                return
            group.turn = max(group.turn, self._turn)
            self._number += 1
            heapq.heappush(self._line, (group.turn, self._number, group))

    @property
    def next_at(self) -> int | None:
        """Mono ms at which a group that is over its rate may go on."""
        waits = self._sleeping and self.states.counts[State.HELD]
        return int(self._sleeping[0][0]) + 1 if waits else None

    # ---- Looking

    @property
    def blocked(self) -> int:
        """Groups that are held up by a failure: parked, or their first message waits for another try."""
        return len(self.parked) + len(self.delayed)

    @property
    def throttled(self) -> int:
        """Groups that are over their rate."""
        return sum(1 for _, _, group in self._sleeping if group.members)

    def job(self, key: str) -> Iterator[int]:
        """Offsets of the messages with that job key that are not settled, oldest first."""
        group = self.named.get(JOB_PREFIX + key)
        if group is not None:
            yield from sorted(each for each in {*group.waiting, group.latest} if self.of.get(each) is group)

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Who is in which group, and which are parked."""
        members: dict[str, list[int]] = {}
        for offset, group in self.of.items():
            members.setdefault(group.name, []).append(offset)
        packed: bytes = msgpack.packb((members, sorted(self.parked)))
        return packed

    def restore(self, data: bytes, is_settled: Callable[[int], bool]) -> None:
        """The inverse of `snapshot`."""
        members, parked = msgpack.unpackb(data)
        self.parked = set(parked)
        for name, offsets in members.items():
            for offset in offsets:
                if not is_settled(offset):
                    self.join(offset, name)
