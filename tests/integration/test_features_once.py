"""At most once: dedup ids, unique jobs, and messages settled as they are sent."""

import asyncio

import pytest
from tests.integration.conftest import StartBroker

import penstock
from penstock import BatchError, Client, Conflict, Invalid, Outgoing, Queue


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", retry=penstock.Backoff(initial=0, jitter=0))


async def everything(queue: Queue[bytes]) -> list[str]:
    messages = await queue.receive(100, wait=0.2)
    await messages.ack()
    return [message.text for message in messages]


# Dedup


async def test_second_message_of_a_dedup_id_is_the_first_one(jobs: Queue[bytes]) -> None:
    first = await jobs.enqueue("x", dedup_id="order 7")
    again = await jobs.enqueue("x", dedup_id="order 7")
    other = await jobs.enqueue("y", dedup_id="order 8")
    assert (first.duplicate, again.duplicate, other.duplicate) == (False, True, False)
    assert (again.id, again.offset) == (first.id, first.offset)
    assert await everything(jobs) == ["x", "y"]


async def test_dedup_id_counts_after_its_message_is_done_and_until_its_window_is_over(client: Client) -> None:
    jobs = await client.create_queue("jobs", dedup_window=0.3)
    await jobs.enqueue("x", dedup_id="d")
    assert await everything(jobs) == ["x"]
    assert (await jobs.enqueue("x", dedup_id="d")).duplicate
    await asyncio.sleep(0.4)
    assert not (await jobs.enqueue("x", dedup_id="d")).duplicate


async def test_dedup_ids_of_one_batch_and_of_many_calls_are_told_one_by_one(jobs: Queue[bytes]) -> None:
    receipts = await jobs.enqueue_many([Outgoing(f"{i}", dedup_id=f"{i % 3}") for i in range(9)])
    assert [receipt.duplicate for receipt in receipts] == [False] * 3 + [True] * 6
    assert [receipt.offset for receipt in receipts] == [0, 1, 2] * 3
    calls = await asyncio.gather(*(jobs.enqueue(f"{i}", dedup_id=f"{i}") for i in range(5)))
    assert [receipt.duplicate for receipt in calls] == [True] * 3 + [False] * 2
    assert await everything(jobs) == ["0", "1", "2", "3", "4"]


async def test_dedup_ids_outlive_a_kill(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs")
        first = await jobs.enqueue("x", dedup_id="d")
    broker.kill()
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        again = await client.queue("jobs").enqueue("x", dedup_id="d")
    assert (again.duplicate, again.id) == (True, first.id)


async def test_content_may_be_what_is_unique(client: Client) -> None:
    jobs = await client.create_queue("jobs", content_dedup=True)
    assert not (await jobs.enqueue("x")).duplicate
    assert (await jobs.enqueue("x")).duplicate
    assert not (await jobs.enqueue("y")).duplicate


# Jobs


async def test_job_key_that_is_taken_is_a_conflict_until_its_message_is_done(jobs: Queue[bytes]) -> None:
    first = await jobs.enqueue("x", job_key="nightly")
    with pytest.raises(Conflict, match=f"taken by the message at offset {first.offset}"):
        await jobs.enqueue("y", job_key="nightly")
    (message,) = await jobs.receive()
    with pytest.raises(Conflict):
        await jobs.enqueue("y", job_key="nightly")
    await message.ack()
    assert not (await jobs.enqueue("z", job_key="nightly")).duplicate
    assert await everything(jobs) == ["z"]


async def test_job_key_may_be_taken_only_while_it_is_queued(client: Client) -> None:
    jobs = await client.create_queue("jobs", job_scope="queued")
    await jobs.enqueue("x", job_key="k")
    with pytest.raises(Conflict):
        await jobs.enqueue("y", job_key="k")
    await jobs.receive()
    await jobs.enqueue("y", job_key="k")


async def test_conflict_refuses_its_message_alone(jobs: Queue[bytes]) -> None:
    items = [Outgoing("a", job_key="k"), Outgoing("b", job_key="k"), Outgoing("c")]
    with pytest.raises(BatchError) as caught:
        await jobs.enqueue_many(items)
    assert caught.value.refused == [items[1]]
    assert len(caught.value.receipts) == 2
    assert await everything(jobs) == ["a", "c"]


async def test_older_job_may_be_kept(jobs: Queue[bytes]) -> None:
    first = await jobs.enqueue("old", job_key="k")
    kept = await jobs.enqueue("new", job_key="k", on_conflict="keep")
    assert (kept.duplicate, kept.id) == (True, first.id)
    assert await everything(jobs) == ["old"]


async def test_older_job_may_be_replaced(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("old", job_key="k")
    assert not (await jobs.enqueue("new", job_key="k", on_conflict="replace")).duplicate
    assert await everything(jobs) == ["new"]


async def test_job_may_run_after_those_before_it(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("first", job_key="k")
    await jobs.enqueue("second", job_key="k", on_conflict="run_after")
    messages = await jobs.receive(10, wait=0.2)
    assert [message.text for message in messages] == ["first"]
    assert [message.text for message in await jobs.peek(state="held")] == ["second"]
    await messages.ack()
    assert await everything(jobs) == ["second"]


# Settled as sent


async def test_received_with_settle_they_are_done(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"a", b"b"])
    messages = await jobs.receive(2, settle=True)
    assert [message.text for message in messages] == ["a", "b"]
    stats = await jobs.stats()
    assert (stats.in_flight, stats.settled_total) == (0, 2)
    async with messages[0]:
        pass
    with pytest.raises(Invalid, match="settle=True"):
        await messages.ack()


async def test_consumed_with_settle_they_are_done(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"%d" % i for i in range(100)])
    got = []
    async with jobs.consume(settle=True) as consumer:
        async for message in consumer:
            got.append(message.text)
            if len(got) == 50:
                consumer.stop()
    rest = [message.text for message in await jobs.receive(100, wait=0)]
    assert got + rest == [f"{i}" for i in range(100)]
