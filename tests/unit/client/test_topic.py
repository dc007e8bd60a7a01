"""Topics: where records go, what is fetched, what a consumer reads and commits. The test is the broker."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from tests.fakes.client_wire import LOG, FakeClient, delivered, payload_of, turns

from penstock import codecs, topic_consumer
from penstock.errors import Invalid, NotFound, OffsetOutOfRange, Timeout
from penstock.events import CommitFailed
from penstock.group import Group
from penstock.murmur2 import partition_of
from penstock.topic import Topic
from penstock.topic_consumer import TopicConsumer
from penstock.values import Outgoing
from penstock_protocol.batch import Kind
from penstock_protocol.limits import WAIT_MS_MAX
from penstock_protocol.messages.queues import Confirm
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done
from penstock_protocol.messages.topics import (
    At,
    Commit,
    DescribeTopic,
    Fetch,
    Fetched,
    Offset,
    OffsetReply,
    Offsets,
)

APPENDED = 1_700_000_000_000


class Publisher:
    """Confirms everything at once, at offset 40."""

    def __init__(self) -> None:
        self.published: list[tuple[Any, bytes, dict[Kind, Any]]] = []
        self.error: Exception | None = None

    async def publish(self, to: Any, body: bytes, cells: Any, view: Any, *, timeout: float | None) -> Any:
        address = to() if callable(to) else to
        self.published.append((address, body, dict(cells)))
        if self.error is not None:
            raise self.error
        confirm = Confirm(address.partition, 40, 1, False, "fsync", 0, APPENDED, LOG.bytes)
        return view(confirm, 0)


class Broker(FakeClient):
    """A topic in memory."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__()
        self.publisher = Publisher()
        self.logs: list[list[bytes]] = [[] for _ in range(partitions)]
        self.starts = [0] * partitions
        self.committed: dict[int, tuple[int, str]] = {}
        self.wire.answers = {
            DescribeTopic: lambda _: document({"partitions": [{}] * len(self.logs)}),
            Offsets: lambda _: document([[p, *stored, APPENDED] for p, stored in self.committed.items()]),
            Offset: self._offset,
            Commit: self._commit,
            Fetch: self._fetch,
        }

    def _offset(self, request: Offset) -> OffsetReply:
        return OffsetReply(0 if request.at == At.EARLIEST else len(self.logs[request.partition]))

    def _commit(self, request: Commit) -> Done:
        for partition, offset, metadata in request.offsets:
            self.committed[partition] = offset, metadata
        return Done()

    def _fetch(self, request: Fetch) -> Any:
        """Answered at once if there are records, or when there are."""
        log, start = self.logs[request.partition], self.starts[request.partition]
        if not start <= request.offset <= len(log):
            return OffsetOutOfRange("gone", detail={"start": start, "end": len(log)})
        bodies = log[request.offset :][: min(request.records, 10)]
        if not bodies:
            return None
        part = delivered(*bodies, first=request.offset, partition=request.partition, token=0)
        slices, payload = payload_of(part)
        return Fetched(slices, start, len(log), payload)

    def append(self, *bodies: bytes, partition: int = 0) -> None:
        self.logs[partition] += bodies
        for asked in self.wire.asked:
            if not asked.answered and isinstance(asked.message, Fetch):
                answer = self._fetch(asked.message)
                if answer is not None:
                    asked.reply(answer)

    def topic(self, codec: codecs.Codec[Any] = codecs.raw) -> Topic[Any]:
        client: Any = self
        return Topic(client, "lines", codec)

    def consumer(self, *partitions: int, **options: Any) -> TopicConsumer[Any]:
        return self.topic().consumer("readers", partitions=partitions or (0,), **options)


def document(value: Any) -> Document:
    return Document(memoryview(pack_document(value)))


# Producing


async def test_a_key_goes_where_kafka_would_put_it() -> None:
    broker = Broker(12)
    topic = broker.topic()
    for key in (b"a", b"b", b"c"):
        await topic.produce("v", key=key)
    await topic.produce("v", key="a")
    expected = [partition_of(key, 12) for key in (b"a", b"b", b"c", b"a")]
    assert [to.partition for to, _, _ in broker.publisher.published] == expected
    assert broker.publisher.published[0][2] == {Kind.KEY: msgpack.packb(b"a")}


