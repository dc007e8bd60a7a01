"""What a trial of the queues by their documentation came upon: promises that were not kept."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

import penstock
from penstock import Client, Invalid, Outgoing, Queue

AT_ONCE = penstock.Backoff(initial=0, jitter=0)


async def dead_and_back(client: Client, jobs: Queue[bytes]) -> None:
    """Dead-letter the message at hand, and redrive it to where it died."""
    (message,) = await jobs.receive()
    await message.dead_letter("poison")
    assert (await client.queue(f"{jobs.name}.dead").redrive()).messages == 1


async def test_redriven_message_is_still_found_by_its_id(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    receipt = await jobs.enqueue("x")
    await dead_and_back(client, jobs)
    (found,) = await jobs.find(id=receipt.id)
    assert (await jobs.explain(receipt.id)).state == found.state == "ready"
    assert await jobs.reschedule(receipt.id, delay=60)
    assert await jobs.cancel(receipt.id)
    assert not await jobs.find(id=receipt.id)


async def test_message_that_was_moved_and_moved_back_is_still_found_by_its_id(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    elsewhere = await client.create_queue("elsewhere")
    receipt = await jobs.enqueue("x")
    await jobs.move(elsewhere)
    await elsewhere.move(jobs)
    assert (await jobs.explain(receipt.id)).state == "ready"
    assert await jobs.cancel(receipt.id)


async def test_job_that_is_redriven_does_not_run_beside_its_successor(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue("first", job_key="index")
    (message,) = await jobs.receive()
    await message.dead_letter("poison")
    await jobs.enqueue("second", job_key="index")
    await client.queue("jobs.dead").redrive()
    assert len(await jobs.receive(10)) == 1


async def test_job_that_is_moved_does_not_run_beside_another(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    elsewhere = await client.create_queue("elsewhere")
    await jobs.enqueue("here", job_key="index")
    await elsewhere.enqueue("there", job_key="index")
    await jobs.move(elsewhere)
    assert len(await elsewhere.receive(10)) == 1


async def test_dead_letters_cannot_go_round_through_a_topic(client: Client) -> None:
    log = await client.create_topic("log")
    await client.create_queue("one", source="log")
    with pytest.raises(Invalid):
        await client.create_queue("two", source="log", dead_letter="one", max_attempts=1)
    await log.produce("poison")
    assert await log.offset(0, at="latest") == 1


async def test_dead_letters_of_jobs_are_no_records_of_a_topic(client: Client) -> None:
    await client.create_topic("log")
    await client.create_queue("over", source="log")
    with pytest.raises(Invalid, match="over"):
        await client.create_queue("jobs", dead_letter="over")


async def test_delay_of_a_queue_over_a_topic_is_kept_or_refused(client: Client) -> None:
    log = await client.create_topic("log")
    try:
        over = await client.create_queue("over", source="log", delay=60)
    except Invalid:
        return
    await log.produce("x")
    assert not await over.receive(wait=0.5)


async def test_age_of_records_that_retention_took_is_not_that_of_the_epoch(client: Client) -> None:
    log = await client.create_topic("log", retention_bytes=100_000)
    over = await client.create_queue("over", source="log")
    await log.produce_many([b"x" * 1_000] * 100)
    assert await over.receive(10)
    async with asyncio.timeout(60):
        while not await log.offset(0, at="earliest"):
            await log.produce_many([b"x" * 10_000] * 100)
    age = (await over.stats()).oldest_age
    assert age is None or age < 3_600


async def test_delay_that_no_integer_holds_is_refused(client: Client) -> None:
    jobs = await client.create_queue("jobs", retry=AT_ONCE)
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    async with asyncio.timeout(10):
        with pytest.raises(Invalid):
            await message.nack(delay=1e18)


async def test_copy_that_is_looked_at_says_that_it_is_replayed(client: Client) -> None:
    jobs = await client.create_queue("jobs", keep_settled=3_600)
    await jobs.enqueue("x")
    await (await jobs.receive()).ack()
    await jobs.replay(datetime.now(UTC) - timedelta(hours=1))
    (copy,) = await jobs.peek()
    assert copy.replayed
    await jobs.enqueue("new")
    assert [message.replayed for message in await jobs.peek()] == [True, False]
    found = {each.message.offset: each.message.replayed for each in await jobs.find()}
    assert found == {0: False, 1: True, 2: False}


async def test_tenant_at_its_cap_counts_as_throttled(client: Client) -> None:
    jobs = await client.create_queue("jobs", fair=True, group_concurrency=1)
    await jobs.enqueue_many([Outgoing("x", message_group="acme")] * 2)
    assert len(await jobs.receive(10)) == 1
    assert (await jobs.stats()).throttled_tenants == 1
