"""Batches on their way to one address: gathered, numbered, sent in order, and again. No socket, no clock.

A batch lives like this; what the broker's answer means for its neighbours is decided by the lane alone:

    queue ──sent──▶ open ──confirmed, refused──▶ done
      ▲               │
      └──── back ◀────┘  refused for now, or the socket was lost; put in front of the queue again,
                         numbered from the first sequence without an outcome, once nothing is open

Invariants: what is open and back has consecutive sequences; a batch that may have been appended (`doubt`)
keeps its number, because everything before it has an outcome or is sent again first; a number is given
again only when its batch was definitely refused.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from penstock.compression import compressor
from penstock.errors import Error
from penstock.values import Cells
from penstock_protocol.batch import (
    COLUMN_BYTES,
    HEADER_BYTES,
    WIDTH_OF,
    BatchBuilder,
    Kind,
    renumbered,
)
from penstock_protocol.checksum import Buffer
from penstock_protocol.limits import BATCH_BYTES_MAX, BATCH_COUNT_MAX, SEQUENCES_IN_FLIGHT_MAX
from penstock_protocol.messages.queues import Confirm, Enqueue
from penstock_protocol.messages.topics import Produce

OPEN_WHILE_GATHERING = 2
"""With that many batches open, one that still takes messages waits: one is being made durable, the next is
there for the sync after it, and a third would only be smaller."""
SEQUENCE_MAX = 2**32 - 1
END_BYTES = 4


class Address(NamedTuple):
    """Where a batch goes; sequences are counted per address, whatever the `codec`: how bodies are compressed,
    0: not at all. `partition` is 0 for a queue."""

    verb: type[Enqueue] | type[Produce]
    name: str
    partition: int = 0
    codec: int = 0
    producer: str = ""

    def request(self, data: Buffer, expected_offset: int | None = None) -> Enqueue | Produce:
        """The publish of a batch. `expected_offset`: of its first record, else it is refused."""
        if self.verb is Enqueue:
            return Enqueue(self.name, data)
        return Produce(self.name, self.partition, expected_offset, data)


Outcome: TypeAlias = Confirm | Error
Caller: TypeAlias = tuple[asyncio.Future[Any], Callable[[Confirm, int], Any]]
"""Who waits for one message, and what the result is made of: a confirm and the message's index in it."""


class Stage(Enum):
    """Where a batch is; see the picture above."""

    QUEUE = "queue"
    OPEN = "open"
    BACK = "back"
    DONE = "done"


