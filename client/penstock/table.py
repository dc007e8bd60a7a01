"""A table: the last value of every key of a compacted topic, in memory, kept current from its log.

    every partition ── long poll ──▶ rows: key → last record ──▶ get, items
                                              └──▶ watches: per key one change that nobody has seen yet

It is what Kafka Streams calls a global table and goka a view: no group, no offsets, all partitions from their
start; every process has all of it. Per key it holds the key, the value as bytes, and some 250 bytes.

Invariants: of one partition the later offset wins, of two (a key moves when a topic gets more partitions) the
later append; what ended the reading is raised by every call, so that nobody looks at a table that stands
still; a watch that is slow skips what came in between, never a last value.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload
from weakref import WeakSet

from penstock.errors import ClientClosed, Disconnected, Invalid, NotFound, OffsetOutOfRange, Timeout
from penstock.outgoing import key_of
from penstock.values import Duration, seconds_of
from penstock.views import Records
from penstock_protocol.batch import Kind
from penstock_protocol.limits import MIB, RECEIVE_MESSAGES_MAX
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import DescribeTopic

if TYPE_CHECKING:
    from penstock.topic import Topic

T = TypeVar("T")
D = TypeVar("D")

log = logging.getLogger("penstock")

PARTITIONS_MAX = 1_000
"""Each has a fetch of its own waiting at the broker, and a connection has 4,096 in all."""
LOADING_MAX = 8
"""Partitions that are read at once while they are behind: so many MiB wait here at most."""
WAIT_MS = 20_000
"""Of the long poll at the end of a partition."""
TURN_RECORDS = 1_000
"""Taken in one turn of the loop: about 2 ms."""


class Change(NamedTuple, Generic[T]):
    """What became of a key: its value before and now, None where there was or is none."""

    key: bytes
    old: T | None
    new: T | None


class Row(NamedTuple):
    """The last record of a key. `time`: of its append, ms."""

    value: bytes
    partition: int
    time: int


class Rows:
    """Key → last record, told of records one by one. Pure."""

    def __init__(self) -> None:
        self.live: dict[bytes, Row] = {}
        self.buried: dict[bytes, tuple[int, int]] = {}
        """(partition, time) of tombstones, as long as an older record may come from another partition."""

    def put(self, key: bytes, value: bytes | None, partition: int, time: int, *, loading: bool) -> None:
        """A record; None is a tombstone. `loading`: not every partition has been read to its end."""
        row = self.live.get(key)
        if row is not None and row.partition != partition and row.time > time:
            return
        if self.buried and key in self.buried:
            grave, died_at = self.buried[key]
            if grave != partition and died_at > time:
                return
            del self.buried[key]
        if value is not None:
            self.live[key] = Row(value, partition, time)
            return
        self.live.pop(key, None)
        if loading:
            self.buried[key] = partition, time


class Watch(Generic[T]):
    """`async for change in table.watch()`: see `Table.watch`."""

    def __init__(self, table: "Table[T]", wants: Callable[[bytes], bool]) -> None:
        self._table = table
        self._wants = wants
        self._pending: dict[bytes, bytes | None] = {}
        """Keys that changed since they were last told of, first changed first, and what they had then."""
        self._woken = asyncio.Event()

    def note(self, key: bytes, old: bytes | None) -> None:
        """For the table: a key has another value now; it had `old`."""
        if self._wants(key):
            self._pending.setdefault(key, old)
            self._woken.set()

    def wake(self) -> None:
        """For the table: it has ended."""
        self._woken.set()

    def __aiter__(self) -> "Watch[T]":
        return self

    async def __anext__(self) -> Change[T]:
        while True:
            if self._table.has_ended:
                raise StopAsyncIteration
            while self._pending:
                key = next(iter(self._pending))
                old, new = self._pending.pop(key), self._table.raw(key)
                if old != new:
                    return Change(key, self._table.decoded(old), self._table.decoded(new))
            self._woken.clear()
            await self._woken.wait()


class Table(Generic[T]):
    """`async with topic.table() as table: await table.ready(); table.get(key)`.

    Keys are bytes; str is UTF-8. Values go through the topic's codec whenever they are asked for. While the
    broker cannot be reached it stays as it was. Every call raises what ended the reading, if anything did:
    `NotFound` for a topic that was deleted, `Corrupt` for records that are damaged.
    """

    def __init__(self, topic: "Topic[T]", refresh: Duration) -> None:
        self._topic = topic
        self._refresh = seconds_of(refresh)
        if not self._refresh:
            raise Invalid("refresh=0 would ask without end", hint="pass seconds, 30 for instance")
        self._uuid = b""
        self._rows = Rows()
        self._watches: WeakSet[Watch[T]] = WeakSet()
        self._readers: list[asyncio.Task[None]] = []
        """One per partition."""
        self._growing: asyncio.Task[None] | None = None
        self._behind: set[int] = set()
        """Partitions that have not been read up to the end they had when their reading began."""
        self._ready = asyncio.Event()
        self._loading = asyncio.Semaphore(LOADING_MAX)
        self._failure: Exception | None = None
        self._closed = False

    # Life

    async def __aenter__(self) -> "Table[T]":
        await self._look()
        self._growing = asyncio.ensure_future(self._grow())
        self._topic.client.consumers.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._topic.client.consumers.discard(self)
        self.stop()
        await self.closed()

    def stop(self) -> None:
        """Read no more; watches end, and what is asked is refused (`ClientClosed`)."""
        self._closed = True
        self._end()

    async def closed(self) -> None:
        """After `stop`: return when nothing reads any more."""
        await asyncio.wait(self._tasks())

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._readers, *([self._growing] if self._growing is not None else [])]

    def _end(self) -> None:
        for task in self._tasks():
            if task is not asyncio.current_task():
                task.cancel()
        self._ready.set()
        for watch in self._watches:
            watch.wake()

    def _fail(self, error: Exception) -> None:
        """Nothing is kept current any more; whoever asks is told why."""
        if self._failure is None and not self._closed:
            self._failure = error
            self._end()

    @property
    def has_ended(self) -> bool:
        """Whether it was closed. Raises what ended the reading, if that was something else."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        return self._closed

    def _current(self) -> dict[bytes, Row]:
        if self.has_ended:
            raise ClientClosed("the table is closed", hint="look into it inside of `async with`")
        return self._rows.live

    # Asking

    @property
    def is_ready(self) -> bool:
        """Whether everything that was there when it was opened has been read. Not while a partition is read
        anew, or one that the topic got since then."""
        self._current()
        return not self._behind

    async def ready(self) -> None:
        """Return when `is_ready`."""
        while not self.is_ready:
            self._ready.clear()
            await self._ready.wait()

    @overload
    def get(self, key: bytes | str) -> T | None: ...
    @overload
    def get(self, key: bytes | str, default: D) -> T | D: ...
    def get(self, key: bytes | str, default: Any = None) -> Any:
        """The last value of a key, else `default`."""
        row = self._current().get(key_of(key))
        return default if row is None else self._topic.codec.decode(row.value)

    def __getitem__(self, key: bytes | str) -> T:
        return self._topic.codec.decode(self._current()[key_of(key)].value)

    def __contains__(self, key: bytes | str) -> bool:
        return key_of(key) in self._current()

    def __len__(self) -> int:
        return len(self._current())

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.keys())

    def keys(self) -> list[bytes]:
        """Every key there is now."""
        return list(self._current())

    def items(self) -> Iterator[tuple[bytes, T]]:
        """Every key and value as they are now, whatever changes while they are looked at."""
        decode = self._topic.codec.decode
        return ((key, decode(row.value)) for key, row in list(self._current().items()))

    def watch(self, key: bytes | str | None = None, *, prefix: bytes | str | None = None) -> Watch[T]:
        """Changes from this call on: of one key, of those with a prefix, or of all.

        Who is slow is told once for each key: from the value he knew to the last one, and nothing if that is
        the same. Asked for before `ready`, it begins with what there is. It ends with the table.
        """
        self._current()
        if key is not None and prefix is not None:
            raise Invalid("key and prefix exclude each other", hint="pass one of them")
        if key is not None:
            watch = Watch(self, key_of(key).__eq__)
        else:
            begin = b"" if prefix is None else key_of(prefix)
            watch = Watch(self, lambda changed: changed.startswith(begin))
        self._watches.add(watch)
        return watch

    def raw(self, key: bytes) -> bytes | None:
        """For watches: the value now, as it was sent."""
        row = self._rows.live.get(key)
        return None if row is None else row.value

    def decoded(self, value: bytes | None) -> T | None:
        """For watches."""
        return None if value is None else self._topic.codec.decode(value)

    # Reading

    async def _look(self) -> None:
        """Read the partitions that the topic has and that are not read yet. Raises `NotFound`, `Invalid`."""
        name = self._topic.name
        found = unpack_document((await self._topic.client.wire.request(DescribeTopic(name))).payload)
        if found["settings"]["cleanup"] == "delete":
            raise Invalid(
                f"topic {name!r} is not compacted: it forgets keys as they grow old",
                hint=f"client.alter_topic({name!r}, cleanup='compact') keeps the last record of each",
            )
        if found["uuid"] != (self._uuid or found["uuid"]):
            raise NotFound(
                f"topic {name!r} was deleted, and another has its name", hint="open the table again"
            )
        self._uuid = found["uuid"]
        partitions = found["partitions"]
        if len(partitions) > PARTITIONS_MAX:
            raise Invalid(
                f"topic {name!r} has {len(partitions):,} partitions; a table reads {PARTITIONS_MAX:,}",
                hint="a table needs one partition, or a few",
            )
        for partition in range(len(self._readers), len(partitions)):
            self._behind.add(partition)
            start, end = partitions[partition]["start"], partitions[partition]["end"]
            self._readers.append(asyncio.ensure_future(self._read(partition, start, end)))

    async def _grow(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._refresh)
                await self._look_if_it_answers()
        except Exception as error:
            self._fail(error)

    async def _look_if_it_answers(self) -> None:
        try:
            await self._look()
        except (Timeout, Disconnected) as error:
            log.debug("describing %r later: %s", self._topic, error)

    async def _read(self, partition: int, start: int, end: int) -> None:
        try:
            await self._follow(partition, start, end)
        except Exception as error:
            self._fail(error)

    async def _follow(self, partition: int, position: int, target: int) -> None:
        """Read a partition for ever. `target`: where it is no longer behind."""
        unseen: set[bytes] = set()
        """Keys that it had when it was read before, and has not shown again."""
        while True:
            if position >= target:
                self._caught_up(partition, unseen)
            try:
                async with self._loading if partition in self._behind else nullcontext():
                    records = await self._topic.fetch_once(
                        partition, position, RECEIVE_MESSAGES_MAX, MIB, WAIT_MS, None
                    )
                    await self._take(partition, records, unseen)
                    position = records.next_offset
            except (Timeout, Disconnected) as error:
                log.debug("fetching from %r again: %s", self._topic, error)
            except OffsetOutOfRange as error:  # what is next has gone: what is left of it is read anew
                position, target = error.detail["start"], error.detail["end"]
                self._behind.add(partition)
                unseen = {key for key, row in self._rows.live.items() if row.partition == partition}
                await self._look_if_it_answers()

    async def _take(self, partition: int, records: Records[T], unseen: set[bytes]) -> None:
        taken, is_watched = 0, bool(self._watches)
        for run in records.runs:
            for index in range(run.stamps.messages):
                taken += 1
                if not taken % TURN_RECORDS:
                    await asyncio.sleep(0)
                    is_watched = bool(self._watches)
                key = run.cell(Kind.KEY, index)
                if key is None:  # nothing that a table could hold
                    continue
                value = None if run.integer(Kind.ABSENT, index) else run.raw(index)
                unseen.discard(key)
                self._put(key, value, partition, run.stamps.time, is_watched=is_watched)

    def _put(
        self, key: bytes, value: bytes | None, partition: int, time: int, *, is_watched: bool = True
    ) -> None:
        old = self.raw(key) if is_watched else None
        self._rows.put(key, value, partition, time, loading=bool(self._behind))
        if is_watched:  # a look into a weak set costs as much as all the rest
            for watch in self._watches:
                watch.note(key, old)

    def _caught_up(self, partition: int, unseen: set[bytes]) -> None:
        for key in unseen:
            row = self._rows.live.get(key)
            if row is not None and row.partition == partition:
                self._put(key, None, partition, row.time)
        unseen.clear()
        self._behind.discard(partition)
        if not self._behind:
            self._rows.buried.clear()
            self._ready.set()

    def __repr__(self) -> str:
        return f"<Table of {self._topic.name!r}>"
