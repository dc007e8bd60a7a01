"""The story of one message: what the journal still says of it, what its bytes carry, where it is.

    journal     enqueued, its tries, its checkpoints, other times it was given, how it was settled
    bytes       when it was appended, the tries it had in another queue: while they are kept, wherever
    memory      the tries of a message that is not settled

A line is [wall ms, what, detail]. Hand-outs are not written down, so that there are none. Whatever is missing
at the beginning is said to be. A message that left and came back, or was replayed, has been at several places
of the queue, one after the other: its story is that of all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgpack

from penstock_broker.explaining import Facts
from penstock_broker.past import cells_of
from penstock_broker.queues.notes import Attempt
from penstock_broker.queues.outcomes import Settled
from penstock_broker.queues.queue import Queue
from penstock_broker.registry import Registry
from penstock_broker.storage import entries
from penstock_broker.storage.engine import Engine
from penstock_broker.storage.entries import Kind, Part, StoredEntry, StoredPart
from penstock_broker.storage.files import Load
from penstock_broker.storage.lookback import LookBack
from penstock_broker.storage.reads import Cold, Cut, Loaded
from penstock_protocol.batch import BatchView
from penstock_protocol.errors import Corrupt, Invalid

Line = list[Any]
Told = tuple[int, int, int, Line]
"""Wall ms, place, rank of what happened at once, and the line."""
ENDS = {
    Settled.ACKED: ("acked", ""),
    Settled.DEAD_LETTERED: ("dead-lettered", ""),
    Settled.EXPIRED: ("expired", "its time to live was over"),
    Settled.PURGED: ("purged", "or cancelled, replaced, dropped by a full queue"),
    Settled.DUPLICATE: ("not taken", "a duplicate, or its job key was taken"),
    Settled.MOVED: ("moved", ""),
}
BEFORE = -1
"""The place of tries that may have been made in another queue."""
LAST = {"waiting", *(what for what, _ in ENDS.values())}


class Telling:
    """Finds out the story of the message at `offset` of a queue, and hands it to `then`. `facts`: what
    `explain` says of it."""

    def __init__(
        self,
        engine: Engine[Any],
        registry: Registry,
        queue: Queue,
        offset: int,
        facts: Facts,
        then: Callable[[Facts], None],
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._queue = queue
        self._offset = offset
        self._facts = facts
        self._then = then
        self._told: list[Told] = []
        self._tries: dict[Attempt, int] = {}
        """And the place of each."""
        self._carries: list[Attempt] = []
        self._kept_since: int | None = None
        """Wall ms of the append at `offset`, out of the bytes."""
        self._id = queue.log.uuid, offset
        self._loaded: Loaded = {}
        self._places = {offset}
        self._enqueued: set[int] = set()
        self._ended: set[int] = set()

    def tell(self) -> None:
        """Begin."""
        try:
            cuts = list(
                self._engine.reads.cuts(self._queue.log, self._offset, 1, self._loaded, unwritten=True)
            )
        except Cold as cold:
            extent = cold.extent

            def got(data: object) -> None:
                self._loaded[extent] = data if isinstance(data, bytes) else b""
                self.tell()

            self._engine.load(Load(*extent[:3]), got)
            return
        except Corrupt:
            cuts = []
            self._add(0, self._offset, "damaged", "its bytes cannot be read")
        for cut in cuts:
            self._kept(cut)
        targets = frozenset((self._queue.uuid, self._queue.log.uuid))
        LookBack(self._engine, targets, self._see, self._end).go_on()

    def _add(self, time: int, place: int, what: str, detail: str) -> None:
        self._told.append((time, place, _rank(what), [time, what, detail]))

    # ---- Its bytes

    def _kept(self, cut: Cut) -> None:
        self._kept_since = cut.time
        self._id = cut.origin_log, cut.origin_first
        if self._is_ours:
            self._places.add(cut.origin_first)
        self._carries, _ = _carried(BatchView(cut.data, verify=False), 0)

    @property
    def _is_ours(self) -> bool:
        """This queue is where it was first."""
        return self._id[0] == self._queue.log.uuid

    def _where(self, place: int) -> str:
        here, (log, first) = self._queue.name, self._id
        if not self._is_ours:
            return f"{here}, from offset {first} of {self._name(log)}"
        return here if place == first else f"{here}, again, at offset {place}"

    def _name(self, log: bytes) -> str:
        owner = self._registry.owner(log)
        if owner is None:
            return "a queue that is gone"
        return f"queue {owner.name!r}" if isinstance(owner, Queue) else f"topic {owner.topic!r}"

    # ---- The journal

    def _see(self, entry: StoredEntry, data: memoryview) -> None:
        queue, time = self._queue, entry.time
        for stored in entry.parts:
            part = stored.part
            if part.kind == Kind.APPEND and part.target == queue.log.uuid:
                self._appended(entry, part)
            elif part.target != queue.uuid:
                continue
            elif part.kind == Kind.SETTLE:
                for place in self._among(entries.settle_ranges(part)):
                    self._settled(entry, part, place, data)
            elif part.kind == Kind.RETURN:
                self._returned(part, time)
            elif part.kind == Kind.NOTED:
                self._noted(part, time)

    def _among(self, ranges: Iterable[tuple[int, int]]) -> list[int]:
        """Places of the message in those ranges."""
        return [
            place for first, messages in ranges for place in self._places if first <= place < first + messages
        ]

    def _appended(self, entry: StoredEntry, part: Part) -> None:
        came_with = self._came_with(part)
        places = self._among([(part.base, part.messages)])
        if self._offset in places and came_with is not None:
            log, first = came_with
            self._id = log, first + self._offset - part.base
        elif not places and came_with is not None:
            place = part.base + self._id[1] - came_with[1]
            if came_with[0] == self._id[0] and part.base <= place < part.base + part.messages:
                self._places.add(place)
                places = [place]
        for place in places:
            self._enqueued.add(place)
            whence = [each.part.target for each in entry.parts if _moves(each.part)]
            back = f", out of {self._name(whence[0])}" if whence and self._is_ours else ""
            back = ", replayed" if part.flags & entries.REPLAYED_FLAG else back
            self._add(entry.time, place, "enqueued", self._where(place) + back)

    def _settled(self, entry: StoredEntry, part: Part, place: int, data: memoryview) -> None:
        what, detail = ENDS[Settled(part.flags & entries.OUTCOME_MASK)]
        for stored, number in self._copies(entry):
            batch = _batch(data, stored)
            tries, reason = _carried(batch, number) if batch is not None else ([], None)
            for attempt in tries:
                self._tries.setdefault(attempt, place if self._is_ours else BEFORE)
            there = f"to offset {stored.part.base + number} of {self._name(stored.part.target)}"
            detail = f"{there}: {reason}" if reason and what == "dead-lettered" else there
        self._ended.add(place)
        self._add(entry.time, place, what, detail)

    def _copies(self, entry: StoredEntry) -> Iterator[tuple[StoredPart, int]]:
        """Where the same entry appends the message elsewhere, and its number in that batch."""
        log, offset = self._id
        for stored in entry.parts:
            part = stored.part
            came_with = self._came_with(part)
            if came_with is not None:
                origin, first = came_with
                if origin == log and first <= offset < first + part.messages:
                    yield stored, offset - first

    @staticmethod
    def _came_with(part: Part) -> tuple[bytes, int] | None:
        """The id of the first message that a part appends, if it was elsewhere before."""
        if part.kind != Kind.APPEND or not part.flags & entries.ORIGIN_FLAG:
            return None
        log, first = entries.ORIGIN.unpack(part.detail[-entries.ORIGIN.size :])
        return log, first

    def _returned(self, part: Part, time: int) -> None:
        for first, messages, failures, waiting, due in entries.RETURN.iter_unpack(part.detail):
            for place in self._among([(first, messages)]):
                if waiting:
                    self._add(time, place, "waiting", "dead, and its dead-letter queue has no room")
                elif not failures:
                    self._add(time, place, "rescheduled", f"ready in {max(0, due - time) / 1000:.1f} s")

    def _noted(self, part: Part, time: int) -> None:
        for what, first, messages, *fields in msgpack.unpackb(part.detail):
            for place in self._among([(first, messages)]):
                if what == "attempt":
                    self._tries.setdefault(Attempt(*fields), place)
                elif what == "checkpoint":
                    self._add(time, place, "checkpoint", f"{len(fields[0]):,} bytes")

    # ---- The end

    def _end(self, since: int | None) -> None:
        """All was read that can be; in full since that time."""
        first = self._id[1] if self._is_ours else min(self._places)
        for attempt in self._carries:
            self._tries.setdefault(attempt, first if self._is_ours else BEFORE)
        for attempt in self._queue.indexes.notes.attempts.get(self._offset, ()):
            self._tries.setdefault(attempt, self._offset)
        for attempt, place in self._tries.items():
            self._add(*_line(attempt, place))
        if self._offset not in self._enqueued and self._kept_since is not None:
            self._enqueued.add(self._offset)
            self._add(self._kept_since, self._offset, "enqueued", self._where(self._offset))
        *_, now = self._facts["story"]
        begun = now[0] if since is None else since
        if first not in self._enqueued:
            before = min([begun, *(time for time, *_ in self._told if time)])
            self._add(before, 0, "forgotten", "what was before, its enqueueing too, is not kept any more")
        if self._facts["state"] == "settled" and max(self._places) not in self._ended:
            self._add(
                begun, max(self._places), "forgotten", "when and how it was settled is not kept any more"
            )
        lines = [line for *_, line in sorted(self._told, key=lambda told: told[:3])]
        self._then({**self._facts, "story": [*lines, now]})


def _rank(what: str) -> int:
    """Of what happened at the same time: enqueued first, the end last."""
    return 0 if what in ("enqueued", "forgotten") else 2 if what in LAST else 1


def _line(attempt: Attempt, place: int) -> tuple[int, int, str, str]:
    who, error = attempt.consumer, attempt.error
    return attempt.end or attempt.start, place, attempt.outcome, f"{who}: {error}" if error else who


def _moves(part: Part) -> bool:
    return part.kind == Kind.SETTLE and part.flags & entries.OUTCOME_MASK == Settled.MOVED


def _carried(batch: BatchView, number: int) -> tuple[list[Attempt], str | None]:
    """The tries that message `number` of a batch carries, and what it died of."""
    cell = cells_of(batch)[number] if number < batch.count else None
    if not cell:
        return [], None
    history = msgpack.unpackb(cell)
    reason: str | None = history["reason"]
    return [Attempt(*row) for row in history["attempts"]], reason


def _batch(data: memoryview, stored: StoredPart) -> BatchView | None:
    """The body of a part; None if it is rotten: whoever reads it there is told, here it tells nothing."""
    try:
        return BatchView(data[stored.body_at : stored.body_at + stored.body_length])
    except Invalid:
        return None
