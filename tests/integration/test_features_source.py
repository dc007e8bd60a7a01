"""A queue over a topic: its records, settled one by one, side by side with who reads the topic."""

import asyncio

import pytest
from tests.integration.conftest import StartBroker

import penstock
from penstock import Client, Invalid, Outgoing, Topic

AT_ONCE = penstock.Backoff(initial=0, jitter=0)


@pytest.fixture
async def log(client: Client) -> Topic[bytes]:
    return await client.create_topic("log", partitions=2)


async def produce(log: Topic[bytes], count: int) -> None:
    await log.produce_many([Outgoing(f"{i}", key=f"k{i}", partition=i % 2) for i in range(count)])


async def test_records_are_messages_that_settle_one_by_one(client: Client, log: Topic[bytes]) -> None:
    jobs = await client.create_queue("jobs", source="log", retry=AT_ONCE)
    await produce(log, 6)
    got: dict[str, penstock.Message[bytes]] = {}
    while len(got) < 6:
        got |= {message.text: message for message in await jobs.receive(10, wait=5)}
    assert (got["3"].partition, got["3"].offset, got["3"].key) == (1, 1, b"k3")
    await jobs.ack(message for text, message in got.items() if text != "3")
    await got["3"].nack(reason="busy")
    (again,) = await jobs.receive(wait=5)
    assert (again.text, again.attempt, again.partition) == ("3", 2, 1)
    await again.ack()
    assert not await jobs.receive(wait=0.1)


async def test_several_queues_and_groups_share_a_topic(client: Client, log: Topic[bytes]) -> None:
    queues = [await client.create_queue(name, source="log") for name in ("one", "two")]
    await produce(log, 10)
    for queue in queues:
        done: list[str] = []
        async with asyncio.timeout(10), queue.consume() as consumer:
            async for message in consumer:
                async with message:
                    done.append(message.text)
                if len(done) == 10:
                    break
        await client.flush()
        assert sorted(done, key=int) == [f"{i}" for i in range(10)]
    records = await log.fetch(0, 0)
    assert len(records) == 5


async def test_dead_letters_of_records_keep_their_ids_and_come_back_elsewhere(
    client: Client, log: Topic[bytes]
) -> None:
    jobs = await client.create_queue("jobs", source="log")
    await log.produce("x", partition=1)
    (message,) = await jobs.receive(wait=5)
    await message.dead_letter("poison")
    (dead,) = await client.queue("jobs.dead").receive(wait=5)
    assert (dead.id, dead.text) == (message.id, "x")
    assert dead.history is not None
    assert dead.history.reason == "poison"


async def test_nothing_is_enqueued_to_a_queue_over_a_topic(client: Client, log: Topic[bytes]) -> None:
    jobs = await client.create_queue("jobs", source="log")
    with pytest.raises(Invalid, match="log"):
        await jobs.enqueue("x")
    with pytest.raises(Invalid, match="decided when it is created"):
        await client.alter_queue("jobs", source="other")


async def test_what_is_done_outlives_a_kill(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        log = await client.create_topic("log", partitions=2)
        jobs = await client.create_queue("jobs", source="log")
        await produce(log, 4)
        async with asyncio.timeout(10):
            done = 0
            while done < 3:
                messages = await jobs.receive(min(2, 3 - done), wait=5)
                await messages.ack()
                done += len(messages)
    broker.kill()
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        left = await client.queue("jobs").receive(10, wait=5)
        assert len(left) == 1


async def test_delayed_by_a_nack_a_record_lets_others_pass(client: Client, log: Topic[bytes]) -> None:
    jobs = await client.create_queue("jobs", source="log")
    await log.produce_many([Outgoing(text, partition=0) for text in ("a", "b")])
    (a,) = await jobs.receive(wait=5)
    loop = asyncio.get_running_loop()
    begin = loop.time()  # the delay counts from the nack, not from its confirm
    await a.nack(delay=0.3)
    (b,) = await jobs.receive(wait=5)
    assert b.text == "b"
    (again,) = await jobs.receive(wait=5)
    assert (again.text, loop.time() - begin >= 0.25) == ("a", True)


async def test_compacted_topic_is_no_source(client: Client) -> None:
    await client.create_topic("log", cleanup="compact")
    with pytest.raises(Invalid, match="'log' is compacted"):
        await client.create_queue("jobs", source="log")