async def test_records_without_a_key_take_partitions_in_turn() -> None:
    broker = Broker(3)
    topic = broker.topic()
    for _ in range(6):
        await topic.produce(b"v")
    assert sorted(to.partition for to, _, _ in broker.publisher.published) == [0, 0, 1, 1, 2, 2]


async def test_an_explicit_partition_asks_for_no_description() -> None:
    broker = Broker()
    metadata = await broker.topic().produce("v", partition=7, headers={"h": 1})
    assert (metadata.partition, metadata.offset, metadata.durability) == (7, 40, "fsync")
    assert broker.wire.of(DescribeTopic) == []


async def test_the_number_of_partitions_is_asked_for_once_until_the_broker_objects() -> None:
    broker = Broker(2)
    topic = broker.topic()
    await asyncio.gather(*(topic.produce("v") for _ in range(10)))
    assert len(broker.wire.of(DescribeTopic)) == 1
    broker.publisher.error = NotFound("no topic 'lines'")
    with pytest.raises(NotFound):
        await topic.produce("v")
    broker.publisher.error = None
    await topic.produce("v")
    assert len(broker.wire.of(DescribeTopic)) == 2


async def test_a_tombstone_is_absent_and_not_empty() -> None:
    broker = Broker()
    topic = broker.topic(codecs.json)
    await topic.produce(None, key="k")
    assert broker.publisher.published[0][1:] == (b"", {Kind.KEY: msgpack.packb(b"k"), Kind.ABSENT: 1})
    with pytest.raises(Invalid, match="tombstone needs a key"):
        await topic.produce(None)


async def test_metadata_tells_the_time_of_the_producer_else_of_the_append() -> None:
    topic = Broker().topic()
    given = datetime(2001, 2, 3, tzinfo=UTC)
    assert (await topic.produce("v", timestamp=given)).timestamp == given
    assert (await topic.produce("v")).timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


async def test_an_outgoing_record_keeps_its_own_place() -> None:
    topic = Broker().topic()
    to, body, cells = topic._encode(Outgoing("v", headers={"a": 1}, partition=2))
    assert (to.partition, body, dict(cells)) == (2, b"v", {Kind.HEADERS: msgpack.packb({"a": 1})})


# Fetching


async def test_fetch_returns_records_and_where_to_go_on() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c")
    records = await broker.topic().fetch(0, 1)
    assert [(r.offset, r.value) for r in records] == [(1, b"b"), (2, b"c")]
    assert (records.next_offset, records.start, records.end) == (3, 0, 3)


