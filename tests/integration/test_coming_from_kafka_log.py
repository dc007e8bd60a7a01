"""The rows of "Coming from Kafka" about what is kept, and where it is: see test_coming_from_kafka.py."""

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.conftest import StartBroker
from tests.integration.sides import Refused
from tests.integration.streams import SECONDS, Penstock, Stored, becomes, turns

import penstock
from penstock import Client, Invalid, Outgoing, TopicPartition

SMALL = ("--set", "storage.journal_budget_bytes=4MiB", "--set", "storage.journal_file_bytes_min=64KiB")
"""A journal that is archived as soon as it holds 2 MiB."""
LARGE = 10_000
KEYS = 12


@pytest.fixture
async def side(beside_kafka: Any) -> Any:
    """Each of the two."""
    return beside_kafka


# Places


async def test_offsets_are_found_by_place(side: Any, q: str) -> None:
    await side.create(q)
    assert await side.span(q) == (0, 0)
    await side.produce(q, *(Outgoing(b"x") for _ in range(7)))
    assert await side.span(q) == (0, 7)
    with pytest.raises(Refused):
        await side.fetch(q, 0, 8)


async def test_offsets_are_found_by_time(side: Any, q: str) -> None:
    """There the timestamp counts, here the append."""
    await side.create(q)
    before = datetime.now(UTC) - timedelta(seconds=1)
    old = Outgoing(b"x", timestamp=datetime(2021, 1, 1, tzinfo=UTC))
    await side.produce(q, old, Outgoing(b"y"))
    assert await side.offset_at(q, before) == (1 if side.name == "kafka" else 0)
    assert await side.offset_at(q, datetime.now(UTC) + timedelta(minutes=1)) == 2


async def test_reading_begins_at_an_instant(client: Client) -> None:
    topic = await client.create_topic("lines")
    await topic.produce("before")
    last = await topic.produce("at")
    for start, texts in ((last.timestamp + timedelta(minutes=1), []), (last.offset, ["at"])):
        async with topic.consumer(None, start=start, until="now") as consumer:
            assert [record.text async for record in consumer] == texts


async def test_a_range_is_read_at_a_rate(client: Client) -> None:
    topic = await client.create_topic("lines")
    await topic.produce_many(b"%d" % number for number in range(100))
    async with topic.consumer(None, start=20, until={0: 40}, rate=200) as consumer:
        assert [record.offset async for record in consumer] == list(range(20, 40))


async def test_only_what_fits_is_sent(client: Client) -> None:
    topic = await client.create_topic("lines")
    for number in range(20):
        await topic.produce(b"%d" % number, key=f"{'eu' if number % 2 else 'us'}.{number}")
    async with topic.consumer(None, until="now", where={"key": "eu.*"}) as consumer:
        assert [record.offset async for record in consumer] == list(range(1, 20, 2))


async def test_fetch_has_limits(client: Client) -> None:
    topic = await client.create_topic("lines")
    await topic.produce_many([b"x" * 1_000] * 100)
    assert len(await topic.fetch(0, 0, max_records=7)) == 7
    assert 0 < len(await topic.fetch(0, 0, max_bytes=10_000)) < 20
    assert not await topic.fetch(0, 100, wait=0.05)


# Retention


async def _retained(side: Any, topic: str, **settings: Any) -> int:
    """A topic that has lost some of its 300 records; its start."""
    await side.create(topic, retention_bytes=100_000, **settings)
    for _ in range(30):
        await side.produce(topic, *(Outgoing(b"x" * 1_000) for _ in range(10)))

    async def has_lost_some() -> bool:
        return bool((await side.span(topic))[0])

    await becomes(has_lost_some)
    start: int = (await side.span(topic))[0]
    return start


async def _whole_log(side: Any, q: str) -> tuple[int, list[Any]]:
    """Where the log begins, and what is in it; Kafka may drop a segment between the two looks."""
    while True:
        start, _ = await side.span(q)
        try:
            return start, await side.fetch(q, 0, start)
        except Refused:
            if (await side.span(q))[0] == start:
                raise


async def test_retention_moves_the_start(side: Any, q: str) -> None:
    start = await _retained(side, q, **({"segment_bytes": 20_000} if side.name == "kafka" else {}))
    assert 0 < start < 300
    assert (await side.span(q))[1] == 300
    with pytest.raises(Refused, match=r"out of range|is not in"):
        await side.fetch(q, 0, 0)
    start, kept = await _whole_log(side, q)
    assert [record.offset for record in kept] == list(range(start, 300))
    assert len(kept) >= 90  # 100,000 bytes of them


async def test_consumer_below_the_start_jumps_there_and_is_told_here(side: Any, q: str) -> None:
    await _retained(side, q, **({"segment_bytes": 20_000} if side.name == "kafka" else {}))
    async with side.reading(q, q, partitions=[0], start=0) as reader:
        if side.name == "kafka":  # auto.offset.reset=earliest
            await turns(lambda: bool(reader.read), reader)
            assert reader.read[0][2] > 0
            return
        await side.produce(q, Outgoing(b"last"))
        with pytest.raises(penstock.OffsetOutOfRange) as raised:
            await anext(reader.consumer)
        start = raised.value.detail["start"]
        await reader.seek(TopicPartition(q, 0), start)
        assert (await anext(reader.consumer)).offset == start


