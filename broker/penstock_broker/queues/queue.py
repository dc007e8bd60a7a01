"""A queue: messages, each handed to one consumer at a time until it is settled.

Composed of a log (where bytes lie), states (where in its life each message is), leases (who has it) and
producers (what is here already). Outcomes are applied from parts; hand-outs are memory only. The queue
decides within itself; what concerns two queues (dead letters) it returns to whoever composes them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from struct import Struct

from penstock_broker.alarms import Alarms
from penstock_broker.durability import FSYNC
from penstock_broker.producers import Outcome, Producers
from penstock_broker.queues.handout import Handout, Waiter
from penstock_broker.queues.kept import Kept
from penstock_broker.queues.leases import Lease, Leases, Tokens
from penstock_broker.queues.outcomes import SETTLED_NAMES, Dead, Grant, History, Settled, Verdict
from penstock_broker.queues.policy import Policy
from penstock_broker.queues.states import Event, State, States
from penstock_broker.storage import entries
from penstock_broker.storage.entries import At, Kind, Part
from penstock_broker.storage.log import Log
from penstock_protocol.errors import QueueFull
from penstock_protocol.limits import INT_MAX
from penstock_protocol.slices import REDELIVERED, Range

KIND = 3  # in a checkpoint
SNAPSHOT = Struct("<QI")  # suspect_below, failed messages
FAILED = Struct("<QIQ")  # offset, failures, due (0 = not delayed)
FAILURES_MAX = 0xFFFF  # what a RETURN counts to; a queue without a limit goes on beyond it, uncounted
FIRST_TRY = History(0, 1)  # of a message in flight of which nothing is kept


class Queue:
    """One queue."""

    kind = KIND

    def __init__(
        self, uuid: bytes, name: str, policy: Policy, log: Log, tokens: Tokens, random: Random
    ) -> None:
        self.uuid = uuid
        self.name = name
        self.policy = policy
        self.within = FSYNC
        """How long a sync of its changes may wait, ms: its mode, or the node's."""
        self.log = log
        self.changed_at = 0
        self.states = States()
        self.leases = Leases()
        self.handout = Handout()
        self.producers = Producers()
        self.suspect_below = 0
        """Offsets below may have been delivered in an earlier life: they are flagged as redelivered."""
        self._tokens = tokens
        self._random = random
        self._history: dict[int, History] = {}
        self._due: Alarms[int] = Alarms()
        """Offset of a DELAYED message → wall ms."""
        self.damaged: set[int] = set()
        """Offsets that wait because their bytes cannot be read."""
        self._aside: set[int] = set()
        """Those of them that were ready: a snapshot has them so, for a restart looks again."""
        self.kept = Kept()
        self.retry_at: int | None = None
        """Mono ms at which dead letters that wait for room are judged again."""
        self._waits: Alarms[Waiter] = Alarms()  # by mono ms
        self.counters: Counter[str] = Counter()
        self.dead_reasons: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    # ---- Folding

    def apply(self, part: Part, at: At) -> None:
        """One part addressed to this queue."""
        kind = part.kind
        if kind == Kind.APPEND:
            self._appended(part, at)
        elif kind == Kind.SETTLE:
            self._settled(part, at.time)
        elif kind == Kind.RETURN:
            self._returned(part)
        elif kind == Kind.TRIMMED:
            self.log.trim(part.base)
            self.kept.trimmed(part.base)
        elif kind == Kind.MOVED:
            self.log.moved(part)
        elif kind == Kind.ARCHIVED:
            self.log.archived(part)
        elif kind == Kind.HANDED_OUT:
            self.suspect_below = max(self.suspect_below, part.base)
        else:
            assert kind == Kind.BOOT, f"a queue knows no part of kind {kind}"
            if not part.flags:
                self.suspect_below = self.log.end
        self.changed_at = at.position

    def fits(self, part: Part) -> bool:
        """The part follows on from what is known here; it does, unless something before it was lost."""
        if part.kind == Kind.SETTLE:
            return all(first + messages <= self.log.end for first, messages in entries.settle_ranges(part))
        if part.kind == Kind.RETURN:
            rows = entries.RETURN.iter_unpack(part.detail)
            return all(first + messages <= self.log.end for first, messages, *_ in rows)
        return part.kind == Kind.BOOT or self.log.fits(part, self.is_alive)

    def _appended(self, part: Part, at: At) -> None:
        self.log.appended(part, at)
        if part.flags & entries.PRODUCER_FLAG:
            producer_id, sequence = entries.PRODUCER.unpack_from(part.detail)
            self.producers.appended(producer_id, sequence, Outcome(part.base, part.messages, at.time))
        self.counters["enqueued"] += part.messages

    def _settled(self, part: Part, time: int) -> None:
        for first, messages in entries.settle_ranges(part):
            self.states.move(first, messages, Event.SETTLE)
            if self.damaged:
                self.damaged.difference_update(range(first, first + messages))
                self._aside.difference_update(range(first, first + messages))
            if self._history:
                self._forget(first, messages)
            self.counters[SETTLED_NAMES[part.flags & ~entries.KEPT_FLAG]] += messages
        if part.flags & entries.KEPT_FLAG:
            self.kept.settled(entries.settle_ranges(part), self.states.head, time)
        elif self.log.start < self.states.head:
            self.log.trim(self.states.head)

    def _forget(self, first: int, messages: int) -> None:
        known = self._history
        offsets: Iterable[int] = range(first, first + messages)
        if len(known) < messages:
            offsets = [offset for offset in known if first <= offset < first + messages]
        for offset in offsets:
            known.pop(offset, None)
            self._due.set(offset, None)

    def _returned(self, part: Part) -> None:
        for first, messages, failures, waiting, due in entries.RETURN.iter_unpack(part.detail):
            self.states.move(first, messages, Event.PARK if waiting else Event.DELAY)
            for offset in range(first, first + messages):
                before = self._history.get(offset)
                deliveries = max(failures, before.deliveries if before else 1)
                self._history[offset] = History(failures, deliveries)
                self._due.set(offset, None if waiting else due)

    # ---- Publishing

    def check_room(self, messages: int, size: int) -> None:
        """Raises `QueueFull` if the queue may not take that much more."""
        policy = self.policy
        room, room_bytes = self.room
        if messages > room:
            raise QueueFull(
                f"queue {self.name!r} holds {self.messages:,} of {policy.max_messages:,} messages"
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
        """Messages that can be handed out."""
        counts = self.states.counts
        return counts[State.READY] + counts[State.SPECIAL] + self.log.end - self.states.cursor

    @property
    def messages(self) -> int:
        """Messages that are not settled."""
        return self.log.end - self.states.counts[State.SETTLED]

    def available(self) -> int:
        """Messages that may be handed out now, within the limit in flight."""
        return min(self.ready, self.policy.max_in_flight - self.states.counts[State.IN_FLIGHT])

    def take(
        self, limit: int, size: int, visibility: int | None, holder: object | None, subscription: int
    ) -> list[Grant]:
        """Hand out up to `limit` ready messages of about `size` bytes, in offset order. The leases begin
        to run when `started` is told so."""
        grants: list[Grant] = []
        while limit > 0 and (size > 0 or not grants):
            run = self._next_run(limit)
            if run is None:
                break
            first, messages, attempt, delivery, flags = run
            messages, used = self.log.fit(first, messages, size)
            self.states.move(first, messages, Event.HAND_OUT)
            if delivery > 1:
                for offset in range(first, first + messages):
                    self._history[offset] = History(attempt - 1, delivery)
            token = self._tokens.take()
            lease = Lease(
                token, first, messages, visibility or self.policy.visibility_timeout, holder, subscription
            )
            self.leases.add(lease)
            grants.append(Grant(lease, first, messages, attempt, delivery, flags))
            limit -= messages
            size -= used
            self.counters["delivered"] += messages
            if flags:
                self.counters["redelivered"] += messages
        return grants

    def _next_run(self, limit: int) -> tuple[int, int, int, int, int] | None:
        """The next messages to go that share all stamps: first, messages, attempt, delivery, flags."""
        states = self.states
        first, messages = states.next_ready(self.log.end, limit)
        special = states.next_special() if states.counts[State.SPECIAL] else None
        if special is not None and (special < first or not messages):
            history = self._history[special]
            length = 1
            while (
                length < limit
                and self._history.get(special + length) == history
                and states.state(special + length) == State.SPECIAL
            ):
                length += 1
            return special, length, history.failures + 1, history.deliveries + 1, REDELIVERED
        if not messages:
            return None
        if first >= self.suspect_below:
            return first, messages, 1, 1, 0
        return first, min(messages, self.suspect_below - first), 1, 1, REDELIVERED

    def started(self, lease: Lease, mono: int) -> None:
        """The delivery leaves the broker: its lease begins to run."""
        self.leases.start(lease, mono)

    def undo(self, lease: Lease) -> int:
        """The delivery never left the broker: its messages, that many, are as if it had not been."""
        undone = 0
        for first, messages, _ in self.leases.take(lease.token, lease.first, lease.messages):
            for offset in range(first, first + messages) if self._history else ():
                known = self._history.get(offset)
                if known is not None:
                    self._history[offset] = History(known.failures, known.deliveries - 1)
            plain = first not in self._history
            self.states.move(first, messages, Event.UNDO if plain else Event.RELEASE)
            self.counters["delivered"] -= messages
            undone += messages
        return undone

    # ---- Settling

    def claim(self, ranges: Sequence[Range]) -> tuple[list[tuple[int, int]], list[Range]]:
        """End the leases of the ranges: the runs that were leased, merged, and the ranges that were stale."""
        runs: list[tuple[int, int]] = []
        stale: list[Range] = []
        for item in ranges:
            taken = self.leases.take(item.token, item.first, item.messages) if not item.partition else []
            at = item.first
            for first, messages, _ in taken:
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

    def settle_part(self, runs: Sequence[tuple[int, int]], outcome: Settled) -> Part:
        """The SETTLE of runs that were claimed."""
        (first, messages), *more = runs
        flags = outcome | (entries.KEPT_FLAG if self.policy.keep_settled else 0)
        return Part(self.uuid, Kind.SETTLE, first, messages, flags, entries.encode_ranges(more))

    def return_part(self, rows: Sequence[tuple[int, int, int, int]], *, waiting: bool = False) -> Part:
        """The RETURN of (first, messages, failures, due) rows."""
        detail = b"".join([entries.RETURN.pack(*row[:3], int(waiting), row[3]) for row in rows])
        return Part(self.uuid, Kind.RETURN, rows[0][0], sum(row[1] for row in rows), 0, detail)

    def failed(self, runs: Sequence[tuple[int, int]], delay: int | None, wall: int) -> Verdict:
        """Judge messages that failed: back after `delay` ms (None: the retry curve), or dead."""
        policy = self.policy
        verdict = Verdict([], [])
        for first, messages, history in self._by_history(runs):
            failures = min(history.failures + 1, FAILURES_MAX)
            if policy.max_attempts is not None and failures >= policy.max_attempts:
                verdict.dead.append(Dead(first, messages, "max_attempts", failures))
            elif policy.max_deliveries is not None and history.deliveries >= policy.max_deliveries:
                verdict.dead.append(Dead(first, messages, "max_deliveries", failures))
            else:
                wait = policy.delay(failures, self._random) if delay is None else delay
                verdict.returned.append((first, messages, failures, wall + wait))
        return verdict

    def release(self, runs: Sequence[tuple[int, int]]) -> list[Dead]:
        """Messages that were not tried are ready again at once; those delivered too often are dead."""
        limit = self.policy.max_deliveries
        dead = []
        for first, messages, history in self._by_history(runs):
            if limit is not None and history.deliveries >= limit:
                dead.append(Dead(first, messages, "max_deliveries", history.failures))
                continue
            for offset in range(first, first + messages):
                self._history[offset] = history
            self.states.move(first, messages, Event.RELEASE)
        return dead

    def rejected(self, runs: Sequence[tuple[int, int]], reason: str) -> list[Dead]:
        """Messages that a consumer wants dead-lettered at once."""
        return [Dead(first, n, reason, history.failures) for first, n, history in self._by_history(runs)]

    def _by_history(
        self, runs: Sequence[tuple[int, int]], plain: History = FIRST_TRY
    ) -> Iterator[tuple[int, int, History]]:
        """Runs cut where the history of neighbours differs; `plain`: of those of which nothing is kept."""
        for first, messages in runs:
            if not self._history:
                yield first, messages, plain
                continue
            begin, before = first, self._history.get(first, plain)
            for offset in range(first + 1, first + messages):
                history = self._history.get(offset, plain)
                if history != before:
                    yield begin, offset - begin, before
                    begin, before = offset, history
            yield begin, first + messages - begin, before

    # ---- Time

    def wake(self, wall: int) -> bool:
        """Delayed messages whose time has come are ready; True if there were any."""
        woken = False
        for offset in self._due.due(wall):
            if self.states.state(offset) == State.DELAYED:
                self.states.move(offset, 1, Event.DUE)
                woken = True
        return woken

    def expire(self, mono: int) -> list[tuple[int, int]]:
        """Runs whose lease is over, their leases ended."""
        runs = []
        for lease in self.leases.expired(mono):
            runs += [run[:2] for run in self.leases.take(lease.token, lease.first, lease.messages)]
        self.counters["lease_expired"] += sum(messages for _, messages in runs)
        return runs

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

    def wait(self, waiter: Waiter) -> None:
        """Park a RECEIVE until there is something, or its deadline."""
        self.handout.add(waiter)
        self._waits.set(waiter, waiter.deadline)

    def unpark(self, waiter: Waiter) -> None:
        """End one wait."""
        self.handout.remove(waiter)
        self._waits.set(waiter, None)

    def overdue(self, mono: int) -> list[Waiter]:
        """Parked RECEIVEs whose wait is over; they wait no more."""
        due = [waiter for waiter in self._waits.due(mono) if not waiter.ended]
        for waiter in due:
            self.handout.remove(waiter)
        return due

    def next_deadline(self, mono: int, wall: int) -> int | None:
        """Mono ms of the next thing that time brings about here."""
        due = self._due.next()
        delayed = None if due is None else mono + max(0, due - wall)
        times = (self._waits.next(), self.leases.next_deadline(), self.retry_at, delayed)
        return min((time for time in times if time is not None), default=None)

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

    def ranges(self, state: State, limit: int) -> list[tuple[int, int, History]]:
        """Runs in a state, oldest first, at most `limit` messages, cut where histories differ."""
        plain = History(0, 0) if state is State.READY else FIRST_TRY
        runs = list(self.states.ranges(state, limit))
        if state is State.READY:
            runs += self.states.ranges(State.SPECIAL, limit)
            fresh = self.log.end - self.states.cursor
            runs = sorted([*runs, (self.states.cursor, fresh)] if fresh else runs)
        out = []
        for first, messages, history in self._by_history(runs, plain):
            if limit > 0:
                out.append((first, min(messages, limit), history))
            limit -= messages
        return out

    def unsettled_ranges(self) -> list[tuple[int, int]]:
        """Every run that is neither settled nor in flight."""
        everything = self.log.end
        runs = [
            run
            for state in (State.READY, State.SPECIAL, State.DELAYED, State.WAITING)
            for run in self.states.ranges(state, everything)
        ]
        if self.states.cursor < self.log.end:
            runs.append((self.states.cursor, self.log.end - self.states.cursor))
        return sorted(runs)

    def oldest_times(self) -> dict[str, int]:
        """State → append time (ms) of its oldest message."""
        times = {}
        for name, state in (
            ("ready", State.READY),
            ("delayed", State.DELAYED),
            ("in_flight", State.IN_FLIGHT),
            ("waiting", State.WAITING),
        ):
            first = self.ranges(state, 1) if self.count(state) else []
            if first:
                times[name] = self.log.time(first[0][0])
        return times

    def count(self, state: State) -> int:
        """Messages in a state, READY with all that can be handed out."""
        return self.ready if state is State.READY else self.states.counts[state]

    # ---- Snapshot

    def snapshot(self) -> bytes:
        """Everything durable, as bytes."""
        failed = [
            FAILED.pack(offset, history.failures, self._due.get(offset) or 0)
            for offset, history in self._history.items()
            if history.failures
        ]
        head = SNAPSHOT.pack(self.suspect_below, len(failed))
        parts = [
            head,
            *failed,
            self.states.snapshot(self._aside),
            self.producers.snapshot(),
            self.kept.snapshot(),
            self.log.snapshot(),
        ]
        return b"".join(parts)

    def restore(self, data: memoryview) -> None:
        """The inverse of `snapshot`. After a restart the delivery count goes on from the failures."""
        self.suspect_below, count = SNAPSHOT.unpack_from(data)
        at = SNAPSHOT.size + count * FAILED.size
        failed = list(FAILED.iter_unpack(data[SNAPSHOT.size : at]))
        at += self.states.restore(data[at:])
        at += self.producers.restore(data[at:])
        at += self.kept.restore(data[at:])
        self.log.restore(data[at:])
        for offset, failures, due in failed:
            self._history[offset] = History(failures, failures)
            state = self.states.state(offset)
            if state == State.READY:
                self.states.move(offset, 1, Event.RECALL)
            elif state == State.DELAYED:
                self._due.set(offset, due)