class Batch:
    """Messages that share a fate. `size`: upper bound of its bytes, counted while gathering."""

    __slots__ = (
        "_cells",
        "_ends",
        "_kinds",
        "_number",
        "_on_outcome",
        "_row",
        "asking",
        "bodies",
        "callers",
        "codec",
        "count",
        "data",
        "doubt",
        "expected_offset",
        "floor",
        "gathering",
        "joiners",
        "lane",
        "lingers",
        "outcome",
        "refusal",
        "size",
        "stage",
        "timer",
        "withdrawn",
    )

    def __init__(self, lane: "Lane", on_outcome: Callable[["Batch", Outcome], None], codec: int = 0) -> None:
        self.lane = lane
        self.codec = codec
        self.stage = Stage.QUEUE
        self.gathering = False
        """It takes more messages as long as it is not sent."""
        self.lingers = False
        """It waits for them, as long as nothing is behind it."""
        self.expected_offset: int | None = None
        """Its first record gets that offset, or it is refused. It shares its batch with nobody else's."""
        self.bodies: list[bytes] = []
        self.callers: list[Caller] = []
        """Who waits for each message; empty if one caller waits for all of them."""
        self.count = 0
        self.size = HEADER_BYTES
        self.data: Buffer | None = None
        """Encoded, from the first time it is sent until it is confirmed."""
        self.doubt = False
        """A socket was lost while it was open, and nothing has been heard since: it may be appended."""
        self.refusal: Error | None = None
        """Why it was refused for now."""
        self.withdrawn: Error | None = None
        """Once it is certain that it is not appended, it ends with this instead of being sent again."""
        self.outcome: Outcome | None = None
        self.floor = 0
        """The first sequence without an outcome when it was given up."""
        self.asking: asyncio.Task[Confirm] | None = None
        """Who was told that its outcome is unknown wants to know it."""
        self.joiners: list[asyncio.Future[Outcome]] = []
        self.timer: asyncio.TimerHandle | None = None
        self._cells: dict[int, Cells] = {}
        self._ends: Sequence[int] = ()
        self._kinds: set[Kind] = set()
        self._row = END_BYTES
        self._number = (0, 0)
        self._on_outcome: Callable[[Batch, Outcome], None] | None = on_outcome

    @property
    def sequence(self) -> int:
        """Its number at the address; meaningful once it was sent."""
        return self._number[1]

    @property
    def in_doubt(self) -> bool:
        """Nobody here can say whether it is appended."""
        return self.doubt or self.stage is Stage.OPEN

    def tell(self, outcome: Outcome) -> None:
        """Its outcome, to whom it was made for; once. They know each other: that ends here, so that neither
        has to wait for the garbage collector."""
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            on_outcome(self, outcome)

    def request(self) -> Enqueue | Produce:
        """What sends it, once it is encoded: the same again and again under the same number."""
        assert self.data is not None
        return self.lane.address.request(self.data, self.expected_offset)

    def cost(self, body: bytes, cells: Cells) -> int:
        """What one more message would add to `size`."""
        size = len(body) + self._row
        for kind, value in cells:
            size += len(value) if isinstance(value, bytes) else 0
            if kind not in self._kinds:
                size += COLUMN_BYTES + (WIDTH_OF[kind] or END_BYTES) * (self.count + 1)
        return size

    def fits(self, cost: int) -> bool:
        """Whether a message of that cost may join: the first one always may."""
        return not self.count or (self.count < BATCH_COUNT_MAX and self.size + cost <= BATCH_BYTES_MAX)

    def add(self, body: bytes, cells: Cells, cost: int) -> None:
        """Take one message, whose `cost` was asked for just now."""
        if cells:
            self._cells[self.count] = cells
            for kind, _ in cells:
                if kind not in self._kinds:
                    self._kinds.add(kind)
                    self._row += WIDTH_OF[kind] or END_BYTES
        self.bodies.append(body)
        self.count += 1
        self.size += cost

    def fill(self, bodies: list[bytes], ends: Sequence[int]) -> None:
        """Take plain messages, whose cumulative ends are known, and nothing else. The list is not copied."""
        self.bodies, self._ends = bodies, ends
        self.count = len(bodies)
        self.size += ends[-1] + self._row * len(bodies)

    def forget_gone(self) -> None:
        """Take back the messages nobody waits for any more; only before it was encoded."""
        kept = [i for i, caller in enumerate(self.callers) if not caller[0].done()]
        if len(kept) == len(self.callers):
            return
        bodies, callers, cells = self.bodies, self.callers, self._cells
        self.callers = [callers[i] for i in kept]
        self.bodies, self.count, self.size = [], 0, HEADER_BYTES
        self._cells, self._kinds, self._row = {}, set(), END_BYTES
        for i in kept:
            self.add(bodies[i], cells.get(i, ()), self.cost(bodies[i], cells.get(i, ())))

    def encoded(self, producer_id: int, sequence: int) -> Buffer:
        """Its bytes under that number; the same ones as before if the number is the same."""
        if self.data is None:
            builder = BatchBuilder()
            if self._cells:
                for i, body in enumerate(self.bodies):
                    builder.add(body, self._cells.get(i, ()))
            else:
                builder.extend(self.bodies, self._ends)
            compress = compressor(self.codec) if self.codec else None
            self.data = builder.encode(producer_id, sequence, self.codec, compress)
            self.bodies, self._cells = [], {}
        elif self._number != (producer_id, sequence):
            self.data = renumbered(self.data, producer_id, sequence)
        self._number = producer_id, sequence
        return self.data


