"""The handle of one topic: a name, a codec, the number of partitions once it was asked for, and the calls.

Keys go where a Kafka producer would put them, unless the handle has a partitioner; records without one go to
one partition per batch, in turn.
"""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from penstock import checks, codecs
from penstock.batching import Address, Route, Stretch
from penstock.compression import Compression, codec_of
from penstock.errors import Invalid, NotFound
from penstock.murmur2 import partition_of
from penstock.outgoing import Outgoing, key_of, record_cells
from penstock.partitioner import Partitioner, checked
from penstock.record import RecordRun
from penstock.span import Start
from penstock.table import Table
from penstock.topic_consumer import TopicConsumer, TopicConsumerOptions
from penstock.values import Cells, Duration, Headers, RecordMetadata, instant_of, ms_at, ms_of
from penstock.views import Receipts, Records
from penstock.where import Where, where_to_wire
from penstock_protocol.limits import MIB, PARTITIONS_MAX, WAIT_MS_MAX
from penstock_protocol.messages.queues import Confirm
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.messages.topics import At, DescribeTopic, Fetch, Fetched, Offset, Produce
from penstock_protocol.slices import decode_slices

if TYPE_CHECKING:
    from penstock.client import Client

T = TypeVar("T")
PARTITIONS_KNOWN_SECONDS = 60.0
"""A handle that produces asks that often how many partitions there are, on a new connection, and when the
broker objects. Kafka: metadata.max.age.ms, 5 min."""


class Addresses(dict[int, Address]):
    """The addresses of a handle by partition; each is made, and checked, once."""

    def __init__(self, make: Callable[[int], Address]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, partition: int) -> Address:
        address = self[partition] = self._make(partition)
        return address


