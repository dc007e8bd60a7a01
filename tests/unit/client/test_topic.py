"""Topics: where records go and what is fetched. The test is the broker."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from tests.fakes.client_wire import LOG, turns
from tests.fakes.scripted_server import ScriptedServer
from tests.fakes.topic_broker import Broker, document

import penstock
from penstock import codecs
from penstock.errors import Invalid, NotFound
from penstock.group import Group
from penstock.murmur2 import partition_of
from penstock.outgoing import Outgoing
from penstock_protocol.batch import Kind
from penstock_protocol.limits import WAIT_MS_MAX
from penstock_protocol.messages.topics import (
    At,
    Commit,
    DescribeTopic,
    Fetch,
    Fetched,
    Offset,
    Produce,
)

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


async def test_handles_that_produce_one_record_each_spread_over_the_partitions() -> None:
    broker = Broker(3)
    for chance in (0.1, 0.5, 0.8, 0.9999):
        broker.chance = lambda chance=chance: chance  # type: ignore[method-assign,misc]
        await broker.topic().produce(b"v")
    assert {to.partition for to, _, _ in broker.publisher.published} == {0, 1, 2}


async def test_a_partitioner_is_asked_for_every_record_without_a_partition_of_its_own() -> None:
    broker = Broker(12)
    asked: list[tuple[bytes | None, int]] = []

    def by_length(key: bytes | None, partitions: int) -> int | None:
        asked.append((key, partitions))
        return len(key) if key else None

    topic = broker.topic(partitioner=by_length)
    await topic.produce("v", key="abc")
    await topic.produce("v", key=b"")
    await topic.produce("v")
    await topic.produce("v", key="abc", partition=7)
    assert asked == [(b"abc", 12), (b"", 12), (None, 12)]
    chosen = [to.partition for to, _, _ in broker.publisher.published]
    assert [*chosen[:2], chosen[3]] == [3, partition_of(b"", 12), 7]
    assert chosen[2] in range(12)


async def test_a_partitioner_is_asked_for_plain_values_of_produce_many_too() -> None:
    async with ScriptedServer() as server, penstock.connect(server.url) as client:
        server.answers[DescribeTopic] = lambda asked: asked.reply(document({"partitions": [{}] * 3}))
        turns = iter((2, 0, 2))
        topic = client.topic("lines", partitioner=lambda _key, _partitions: next(turns))
        producing = asyncio.ensure_future(topic.produce_many([b"a", b"b", b"c"]))
        batches = [await server.asked(Produce) for _ in range(2)]
        for each in batches:
            each.confirm(0)
        receipts = await producing
    assert {each.message.partition: each.bodies for each in batches} == {2: [b"a", b"c"], 0: [b"b"]}
    assert [(receipt.partition, receipt.offset) for receipt in receipts] == [(2, 0), (0, 0), (2, 1)]


@pytest.mark.parametrize("chosen", [-1, 3, "0", 1.0, True], ids=repr)
async def test_a_partition_that_there_is_not_is_refused_with_the_name_of_the_partitioner(chosen: Any) -> None:
    broker = Broker(3)

    def wild(key: bytes | None, partitions: int) -> Any:
        return chosen

    with pytest.raises(Invalid, match=rf"wild returned {re.escape(repr(chosen))} for key b'k'") as caught:
        await broker.topic(partitioner=wild).produce("v", key="k")
    assert "partitions 0 to 2" in (caught.value.hint or "")
    assert broker.publisher.published == []


async def test_a_partitioner_that_raises_is_invalid_and_its_error_is_the_cause() -> None:
    def broken(key: bytes | None, partitions: int) -> int:
        return {b"known": 0}[key or b""]

    topic = Broker(3).topic(partitioner=broken)
    await topic.produce("v", key="known")
    with pytest.raises(Invalid, match="broken raised KeyError: b'other'") as caught:
        await topic.produce("v", key="other")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_partitioner_that_is_not_known_is_invalid() -> None:
    with pytest.raises(Invalid, match="'consistent_random' is not known") as caught:
        Broker(3).topic(partitioner="consistent_random")
    assert "murmur2" in (caught.value.hint or "")


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


async def test_the_number_of_partitions_is_asked_for_again_once_a_minute_and_on_another_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker(2)
    topic = broker.topic()
    loop = asyncio.get_running_loop()
    now = loop.time()
    asked = []
    for seconds, connections in ((0, 1), (59, 1), (60, 1), (61, 1), (61, 2), (62, 2)):
        monkeypatch.setattr(loop, "time", lambda seconds=seconds: now + seconds)
        broker.wire.connections = connections
        await topic.produce("v", key="k")
        asked.append(len(broker.wire.of(DescribeTopic)))
    assert asked == [1, 1, 2, 2, 3, 3]


async def test_a_call_does_not_pass_those_that_wait_for_the_number_of_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker(1)
    topic = broker.topic()
    late: list[asyncio.Future[Any]] = []
    publish, request = broker.publisher.publish, broker.wire.request

    async def asked(*args: Any, **options: Any) -> Any:
        await turns()
        return await request(*args, **options)

    async def published(*args: Any, **options: Any) -> Any:
        if len(late) < 3:
            late.append(asyncio.ensure_future(topic.produce(b"late %d" % len(late))))
        return await publish(*args, **options)

    monkeypatch.setattr(broker.wire, "request", asked)
    monkeypatch.setattr(broker.publisher, "publish", published)
    await asyncio.gather(*(topic.produce(b"early %d" % index) for index in range(9)))
    await asyncio.gather(*late)
    bodies = [body for _, body, _ in broker.publisher.published]
    assert bodies == [b"early %d" % index for index in range(9)] + [b"late %d" % index for index in range(3)]


async def test_a_key_goes_where_it_belongs_once_there_are_more_partitions() -> None:
    broker = Broker(1)
    topic = broker.topic()
    await topic.produce("v", key="a")
    broker.logs.append([])
    broker.wire.connections += 1
    await topic.produce("v", key="b")
    assert [to.partition for to, _, _ in broker.publisher.published] == [0, partition_of(b"b", 2)]


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
    broker.wire.answers[Fetch] = lambda _: Fetched(0, 0, 0, 0, memoryview(b""))
    records = await broker.topic().fetch(0, 0, wait=2.5 * WAIT_MS_MAX / 1000)
    assert (len(records), records.next_offset) == (0, 0)
    assert [f.wait for f in broker.wire.of(Fetch)] == [WAIT_MS_MAX, WAIT_MS_MAX, WAIT_MS_MAX // 2]
    assert broker.wire.asked[0].timeout == broker.timeout + WAIT_MS_MAX / 1000


async def test_records_around_a_hole_keep_their_offsets_and_ids() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c", b"d")
    broker.gone = {0, 2}
    records = await broker.topic().fetch(0, 0)
    assert [(r.offset, r.value, r.id) for r in records] == [(1, b"b", f"{LOG}:1"), (3, b"d", f"{LOG}:3")]
    assert records.next_offset == 4


async def test_fetch_passes_over_a_hole_to_the_next_record() -> None:
    broker = Broker()
    broker.append(*[b"%d" % i for i in range(45)])
    broker.gone = set(range(40))
    records = await broker.topic().fetch(0, 0)
    assert [r.offset for r in records] == [40, 41, 42, 43, 44]


async def test_fetch_in_a_hole_at_the_end_is_empty_and_says_where_to_go_on() -> None:
    broker = Broker()
    broker.append(*[b"x"] * 15)
    broker.gone = set(range(5, 15))
    records = await broker.topic().fetch(0, 5)
    assert (len(records), records.next_offset, records.end) == (0, 15, 15)


async def test_fetch_in_a_hole_at_the_end_waits_behind_it() -> None:
    broker = Broker()
    broker.append(b"x", b"y")
    broker.gone = {1}
    fetching = asyncio.ensure_future(broker.topic().fetch(0, 1, wait=20))
    await turns(10)
    broker.append(b"z")
    (record,) = await fetching
    assert (record.offset, [f.wait for f in broker.wire.of(Fetch)]) == (2, [20_000, 20_000])


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