async def test_a_wait_longer_than_the_protocol_allows_is_split() -> None:
    broker = Broker()
    broker.wire.answers[Fetch] = lambda _: Fetched(0, 0, 0, memoryview(b""))
    records = await broker.topic().fetch(0, 0, wait=2.5 * WAIT_MS_MAX / 1000)
    assert (len(records), records.next_offset) == (0, 0)
    assert [f.wait for f in broker.wire.of(Fetch)] == [WAIT_MS_MAX, WAIT_MS_MAX, WAIT_MS_MAX // 2]
    assert broker.wire.asked[0].timeout == broker.timeout + WAIT_MS_MAX / 1000


@pytest.mark.parametrize(
    ("at", "request_"),
    [
        ("earliest", Offset("lines", 0, At.EARLIEST)),
        ("latest", Offset("lines", 0, At.LATEST)),
        (datetime(1970, 1, 1, 0, 1, tzinfo=UTC), Offset("lines", 0, At.TIME, 60_000)),
    ],
    ids=["earliest", "latest", "an instant"],
)
async def test_offset_asks_for_a_place(at: Any, request_: Offset) -> None:
    broker = Broker()
    await broker.topic().offset(0, at)
    assert broker.wire.of(Offset) == [request_]


async def test_an_unknown_place_is_invalid() -> None:
    bogus: Any = "newest"
    with pytest.raises(Invalid, match="newest"):
        await Broker().topic().offset(0, bogus)


# Reading


async def test_reads_from_the_committed_offset_else_from_start() -> None:
    broker = Broker(3)
    for partition in range(3):
        broker.append(b"0", b"1", b"2", partition=partition)
    broker.committed[1] = 2, ""
    async with broker.consumer(0, 1, 2, start="latest") as consumer:
        assert (await anext(consumer)).offset == 2
        broker.append(b"3", partition=0)
        record = await anext(consumer)
        assert (record.partition, record.offset) == (0, 3)
    assert consumer.assignment == (0, 1, 2)


async def test_a_partition_is_read_in_order_and_no_partition_starves_another() -> None:
    broker = Broker(2)
    for partition in range(2):
        broker.append(*[b"%d" % i for i in range(25)], partition=partition)
    seen: dict[int, list[int]] = {0: [], 1: []}
    async with broker.consumer(0, 1) as consumer:
        for _ in range(30):
            record = await anext(consumer)
            seen[record.partition].append(record.offset)
    assert all(offsets == list(range(len(offsets))) for offsets in seen.values())
    assert min(len(offsets) for offsets in seen.values()) >= 10


async def test_one_fetch_waits_while_another_is_read() -> None:
    broker = Broker()
    broker.append(*[b"x"] * 40)
    async with broker.consumer() as consumer:
        await turns(10)
        assert [f.offset for f in broker.wire.of(Fetch)] == [0]
        await anext(consumer)
        await turns(10)
        assert [f.offset for f in broker.wire.of(Fetch)] == [0, 10]


async def test_batches_come_from_one_partition_up_to_the_size_asked_for() -> None:
    broker = Broker(2)
    broker.append(*[b"x"] * 7, partition=0)
    broker.append(*[b"y"] * 3, partition=1)
    sizes = []
    async with broker.consumer(0, 1) as consumer:
        await turns(10)
        async for records in consumer.batches(max_records=5):
            assert len({r.partition for r in records}) == 1
            sizes.append(len(records))
            if sum(sizes) == 10:
                break
    assert sorted(sizes) == [2, 3, 5]


async def test_stop_ends_the_loop() -> None:
    broker = Broker()
    async with broker.consumer() as consumer:
        reading = asyncio.ensure_future(anext(consumer, None))
        await turns()
        assert broker.consumers == {consumer}
        consumer.stop()
        assert await reading is None
    assert broker.consumers == set()


async def test_cancelled_anext_loses_no_record() -> None:
    broker = Broker()
    async with broker.consumer() as consumer:
        reading = asyncio.ensure_future(anext(consumer))
        await turns()
        reading.cancel()
        broker.append(b"a")
        await turns()
        assert (await anext(consumer)).value == b"a"


async def test_a_broker_that_cannot_be_reached_is_asked_again() -> None:
    broker = Broker()
    broker.append(b"a")
    fetch, failures = broker._fetch, [Timeout("too slow")]
    broker.wire.answers[Fetch] = lambda request: failures.pop() if failures else fetch(request)
    async with broker.consumer() as consumer:
        assert (await anext(consumer)).value == b"a"


async def test_offset_out_of_range_comes_out_of_the_loop_and_seek_goes_on() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c")
    broker.starts[0] = 2
    broker.committed[0] = 1, ""
    async with broker.consumer() as consumer:
        with pytest.raises(OffsetOutOfRange) as raised:
            await anext(consumer)
        consumer.seek(0, raised.value.detail["start"])
        assert (await anext(consumer)).value == b"c"


async def test_seek_drops_what_was_fetched_and_moves_what_is_committed() -> None:
    broker = Broker()
    broker.append(*[b"%d" % i for i in range(5)])
    async with broker.consumer() as consumer:
        assert (await anext(consumer)).offset == 0
        consumer.seek(0, 3)
        await consumer.commit()
        assert broker.committed == {0: (3, "")}
        assert (await anext(consumer)).offset == 3


async def test_paused_partitions_hand_out_nothing_until_resumed() -> None:
    broker = Broker(2)
    broker.append(b"a", partition=0)
    broker.append(b"b", partition=1)
    async with broker.consumer(0, 1) as consumer:
        consumer.pause(0)
        assert (await anext(consumer)).value == b"b"
        reading = asyncio.ensure_future(anext(consumer))
        await turns(10)
        assert not reading.done()
        consumer.resume()
        assert (await reading).value == b"a"


@pytest.mark.parametrize("act", [lambda c: c.seek(5, 0), lambda c: c.pause(5), lambda c: c.resume(5)])
async def test_a_partition_that_is_not_assigned_is_invalid(act: Any) -> None:
    async with Broker().consumer() as consumer:
        with pytest.raises(Invalid, match="partition 5 is not assigned"):
            act(consumer)


async def test_a_consumer_without_partitions_is_invalid() -> None:
    with pytest.raises(Invalid, match="without partitions"):
        Broker().topic().consumer("readers", partitions=[])


# Committing


async def test_commit_covers_finished_records_and_the_one_in_hand() -> None:
    broker = Broker(2)
    broker.append(b"a", b"b", b"c", partition=1)
    async with broker.consumer(0, 1) as consumer:
        await anext(consumer)
        await anext(consumer)
        await consumer.commit(metadata="by hand")
    assert broker.committed[1] == (2, "by hand")


async def test_commit_up_to_a_record_stores_the_offset_behind_it() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c")
    async with broker.consumer() as consumer:
        first = await anext(consumer)
        await anext(consumer)
        await consumer.commit(first)
    assert broker.committed == {0: (1, "")}


async def test_commit_with_nothing_new_asks_nothing() -> None:
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer() as consumer:
        await consumer.commit()
        await anext(consumer)
        await consumer.commit()
        await consumer.commit()
    assert len(broker.wire.of(Commit)) == 1


async def test_without_auto_commit_nothing_is_stored_unasked() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    async with broker.consumer() as consumer:
        await anext(consumer)
        await anext(consumer)
    assert broker.committed == {}


async def test_clean_exit_with_auto_commit_stores_what_is_finished_and_not_the_record_in_hand() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await anext(consumer)
    assert broker.committed == {0: (1, "")}


async def test_a_commit_by_hand_is_not_taken_back_on_exit() -> None:
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await consumer.commit()
    assert broker.committed == {0: (1, "")}


async def test_a_body_that_raises_is_never_committed() -> None:
    broker = Broker()
    broker.append(b"a", b"b")

    async def read() -> None:
        async with broker.consumer(auto_commit=True) as consumer:
            async for record in consumer:
                if record.offset:
                    raise ValueError(record)

    with pytest.raises(ValueError, match="Record 1"):
        await read()
    assert broker.committed == {}


async def test_auto_commit_stores_every_thousand_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_consumer, "AUTO_COMMIT_RECORDS", 20)
    broker = Broker()
    broker.append(*[b"x"] * 50)
    async with broker.consumer(auto_commit=True) as consumer:
        for _ in range(45):
            await anext(consumer)
        await turns(10)
        assert [c.offsets for c in broker.wire.of(Commit)] == [((0, 20, ""),), ((0, 40, ""),)]


