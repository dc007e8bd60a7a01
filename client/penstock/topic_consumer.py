"""Reading partitions of a topic for a group: per partition one long poll in flight and one fetch waiting.

    position    what the next fetch asks for
    finished    what a commit stores: behind the last record the loop was done with

A record is finished when the loop asks for the next one. Invariant: no commit that was not asked for covers
an unfinished record; what a raising body had in hand is read again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from penstock.errors import Disconnected, Error, Invalid, Timeout
from penstock.events import CommitFailed
from penstock.group import Group
from penstock.record import Record, RecordRun
from penstock.views import Records, Taken
from penstock_protocol.limits import MIB, RECEIVE_MESSAGES_MAX

if TYPE_CHECKING:
    from penstock.topic import Start, Topic

T = TypeVar("T")

log = logging.getLogger("penstock")

FETCH_RECORDS = RECEIVE_MESSAGES_MAX
FETCH_BYTES = MIB
WAIT_MS = 20_000
"""Of the long poll at the end of a partition."""
AUTO_COMMIT_SECONDS = 5.0
AUTO_COMMIT_RECORDS = 1_000


class Reader(Generic[T]):
    """One partition: a task that keeps one fetch ahead of the application, and what came of it.

    `finished` is what a commit stores, `committed` what one stored.
    """

    def __init__(self, topic: "Topic[T]", partition: int, position: int, arrived: asyncio.Event) -> None:
        self.partition = partition
        self.finished = position
        self.committed = position
        self._topic = topic
        self._arrived = arrived
        self._paused = False
        self._begin(position)

    def _begin(self, position: int) -> None:
        self._position = position
        self._last = -1
        self._behind_last = position
        self._reading: deque[RecordRun[T]] = deque()
        self._index = 0
        """In the first of these runs, of the next record to take."""
        self._ahead: Records[T] | None = None
        self._failure: Exception | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._task = asyncio.ensure_future(self._read())

    def seek(self, offset: int) -> None:
        """Go on at `offset`; what was fetched is dropped."""
        self._task.cancel()
        self.finished = offset
        self._begin(offset)

    def pause(self) -> None:
        """Hand out nothing until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Hand out again."""
        self._paused = False
        self._arrived.set()

    def take(self, most: int) -> Sequence[Record[T]]:
        """Up to `most` records, in order, made when they are touched. Raises what ended the reading."""
        if self._paused:
            return ()
        if not self._reading and not self._turn_to_what_is_ahead():
            return ()
        if most == 1:
            return (Record(*self._take_of_run(1)[:2]),)
        pieces = []
        while most and self._reading:
            pieces.append(self._take_of_run(most))
            most -= pieces[-1][2]
        return Taken(pieces)

    def _turn_to_what_is_ahead(self) -> bool:
        if self._ahead is None:
            if self._failure is not None:
                raise self._failure
            return False
        self._reading.extend(self._ahead.runs)
        self._last, self._behind_last = self._ahead[-1].offset, self._ahead.next_offset
        self._ahead = None
        self._wanted.set()
        return True

    def _take_of_run(self, most: int) -> tuple[RecordRun[T], int, int]:
        run, first = self._reading[0], self._index
        count = min(most, run.stamps.messages - first)
        self._index += count
        if self._index == run.stamps.messages:
            self._reading.popleft()
            self._index = 0
        return run, first, count

    def behind(self, record: Record[T]) -> int:
        """Where to go on when that record is finished: behind the last of a fetch there may be a hole."""
        return self._behind_last if record.offset == self._last else record.offset + 1

    def _pass_hole(self, upto: int) -> None:
        """There is nothing between all that was fetched and `upto`."""
        if self.finished == self._position:
            self.finished = upto
        self._position = self._behind_last = upto

    @property
    def is_between_fetches(self) -> bool:
        """Everything fetched so far was taken, but for what waits: time for another partition."""
        return not self._reading

    async def close(self) -> None:
        """End the fetch."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        try:
            while True:
                await self._wanted.wait()
                records = await self._fetch()
                if not records:
                    if records is not None:
                        self._pass_hole(records.next_offset)
                else:
                    self._wanted.clear()
                    self._ahead = records
                    self._position = records.next_offset
                    self._arrived.set()
        except Exception as error:
            self._failure = error  # raised where the application asks for the next record
            self._arrived.set()

    async def _fetch(self) -> Records[T] | None:
        """None when the broker could not be reached in time: the task asks again."""
        try:
            return await self._topic.fetch_once(
                self.partition, self._position, FETCH_RECORDS, FETCH_BYTES, WAIT_MS, None
            )
        except (Timeout, Disconnected) as error:
            log.debug("fetching from %r again: %s", self._topic, error)
            return None


