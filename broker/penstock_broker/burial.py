"""Dead letters: a message leaves its queue and enters the dead-letter queue in one entry.

The bytes are read first, a piece at a time (loaded, if they are cold); until then the message stays in flight
with nobody. A dead letter without room waits in its own queue and is tried again when its time comes.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

from penstock_broker import past
from penstock_broker.answers import Answer
from penstock_broker.catalogue import Item, part_for
from penstock_broker.clock import Now
from penstock_broker.durability import FSYNC
from penstock_broker.queues import judging, notes, traits
from penstock_broker.queues.outcomes import Dead, Settled
from penstock_broker.queues.policy import DEAD_LETTER_SETTINGS, Policy, policy_for
from penstock_broker.queues.queue import Queue
from penstock_broker.registry import Registry
from penstock_broker.storage import entries
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.storage.files import Load
from penstock_broker.storage.reads import Cold, Cut, Loaded, crc_of
from penstock_protocol.batch import BatchView
from penstock_protocol.errors import Corrupt, QueueFull, TooLarge
from penstock_protocol.limits import INT_MAX

BYTES_PER_ENTRY = 1 << 20
"""Dead letters of more bytes are buried in several entries, each whole in itself."""
PARKING = frozenset({"max_attempts", "max_deliveries", "rejected"})
"""Reasons for which a message group may be parked."""

Then = Callable[[], None]


class Burial:
    """Moves dead letters of all queues."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine[Answer],
        new_uuid: Callable[[], bytes],
        touch: Callable[[Queue], None],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._new_uuid = new_uuid
        self._touch = touch

    def knows(self, queue: Queue) -> bool:
        """The queue is there: it was not deleted."""
        return self._registry.get(queue.uuid) is queue

    def make(self, name: str, now: Now) -> None:
        """Somebody asks for a queue that is not there: one that dead letters go to is made now."""
        for queue in self._registry.queues.values():
            if queue.policy.dead_letter == name:
                item, _ = self._made_for(queue, name)
                self._engine.append([part_for(Kind.CREATE, item)], wall=now.wall)
                return

    def _made_for(self, queue: Queue, name: str) -> tuple[Item, Policy]:
        """The dead-letter queue of a queue, in its mode."""
        policy = policy_for(name, {**DEAD_LETTER_SETTINGS, "durability": queue.policy.durability})
        return Item("queue", name, self._new_uuid(), policy.as_map(), ()), policy

    def bury(self, queue: Queue, dead: Sequence[Dead], now: Now, then: Then | None = None) -> None:
        """Move each to the dead-letter queue; `then` when the last one is applied."""
        pieces: deque[Dead] = deque(dead)
        while pieces:
            piece = pieces.popleft()
            fits, _ = queue.log.fit(piece.first, piece.messages, BYTES_PER_ENTRY)
            if fits < piece.messages:
                rest = piece._replace(first=piece.first + fits, messages=piece.messages - fits)
                pieces.appendleft(rest)

            def go_on(left: Sequence[Dead]) -> None:
                self.bury(queue, [*left, *pieces], now, then)

            left = self._bury(queue, piece._replace(messages=fits), now, {}, go_on)
            if left is None:
                return
            pieces.extendleft(reversed(left))
        if then is not None:
            then()

    def retry(self, queue: Queue, now: Now) -> None:
        """Dead letters that waited for room are judged dead again, as many as there is room for."""
        target = self._registry.queues.get(queue.policy.dead_letter or "")
        if target is not None and target.uuid in self._registry.corrupt:
            return
        room, room_bytes = target.room if target is not None else (INT_MAX, INT_MAX)
        for first, waiting in queue.parked():
            messages, size = queue.log.fit(first, min(waiting, room), room_bytes)
            if not messages or size > room_bytes:
                return
            if queue.policy.group_failure == "park" and queue.indexes.groups.over_parked(first, messages):
                messages = self._parkable(queue, first, messages)
                if not messages:
                    continue
            queue.seize([(first, messages)])
            self.bury(queue, judging.dead_before(queue, first, messages), now)
            room, room_bytes = room - messages, room_bytes - size

    def _bury(
        self, queue: Queue, dead: Dead, now: Now, loaded: Loaded, go_on: Callable[[Sequence[Dead]], None]
    ) -> Sequence[Dead] | None:
        """One piece; what is left of it, to be buried apart. None: its bytes are cold; `go_on` gets that
        then."""
        if not self.knows(queue):
            return ()  # deleted meanwhile
        dead = self._kept(queue, dead, now)
        if not dead.messages:
            return ()
        try:
            reads = self._engine.reads
            cuts = list(reads.cuts(queue.log, dead.first, dead.messages, loaded, unwritten=True))
        except Cold as cold:
            extent = cold.extent

            def got(result: object) -> None:
                loaded[extent] = result if isinstance(result, bytes) else b""
                left = self._bury(queue, dead, now, loaded, go_on)
                if left is not None:
                    go_on(left)

            self._engine.load(Load(*extent[:3]), got)
            return None
        except Corrupt as error:
            end = dead.first + dead.messages
            low = max(dead.first, error.detail["first"])
            high = min(end, error.detail["first"] + error.detail["messages"])
            self._park(queue, low, high - low, dead, now)
            queue.damaged.update(range(low, high))
            whole = [(dead.first, low - dead.first), (high, end - high)]
            return [dead._replace(first=f, messages=n) for f, n in whole if n]
        left = self._move(queue, cuts, dead, now)
        self._touch(queue)
        return left

    def _kept(self, queue: Queue, dead: Dead, now: Now) -> Dead:
        """What there still is of them: a record that retention took while somebody had it has expired."""
        gone = min(dead.messages, max(0, queue.log.start - dead.first))
        if gone:
            queue.counters["expired"] += gone
            part = queue.settle_part([(dead.first, gone)], Settled.EXPIRED)
            self._engine.append([part], wall=now.wall, within=queue.within)
            self._touch(queue)
        return dead._replace(first=dead.first + gone, messages=dead.messages - gone)

    def _move(self, queue: Queue, cuts: Sequence[Cut], dead: Dead, now: Now) -> Sequence[Dead]:
        """One entry, by the stricter mode of both: appended there, settled here, the dead-letter queue made,
        in this one's mode, if it is not there yet. What has to be moved apart instead."""
        first, messages = cuts[0].first, sum(cut.messages for cut in cuts)
        name = queue.policy.dead_letter
        if name is None:  # since it was altered, nothing of it dies
            returned = queue.return_part([(first, messages, max(1, dead.failures), now.wall)])
            parts = notes.noted(queue.uuid, notes.within(dead.tries, first, messages))
            self._engine.append([*parts, returned], wall=now.wall, within=queue.within)
            return ()
        parks = queue.policy.group_failure == "park" and dead.reason in PARKING
        if parks and queue.indexes.groups.over_parked(first, messages):
            most = self._parkable(queue, first, messages)
            some, rest = dead._replace(first=first, messages=most), first + most
            self._park(queue, rest, messages - most, dead, now)
            return [some] if most else ()
        bodies = [self._body(queue, cut, dead, now) for cut in cuts]
        parts = []
        if name not in self._registry.queues:
            item, policy = self._made_for(queue, name)
            parts.append(part_for(Kind.CREATE, item))
            uuid, within, offset = item.uuid, FSYNC, 0
        else:
            try:
                target = self._registry.queue(name)
                target.check_room(messages, sum(len(body.data) for body in bodies))
            except (QueueFull, Corrupt):
                self._park(queue, first, messages, dead, now)
                return ()
            uuid, offset, policy = target.uuid, target.log.end, target.policy
            within = min(queue.within, target.within)
        for number, (cut, body) in enumerate(zip(cuts, bodies, strict=True)):
            parts.append(copy_part(uuid, offset, cut, body, number, policy, now))
            offset += cut.messages
        parts.append(queue.settle_part([(first, messages)], Settled.DEAD_LETTERED, parks=parks))
        try:
            self._engine.append(parts, bodies, wall=now.wall, within=within)
        except TooLarge:
            whole = dead._replace(first=first, messages=cuts[-1].end - first)
            return self._halves(queue, whole, now)
        queue.dead_reasons[dead.reason] += messages
        self._touch(self._registry.queues[name])
        return ()

    def _parkable(self, queue: Queue, first: int, messages: int) -> int:
        """How many of these may die without more groups being parked than may be."""
        over = queue.indexes.groups.over_parked
        return bisect_left(range(1, messages + 1), 1, key=lambda most: over(first, most))

    def _body(self, queue: Queue, cut: Cut, dead: Dead, now: Now) -> Body:
        """The messages with their history."""
        batch = BatchView(cut.data, verify=False)
        known, reason = queue.indexes.notes, dead.text or dead.reason
        last = notes.within(dead.tries, cut.first, cut.end - cut.first)
        data = past.died(batch, queue.name, cut.first, cut.time, known, reason, now.wall, last)
        return Body(data, crc_of(data))

    def _halves(self, queue: Queue, dead: Dead, now: Now) -> Sequence[Dead]:
        """All in one entry is more than a small journal takes."""
        half = dead.messages // 2
        if not half:
            self._park(queue, dead.first, dead.messages, dead, now)
            return ()
        rest = dead._replace(first=dead.first + half, messages=dead.messages - half)
        return dead._replace(messages=half), rest

    def _park(self, queue: Queue, first: int, messages: int, dead: Dead, now: Now) -> None:
        """They wait for room; what they died of is noted."""
        rows = [
            *notes.within(dead.tries, first, messages),
            ("dead", first, messages, dead.reason, dead.text),
        ]
        parts = [
            *notes.noted(queue.uuid, rows),
            queue.return_part([(first, messages, dead.failures, 0)], waiting=True),
        ]
        self._engine.append(parts, wall=now.wall, within=queue.within)


def copy_part(
    uuid: bytes,
    offset: int,
    cut: Cut,
    body: Body,
    number: int,
    policy: Policy,
    now: Now,
    flags: int = 0,
    due: Sequence[int] | None = None,
    *,
    is_job: bool = False,
) -> Part:
    """The APPEND of messages that come from another queue: they keep their id, their priority and group, and
    their job key where they are jobs. `due`: when each is ready, wall ms, 0: at once."""
    batch = BatchView(body.data, verify=False)
    detail, before = b"", None
    if cut.origin_log == uuid:
        before = [cut.origin_first + delta for delta in batch.deltas]
    if batch.column_table or policy.marks_all or due or before:
        found = traits.of_copy(batch, policy, now.wall, due, before, is_job=is_job)
        if found:
            flags, detail = flags | entries.TRAITS_FLAG, traits.encode(found)
    origin = entries.ORIGIN.pack(cut.origin_log, cut.origin_first)
    return Part(uuid, Kind.APPEND, offset, cut.messages, flags | entries.ORIGIN_FLAG, detail + origin, number)
