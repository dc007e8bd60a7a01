"""Retention and compaction of topics on the real broker, as a user sees them."""

from collections.abc import Callable

import pytest
from tests.integration.conftest import StartBroker

import penstock
from penstock import Client, Outgoing, Record, Topic

SMALL = ("--set", "storage.journal_budget_bytes=4MiB", "--set", "storage.journal_file_bytes_min=64KiB")
"""A journal that is archived as soon as it holds 2 MiB."""
KEYS = 50
RECORDS = 6_000


async def records_of(topic: Topic[bytes]) -> list[Record[bytes]]:
    """All that are kept of partition 0."""
    offset = await topic.offset(0)
    records: list[Record[bytes]] = []
    while found := await topic.fetch(0, offset):
        records += found
        offset = found.next_offset
    return records


async def waited(client: Client, topic: Topic[bytes], until: Callable[[int, int], bool]) -> None:
    """Come back when (first kept offset, bytes) of partition 0 are as they shall be, or time out."""
    while True:
        (partition,) = (await client.describe_topic(topic.name)).partitions
        if until(partition.start, partition.bytes):
            return
        await topic.fetch(0, partition.end, wait=0.2)


async def fill(topic: Topic[bytes]) -> dict[bytes, tuple[int, bytes]]:
    """Records of few keys; the last offset and value of each."""
    values = [b"%d" % number * 100 for number in range(RECORDS)]
    items = [Outgoing(value, key=b"k%d" % (number % KEYS)) for number, value in enumerate(values)]
    receipts = await topic.produce_many(items)
    return {b"k%d" % (number % KEYS): (receipts[number].offset, value) for number, value in enumerate(values)}


async def test_records_go_when_an_altered_topic_keeps_less(client: Client) -> None:
    topic = await client.create_topic("lines", retention=None)
    await fill(topic)
    assert await topic.offset(0) == 0
    await client.alter_topic("lines", retention_bytes=100_000)
    await waited(client, topic, lambda start, _: start > 0)
    (partition,) = (await client.describe_topic("lines")).partitions
    assert partition.bytes >= 100_000
    with pytest.raises(penstock.OffsetOutOfRange) as raised:
        await topic.fetch(0, 0)
    assert raised.value.detail["end"] == RECORDS
    await client.alter_topic("lines", retention_bytes=None, retention=0)
    await waited(client, topic, lambda start, _: start == RECORDS)
    metadata = await topic.produce(b"next", partition=0)
    assert metadata.offset == RECORDS


async def test_compacted_topic_keeps_the_last_record_of_each_key_where_it_was(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(*SMALL).wait_ready()
    async with penstock.connect(broker.url, timeout=20) as client:
        topic = await client.create_topic("state", cleanup="compact")
        last = await fill(topic)
        (full,) = (await client.describe_topic("state")).partitions
        pushing = await client.create_topic("other")
        await pushing.produce_many([Outgoing(b"x" * 10_000) for _ in range(400)])
        await waited(client, topic, lambda _, size: size < full.bytes // 4)
        await check(topic, last)
        assert (
            'penstock_topic_compacted_records_total{partition="0",topic="state"}' in broker.get("/metrics")[1]
        )
    broker.kill()
    broker = start_broker(*SMALL).wait_ready()
    async with penstock.connect(broker.url, timeout=20) as client:
        await check(client.topic("state"), last)


async def check(topic: Topic[bytes], last: dict[bytes, tuple[int, bytes]]) -> None:
    """Of each key the last record is there, and what else is there is in order."""
    records = await records_of(topic)
    assert {r.key: (r.offset, r.value) for r in records} == last
    assert [r.offset for r in records] == sorted({r.offset for r in records})
    assert len(records) < RECORDS // 2
    async with topic.consumer("readers", partitions=[0], auto_commit=True) as consumer:
        async for batch in consumer.batches(1_000):
            if batch[-1].offset == RECORDS - 1:
                break