class TopicConsumer(Generic[T]):
    """`async with topic.consumer(group, partitions=[0]) as c: async for record in c: …`, by one task.

    Reconnects are invisible. `OffsetOutOfRange` and other refusals come out of the loop; `seek` goes on.
    """

    def __init__(
        self,
        topic: "Topic[T]",
        group: str,
        *,
        partitions: Sequence[int],
        start: "Start",
        auto_commit: bool,
    ) -> None:
        if not partitions:
            raise Invalid("a consumer without partitions reads nothing", hint="for instance partitions=[0]")
        self.assignment = tuple(sorted(set(partitions)))
        """The partitions this consumer reads."""
        self._topic = topic
        self._group = Group(topic.client, group)
        self._start: Start = start
        self._auto = auto_commit
        self._readers: dict[int, Reader[T]] = {}
        self._turn: deque[Reader[T]] = deque()
        self._arrived = asyncio.Event()
        self._hand: Sequence[Record[T]] = ()
        self._stopped = False
        self._uncommitted = 0
        """Records finished since the last automatic commit."""
        self._timer: asyncio.TimerHandle | None = None
        self._storing: asyncio.Task[None] | None = None
        self._store_lock = asyncio.Lock()

    # Life

    async def __aenter__(self) -> "TopicConsumer[T]":
        committed = await self._group.offsets(self._topic.name)
        positions = {
            partition: committed[partition]
            if partition in committed
            else await self._topic.offset(partition, self._start)
            for partition in self.assignment
        }
        for partition, position in positions.items():
            self._readers[partition] = Reader(self._topic, partition, position, self._arrived)
        self._turn.extend(self._readers.values())
        self._topic.client.consumers.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._topic.client.consumers.discard(self)
        await self._leave(commit=kind is None)

    def stop(self) -> None:
        """The loop ends when it asks for the next record."""
        self._stopped = True
        self._arrived.set()

    async def closed(self) -> None:
        """After `stop`: end the fetches, and with `auto_commit` store what is finished."""
        await self._leave(commit=True)

    async def _leave(self, *, commit: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for reader in self._readers.values():
            await reader.close()
        if self._storing is not None:
            await asyncio.wait([self._storing])
        if self._auto and commit:
            await self._store(self._finished())

    # Reading

    def __aiter__(self) -> "TopicConsumer[T]":
        return self

    async def __anext__(self) -> Record[T]:
        records = await self._next(1)
        if not records:
            raise StopAsyncIteration
        return records[0]

    async def batches(self, max_records: int = 500) -> AsyncIterator[Sequence[Record[T]]]:
        """Up to `max_records` records of one partition at a time; they are finished together."""
        while records := await self._next(max_records):
            yield records

    async def _next(self, most: int) -> Sequence[Record[T]]:
        """The next records of one partition; none after `stop`. Those in hand are finished."""
        self._finish()
        while not self._stopped:
            self._arrived.clear()
            for _ in self._readers:
                reader = self._turn[0]
                self._hand = reader.take(most)
                if not self._hand or reader.is_between_fetches:
                    self._turn.rotate(-1)
                if self._hand:
                    return self._hand
            await self._arrived.wait()
        return ()

    def seek(self, partition: int, offset: int) -> None:
        """Read `partition` from `offset` on; a commit then stores that. A record in hand stays unfinished."""
        self._reader(partition).seek(offset)
        if self._hand and self._hand[0].partition == partition:
            self._hand = ()

    def pause(self, *partitions: int) -> None:
        """Hand out nothing of these partitions (none given: of all) until `resume`."""
        for partition in partitions or self.assignment:
            self._reader(partition).pause()

    def resume(self, *partitions: int) -> None:
        """The inverse of `pause`."""
        for partition in partitions or self.assignment:
            self._reader(partition).resume()

    def _reader(self, partition: int) -> Reader[T]:
        reader = self._readers.get(partition)
        if reader is None:
            raise Invalid(f"partition {partition} is not assigned", hint=f"assigned: {self.assignment}")
        return reader

    def _finish(self) -> None:
        if not self._hand:
            return
        last = self._hand[-1]
        reader = self._readers[last.partition]
        reader.finished = reader.behind(last)
        self._uncommitted += len(self._hand)
        self._hand = ()
        if self._auto:
            self._store_sometimes()

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
        alone. `metadata`: text beside the offsets, at most 4 KiB. Raises `Stale`, `OutcomeUnknown`.
        """
        for record in self._hand[-1:] if upto is None else (upto,):
            reader = self._reader(record.partition)
            reader.finished = max(reader.finished, reader.behind(record))
        if upto is None:
            offsets = self._finished(again=metadata is not None)
        else:
            offsets = {upto.partition: self._reader(upto.partition).behind(upto)}
        await self._store(offsets, metadata, timeout)

    def _finished(self, *, again: bool = False) -> dict[int, int]:
        """What finished records leave to store; `again`: also what is stored already."""
        return {
            reader.partition: reader.finished
            for reader in self._readers.values()
            if again or reader.finished != reader.committed
        }

    async def _store(
        self, offsets: dict[int, int], metadata: str | None = None, timeout: float | None = None
    ) -> None:
        """Commit, one after the other, so that an older offset never follows a newer one."""
        async with self._store_lock:
            await self._group.commit(self._topic.name, offsets, metadata=metadata, timeout=timeout)
            for partition, offset in offsets.items():
                self._readers[partition].committed = offset

    def _store_sometimes(self) -> None:
        if self._uncommitted >= AUTO_COMMIT_RECORDS:
            self._store_now()
        elif self._timer is None:
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(AUTO_COMMIT_SECONDS, self._store_now)

    def _store_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._storing is not None and not self._storing.done():
            self._arm()
            return
        self._uncommitted = 0
        self._storing = asyncio.ensure_future(self._store_finished())

    async def _store_finished(self) -> None:
        try:
            await self._store(self._finished())
        except Error as error:
            log.warning("committing %r for group %r failed: %s", self._topic, self._group.name, error)
            self._topic.client.wire.emit(CommitFailed(self._group.name, self._topic.name, error))
