"""Each row of "Coming from Kafka" is tried: here, beside it, or in the tests of what it is about. Where it
says what Kafka does, Kafka is asked: such a test takes the same steps with both, and both have to show the
same, or what the row says of each."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration import pages
from tests.integration.process import BrokerProcess
from tests.integration.sides import Refused
from tests.integration.streams import becomes

import penstock
from penstock import Client, Invalid, NotFound, Outgoing, Stale, TooLarge
from penstock.murmur2 import murmur2

PAGE = pages.Page("coming-from-kafka.md")
PARTITIONS = 12
MIB = 1 << 20


@pytest.fixture
async def side(beside_kafka: Any) -> Any:
    """Each of the two."""
    return beside_kafka


# The page itself


def test_page_names_a_test_for_every_row_and_every_test_is_named() -> None:
    assert len(PAGE.rows()) > 90
    assert PAGE.untried(pages.tests("test_*.py")) == []
    assert PAGE.unnamed(pages.tests("test_coming_from_kafka*.py")) == set()
    assert PAGE.unknown_words() == []


def test_page_program_runs_on_penstock(broker: BrokerProcess) -> None:
    assert pages.first_line(PAGE.program("penstock"), pages.environ(broker)) == "user:42 signed up\n"


def test_page_program_runs_on_kafka(broker: BrokerProcess, kafka: Any) -> None:
    servers = kafka.url.removeprefix("kafka://")
    environment = pages.environ(broker, KAFKA_SERVERS=servers)
    assert pages.first_line(PAGE.program("confluent"), environment) == "user:42 signed up\n"


def test_page_commands_run_line_by_line(broker: BrokerProcess) -> None:
    (session,) = PAGE.sessions()
    printed = "".join(pages.typed(session, broker))
    assert "user:42" in printed
    assert "lag" in printed.lower()


# Partitioning


def keys(count: int, seed: int) -> list[bytes]:
    """Random ones of every length up to 40, and the special ones."""
    chance = random.Random(seed)
    found = [chance.randbytes(chance.randrange(41)) for _ in range(count)]
    return [b"", b"\x00", "Zürich".encode(), "鍵".encode(), b"\xff" * 9, *found]


async def test_key_goes_where_kafka_puts_it(side: Any, q: str) -> None:
    """librdkafka told to choose as Java does; keys of any bytes."""
    await side.create(q, PARTITIONS)
    some = keys(400, seed=6)
    went = await side.produce(q, *(Outgoing(b"x", key=key) for key in some))
    assert [place.partition for place in went] == [(murmur2(key) & 0x7FFFFFFF) % PARTITIONS for key in some]
    assert {murmur2(key) > 0x7FFFFFFF for key in some} == {True, False}


async def test_key_goes_where_the_producer_in_java_puts_it(client: Client, kafka: Any, q: str) -> None:
    from tests.integration.kafka_side import Kafka

    chance = random.Random(7)
    letters = "abcxyzABC019 .:_-/äßéñΩЖ鍵🔑"
    some = ["", *("".join(chance.choices(letters, k=chance.randrange(1, 30))) for _ in range(300))]
    there = Kafka(kafka.url)
    await there.create(q, PARTITIONS)
    await there.produce_in_java(q, some)
    here = await client.create_topic(q, partitions=PARTITIONS)
    await here.produce_many([Outgoing(key, key=key) for key in some])
    for partition in range(PARTITIONS):
        theirs = [record.key for record in await there.fetch(q, partition)]
        ours = [record.key for record in await here.fetch(partition, 0)]
        assert ours == theirs


async def test_librdkafka_chooses_otherwise_unless_told(kafka: Any, q: str) -> None:
    from tests.integration.kafka_side import Kafka

    there = Kafka(kafka.url)
    await there.create(q, PARTITIONS)
    some = [Outgoing(b"x", key=key) for key in keys(50, seed=8) if key]
    told = await there.produce(q, *some)
    untold = await there.produce(q, *some, partitioner="consistent_random")
    assert [place.partition for place in told] != [place.partition for place in untold]


async def test_records_without_a_key_spread(side: Any, q: str) -> None:
    await side.create(q, 2)

    async def both_have_some() -> bool:
        await side.produce(q, Outgoing(b"x"))
        return all([(await side.span(q, partition))[1] for partition in range(2)])

    await becomes(both_have_some)


async def test_partition_may_be_named(side: Any, q: str) -> None:
    await side.create(q, 3)
    assert await side.produce(q, Outgoing(b"x", partition=2), Outgoing(b"y", key="k", partition=1)) == [
        (2, 0),
        (1, 0),
    ]
    with pytest.raises(Refused):
        await side.produce(q, Outgoing(b"x", partition=3))


# Produce


async def test_produced_record_is_fetched(side: Any, q: str) -> None:
    await side.create(q)
    assert await side.produce(q, Outgoing(b"a", key="k"), Outgoing(b"b")) == [(0, 0), (0, 1)]
    first, second = await side.fetch(q)
    assert (first.offset, first.key, first.value) == (0, b"k", b"a")
    assert (second.offset, second.key, second.value) == (1, None, b"b")


async def test_headers_arrive(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, Outgoing(b"x", headers={"trace": b"\x01\x02", "kind": "order"}))
    (record,) = await side.fetch(q)
    kind = b"order" if side.name == "kafka" else "order"
    assert record.headers == {"trace": b"\x01\x02", "kind": kind}


async def test_timestamp_is_the_producers_or_the_appends(side: Any, q: str) -> None:
    await side.create(q)
    then = datetime(2021, 5, 4, 3, 2, 1, tzinfo=UTC)
    await side.produce(q, Outgoing(b"x", timestamp=then), Outgoing(b"y"))
    old, new = await side.fetch(q)
    assert old.timestamp == then
    assert abs((new.timestamp - datetime.now(UTC)).total_seconds()) < 60


async def test_empty_key_and_value_are_not_none(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, Outgoing(b"", key=b"", partition=0), Outgoing(None, key=b"k", partition=0))
    empty, tombstone = await side.fetch(q)
    assert (empty.key, empty.value) == (b"", b"")
    assert (tombstone.key, tombstone.value) == (b"k", None)


async def test_record_has_a_largest_size(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, Outgoing(b"x" * 900_000))
    with pytest.raises(Refused):
        await side.produce(q, Outgoing(b"x" * 9 * MIB))


async def test_record_above_the_limit_is_too_large(client: Client) -> None:
    topic = await client.create_topic("lines")
    with pytest.raises(TooLarge):
        await topic.produce(b"x" * (MIB + 1))


async def test_topic_that_is_not_there_is_made_there_and_refused_here(side: Any, q: str) -> None:
    if side.name == "kafka":
        await side.produce(q, Outgoing(b"x"))
        assert await side.count(q) == 1
        return
    with pytest.raises(Refused):
        await side.produce(q, Outgoing(b"x"))
    with pytest.raises(NotFound):
        await side.client.topic(q).fetch(0, 0)


async def test_confirm_means_fsync_unless_said_otherwise(client: Client) -> None:
    safe = await client.create_topic("safe")
    assert (await safe.produce("x")).durability == "fsync"
    hasty = await client.create_topic("hasty", durability="os")
    assert (await hasty.produce("x")).durability == "os"
    between = await client.create_topic("between", durability="interval:50ms")
    assert (await between.produce("x")).durability == "interval:50ms"


async def test_calls_side_by_side_share_batches(broker: BrokerProcess) -> None:
    async with penstock.connect(broker.url, linger=0.02) as client:
        topic = await client.create_topic("lines")
        places = await asyncio.gather(*(topic.produce(b"%d" % number) for number in range(500)))
        assert [place.offset for place in places] == list(range(500))
    produced = [
        float(line.rpartition(" ")[2])
        for line in broker.get("/metrics")[1].splitlines()
        if line.startswith("penstock_requests_total{") and 'verb="PRODUCE"' in line
    ]
    assert 0 < sum(produced) < 50


async def test_many_records_are_one_call(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=3)
    receipts = await topic.produce_many(Outgoing(b"%d" % n, key=b"%d" % (n % 7)) for n in range(25_000))
    assert len(receipts) == 25_000
    async with topic.consumer(None, until="now") as consumer:
        seen: dict[bytes | None, list[int]] = {}
        async for record in consumer:
            seen.setdefault(record.key, []).append(int(record.text))
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    with pytest.raises(TooLarge):
        await topic.produce_many([b"x"] * 25_000, atomic=True)


async def test_pending_bytes_are_bounded(broker: BrokerProcess) -> None:
    async with penstock.connect(broker.url, max_pending_bytes=100_000) as client:
        topic = await client.create_topic("lines")
        await asyncio.gather(*(topic.produce(b"x" * 50_000) for _ in range(20)))
        assert await topic.offset(0, "latest") == 20


async def test_values_are_compressed_by_lz4_and_zstd(client: Client) -> None:
    await client.create_topic("lines")
    for number, compression in enumerate(("lz4", "zstd")):
        topic = client.topic("lines", compression=compression)
        await topic.produce_many([b"the same again" * 10] * 1_000)
        (record,) = await client.topic("lines").fetch(0, number * 1_000 + 7, max_records=1)
        assert record.raw == b"the same again" * 10
    described = await client.describe_topic("lines")
    assert described.partitions[0].bytes < 2_000 * 140 // 4
    with pytest.raises(Invalid):
        client.topic("lines", compression="gzip")  # type: ignore[arg-type]


async def test_codec_makes_bytes_of_values(client: Client) -> None:
    await client.create_topic("lines")
    topic = client.topic("lines", codec=penstock.codecs.json)
    await topic.produce({"amount": 7})
    (record,) = await topic.fetch(0, 0)
    assert (record.value, record.raw) == ({"amount": 7}, b'{"amount":7}')


async def test_last_producer_of_a_name_fences_the_others(side: Any, q: str) -> None:
    await side.create(q)
    if side.name == "kafka":
        first, second = side.named_producer(q), side.named_producer(q)
        await side.produce_named(first, q, b"a")
        await side.produce_named(second, q, b"b")
        with pytest.raises(Refused, match="fenced"):
            await side.produce_named(first, q, b"c")
        return
    async with penstock.connect(side.url) as other:
        first, second = side.client.topic(q, producer=q), other.topic(q, producer=q)
        await first.produce("a")
        await second.produce("b")
        with pytest.raises(Stale):
            await first.produce("c")
        assert [each.value for each in await side.fetch(q)] == [b"a", b"b"]


def test_transactions_are_not_there_yet() -> None:
    assert not hasattr(Client, "transaction")


# Topics


async def test_topic_is_created_once(side: Any, q: str) -> None:
    with pytest.raises(Refused):
        await side.count(q)
    await side.create(q, 3)
    assert await side.count(q) == 3
    with pytest.raises(Refused):
        await side.create(q, 4)
    if side.name == "kafka":
        with pytest.raises(Refused):
            await side.create(q, 3)
    else:
        await side.create(q, 3)


async def test_more_partitions_move_keys_and_there_are_never_fewer(side: Any, q: str) -> None:
    await side.create(q, 2)
    some = [Outgoing(b"x", key=b"k%d" % number) for number in range(50)]
    before = [place.partition for place in await side.produce(q, *some)]
    await side.alter(q, 5)
    assert await side.count(q) == 5
    with pytest.raises(Refused):
        await side.alter(q, 4)
    if side.name == "penstock":
        async with penstock.connect(side.url) as client:
            receipts = await client.topic(q).produce_many(some)
        after = [receipt.partition for receipt in receipts]
    else:
        after = [place.partition for place in await side.produce(q, *some, partitioner="murmur2_random")]
    assert before == [(murmur2(each.key) & 0x7FFFFFFF) % 2 for each in some]
    assert after == [(murmur2(each.key) & 0x7FFFFFFF) % 5 for each in some]


async def test_settings_change_while_it_runs(client: Client) -> None:
    await client.create_topic("lines")
    altered = await client.alter_topic("lines", retention=3_600, retention_bytes=MIB)
    assert (altered.settings["retention"], altered.settings["retention_bytes"]) == (3_600, MIB)
    assert [each.name for each in await client.list_topics("li")] == ["lines"]


async def test_deleted_topic_takes_its_offsets_along(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, Outgoing(b"x"))
    await side.commit(q, q, {0: 1})
    if side.name == "kafka":
        await asyncio.to_thread(side.admin.delete_topics([q])[q].result, 20)
    else:
        await side.client.delete_topic(q)

    async def gone() -> bool:
        return await side.committed(q, q) == {}

    await becomes(gone)


async def test_names_are_bounded(client: Client) -> None:
    await client.create_topic("eu.orders:v2_final-" + "x" * 200)
    for wrong in ("x" * 251, "no spaces", ""):
        with pytest.raises(Invalid):
            await client.create_topic(wrong)


METRICS = (
    *("penstock_group_lag_records", "penstock_group_lag_seconds", "penstock_group_offset"),
    *("penstock_group_members", "penstock_group_moving_partitions", "penstock_topic_start_offset"),
    *("penstock_topic_end_offset", "penstock_topic_bytes", "penstock_topic_dropped_records_total"),
    *("penstock_topic_compacted_records_total", "penstock_topic_filtered_records_total"),
)


async def test_metrics_have_names(broker: BrokerProcess, client: Client) -> None:
    topic = await client.create_topic("lines", cleanup="compact")
    await topic.produce(b"x", key="k")
    async with topic.consumer("g", until="now") as consumer:
        async for _ in consumer:
            await consumer.commit()
        said = broker.get("/metrics")[1]
        names = {line.partition("{")[0] for line in said.splitlines()}
        assert set(METRICS) <= names
    named = {code.partition("{")[0] for code in pages.CODE.findall(PAGE.text) if code.startswith("penstock_")}
    assert named <= names | {"penstock_topic_dirty_ratio", "penstock_group_catch_up_seconds"}
