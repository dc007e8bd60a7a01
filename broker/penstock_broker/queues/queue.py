"""A queue: messages, each handed to one consumer at a time until it is settled.

Composed of a log (where bytes lie), states (where in its life each message is), leases (who has it) and
producers (what is here already). Outcomes are applied from parts; hand-outs are memory only. The queue
decides within itself; what concerns two queues (dead letters) it returns to whoever composes them.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from struct import Struct

from penstock_broker.durability import FSYNC
from penstock_broker.meters import Histogram
from penstock_broker.producers import Outcome, Producers
from penstock_broker.queues import traits
from penstock_broker.queues.choosing import next_run
from penstock_broker.queues.handout import Handout, Waiter
from penstock_broker.queues.histories import Histories, History
from penstock_broker.queues.indexes import Indexes
from penstock_broker.queues.kept import Kept
from penstock_broker.queues.leases import Lease, Leases, Tokens
from penstock_broker.queues.message_groups import Rules
from penstock_broker.queues.outcomes import SETTLED_NAMES, Grant, Settled
from penstock_broker.queues.pace import Pace
from penstock_broker.queues.policy import Policy
from penstock_broker.queues.states import Event, State, States
from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Kind, Part
from penstock_broker.storage.log import Log
from penstock_protocol.errors import QueueFull
from penstock_protocol.limits import INT_MAX
from penstock_protocol.slices import Range

KIND = 3  # in a checkpoint
SNAPSHOT = Struct("<QI")  # suspect_below, failed messages
FAILED = Struct("<QIQ")  # offset, failures, due (0 = not delayed)
DECIDING = frozenset({Kind.SETTLE, Kind.RETURN, Kind.NOTED, Kind.RESUMED})
HAS_INDEXES = 1 << 31  # in the count of failed messages: the indexes follow, behind a u32 length


class Queue:
    """One queue."""

    kind = KIND

    def __init__(
        self,
        uuid: bytes,
        name: str,
        policy: Policy,
        log: Log,
        tokens: Tokens,
        random: Random,
        front: "Queue | None" = None,
    ) -> None:
        self.uuid = uuid
        self.name = name
        self.front = self if front is None else front
        """Over a topic there is one such machine per partition; whoever asks for the queue gets the first."""
        self.lanes: list[Queue] = [*front.lanes, self] if front is not None else [self]
        self.partition = len(self.lanes) - 1
        for lane in self.lanes[:-1]:
            lane.lanes = self.lanes
        self._turn = 0
        self.borrowed = policy.source is not None
        """Its log is that of a partition, which alone decides what is kept of it."""
        self.within = FSYNC
        """How long a sync of its changes may wait, ms: its mode, or the node's."""
        self.log = log
        self.changed_at = 0
        self.states = States()
        self.leases = Leases()
        self.handout: Handout = Handout() if front is None else front.handout
        self.producers = Producers()
        self.suspect_below = 0
        """Offsets below may have been delivered in an earlier life: they are flagged as redelivered."""
        self._tokens = tokens
        self.random = random
        self.histories = Histories()
        self.indexes = Indexes(self.states)
        self.states.order.time_of = log.time
        self.states.order.offset_at = lambda time: log.offset_at(time)[0]
        self.pace: Pace = Pace() if front is None else front.pace
        self.used_at = 0
        """Mono ms of the last publish or receive; only looked at if the queue goes when it is not used."""
        self.damaged: set[int] = set()
        """Offsets that wait because their bytes cannot be read."""
        self._aside: set[int] = set()
        """Those of them that were ready: a snapshot has them so, for a restart looks again."""
        self.kept = Kept()
        self.retry_at: int | None = None
        """Mono ms at which dead letters that wait for room are judged again."""
        self.counters: Counter[str] = Counter()
        self.dead_reasons: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.obey(policy)

    def obey(self, policy: Policy) -> None:
        """From now on that is the policy."""
        self.policy = policy
        self.takes_plainly = not policy.marks_all and policy.overflow == "reject"
        """A plain message asks nothing but whether there is room."""
        self.pace.obey(policy.rate)
        self.handout.single = policy.single_active
        fair = policy.fair
        concurrency = policy.group_concurrency if fair or policy.group_concurrency else 1
        weights = dict(zip(policy.group_weights[::2], policy.group_weights[1::2], strict=True))
        skip = policy.group_failure == "skip"
        self.indexes.groups.obey(Rules(fair, concurrency, skip, policy.group_rate, weights))
        order = self.states.order
        if order.ageing != (policy.priority_ageing or 0):
            order.ageing = policy.priority_ageing or 0
            self.states.reorder()

    def in_turn(self) -> list["Queue"]:
        """The machines of all partitions, another one first each time."""
        front = self.front
        front._turn = (front._turn + 1) % len(self.lanes)
        return self.lanes[front._turn :] + self.lanes[: front._turn]

    # ---- Folding

    def apply(self, part: Part, at: At) -> None:
        """One part addressed to this queue."""
        kind = part.kind
        if kind == Kind.APPEND:
            self._appended(part, at)
        elif kind == Kind.SETTLE:
            self._settled(part, at.time)
        elif kind == Kind.RETURN:
            self._returned(part, at.time)
        elif kind == Kind.NOTED:
            self.indexes.used = True
            self.indexes.recall(self.indexes.notes.apply(part.detail))
        elif kind == Kind.RESUMED:
            self.indexes.groups.resume(part.detail.decode())
        elif kind == Kind.TRIMMED:
            self.log.trim(part.base)
            self.kept.trimmed(part.base)
        elif kind == Kind.MOVED:
            self.log.moved(part)
        elif kind == Kind.ARCHIVED:
            self.log.archived(part)
        elif kind == Kind.HANDED_OUT:
            self.suspect_below = max(self.suspect_below, part.base)
            self.indexes.handed_out(part.base, live=self._tokens.begun)
        else:
            assert kind == Kind.BOOT, f"a queue knows no part of kind {kind}"
            if not part.flags:
                self.distrust()
        self.changed_at = at.position
        if kind in DECIDING and (kind != Kind.SETTLE or self.indexes.groups.of):
            self.indexes.decided_at = at.position

    def distrust(self) -> None:
        """Any message may have been delivered before."""
        self.suspect_below = self.indexes.suspect_below = self.log.end

    def fits(self, part: Part) -> bool:
        """The part follows on from what is known here; it does, unless something before it was lost."""
        if part.kind == Kind.SETTLE:
            return all(first + messages <= self.log.end for first, messages in entries.settle_ranges(part))
        if part.kind == Kind.RETURN:
            rows = entries.RETURN.iter_unpack(part.detail)
            return all(first + messages <= self.log.end for first, messages, *_ in rows)
        if self.borrowed or part.kind in (Kind.BOOT, Kind.NOTED, Kind.RESUMED):
            return True
        return self.log.fits(part, self.is_alive)

    def _appended(self, part: Part, at: At) -> None:
        self.log.appended(part, at)
        sequenced = part.flags & entries.PRODUCER_FLAG
        exceptions = b""
        if part.flags & entries.TRAITS_FLAG:
            found = traits.decode(part.detail, entries.PRODUCER.size if sequenced else 0)
            exceptions = found.exceptions
            self.indexes.taken_in(part.base, found, at.time)
        if part.flags & entries.REPLAYED_FLAG:
            self.indexes.used = True
            self.indexes.replayed.update(range(part.base, part.base + part.messages))
            self.indexes.recall(range(part.base, part.base + part.messages))
        if sequenced:
            producer_id, sequence = entries.PRODUCER.unpack_from(part.detail)
            outcome = Outcome(part.base, part.messages, at.time, exceptions)
            self.producers.appended(producer_id, sequence, outcome)
        self.counters["enqueued"] += part.messages

    def _settled(self, part: Part, time: int) -> None:
        parks = part.flags & entries.PARK_FLAG
        for first, messages in entries.settle_ranges(part):
            self.states.move(first, messages, Event.SETTLE)
            if self.damaged:
                self.damaged.difference_update(range(first, first + messages))
                self._aside.difference_update(range(first, first + messages))
            if self.histories:
                self.histories.forget(first, messages)
            if parks:
                for offset in range(first, first + messages):
                    self.indexes.groups.park(offset)
            if self.indexes.used:
                self.indexes.forget(first, messages)
            self.counters[SETTLED_NAMES[part.flags & entries.OUTCOME_MASK]] += messages
        if part.flags & entries.KEPT_FLAG:
            unseen = part.flags & entries.OUTCOME_MASK == Settled.DUPLICATE
            self.kept.settled(entries.settle_ranges(part), self.states.head, time, unseen=unseen)
        elif self.log.start < self.states.head and not self.borrowed:
            self.log.trim(self.states.head)

    def _returned(self, part: Part, time: int) -> None:
        for first, messages, failures, waiting, due in entries.RETURN.iter_unpack(part.detail):
            self.states.move(first, messages, Event.PARK if waiting else Event.DELAY)
            for offset in range(first, first + messages):
                before = self.histories.get(offset)
                if failures or before is not None:
                    deliveries = max(failures, before.deliveries if before else 1)
                    self.histories[offset] = History(failures, deliveries)
                if not waiting:
                    again = failures == (before.failures if before is not None else 0)
                    self.indexes.delay(offset, due, max(due, time) if again else None)

    # ---- Publishing

    def check_room(self, messages: int, size: int) -> None:
        """Raises `QueueFull` if the queue may not take that much more."""
        policy = self.policy
        room, room_bytes = self.room
        if messages > room:
            raise QueueFull(
                f"queue {self.name!r} holds {self.messages:,} of {policy.max_messages:,} messages",
                hint=f"add workers, or raise it: `penstock queue alter {self.name} --max-messages N`",
            )
        if size > room_bytes:
            raise QueueFull(
                f"queue {self.name!r} holds {self.log.size_bytes:,} of {policy.max_bytes:,} bytes",
                hint=f"add workers, or raise it: `penstock queue alter {self.name} --max-bytes N`",
            )

    @property
    def room(self) -> tuple[int, int]:
        """Messages and bytes that it may still take."""
        most, most_bytes = self.policy.max_messages, self.policy.max_bytes
        return (
            INT_MAX if most is None else max(0, most - self.messages),
            INT_MAX if most_bytes is None else max(0, most_bytes - self.log.size_bytes),
        )

    # ---- Handing out

    @property
    def ready(self) -> int:
        """Messages that wait for a consumer, those behind others of their message group included."""
        counts = self.states.counts
        held = counts[State.HELD]
        return counts[State.READY] + counts[State.SPECIAL] + held + self.log.end - self.states.cursor

    @property
    def messages(self) -> int:
        """Messages that are not settled."""
        return self.log.end - self.states.counts[State.SETTLED]

    def available(self, mono: int) -> int:
        """Messages that may be handed out now, within the limit in flight and the rate."""
        if self.policy.paused:
            return 0
        counts = self.states.counts
        most = self.policy.max_in_flight - sum(lane.states.counts[State.IN_FLIGHT] for lane in self.lanes)
        if self.pace.rate is not None:
            most = min(most, self.pace.allowed(mono))
        if counts[State.HELD]:
            self.indexes.groups.promote(min(most, self.handout.wanted), mono)
        return min(self.ready - counts[State.HELD], most)

    def take(
        self,
        limit: int,
        size: int,
        visibility: int | None,
        holder: object | None,
        subscription: int,
        consumer: str = "",
    ) -> list[Grant]:
        """Hand out up to `limit` ready messages of about `size` bytes, in their order. The leases begin to
        run when `started` is told so. `consumer`: whose name a failure is remembered with."""
        grants: list[Grant] = []
        while limit > 0 and (size > 0 or not grants):
            run = next_run(self, limit)
            if run is None:
                break
            first, messages, attempt, delivery, flags = run
            messages, used = self.log.fit(first, messages, size)
            self.states.move(first, messages, Event.HAND_OUT)
            if delivery > 1:
                for offset in range(first, first + messages):
                    self.histories[offset] = History(attempt - 1, delivery)
            token = self._tokens.take()
            lease = Lease(
                token,
                first,
                messages,
                visibility or self.policy.visibility_timeout,
                holder,
                subscription,
                consumer,
            )
            self.leases.add(lease)
            grants.append(Grant(lease, first, messages, attempt, delivery, flags))
            limit -= messages
            size -= used
            self.counters["delivered"] += messages
            if flags:
                self.counters["redelivered"] += messages
        if self.pace.rate is not None:
            self.pace.spend(sum(grant.messages for grant in grants))
        return grants

    def started(self, lease: Lease, mono: int, wall: int = 0) -> None:
        """The delivery leaves the broker: its lease begins to run."""
        self.leases.start(lease, mono, wall)

    def undo(self, lease: Lease) -> int:
        """The delivery never left the broker: its messages, that many, are as if it had not been."""
        undone = 0
        for first, messages, _ in self.leases.take(lease.token, lease.first, lease.messages):
            for offset in range(first, first + messages) if self.histories else ():
                known = self.histories.get(offset)
                if known is not None:
                    self.histories[offset] = History(known.failures, known.deliveries - 1)
            plain = first not in self.histories and self.indexes.is_plain(first)
            self.states.move(first, messages, Event.UNDO if plain else Event.RELEASE)
            self.indexes.came_back(first, messages)
            self.counters["delivered"] -= messages
            undone += messages
        return undone

    # ---- Settling

    def claim(
        self, ranges: Sequence[Range], served: Histogram | None = None, wall: int = 0
    ) -> tuple[list[tuple[int, int]], list[Range]]:
        """End the leases of the ranges: the runs that were leased, merged, and the ranges that were stale.
        `served`: counts how long they had been leased."""
        runs: list[tuple[int, int]] = []
        stale: list[Range] = []
        for item in ranges:
            taken = (
                self.leases.take(item.token, item.first, item.messages)
                if item.partition == self.partition
                else []
            )
            at = item.first
            for first, messages, lease in taken:
                if served is not None:
                    served.observe((wall - lease.since) / 1000, messages)
                if at < first:
                    stale.append(Range(item.token, at, item.partition, first - at))
                at = first + messages
                if runs and sum(runs[-1]) == first:
                    runs[-1] = runs[-1][0], runs[-1][1] + messages
                else:
                    runs.append((first, messages))
            if at < item.first + item.messages:
                stale.append(Range(item.token, at, item.partition, item.first + item.messages - at))
        return runs, stale

    def settle_part(self, runs: Sequence[tuple[int, int]], outcome: Settled, *, parks: bool = False) -> Part:
        """The SETTLE of runs that were claimed. `parks`: their message groups stop."""
        (first, messages), *more = runs
        keeps = self.policy.keep_settled and not self.borrowed
        flags = outcome | (entries.KEPT_FLAG if keeps else 0)
        flags |= entries.PARK_FLAG if parks else 0
        return Part(self.uuid, Kind.SETTLE, first, messages, flags, entries.encode_ranges(more))

    def return_part(self, rows: Sequence[tuple[int, int, int, int]], *, waiting: bool = False) -> Part:
        """The RETURN of (first, messages, failures, due) rows."""
        detail = b"".join([entries.RETURN.pack(*row[:3], int(waiting), row[3]) for row in rows])
        return Part(self.uuid, Kind.RETURN, rows[0][0], sum(row[1] for row in rows), 0, detail)

    # ---- Time

    def wake(self, wall: int) -> bool:
        """Delayed messages whose time has come are ready; True if there were any."""
        return self.indexes.wake(wall) if len(self.indexes.delays) else False

    def expire(self, mono: int) -> list[tuple[int, int, Lease]]:
        """Runs whose lease is over, each with its lease, which is ended."""
        runs = []
        for lease in self.leases.expired(mono):
            runs += self.leases.take(lease.token, lease.first, lease.messages)
        self.counters["lease_expired"] += sum(messages for _, messages, _ in runs)
        return runs

    def seize(self, runs: Sequence[tuple[int, int]]) -> None:
        """The broker takes messages for itself, from whatever state they wait in."""
        for first, messages in runs:
            self.states.move(first, messages, Event.SEIZE)

    def parked(self) -> list[tuple[int, int]]:
        """Dead letters that wait for room, and not because they cannot be read."""
        if self.states.counts[State.WAITING] <= len(self.damaged):
            return []
        runs = list(self.states.ranges(State.WAITING, len(self.damaged) + 1_000))
        if not self.damaged:
            return runs
        return [(o, 1) for first, n in runs for o in range(first, first + n) if o not in self.damaged]

    def set_aside(self, first: int, messages: int, among: tuple[State, ...]) -> None:
        """Messages of a range whose bytes are damaged, and that are in one of those states: they wait, until
        a restart looks again, and hold nobody up. Memory only: the disk says so itself."""
        for offset in range(first, first + messages):
            if self.states.state(offset) in among:
                self.states.move(offset, 1, Event.PARK)
                self.damaged.add(offset)
                self._aside.add(offset)

    def unpark(self, waiter: Waiter) -> None:
        """End one wait."""
        self.handout.remove(waiter)

    def next_deadline(self, mono: int, wall: int) -> int | None:
        """Mono ms of the next thing that time brings about here."""
        times = [self.handout.next_end(), self.leases.next_deadline(), self.retry_at]
        if self.indexes.used:
            due = self.indexes.next_deadline()
            times.append(None if due is None else mono + max(0, due - wall))
            times.append(None if self.policy.paused or not len(self.handout) else self.indexes.groups.next_at)
        if self.pace.rate is not None and len(self.handout):
            times.append(self.pace.next_at(mono))
        return min([time for time in times if time is not None], default=None)

    # ---- Looking

    def is_alive(self, first: int, messages: int) -> bool:
        """Something in that range is not settled."""
        return self.states.has_alive(first, messages) or self.kept.wants(
            first, messages, self.log.start, self.states.head
        )

    def alive(self, first: int, messages: int) -> int:
        """How many messages in that range are not settled."""
        if not self.kept:
            return self.states.count_alive(first, messages)
        return max(0, first + messages - max(first, self.log.start)) if self.is_alive(first, messages) else 0

    def look_at_kept(self, wall: int) -> Part | None:
        """What settled messages were kept for long enough: the TRIMMED that gives them up."""
        if not self.kept:
            return None
        start = self.kept.start_at(wall - (self.policy.keep_settled or 0))
        return Part(self.uuid, Kind.TRIMMED, start) if start > self.log.start else None

    def count(self, state: State) -> int:
        """Messages in a state, READY with all that can be handed out."""
        return self.ready if state is State.READY else self.states.counts[state]

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything durable, as bytes."""
        failed = [
            FAILED.pack(offset, history.failures, self.indexes.due_of(offset) or 0)
            for offset, history in self.histories.items()
            if history.failures
        ]
        indexes = self.indexes.snapshot() if self.indexes.used else b""
        parts = [
            SNAPSHOT.pack(self.suspect_below, len(failed) | (HAS_INDEXES if indexes else 0)),
            *failed,
            self.states.snapshot(self._aside),
            self.producers.snapshot(),
            self.kept.snapshot(),
            *((len(indexes).to_bytes(4, "little"), indexes) if indexes else ()),
            b"" if self.borrowed else self.log.snapshot(),
        ]
        return b"".join(parts)

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`. After a restart the delivery count goes on from the failures."""
        self.suspect_below, count = SNAPSHOT.unpack_from(data)
        at = SNAPSHOT.size + (count & ~HAS_INDEXES) * FAILED.size
        failed = list(FAILED.iter_unpack(data[SNAPSHOT.size : at]))
        at += self.states.restore(data[at:])
        at += self.producers.restore(data[at:])
        at += self.kept.restore(data[at:])
        indexes = b""
        if count & HAS_INDEXES:
            length = int.from_bytes(data[at : at + 4], "little")
            indexes = bytes(data[at + 4 : at + 4 + length])
            at += 4 + length
        if not self.borrowed:
            self.log.restore(data[at:])
        if indexes:
            self.indexes.restore(indexes)
        for offset, failures, due in failed:
            self.histories[offset] = History(failures, failures)
            state = self.states.state(offset)
            if state == State.READY:
                self.states.move(offset, 1, Event.RECALL)
            elif state == State.DELAYED and not indexes:
                self.indexes.delay(offset, due)
