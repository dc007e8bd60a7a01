"""Topics and groups through the client and the real broker."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fakes.proxy import Proxy
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Outgoing, Topic
from penstock.murmur2 import partition_of

SECONDS = 20


@pytest.fixture
async def lines(client: Client) -> Topic[bytes]:
    return await client.create_topic("lines", partitions=3)


async def test_what_is_produced_is_fetched_with_all_it_carries(lines: Topic[bytes]) -> None:
    stamp = datetime(2020, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    metadata = await lines.produce("wert", key="schlüssel", headers={"n": 1}, timestamp=stamp)
    assert metadata.partition == partition_of("schlüssel".encode(), 3)
    assert (metadata.offset, metadata.timestamp, metadata.durability) == (0, stamp, "fsync")
    (record,) = await lines.fetch(metadata.partition, 0)
    assert (record.topic, record.partition, record.offset) == ("lines", metadata.partition, 0)
    assert (record.text, record.key, record.headers) == ("wert", "schlüssel".encode(), {"n": 1})
    assert record.timestamp == stamp


async def test_record_without_a_timestamp_has_the_time_of_its_append(lines: Topic[bytes]) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    metadata = await lines.produce("x", partition=0)
    (record,) = await lines.fetch(0, 0)
    assert before < record.timestamp == metadata.timestamp < datetime.now(UTC) + timedelta(seconds=1)


async def test_tombstone_has_no_value(lines: Topic[bytes]) -> None:
    metadata = await lines.produce(None, key="k")
    empty = await lines.produce("", key="k")
    tombstone, record = await lines.fetch(metadata.partition, 0)
    assert (tombstone.value, tombstone.key) == (None, b"k")
    assert (record.value, record.offset) == (b"", empty.offset)


async def test_values_go_through_the_codec_of_the_handle(client: Client, lines: Topic[bytes]) -> None:
    typed = client.topic("lines", codec=penstock.codecs.json)
    metadata = await typed.produce({"a": [1, 2]}, key="k")
    (record,) = await typed.fetch(metadata.partition, 0)
    assert (record.value, record.raw) == ({"a": [1, 2]}, b'{"a":[1,2]}')


async def test_produce_many_keeps_the_order_of_each_partition(lines: Topic[bytes]) -> None:
    items = [Outgoing(b"%d" % i, key=b"k%d" % (i % 7)) for i in range(3_000)]
    receipts = await lines.produce_many(items)
    assert len(receipts) == 3_000
    for partition in range(3):
        records = await read_all(lines, partition)
        expected = [
            (item.key, item.body)
            for item, receipt in zip(items, receipts, strict=True)
            if receipt.partition == partition
        ]
        assert [(record.key, record.value) for record in records] == expected


async def read_all(topic: Topic[bytes], partition: int) -> list[penstock.Record[bytes]]:
    records: list[penstock.Record[bytes]] = []
    offset = 0
    while found := await topic.fetch(partition, offset):
        records += found
        offset = found.next_offset
    return records


async def test_records_without_a_key_spread_over_the_partitions(lines: Topic[bytes]) -> None:
    for _ in range(9):
        await lines.produce("x")
    assert [await lines.offset(partition, "latest") for partition in range(3)] == [3, 3, 3]


async def test_many_records_go_to_the_partition_given_unless_they_name_another(lines: Topic[bytes]) -> None:
    await lines.produce_many([b"plain", b"too"], partition=1)
    await lines.produce_many([Outgoing(b"keyed", key="k"), Outgoing(b"own", partition=2), b"in"], partition=1)
    found = [[record.text for record in await lines.fetch(number, 0)] for number in range(3)]
    assert found == [[], ["plain", "too", "keyed", "in"], ["own"]]
    receipts = await lines.produce_many([b"a", b"b"], partition=2, atomic=True, expected_offset=1)
    assert [receipt.offset for receipt in receipts] == [1, 2]
    with pytest.raises(penstock.Invalid, match="no partition 9"):
        await lines.produce_many([b"x"], partition=9)


async def test_fetch_waits_for_a_record(lines: Topic[bytes]) -> None:
    assert len(await lines.fetch(0, 0)) == 0
    waiting = asyncio.ensure_future(lines.fetch(0, 0, wait=SECONDS))
    await lines.produce("x", partition=0)
    assert [record.text for record in await waiting] == ["x"]


async def test_fetch_honours_its_limits(lines: Topic[bytes]) -> None:
    await lines.produce_many([Outgoing(b"x" * 1_000, partition=0) for _ in range(100)])
    assert len(await lines.fetch(0, 10, max_records=7)) == 7
    assert 1 <= len(await lines.fetch(0, 0, max_bytes=10_000)) <= 10
    assert [record.offset for record in await lines.fetch(0, 98)] == [98, 99]


async def test_fetch_out_of_range_tells_the_range(lines: Topic[bytes]) -> None:
    await lines.produce("x", partition=0)
    with pytest.raises(penstock.OffsetOutOfRange) as raised:
        await lines.fetch(0, 5)
    assert (raised.value.detail["start"], raised.value.detail["end"]) == (0, 1)


async def test_offsets_by_place_and_time(lines: Topic[bytes]) -> None:
    first = await lines.produce("a", partition=0)
    while (second := await lines.produce("b", partition=0)).timestamp == first.timestamp:
        pass
    assert await lines.offset(0, "earliest") == 0
    assert await lines.offset(0, "latest") == second.offset + 1
    assert await lines.offset(0, first.timestamp) == 0
    assert await lines.offset(0, second.timestamp) == second.offset
    assert await lines.offset(0, second.timestamp + timedelta(hours=1)) == second.offset + 1


async def test_calls_on_what_does_not_exist_say_so(client: Client, lines: Topic[bytes]) -> None:
    nowhere = client.topic("nowhere")
    for call in (nowhere.produce("x"), nowhere.produce_many(["x"]), nowhere.fetch(0, 0), nowhere.offset(0)):
        with pytest.raises(penstock.NotFound, match="penstock topic create"):
            await call
    with pytest.raises(penstock.Invalid, match="partition"):
        await lines.produce("x", partition=9)


async def test_topic_created_again_with_fewer_partitions_is_noticed(client: Client) -> None:
    topic = await client.create_topic("again", partitions=5)
    for _ in range(5):
        await topic.produce("x")
    await client.delete_topic("again")
    await client.create_topic("again", partitions=1)
    with pytest.raises(penstock.Invalid):
        await topic.produce("x", key="a")  # of partition 4, as far as it knows
    assert (await topic.produce("x")).partition == 0


# Groups


async def test_two_groups_read_the_same_records_at_their_own_pace(lines: Topic[bytes]) -> None:
    await lines.produce_many([b"%d" % i for i in range(300)])
    for group in ("one", "two"):
        seen: list[bytes] = []
        async with asyncio.timeout(SECONDS), lines.consumer(group, partitions=[0, 1, 2]) as consumer:
            async for records in consumer.batches():
                seen += [record.raw for record in records]
                if len(seen) == 300:
                    break
        assert sorted(map(int, seen)) == list(range(300))


async def test_group_goes_on_behind_what_it_committed(client: Client, lines: Topic[bytes]) -> None:
    await lines.produce_many([Outgoing(b"%d" % i, partition=1) for i in range(10)])
    async with asyncio.timeout(SECONDS):
        async with lines.consumer("g", partitions=[1]) as consumer:
            async for record in consumer:
                if record.offset == 3:
                    await consumer.commit(metadata="half")
                    break
        async with lines.consumer("g", partitions=[1], start="latest") as consumer:
            assert (await anext(consumer)).offset == 4
    offsets = await client.group("g").offsets("lines")
    assert offsets == {1: 4}
    assert offsets[1].metadata == "half"


async def test_auto_commit_covers_finished_records_and_not_those_of_a_body_that_raises(
    client: Client, lines: Topic[bytes]
) -> None:
    await lines.produce_many([Outgoing(b"%d" % i, partition=0) for i in range(5)])

    async def read(last: int, error: Exception | None) -> None:
        async with lines.consumer("g", partitions=[0], auto_commit=True) as consumer:
            async for record in consumer:
                if record.offset == last:
                    if error is not None:
                        raise error
                    break

    async with asyncio.timeout(SECONDS):
        await read(2, None)
        assert await client.group("g").offsets("lines") == {0: 2}
        with pytest.raises(ValueError, match="bad"):
            await read(4, ValueError("bad"))
        assert await client.group("g").offsets("lines") == {0: 2}


async def test_group_describes_where_it_stands(client: Client, lines: Topic[bytes]) -> None:
    await lines.produce_many([Outgoing(b"x", partition=2) for _ in range(10)])
    group = client.group("g")
    await group.commit("lines", {2: 4})
    description = await group.describe()
    (row,) = [row for row in description.partitions if row.partition == 2]
    assert (description.name, row.topic, row.current, row.end, row.lag) == ("g", "lines", 4, 10, 6)
    assert row.lag_seconds is not None
    assert row.lag_seconds >= 0
    assert await client.list_groups() == ["g"]


async def test_start_may_be_an_instant(lines: Topic[bytes]) -> None:
    first = await lines.produce("a", partition=0)
    while (later := await lines.produce("b", partition=0)).timestamp == first.timestamp:
        pass
    async with asyncio.timeout(SECONDS):
        async with lines.consumer("g", partitions=[0], start=later.timestamp) as consumer:
            assert (await anext(consumer)).offset == later.offset


async def test_consumer_follows_what_is_produced(lines: Topic[bytes]) -> None:
    async with asyncio.timeout(SECONDS):
        async with lines.consumer("g", partitions=[0, 1, 2], start="latest") as consumer:
            for i in range(20):
                metadata = await lines.produce(b"%d" % i)
                record = await anext(consumer)
                assert (record.partition, record.offset) == (metadata.partition, metadata.offset)


# Lost sockets


@pytest.fixture
async def proxied(broker: BrokerProcess) -> AsyncIterator[tuple[Proxy, Client]]:
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url) as client:
        yield proxy, client


async def test_lost_socket_is_invisible_to_the_reader(proxied: tuple[Proxy, Client]) -> None:
    proxy, client = proxied
    topic = await client.create_topic("lines", partitions=2)
    produced = await topic.produce_many([b"%d" % i for i in range(4_000)])
    assert len(produced) == 4_000
    seen: dict[int, list[int]] = {0: [], 1: []}
    async with asyncio.timeout(SECONDS), topic.consumer("g", partitions=[0, 1]) as consumer:
        while sum(map(len, seen.values())) < 4_000:
            record = await anext(consumer)
            seen[record.partition].append(record.offset)
            if len(seen[record.partition]) % 700 == 0:
                proxy.cut()
    assert all(offsets == list(range(len(offsets))) for offsets in seen.values())


async def test_lost_sockets_neither_lose_nor_double_a_record(
    proxied: tuple[Proxy, Client],
) -> None:
    proxy, client = proxied
    topic = await client.create_topic("lines")
    async with asyncio.timeout(SECONDS):
        for i in range(30):
            producing = asyncio.ensure_future(topic.produce(b"%d" % i))
            for _ in range(i):
                await asyncio.sleep(0)
            proxy.cut()
            assert (await producing).offset == i
    assert [record.raw for record in await read_all(topic, 0)] == [b"%d" % i for i in range(30)]


async def test_records_and_offsets_survive_kill_9(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        topic = await client.create_topic("lines", partitions=2)
        await topic.produce_many([Outgoing(b"%d" % i, partition=i % 2) for i in range(100)])
        await client.group("g").commit("lines", {0: 20, 1: 30}, metadata="m")
    broker.kill()
    async with penstock.connect(start_broker().wait_ready().url) as client:
        topic = client.topic("lines")
        assert await client.group("g").offsets("lines") == {0: 20, 1: 30}
        for partition in range(2):
            values = [int(record.text) for record in await read_all(topic, partition)]
            assert values == list(range(partition, 100, 2))


# ---- Settings


async def test_topic_is_created_compared_and_altered_by_its_settings(client: Client) -> None:
    await client.create_topic("kept", partitions=2, retention=timedelta(days=30), cleanup="both")
    found = await client.describe_topic("kept")
    assert found.settings == {
        "partitions": 2,
        "retention": 30 * 86_400.0,
        "retention_bytes": None,
        "cleanup": "both",
        "tombstone_retention": 86_400.0,
        "durability": None,
    }
    await client.create_topic("kept", cleanup="both")
    await client.create_topic("kept", cleanup="delete", if_exists="keep")
    with pytest.raises(penstock.Conflict, match="cleanup is 'both', not 'delete'"):
        await client.create_topic("kept", cleanup="delete")
    await client.create_topic("kept", cleanup="compact", if_exists="alter")
    altered = await client.alter_topic("kept", retention=None, retention_bytes=1 << 20)
    settings = altered.settings
    assert (settings["cleanup"], settings["retention"], settings["retention_bytes"]) == (
        "compact",
        None,
        1 << 20,
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"retention_bytes": -1}, "retention_bytes=-1"),
        ({"cleanup": "sometimes"}, "cleanup='sometimes'"),
        ({"durability": "maybe"}, "durability='maybe'"),
        ({"partitions": 0}, "partitions=0"),
        ({"retenton": 1}, "retenton"),
    ],
)
async def test_setting_that_is_not_allowed_is_named(
    client: Client, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(penstock.Invalid, match=said):
        await client.create_topic("never", **settings)
    with pytest.raises(penstock.NotFound):
        await client.describe_topic("never")


async def test_fewer_partitions_are_refused_and_nothing_else_changes_with_it(lines: Topic[bytes]) -> None:
    with pytest.raises(penstock.Invalid, match="create another topic"):
        await lines.client.alter_topic("lines", partitions=2, retention=None)
    assert (await lines.client.describe_topic("lines")).settings["retention"] == 7 * 86_400.0


async def test_more_partitions_are_there_at_once_and_a_new_connection_learns_of_them(
    client: Client, lines: Topic[bytes], broker: BrokerProcess
) -> None:
    await lines.produce_many([Outgoing(b"%d" % n, key=b"k%d" % n) for n in range(30)])
    described = await client.alter_topic("lines", partitions=5)
    assert [each.end - each.start for each in described.partitions][3:] == [0, 0]
    assert sum(each.end for each in described.partitions) == 30
    assert (await lines.produce("x", partition=4)).offset == 0
    async with penstock.connect(broker.url) as other:
        for number in range(30):
            key = b"k%d" % number
            metadata = await other.topic("lines").produce("y", key=key)
            assert metadata.partition == partition_of(key, 5)


async def test_expected_offset_is_kept_or_refused_and_what_is_pipelined_behind_goes_on(
    lines: Topic[bytes],
) -> None:
    first = await lines.produce("a", partition=0, expected_offset=0)
    with pytest.raises(penstock.Conflict) as raised:
        await lines.produce("b", partition=0, expected_offset=0)
    assert raised.value.detail == {"partition": 0, "expected": 0, "end": 1}
    after = await asyncio.gather(
        lines.produce("wrong", partition=0, expected_offset=7),
        lines.produce("right", partition=0, expected_offset=1),
        lines.produce("next", partition=0),
        return_exceptions=True,
    )
    assert isinstance(after[0], penstock.Conflict)
    assert [(record.offset, record.text) for record in await read_all(lines, 0)] == [
        (first.offset, "a"),
        (1, "right"),
        (2, "next"),
    ]


async def test_of_two_instances_with_a_name_the_later_one_produces_also_behind_a_crash(
    start_broker: StartBroker,
) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url, timeout=20) as old, penstock.connect(broker.url) as new:
        await old.create_topic("orders", partitions=2)
        zombie, writer = (client.topic("orders", producer="orders-writer") for client in (old, new))
        await zombie.produce_many([Outgoing(b"%d" % n, key=b"k%d" % n) for n in range(20)])
        await writer.produce("new", partition=0)
        with pytest.raises(penstock.Stale, match="another instance"):
            await zombie.produce("old", partition=1)
        (found,) = await new.list_producers()
        assert (found.name, found.epoch) == ("orders-writer", 2)
    broker.kill()
    again = start_broker().wait_ready()
    async with penstock.connect(again.url, timeout=20) as third:
        assert [each.epoch for each in await third.list_producers()] == [2]
        await third.topic("orders", producer="orders-writer").produce("third", partition=0)
        assert [each.epoch for each in await third.list_producers()] == [3]
        await third.delete_producer("orders-writer")
        with pytest.raises(penstock.Stale):
            await third.topic("orders", producer="orders-writer").produce("x", partition=0)


@pytest.mark.parametrize("producer", [None, "writer"], ids=["plain", "named"])
async def test_records_of_a_key_keep_their_order_through_lost_sockets_each_once(
    proxied: tuple[Proxy, Client], producer: str | None
) -> None:
    proxy, client = proxied
    await client.create_topic("orders", partitions=4)
    topic = client.topic("orders", producer=producer)
    calls = []
    for number in range(600):
        calls.append(asyncio.ensure_future(topic.produce(f"{number}", key=f"k{number % 7}")))
        if number % 20 == 19:
            await calls[-20]  # several batches are on their way
        if number % 90 == 89:
            proxy.cut()
    await asyncio.gather(*calls)
    found: dict[bytes, list[int]] = {}
    for partition in range(4):
        for record in await read_all(topic, partition):
            found.setdefault(record.key or b"", []).append(int(record.text))
    assert found == {b"k%d" % key: list(range(key, 600, 7)) for key in range(7)}
