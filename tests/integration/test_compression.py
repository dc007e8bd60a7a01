"""Compressed topics with the real broker: whoever reads sees what was produced, and the disk holds less."""

import json

import pytest
from tests.integration.command import Cli
from tests.integration.conftest import StartBroker

import penstock
from penstock import Client, Outgoing

BODIES = [
    json.dumps({"user": number, "page": f"/{number % 7}", "agent": "x" * 200}).encode()
    for number in range(500)
]
each_compression = pytest.mark.parametrize("compression", ["lz4", "zstd"])


@each_compression
async def test_every_way_to_read_shows_what_was_produced(client: Client, compression: str) -> None:
    await client.create_topic("events", partitions=1)
    topic = client.topic("events", codec=penstock.codecs.raw, compression=compression)  # type: ignore[arg-type]
    items = [
        Outgoing(body, key=b"k%d" % (number % 5), headers={"n": number}) for number, body in enumerate(BODIES)
    ]
    await topic.produce_many(items)
    description = await client.describe_topic("events")
    assert description.partitions[0].bytes < len(b"".join(BODIES)) / 3

    plain = client.topic("events")
    whole = await plain.fetch(0, 0)
    assert [(record.raw, record.key, record.headers) for record in whole] == [
        (item.body, item.key, item.headers) for item in items
    ]
    some = await plain.fetch(0, 123, max_records=7)
    assert [(record.offset, record.raw) for record in some] == list(enumerate(BODIES))[123:130]

    seen: list[bytes] = []
    async with plain.consumer("g", partitions=[0]) as consumer:
        async for records in consumer.batches(max_records=90):
            seen += [record.raw for record in records]
            if len(seen) == len(BODIES):
                break
    assert seen == BODIES


@each_compression
async def test_queue_over_a_compressed_topic_settles_single_records(client: Client, compression: str) -> None:
    await client.create_topic("events")
    work = await client.create_queue("work", source="events", max_attempts=1)
    await client.topic("events", compression=compression).produce_many(BODIES[:10])  # type: ignore[call-overload]
    messages = await work.receive(4)
    assert [message.raw for message in messages] == BODIES[:4]
    await messages[0].ack()
    await messages[1].nack(reason="no")
    await messages[3].ack()
    await messages[2].release()
    (again,) = await work.receive(1)
    assert (again.raw, again.offset) == (BODIES[2], 2)
    (dead,) = await client.queue("work.dead").receive(1)
    assert (dead.raw, dead.history and dead.history.reason) == (BODIES[1], "max_attempts")


async def test_filter_looks_at_keys_and_headers_of_compressed_batches(client: Client) -> None:
    await client.create_topic("events")
    topic = client.topic("events", compression="zstd")
    items = [Outgoing(body, {"n": number % 4}, b"k%d" % (number % 3)) for number, body in enumerate(BODIES)]
    await topic.produce_many(items)
    found = await topic.fetch(0, 0, where={"key": "k1", "headers": {"n": 2}})
    expected = [number for number in range(len(BODIES)) if (number % 3, number % 4) == (1, 2)]
    assert [(record.offset, record.raw) for record in found] == [(n, BODIES[n]) for n in expected]
    assert found.next_offset == len(BODIES)


async def test_plain_and_compressed_producers_share_a_topic(client: Client) -> None:
    await client.create_topic("events")
    handles = [client.topic("events"), client.topic("events", compression="lz4")]
    handles.append(client.topic("events", compression="zstd"))
    for number in range(30):
        await handles[number % 3].produce(BODIES[number])
    assert [record.raw for record in await handles[0].fetch(0, 0)] == BODIES[:30]


async def test_compressed_records_survive_kill_9(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        await client.create_topic("events")
        await client.topic("events", compression="zstd").produce_many(BODIES)
    broker.kill()
    async with penstock.connect(start_broker().wait_ready().url) as client:
        assert [record.raw for record in await client.topic("events").fetch(0, 100)] == BODIES[100:]


@each_compression
def test_command_line_compresses_and_prints_what_was_typed(cli: Cli, compression: str) -> None:
    cli("topic", "create", "events")
    lines = b"".join(body + b"\n" for body in BODIES)
    cli("produce", "events", "--compression", compression, stdin=lines)
    assert cli("fetch", "events", "--format", r"%v\n") == lines
    [topic] = cli.objects("topic", "describe", "events")
    assert topic["partitions"][0]["bytes"] < len(lines) / 3
    code, said = cli.fails("produce", "events", "x", "--compression", "gzip")
    assert code == 2
    assert "lz4" in said


def test_dump_says_how_a_message_is_compressed(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    cli = Cli(broker)
    cli("topic", "create", "events")
    cli("produce", "events", "--compression", "lz4", stdin=b"north north north north north north\n" * 20)
    broker.stop()
    printed = cli.run("dump", str(broker.data), "--log", "events/0", "--bodies", "--json").stdout
    messages = [each for each in map(json.loads, printed.splitlines()) if each["is"] == "message"]
    assert [(each["body_compressed"], each["body_bytes"]) for each in messages] == [("lz4", 35)] * 20