async def test_retention_by_age_goes_by_the_append(client: Client) -> None:
    topic = await client.create_topic("lines", retention=3_600)
    await topic.produce("x", timestamp=datetime(2021, 1, 1, tzinfo=UTC))
    await topic.produce("y")
    assert len(await topic.fetch(0, 0)) == 2
    await client.alter_topic("lines", retention=0)

    async def gone() -> bool:
        return await topic.offset(0) == 2

    await becomes(gone)
    await client.alter_topic("lines", retention=None)
    assert (await client.describe_topic("lines")).settings["retention"] is None


# Compaction


def history(count: int, seed: int) -> list[Outgoing]:
    """Records of a dozen keys, every fifth a tombstone, in batches of no fixed size."""
    chance = random.Random(seed)
    return [
        Outgoing(None if chance.random() < 0.2 else b"%d" % number * 50, key=b"k%d" % chance.randrange(KEYS))
        for number in range(count)
    ]


def last_of_each(records: Sequence[Outgoing]) -> dict[bytes, tuple[int, bytes | None]]:
    """Key → offset and value of its last record."""
    return {each.key: (offset, each.body) for offset, each in enumerate(records)}  # type: ignore[misc]


async def _push(side: Any, topic: str) -> None:
    """Write so much, of a key of its own, that what was there before can be compacted."""
    if side.name == "kafka":
        for _ in range(10):
            await side.produce(topic, Outgoing(b"x" * LARGE, key="pushed"))
    else:
        await side.produce(topic, *(Outgoing(b"x" * 100, key="pushed") for _ in range(10)))
        await side.create("pushing", if_exists="keep")
        await side.produce("pushing", *(Outgoing(b"x" * LARGE) for _ in range(400)))


async def _kept(side: Any, topic: str, below: int, most: int) -> list[Stored]:
    """What is left of the records below an offset, when there are no more than so many."""
    found: list[Stored] = []

    async def compacted() -> bool:
        found[:] = [each for each in await side.fetch(topic) if each.offset < below and each.key != b"pushed"]
        if len(found) > most:
            await _push(side, topic)
        return len(found) <= most

    await becomes(compacted)
    return found


async def _produce(side: Any, topic: str, records: Sequence[Outgoing]) -> None:
    """In batches that are smaller than a segment."""
    for at in range(0, len(records), 90):
        await side.produce(topic, *records[at : at + 90])


async def test_compaction_leaves_what_kafka_leaves(start_broker: StartBroker, kafka: Any, q: str) -> None:
    """The same records, with tombstones, at the same offsets; where these are not kept for long, they go."""
    from tests.integration.kafka_side import Kafka

    records = history(1_000, seed=11)
    last = last_of_each(records)
    alive = {key: at for key, at in last.items() if at[1] is not None}
    assert 0 < len(alive) < len(last)

    async def compacted(side: Any, topic: str, retention: float, most: int) -> list[Stored]:
        theirs = {"segment_bytes": 40_000, "dirty_ratio": 0.01} if side.name == "kafka" else {}
        await side.create(topic, cleanup="compact", tombstone_retention=retention, **theirs)
        await _produce(side, topic, records)
        return await _kept(side, topic, len(records), most)

    url = start_broker(*SMALL).wait_ready().url
    async with penstock.connect(url, timeout=SECONDS) as client:
        sides = (Penstock(client, url), Kafka(kafka.url))
        kept = await asyncio.gather(
            *(compacted(side, f"{q}1", 3_600, len(last)) for side in sides),
            *(compacted(side, f"{q}2", 0, len(alive)) for side in sides),
        )
    for found, expected in zip(kept, (last, last, alive, alive), strict=True):
        assert {each.key: (each.offset, each.value) for each in found} == expected
        assert len(found) == len(expected)


async def test_compacted_topic_takes_no_record_without_a_key(side: Any, q: str) -> None:
    await side.create(q, cleanup="compact")
    with pytest.raises(Refused):
        await side.produce(q, Outgoing(b"x"))
    await side.produce(q, Outgoing(b"x", key="k"))


async def test_tombstone_needs_a_key(client: Client) -> None:
    topic = await client.create_topic("lines")
    with pytest.raises(Invalid, match="a tombstone needs a key"):
        await topic.produce(None)


async def test_cleanup_may_do_both(side: Any, q: str) -> None:
    await side.create(q, cleanup="both")
    with pytest.raises(Refused):  # it is compacted, too
        await side.produce(q, Outgoing(b"x"))
    await side.produce(q, Outgoing(b"x", key="k"))


# Tables


async def test_table_is_the_last_value_of_each_key(client: Client) -> None:
    topic = await client.create_topic("lines", cleanup="compact", partitions=3)
    records = history(500, seed=13)
    await topic.produce_many(records)
    alive = {key: value for key, (_, value) in last_of_each(records).items() if value is not None}
    async with topic.table() as table:
        await table.ready()
        assert dict(table.items()) == alive
        key = next(iter(alive))
        changes = table.watch(key)
        await topic.produce(b"new", key=key)
        change = await anext(changes)
        assert (change.old, change.new) == (alive[key], b"new")