async def test_auto_commit_stores_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_consumer, "AUTO_COMMIT_SECONDS", 0.001)
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        reading = asyncio.ensure_future(anext(consumer, None))
        commit = await broker.wire.until(Commit)
        assert commit.offsets == ((0, 1, ""),)
        reading.cancel()


async def test_a_failed_automatic_commit_is_an_event_and_the_next_covers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topic_consumer, "AUTO_COMMIT_RECORDS", 1)
    broker = Broker()
    broker.append(b"a", b"b")
    commit, failures = broker._commit, [NotFound("no topic 'lines'")]
    broker.wire.answers[Commit] = lambda request: failures.pop() if failures else commit(request)
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await anext(consumer)
        await turns(5)
        (event,) = broker.wire.events
        assert isinstance(event, CommitFailed)
        assert (event.group, event.topic) == ("readers", "lines")
    assert broker.committed == {0: (1, "")}


async def test_closing_the_client_stores_what_is_finished() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await anext(consumer)
        consumer.stop()
        await consumer.closed()
        assert broker.committed == {0: (1, "")}
        assert len(broker.wire.of(Commit)) == 1


# Groups


async def test_a_group_reads_back_its_offsets_with_their_metadata() -> None:
    broker = Broker(2)
    broker.committed = {1: (5, "note")}
    client: Any = broker
    offsets = await Group(client, "readers").offsets("lines")
    assert offsets == {1: 5}
    assert offsets[1].metadata == "note"
    assert offsets[1].time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


async def test_a_group_commits_many_partitions_in_several_frames() -> None:
    broker = Broker()
    client: Any = broker
    await Group(client, "readers").commit("lines", {p: p + 1 for p in range(100)}, metadata="m")
    assert [len(c.offsets) for c in broker.wire.of(Commit)] == [64, 36]
    assert broker.committed == {p: (p + 1, "m") for p in range(100)}