class Lane:
    """Every batch for one address, in order. `expected`: the first sequence without an outcome."""

    __slots__ = (
        "_new_id",
        "_next",
        "address",
        "back",
        "barred",
        "expected",
        "halted",
        "open",
        "pause",
        "pauses",
        "producer_id",
        "queue",
        "resting",
    )

    def __init__(self, address: Address, producer_id: int, new_id: Callable[[], int]) -> None:
        self.address = address
        self.producer_id = producer_id
        self.queue: deque[Batch] = deque()
        self.open: list[Batch] = []
        self.back: list[Batch] = []
        self.expected = 0
        self.halted = False
        """One of the open batches was refused, so those behind it come back: nothing is sent till then."""
        self.pause = 0.0
        """Seconds to rest before what came back is sent again."""
        self.pauses: Iterator[float] | None = None
        self.resting = False
        self.barred = False
        """The producer id has come to its end: only what is in doubt goes out under it."""
        self._next = 0
        self._new_id = new_id

    def batches(self) -> list[Batch]:
        """Every batch without an outcome."""
        return [*self.open, *self.back, *self.queue]

    def sendable(self) -> Batch | None:
        """The batch that may be sent now, if any."""
        held = self.back or self.halted or self.resting
        if held or not self.queue or len(self.open) >= SEQUENCES_IN_FLIGHT_MAX:
            return None
        batch = self.queue[0]
        lingers = batch.lingers and len(self.queue) == 1
        if batch.gathering and (lingers or len(self.open) >= OPEN_WHILE_GATHERING):
            return None
        if self._next > SEQUENCE_MAX:
            if self.open:
                return None
            self._begin()
        return None if self.barred and not batch.in_doubt else batch

    def send(self) -> Batch:
        """Number the batch that `sendable` named; it is open from now on, and `data` is what to send."""
        batch = self.queue.popleft()
        batch.gathering = False
        batch.encoded(self.producer_id, self._next)
        batch.stage = Stage.OPEN
        self._next += 1
        self.open.append(batch)
        return batch

    def confirmed(self, batch: Batch) -> None:
        """It is appended; the sequence behind it is the next the broker expects, if not a later one."""
        self.expected = max(self.expected, batch.sequence + 1)
        self.pauses = None
        self.remove(batch)
        batch.data = None

    def refused(self, batch: Batch) -> None:
        """It will never be appended; its number is free."""
        self.halted = True
        self.remove(batch)

    def came_back(self, batch: Batch, *, lost: bool) -> None:
        """It has to be sent again. `lost`: with the socket, so that it may be appended all the same."""
        self.open.remove(batch)
        self.back.append(batch)
        batch.stage = Stage.BACK
        batch.doubt = batch.doubt or lost
        self._recall()

    def remove(self, batch: Batch) -> None:
        """It has an outcome."""
        place = {Stage.QUEUE: self.queue, Stage.OPEN: self.open, Stage.BACK: self.back}[batch.stage]
        place.remove(batch)
        batch.stage = Stage.DONE
        self._recall()

    def _recall(self) -> None:
        """When nothing is open any more, what came back is the first to be sent again."""
        if self.open:
            return
        self.halted = False
        self._next = self.expected
        for batch in sorted(self.back, key=lambda batch: batch.sequence, reverse=True):
            batch.stage = Stage.QUEUE
            self.queue.appendleft(batch)
        self.back.clear()

    def give_up(self) -> list[Batch]:
        """End the use of the producer id: its batches whose outcome is unknown, which leave the lane."""
        unknown = [batch for batch in self.batches() if batch.in_doubt]
        for batch in unknown:
            batch.floor = self.expected
        for batch in unknown:
            self.remove(batch)
        self._begin()
        return unknown

    def _begin(self) -> None:
        self.begin(self._new_id())

    def begin(self, producer_id: int) -> None:
        """Count from 0 under another id; under none, if it is 0, nothing is sent."""
        self.producer_id = producer_id
        self.barred = not producer_id
        self.expected = self._next = 0
