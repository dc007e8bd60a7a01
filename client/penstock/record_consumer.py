"""What consumers of one topic and of several have in common: handing out records, and what is finished.

    in hand     handed out last: one record, or a batch of one partition
    finished    handed out before; a record is finished when the loop asks for the next one

Invariant: no commit that was not asked for covers an unfinished record; what a raising body had in hand is
read again. How a partition is read is in reading.py, which ones in handover.py, what is stored in commits.py.

Handing out one record at a time has a fast way: a stretch of records of one run, of which only the next index
is kept. What of it was handed out is booked when somebody has to know (`cut`).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from penstock import checks, topic_worker
from penstock.commits import Commits, lost, place_of
from penstock.errors import Invalid, Stale
from penstock.group import Group
from penstock.handover import Handover
from penstock.pacing import pace_of
from penstock.plan import Plan
from penstock.reading import Reader
from penstock.record import Record, RecordRun
from penstock.span import Span
from penstock.topic_worker import Handler
from penstock.turn import Turn
from penstock.values import Backoff, Duration, TopicPartition, seconds_of

if TYPE_CHECKING:
    from typing import Self

    from penstock.client import Client
    from penstock.queue import Queue
    from penstock.topic import Topic

T = TypeVar("T")
P = TypeVar("P")

STRETCH_RECORDS = 256
YIELD_SECONDS = 0.05
"""A loop whose body never waits lets the rest of the program run, signs of life among it, after the first
stretch that ends so long after the last time."""
LOOK_SECONDS = 1.0
"""How often a member without partitions looks whether the group has read all it was to read."""


class Hand(NamedTuple):
    """What was handed out last: so many records, up to offset `last`."""

    reader: Reader[Any]
    last: int
    records: int


class RecordConsumer(ABC, Generic[T, P]):
    """`async with … as c: async for record in c: …`, by one task. `P` is how partitions are named.

    Reconnects are invisible. `OffsetOutOfRange` and other refusals come out of the loop; `seek` goes on.
    """

    def __init__(self, client: "Client", plan: Plan, topic_of: "Callable[[str], Topic[T]]") -> None:
        plan.check()
        self.client = client
        self.topics = plan.topics
        self.group = None if plan.group is None else Group(client, plan.group)
        self.readers: dict[TopicPartition, Reader[T]] = {}
        self.turn: Turn[T] = Turn()
        self.let_go = asyncio.Event()
        """Something in hand was finished or dropped."""
        self.commits = Commits(client.wire, self.group, self.readers, self.cut, auto=plan.auto_commit)
        self.worker: topic_worker.Worker[T] | None = None
        self._plan = plan
        self._topic_of = topic_of
        self._span = Span(plan.start, plan.until)
        self._pace = pace_of(plan.rate)
        self._handover: Handover | None = None
        self._hand: Hand | None = None
        self._torn: TopicPartition | None = None  # of what is in hand, if it was lost meanwhile
        self._stopped = False
        self._left = True
        self._failure: Exception | None = None
        self._yielded = 0.0
        """When (loop time) others ran last, as far as it is known."""
        # The stretch: records from `_next` up to `_limit` of a run may go the fast way; those from `_booked`
        # on are not booked yet.
        self._reader: Reader[T] | None = None
        self._run: RecordRun[T]
        self._booked = self._next = self._limit = 0

    @abstractmethod
    def _shown(self, place: TopicPartition) -> P:
        """As the application names it."""

    @abstractmethod
    def _meant(self, place: P) -> TopicPartition:
        """The inverse of `_shown`."""

    @property
    def assignment(self) -> tuple[P, ...]:
        """The partitions this consumer reads now."""
        return tuple(self._shown(place) for place in sorted(self.readers))

    # Life

    async def __aenter__(self) -> "Self":
        try:
            await self._open()
        except BaseException:
            if self._handover is not None:
                self._handover.abandon()
            for reader in self.readers.values():
                reader.stop()
            raise
        self.client.consumers.add(self)
        self._left = False
        return self

    async def _open(self) -> None:
        plan = self._plan
        await self._span.begin(self.client.wire)
        await self._span.check(self._topic_of)
        if plan.is_member:
            self._handover = Handover(
                self,
                assignor=plan.assignor,
                instance=plan.instance,
                on_assigned=plan.on_assigned,
                on_revoked=plan.on_revoked,
            )
            await self._handover.open()
            return
        for topic in plan.topics:
            if plan.partitions is None:
                numbers = list(range(await self._topic_of(topic).count()))
            else:
                numbers = sorted({place.partition for place in plan.partitions if place.topic == topic})
            for reader in (await self.readers_of(topic, numbers, at_begin=True))[0]:
                self.readers[reader.place] = reader
        for reader in self.readers.values():
            self.add(reader)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.consumers.discard(self)
        await self._leave(commit=kind is None)

    def stop(self) -> None:
        """The loop ends when it asks for the next record."""
        self.cut()
        self._stopped = True
        self.turn.moved.set()

    @property
    def is_stopping(self) -> bool:
        """`stop` was called."""
        return self._stopped

    async def closed(self) -> None:
        """After `stop`: end the fetches, with `auto_commit` store what is finished, and leave the group."""
        await self._leave(commit=True)

    async def _leave(self, *, commit: bool) -> None:
        if self._left:
            return
        self._left = True
        self.cut()
        try:
            if self.worker is not None:
                await self.worker.idle()
            if self._handover is not None:
                self._hand = None
                await self._handover.halt()
            for reader in self.readers.values():
                await reader.close()
            await self.commits.close()
            if self.commits.auto and commit:
                mine = [reader for reader in self.readers.values() if not reader.lost]
                await self.commits.store(self.commits.finished(mine))
        except BaseException:
            if self._handover is not None:
                self._handover.abandon()
            raise
        if self._handover is not None:
            await self._handover.close()

    def fail(self, error: Exception) -> None:
        """End the loop with that."""
        self.cut()
        self._failure = error
        self.turn.moved.set()
        self.let_go.set()

    # Partitions that come and go

    async def readers_of(
        self, topic: str, partitions: Sequence[int], *, at_begin: bool
    ) -> tuple[list[Reader[T]], dict[int, int]]:
        """A reader for each, that does not read yet; and where they start, of those without a commit."""
        handle = self._topic_of(topic)
        committed = {} if self.group is None else await self.group.offsets(topic)
        missing = [partition for partition in partitions if partition not in committed]
        found = await asyncio.gather(*(self._span.start(handle, partition) for partition in missing))
        starts = dict(zip(missing, found, strict=True))
        ends = await asyncio.gather(*(self._span.until(handle, n, at_begin=at_begin) for n in partitions))
        positions = {**{n: int(offset) for n, offset in committed.items()}, **starts}
        readers = [
            Reader(handle, partition, positions[partition], self.turn, until=end, where=self._plan.where)
            for partition, end in zip(partitions, ends, strict=True)
        ]
        for reader in readers:
            reader.optional = topic not in self.topics
        return readers, starts

    def add(self, reader: Reader[T]) -> None:
        """Read it."""
        self.turn.begin(reader)

    def withdraw(self, readers: Iterable[Reader[Any]]) -> None:
        """Nothing more of these is handed out."""
        self.cut()
        if self.worker is not None:
            for reader in readers:
                self.worker.withdraw(reader)

    def has_in_hand(self, reader: Reader[Any]) -> bool:
        """Whether the application works on something of it."""
        if self.worker is not None:
            return self.worker.works_on(reader)
        return self._hand is not None and self._hand.reader is reader

    def drop(self, reader: Reader[Any], *, lost: bool = False) -> None:
        """What the application has in hand of it does not count any more; if `lost`, a commit says so."""
        if self._hand is not None and self._hand.reader is reader:
            self._hand, self._torn = None, reader.place if lost else None

    def remove(self, reader: Reader[Any]) -> None:
        """It is not read any more."""
        self.drop(reader)
        if self.worker is not None:
            self.worker.forget(reader)
        del self.readers[reader.place]
        self.turn.remove(reader)

    # Reading

    def __aiter__(self) -> "Self":
        return self

    async def __anext__(self) -> Record[T]:
        index = self._next
        if index < self._limit:
            self._next = index + 1
            return Record(self._run, index)
        if not await self._find():
            raise StopAsyncIteration
        self._next += 1
        return Record(self._run, self._next - 1)

    async def batches(self, max_records: int = 500) -> AsyncIterator[Sequence[Record[T]]]:
        """Up to `max_records` records of one partition at a time; they are finished together."""
        checks.whole("max_records", max_records, least=1)
        while records := await self.take(max_records):
            yield records

    async def take(self, most: int) -> Sequence[Record[T]]:
        """The next records of one partition, which are in hand now; none at the end."""
        if not await self._find():
            return ()
        assert self._reader is not None
        reader = self._reader
        most = min(most, self._limit - self._next) if self._pace is not None else most
        self._reader, self._limit, self._next, self._booked = None, 0, 0, 0
        records = reader.take(most)
        self._hand = Hand(reader, records[-1].offset, len(records))
        self._gone(reader, len(records))
        return records

    def handed_over(self) -> Reader[T]:
        """Whose records were taken last; they are in other hands from now on."""
        assert self._hand is not None
        hand, self._hand = self._hand, None
        return hand.reader

    async def _find(self) -> bool:
        """Wait for the next stretch; False at the end. What is in hand is finished."""
        if self._left and not self._stopped:
            raise RuntimeError("enter the consumer first: `async with topic.consumer(…) as c`")
        self._finish()
        loop = asyncio.get_running_loop()
        if loop.time() - self._yielded > YIELD_SECONDS:
            await asyncio.sleep(0)
            self._yielded = loop.time()
        while not self._stopped:
            if self._failure is not None:
                raise self._failure
            self.turn.moved.clear()
            self.commits.sometimes()  # also of what was passed over
            pause: float | None = None
            reader = self._choose()
            if reader is not None:
                pause = self._begin_stretch(reader)
                if not pause:
                    return True
            elif self._span.is_bounded:
                if await self._has_read_all():
                    return False
                pause = None if self.readers else LOOK_SECONDS
            await self._arrival(pause)
            self._yielded = loop.time()
        return False

    async def _arrival(self, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(seconds, self.turn.moved.set)
        try:
            await self.turn.moved.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _choose(self) -> Reader[T] | None:
        """Whose turn it is."""
        if self._pace is not None and self._pace.in_order_of_time:
            return self._oldest()
        return self.turn.next()

    def _oldest(self) -> Reader[T] | None:
        if not all(reader.heard or reader.held_back for reader in self.readers.values() if reader.begun):
            return None
        ready = [reader for reader in self.turn if reader.is_ready]
        return min(ready, key=lambda reader: reader.head_ms, default=None)

    def _begin_stretch(self, reader: Reader[T]) -> float:
        """Offer the next records of it. Seconds to wait before; 0: they may go."""
        run, first, end = reader.stretch()
        limit = min(end, first + STRETCH_RECORDS)
        if self.commits.auto:
            limit = min(limit, first + self.commits.left)
        if self._pace is not None:
            pause = self._pace.pause(asyncio.get_running_loop().time(), reader.head_ms)
            if pause:
                return pause
            most = self._pace.most()
            limit = limit if most > limit - first else first + int(most)
        self._reader, self._run = reader, run
        self._booked = self._next = first
        self._limit = limit
        return 0.0

    def cut(self) -> None:
        """End the stretch, and book what of it was handed out: all but the last record are finished."""
        reader, count = self._reader, self._next - self._booked
        self._limit = self._next
        self._reader = None
        if reader is None or not count:
            return
        self._booked = self._next
        reader.advance(count)
        first, deltas = self._run.stamps.first, self._run.deltas
        if count > 1:
            reader.finished = first + deltas[self._next - 2] + 1
            self.commits.uncommitted += count - 1
        self._hand = Hand(reader, first + deltas[self._next - 1], 1)
        self._gone(reader, count)

    def _gone(self, reader: Reader[T], count: int) -> None:
        """So many records of it were handed out."""
        self.turn.used(reader)
        if self._pace is not None:
            self._pace.took(count)

    def _finish(self) -> None:
        """What is in hand is finished."""
        self.cut()
        self._torn = None
        hand, self._hand = self._hand, None
        if hand is None:
            return
        hand.reader.finished = hand.reader.behind(hand.last)
        self.let_go.set()
        self.commits.uncommitted += hand.records

    async def _has_read_all(self) -> bool:
        if self.readers or self.group is None:
            return all(reader.is_at_its_end for reader in self.readers.values())
        seen = await self.group.describe()
        for row in seen.partitions:
            end = await self._span.until(self._topic_of(row.topic), row.partition, at_begin=False)
            if row.current is None or (end is not None and row.current < end):
                return False
        return not (self.readers or seen.state == "balancing" or (self._handover and self._handover.expects))

    def seek(self, partition: P, offset: int) -> None:
        """Read `partition` from `offset` on; a commit then stores that. A record in hand stays unfinished."""
        checks.whole("offset", offset)
        reader = self._reader_of(partition)
        self.cut()
        reader.seek(offset)
        self.drop(reader)

    def pause(self, *partitions: P) -> None:
        """Hand out nothing of these partitions (none given: of all) until `resume`."""
        self.cut()
        for partition in partitions or self.assignment:
            self._reader_of(partition).paused = True

    def resume(self, *partitions: P) -> None:
        """The inverse of `pause`."""
        for partition in partitions or self.assignment:
            self._reader_of(partition).paused = False
        self.turn.moved.set()

    def _reader_of(self, partition: P) -> Reader[T]:
        try:
            reader = self.readers.get(self._meant(partition))
        except TypeError:  # it is a list, for instance
            reader = None
        if reader is None:
            raise Invalid(f"partition {partition} is not assigned", hint=f"assigned: {self.assignment}")
        return reader

    # Committing

    async def commit(
        self,
        upto: Record[T] | None = None,
        metadata: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Store where the group goes on; durable on return.

        `upto` None: behind all finished records and those in hand; else behind that record, in its partition
        alone. `metadata`: text beside the offsets, at most 4 KiB. Raises `Stale` for a partition that is
        assigned to another member by now, and for one that was lost, in `on_revoked` or with a record of it
        in hand; `OutcomeUnknown`; `Invalid` without a group.
        """
        if self.group is None:
            raise Invalid("this consumer reads for no group", hint="to commit, name a group instead of None")
        self.cut()
        place = self._torn if upto is None else place_of(upto)
        if place is not None and place == self._torn:
            raise lost(place)
        if upto is not None:
            assert place is not None
            reader = self._committable(place, upto.offset)
            offset = reader.behind(upto.offset)
            reader.finished = max(reader.finished, offset)
            await self.commits.store({place: offset}, metadata, timeout)
            return
        if self._left and self._handover is not None and not self.readers:
            raise Stale("this consumer has left its group", hint="commit before, or in on_revoked")
        if self._hand is not None:
            reader = self._hand.reader
            reader.finished = max(reader.finished, reader.behind(self._hand.last))
        await self.commits.store(self.commits.finished(again=metadata is not None), metadata, timeout)

    def _committable(self, place: TopicPartition, offset: int) -> Reader[T]:
        reader = self.readers.get(place)
        if reader is not None and (offset >= reader.first or self._handover is None):
            return reader
        if self._handover is not None:
            raise lost(place)
        raise Invalid(f"{place.topic}/{place.partition} is not assigned", hint=f"assigned: {self.assignment}")

    # Working

    async def work(
        self,
        handler: Handler[T],
        *,
        concurrency: int = 10,
        grace: Duration = 30.0,
        max_attempts: int = 5,
        retry: Backoff | None = None,
        dead_letter: "Queue[Any] | Topic[Any] | None" = None,
    ) -> None:
        """Call `handler` for each record, up to `concurrency` at once; records with the same key in order.

        What is finished below every record that is not is committed every 5 s or 1,000 records, and at the
        end. A handler that raises is called again after `retry` (a `Backoff`; the default of queues), while
        records of that key wait; `penstock.Retry` says when. After `max_attempts`, or `penstock.DeadLetter`,
        the record is published to `dead_letter`, with what became of it in headers (`x-penstock-origin`, …),
        and counts as finished when that is durable; without `dead_letter` the exception comes out of here,
        and the record is read again.

        It ends by SIGTERM, by being cancelled, at `until`, or by such an exception; running handlers get
        `grace` seconds, then they are cancelled. Records whose partition moves to another member meanwhile
        are finished if they have begun; the rest is left to it.
        """
        policy = topic_worker.Policy(max_attempts, retry or Backoff(), dead_letter)
        await topic_worker.work(self, handler, policy, concurrency=concurrency, grace=seconds_of(grace))
