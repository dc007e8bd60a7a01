"""The story of one message: what the journal still says of it, what its bytes carry, where it is.

    journal     enqueued, its tries, its checkpoints, other times it was given, how it was settled
    bytes       when it was appended, the tries it had in another queue: while they are kept, wherever
    memory      the tries of a message that is not settled

A line is [wall ms, what, detail]. Hand-outs are not written down, so that there are none. Whatever is missing
at the beginning is said to be.
"""

from collections.abc import Callable, Iterator
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
ENDS = {
    Settled.ACKED: ("acked", ""),
    Settled.DEAD_LETTERED: ("dead-lettered", ""),
    Settled.EXPIRED: ("expired", "its time to live was over"),
    Settled.PURGED: ("purged", "or cancelled, replaced, dropped by a full queue"),
    Settled.DUPLICATE: ("not taken", "a duplicate, or its job key was taken"),
    Settled.MOVED: ("moved", ""),
}
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
        self._lines: list[Line] = []
        self._tries: dict[Attempt, None] = {}
        self._id = queue.log.uuid, offset
        self._loaded: Loaded = {}
        self._enqueued = False
        self._ended = False

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
            self._lines.append([0, "damaged", "its bytes cannot be read"])
        for cut in cuts:
            self._kept(cut)
        targets = frozenset((self._queue.uuid, self._queue.log.uuid))
        LookBack(self._engine, targets, self._see, self._end).go_on()

    # ---- Its bytes

    def _kept(self, cut: Cut) -> None:
        self._enqueued = True
        self._id = cut.origin_log, cut.origin_first
        self._lines.append([cut.time, "enqueued", self._where(*self._id)])
        self._carried(BatchView(cut.data, verify=False), 0)

    def _carried(self, batch: BatchView, number: int) -> str | None:
        """The tries that message `number` of a batch carries, and what it died of."""
        cell = cells_of(batch)[number] if number < batch.count else None
        if not cell:
            return None
        history = msgpack.unpackb(cell)
        self._tries.update((Attempt(*row), None) for row in history["attempts"])
        reason: str | None = history["reason"]
        return reason

    def _where(self, log: bytes, offset: int) -> str:
        here = self._queue.name
        if log == self._queue.log.uuid:
            return here
        return f"{here}, from offset {offset} of {self._name(log)}"

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
                if part.base <= self._offset < part.base + part.messages and not self._enqueued:
                    self._appended(entry, part)
            elif part.target != queue.uuid:
                continue
            elif part.kind == Kind.SETTLE:
                if self._is_in(entries.settle_ranges(part)):
                    self._settled(entry, part, data)
            elif part.kind == Kind.RETURN:
                self._returned(part, time)
            elif part.kind == Kind.NOTED:
                self._noted(part, time)

    def _is_in(self, ranges: list[tuple[int, int]]) -> bool:
        return any(first <= self._offset < first + messages for first, messages in ranges)

    def _appended(self, entry: StoredEntry, part: Part) -> None:
        self._enqueued = True
        if part.flags & entries.ORIGIN_FLAG:
            log, first = entries.ORIGIN.unpack(part.detail[-entries.ORIGIN.size :])
            self._id = log, first + self._offset - part.base
        self._lines.append([entry.time, "enqueued", self._where(*self._id)])

    def _settled(self, entry: StoredEntry, part: Part, data: memoryview) -> None:
        what, detail = ENDS[Settled(part.flags & entries.OUTCOME_MASK)]
        for stored, number in self._copies(entry):
            batch = _batch(data, stored)
            reason = self._carried(batch, number) if batch is not None else None
            there = f"to offset {stored.part.base + number} of {self._name(stored.part.target)}"
            detail = f"{there}: {reason}" if reason and what == "dead-lettered" else there
        self._ended = True
        self._lines.append([entry.time, what, detail])

    def _copies(self, entry: StoredEntry) -> Iterator[tuple[StoredPart, int]]:
        """Where the same entry appends the message elsewhere, and its number in that batch."""
        log, offset = self._id
        for stored in entry.parts:
            part = stored.part
            if part.kind == Kind.APPEND and part.flags & entries.ORIGIN_FLAG:
                origin, first = entries.ORIGIN.unpack(part.detail[-entries.ORIGIN.size :])
                if origin == log and first <= offset < first + part.messages:
                    yield stored, offset - first

    def _returned(self, part: Part, time: int) -> None:
        for first, messages, failures, waiting, due in entries.RETURN.iter_unpack(part.detail):
            if not first <= self._offset < first + messages:
                continue
            if waiting:
                self._lines.append([time, "waiting", "dead, and its dead-letter queue has no room"])
            elif not failures:
                self._lines.append([time, "rescheduled", f"ready in {max(0, due - time) / 1000:.1f} s"])

    def _noted(self, part: Part, time: int) -> None:
        for what, first, messages, *fields in msgpack.unpackb(part.detail):
            if not first <= self._offset < first + messages:
                continue
            if what == "attempt":
                self._tries[Attempt(*fields)] = None
            elif what == "checkpoint":
                self._lines.append([time, "checkpoint", f"{len(fields[0]):,} bytes"])

    # ---- The end

    def _end(self, since: int | None) -> None:
        """All was read that can be; in full since that time."""
        tries = self._queue.indexes.notes.attempts.get(self._offset, ())
        self._tries.update(dict.fromkeys(tries))
        self._lines += [_line(each) for each in self._tries]
        settled = self._facts["state"] == "settled"
        *_, now = self._facts["story"]
        begun = now[0] if since is None else since
        if not self._enqueued:
            what = "what was before, its enqueueing too, is not kept any more"
            self._lines.append([begun, "forgotten", what])
        if settled and not self._ended:
            self._lines.append([begun, "forgotten", "when and how it was settled is not kept any more"])
        self._lines.sort(key=lambda line: (line[0], _rank(line[1])))
        self._then({**self._facts, "story": [*self._lines, now]})


def _rank(what: str) -> int:
    """Of what happened at the same time: enqueued first, the end last."""
    return 0 if what in ("enqueued", "forgotten") else 2 if what in LAST else 1


def _line(attempt: Attempt) -> Line:
    who, error = attempt.consumer, attempt.error
    return [attempt.end or attempt.start, attempt.outcome, f"{who}: {error}" if error else who]


def _batch(data: memoryview, stored: StoredPart) -> BatchView | None:
    """The body of a part; None if it is rotten: whoever reads it there is told, here it tells nothing."""
    try:
        return BatchView(data[stored.body_at : stored.body_at + stored.body_length])
    except Invalid:
        return None