class Topic(Generic[T]):
    """A topic by name. Whether it exists is found out by the first call (`NotFound`). Raises `Invalid` for
    what cannot be a name, a codec or a compression."""

    def __init__(
        self,
        client: "Client",
        name: str,
        codec: codecs.Codec[T],
        *,
        compression: Compression | None = None,
        partitioner: Partitioner | None = None,
        producer: str | None = None,
    ) -> None:
        self.name = checks.name("topic", name)
        self.codec = checks.codec(codec)
        self.client = client
        if compression is not None:
            checks.text("compression", compression)
        self._compression = codec_of(compression)
        self._partitioner = None if partitioner is None else checked(partitioner)
        self._producer = "" if producer is None else checks.name("producer", producer)
        self._addresses = Addresses(self._address)
        self._partitions = 0
        self._known: tuple[int, float] | None = None
        """On which connection the number of partitions was told, and when (loop time)."""
        self._describing = asyncio.Lock()
        self._counting = 0
        """Calls that have not been let through by it; who comes later does not pass them."""
        self._turn = int(client.chance() * PARTITIONS_MAX)
        """By chance, so that handles which produce one record each do not all choose the same partition."""

    # Produce

    async def produce(
        self,
        value: T | bytes | str | None,
        *,
        key: bytes | str | None = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp: datetime | None = None,
        expected_offset: int | None = None,
        timeout: float | None = None,
    ) -> RecordMetadata:
        """Append one record; durable on return. Concurrent calls to one partition share a batch.

        `partition` None: by the partitioner, else the key, else in turn. `value` None is a tombstone for
        `key`. Cancelled before its frame is built, it is taken back; later, only the waiting ends. Raises
        `NotFound`, `TooLarge`, `DiskFull`; `OutcomeUnknown` at the timeout; with `expected_offset`
        `Conflict`, unless the record gets just that offset of its partition (`detail`: partition, expected,
        end).
        """
        if expected_offset is not None:
            checks.whole("expected_offset", expected_offset)
        if self._producer:
            await self.client.publisher.producers.ready(self._producer, timeout)
        if partition is None:
            await self._count(timeout)
        to, body, cells = self._encode(Outgoing(value, headers, key, partition, timestamp))
        if expected_offset is not None:
            to = self._expecting(to)
        view = partial(_metadata, timestamp)
        try:
            return await self.client.publisher.publish(
                to, body, cells, view, timeout=timeout, expected_offset=expected_offset
            )
        except (Invalid, NotFound):
            self._known = None
            raise

    async def produce_many(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        partition: int | None = None,
        atomic: bool = False,
        expected_offset: int | None = None,
        timeout: float | None = None,
    ) -> Receipts[RecordMetadata]:
        """Append values or `Outgoing`s, taken from `items` as they are sent; in order within a partition.

        `partition`: of all that do not name one themselves, whatever their key.
        Up to one batch per partition (1 MiB, 10,000 records) it is all or nothing and raises what `produce`
        raises. Longer input goes as batches; the first failure stops it and raises `BatchError`.
        `atomic=True` refuses longer input (`TooLarge`, nothing sent). `expected_offset`: of the first record,
        as in `produce`; it takes `atomic=True` and records of one partition. `timestamp` in the receipts is
        the time of the append.
        """
        if not isinstance(items, Iterable | AsyncIterable):
            raise Invalid(f"items={items!r} cannot be iterated", hint="pass a list of values, or of Outgoing")
        if expected_offset is not None:
            checks.whole("expected_offset", expected_offset)
        if self._producer:
            await self.client.publisher.producers.ready(self._producer, timeout)
        await self._count(timeout)
        plain: Address | Route | None = None
        if self.codec is codecs.raw and (partition is not None or self._partitioner is None):
            plain = self._in_turn if partition is None else self._to(partition, None)
        encode = self._encode if partition is None else partial(self._encode_into, partition)
        if expected_offset is not None:
            if not atomic:
                raise Invalid("expected_offset counts for one batch", hint="pass atomic=True, too")
            plain, encode = None, partial(self._encode_expecting, partition)
        try:
            return await self.client.publisher.many(
                items,
                encode,
                _receipts,
                plain=plain,
                atomic=atomic,
                timeout=timeout,
                expected_offset=expected_offset,
            )
        except (Invalid, NotFound):
            self._known = None
            raise

    async def count(self, *, timeout: float | None = None) -> int:
        """How many partitions it has now; for this package."""
        self._known = None
        await self._count(timeout)
        return self._partitions

    async def _count(self, timeout: float | None) -> None:
        """Know the number of partitions, as it was not long ago."""
        if self._is_known() and not self._counting:
            return
        self._counting += 1
        try:
            async with self._describing:
                if not self._is_known():
                    wire, now = self.client.wire, asyncio.get_running_loop().time()
                    reply = await wire.request(DescribeTopic(self.name), timeout=timeout)
                    self._partitions = len(unpack_document(reply.payload)["partitions"])
                    self._known = wire.connections, now
        finally:
            self._counting -= 1

    def _is_known(self) -> bool:
        connections, since = self._known or (-1, 0.0)
        fresh = asyncio.get_running_loop().time() - since < PARTITIONS_KNOWN_SECONDS
        return fresh and connections == self.client.wire.connections

    def _encode(self, item: Any) -> tuple[Address | Route, bytes, Cells]:
        if not isinstance(item, Outgoing):
            return self._to(None, None), self.codec.encode(item), ()
        absent = item.body is None
        if absent and item.key is None:
            raise Invalid("a tombstone needs a key", hint="pass key=…, or a value")
        try:
            cells = record_cells(item, absent=absent)
            key = None if item.key is None else key_of(item.key)
        except (AttributeError, TypeError, ValueError) as error:
            raise checks.unsendable(item, error) from error
        to = self._to(item.partition, key)
        return to, b"" if absent else self.codec.encode(item.body), cells

    def _encode_into(self, partition: int | None, item: Any) -> tuple[Address | Route, bytes, Cells]:
        """The same, into that partition unless the item names another."""
        if partition is not None:
            item = item if isinstance(item, Outgoing) else Outgoing(item)
            item = item if item.partition is not None else replace(item, partition=partition)
        return self._encode(item)

    def _encode_expecting(self, partition: int | None, item: Any) -> tuple[Address, bytes, Cells]:
        to, body, cells = self._encode_into(partition, item)
        return self._expecting(to), body, cells

    def _expecting(self, to: Address | Route) -> Address:
        """The partition in which an offset is expected. Raises `Invalid` where it is any of several."""
        if isinstance(to, Address):
            return to
        if self._partitions > 1:
            raise Invalid(
                f"expected_offset is an offset of one partition, and {self.name!r} has {self._partitions}",
                hint="pass partition=… or key=…",
            )
        return to()

    def _to(self, partition: int | None, key: bytes | None) -> Address | Route:
        """Where a record goes: the partition given, else the partitioner's, else the key's, else in turn."""
        if partition is None and self._partitioner is not None:
            partition = self._partitioner(key, self._partitions)
        if partition is None and key is None:
            return self._in_turn
        if partition is None:
            assert key is not None
            partition = partition_of(key, self._partitions)
        return self._addresses[partition] if type(partition) is int else self._address(partition)

    def _address(self, partition: int) -> Address:
        """Raises `Invalid` for what is no partition of any topic."""
        checks.partition(partition)
        return Address(Produce, self.name, partition, self._compression, self._producer)

    def _in_turn(self) -> Address:
        """The partition of the next batch of records without a key."""
        self._turn = (self._turn + 1) % self._partitions
        return self._addresses[self._turn]

    # Fetch

    async def fetch(
        self,
        partition: int,
        offset: int,
        *,
        max_records: int = 500,
        max_bytes: int = MIB,
        wait: Duration = 0.0,
        where: Where | None = None,
        timeout: float | None = None,
    ) -> Records[T]:
        """Records from `offset` on, up to `max_records` and about `max_bytes`, waiting up to `wait` for the
        first; with `where` those that fit, and as many requests as it takes to come by the others. Empty when
        the wait is over. Raises `OffsetOutOfRange`, `NotFound`, `Corrupt`, `Timeout`."""
        checks.partition(partition)
        checks.whole("offset", offset)
        checks.whole("max_records", max_records, least=1)
        checks.whole("max_bytes", max_bytes, least=1)
        left = ms_of(wait)
        wanted = where_to_wire(where)
        clock = asyncio.get_running_loop().time
        while True:
            now, asked_at = min(left, WAIT_MS_MAX), clock()
            records = await self.fetch_once(
                partition, offset, max_records, max_bytes, now, timeout, where=wanted
            )
            passed = not records and records.next_offset > offset
            waited = int(1000 * (clock() - asked_at)) if wanted else 0
            left -= min(now, waited) if passed else now
            if records or not (left or (passed and records.next_offset < records.end)):
                return records
            offset = records.next_offset

    async def fetch_once(
        self,
        partition: int,
        offset: int,
        max_records: int,
        max_bytes: int,
        wait: int,
        timeout: float | None,
        *,
        where: dict[str, Any] | None = None,
        on_part: Callable[[Records[T]], None] | None = None,
    ) -> Records[T]:
        """What one FETCH brings, for this package. `wait` in ms, `where` as it goes over the wire; empty in a
        hole, too, and behind records that do not fit. `on_part`: be answered in parts, and get all but the
        last; behind one `Disconnected` means that the rest is to be asked for."""
        fetched = await self.client.wire.request(
            Fetch(self.name, partition, offset, max_records, max_bytes, wait, where, on_part is not None),
            timeout=self.client.timeout + wait / 1000 if timeout is None else timeout,
            on_part=None if on_part is None else lambda part: on_part(self._fetched(partition, part)),
        )
        return self._fetched(partition, fetched)

    def _fetched(self, partition: int, fetched: Fetched) -> Records[T]:
        slices = decode_slices(fetched.payload, fetched.slices)
        runs = [RecordRun(stamps, batch, self.name, self.codec) for stamps, batch in slices]
        return Records(partition, runs, start=fetched.start, end=fetched.end, next_offset=fetched.next)

    async def offset(self, partition: int, at: Start = "earliest", *, timeout: float | None = None) -> int:
        """The offset of a place in a partition; for an instant after every append, the end. Raises
        `NotFound`, `Invalid`."""
        checks.partition(partition)
        if isinstance(at, datetime):
            request = Offset(self.name, partition, At.TIME, ms_at(at))
        else:
            request = Offset(self.name, partition, _place(at))
        reply = await self.client.wire.request(request, timeout=timeout)
        offset: int = reply.offset
        return offset

    def consumer(self, group: str | None, **options: Unpack[TopicConsumerOptions]) -> TopicConsumer[T]:
        """Records from where `group` left off: `async with … as c: async for record in c`.

        It is a member of the group: the broker shares the partitions out among the members, and moves as few
        as it can when one comes or goes. With `partitions=[…]` it reads those, whatever others read. A
        `group` of None reads on its own, and commits nothing. What is committed is the next offset to read; a
        record is finished when the loop asks for the next one.

        Before a partition is given away, nothing more of it is handed out, the loop finishes what it has in
        hand (it has 5 minutes), and `on_revoked` is called, in which `commit()` still works. `on_assigned` is
        called before the first record of a partition, and may `seek`. Whoever is silent for the session
        timeout (45 s) loses its partitions: `on_revoked` is told which, and a commit is `Stale`; then it
        joins again. `instance` in use by another process raises `Stale` out of the loop.

        With `until` the loop ends when every partition has been read up to there; partitions that a mapping
        does not name, up to their end now. A member that was given no partition ends when the others have
        committed that far. The other options: `start`, `auto_commit`, `rate`, `where`, `assignor`. Raises
        `Invalid` for an option, or a value of one, that there is not.
        """
        checks.reading(group, options, checks.partition)
        partitions = options.get("partitions")
        if partitions is not None:
            options["partitions"] = partitions = checks.listed("partitions", partitions, "[0, 1]")
            for each in partitions:
                checks.partition(each)
        return TopicConsumer(self, group, options)

    def table(self, *, refresh: Duration = 30.0) -> Table[T]:
        """The last value of every key, in memory: `async with topic.table() as table: await table.ready()`.

        For a topic with `cleanup` "compact" (or "both": then a key whose record grew too old stays until the
        table is opened anew). `refresh`: how often it looks whether the topic has more partitions. Opening
        raises `NotFound`; `Invalid` for a topic that is not compacted.
        """
        return Table(self, refresh)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}>"


def _place(at: str) -> At:
    try:
        return {"earliest": At.EARLIEST, "latest": At.LATEST}[at]
    except (KeyError, TypeError):
        raise Invalid(f"{at!r} is no place in a partition", hint="earliest, latest or a datetime") from None


def _metadata(timestamp: datetime | None, confirm: Confirm, index: int) -> RecordMetadata:
    return RecordMetadata(
        confirm.partition,
        confirm.first + index,
        instant_of(confirm.time if timestamp is None else ms_at(timestamp)),
        confirm.duplicate,
        confirm.durability,
    )


def _metadata_in(stretch: Stretch, index: int) -> RecordMetadata:
    return _metadata(None, stretch.confirm, stretch.first + index)


def _receipts(stretches: list[Stretch]) -> Receipts[RecordMetadata]:
    return Receipts(stretches, [stretch.messages for stretch in stretches], _metadata_in)
