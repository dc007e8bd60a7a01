"""The other half of the rows of "Coming from SQS": receive, delete, operate. See test_coming_from_sqs.py."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.process import BrokerProcess
from tests.integration.sides import Counts, Refused, dead_letters, until

from penstock import Client, Invalid, Message, Queue, Stale


@pytest.fixture
async def side(beside_sqs: Any) -> Any:
    """Each of the two."""
    return beside_sqs


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs")


async def one(side: Any, q: str, **settings: Any) -> None:
    """A queue with a message."""
    await side.declare(q, **settings)
    await side.publish(q, "x")


# Receive


async def test_receive_takes_ten_there_and_thousands_here(side: Any, q: str) -> None:
    await side.declare(q)
    for _ in range(3):
        await side.publish_many(q, [("x", {})] * 10)
    assert len(await side.take(q, 10)) == 10
    if side.name == "sqs":
        with pytest.raises(Refused):
            await side.take(q, 11)
    else:
        await side.client.queue(q).enqueue_many([b"x"] * 9_980)
        assert len(await side.take(q, 10_000, wait=1)) == 10_000


async def test_wait_may_be_longer_than_twenty_seconds(side: Any, q: str) -> None:
    await one(side, q)
    if side.name == "sqs":
        with pytest.raises(Refused):
            await side.take(q, wait=21)
    else:
        assert len(await side.take(q, wait=3_600)) == 1


async def test_receive_may_choose_its_lease(side: Any, q: str) -> None:
    await one(side, q, visibility_timeout=600)
    await side.take(q, visibility_timeout=2)
    assert not await side.take(q)
    assert len(await side.take(q, wait=5)) == 1


async def test_receives_are_counted(side: Any, q: str) -> None:
    await one(side, q)
    for delivery in (1, 2, 3):
        (taken,) = await side.take(q)
        assert (taken.delivery, taken.redelivered) == (delivery, delivery > 1)
        await side.release(taken)


async def test_message_knows_when_it_was_sent_and_its_place(jobs: Queue[bytes]) -> None:
    receipts = await jobs.enqueue_many([b"a", b"b"])
    first, second = await jobs.receive(2)
    assert (first.offset, second.offset) == (receipts[0].offset, receipts[1].offset)
    assert first.offset < second.offset
    assert abs((first.enqueued_at - datetime.now(UTC)).total_seconds()) < 60


async def test_work_replaces_the_loop(client: Client, jobs: Queue[bytes]) -> None:
    over, seen = asyncio.Event(), []

    async def handle(message: Message[bytes]) -> None:
        seen.append(message.text)
        if len(seen) == 3:
            over.set()

    worker = asyncio.ensure_future(jobs.work(handle, concurrency=2))
    await jobs.enqueue_many([b"a", b"b", b"c"])
    async with asyncio.timeout(10):
        await over.wait()
    worker.cancel()
    await asyncio.wait([worker])
    assert sorted(seen) == ["a", "b", "c"]
    assert (await jobs.stats()).settled_total == 3


# Delete, and change the visibility


async def test_deleted_message_is_gone(side: Any, q: str) -> None:
    await one(side, q)
    await side.ack(*await side.take(q))
    await until(side, q, Counts(0, 0, 0))


async def test_many_are_deleted_at_once(side: Any, q: str) -> None:
    await side.declare(q)
    await side.publish_many(q, [("x", {})] * 10)
    await side.ack(*await side.take(q, 10))
    await until(side, q, Counts(0, 0, 0))


async def test_late_ack_is_refused_and_the_others_count(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"late", b"in time"])
    (late,) = await jobs.receive(visibility_timeout=0.1)
    (in_time,) = await jobs.receive()
    (again,) = await jobs.receive(wait=5)
    assert (again.id, again.lease_token > late.lease_token) == (late.id, True)
    with pytest.raises(Stale):
        await jobs.ack([late, in_time])
    stats = await jobs.stats()
    assert (stats.in_flight, stats.settled_total) == (1, 1)
    await again.ack()


async def test_visibility_of_zero_is_a_release(side: Any, q: str) -> None:
    await one(side, q)
    await side.release(*await side.take(q))
    (again,) = await side.take(q)
    assert again.delivery == 2
    if side.name == "penstock":
        assert again.raw.attempt == 1
        await again.raw.nack(delay=0)
        (failed,) = await side.take(q, wait=1)
        assert (failed.raw.attempt, failed.delivery) == (2, 3)


async def test_more_visibility_is_more_time(side: Any, q: str) -> None:
    await one(side, q, visibility_timeout=2)
    (taken,) = await side.take(q)
    await side.extend(taken, 600)
    await asyncio.sleep(2.3)
    assert not await side.take(q)
    await side.ack(taken)


async def test_visibility_for_a_later_try_is_a_nack(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.nack(delay=3_600, reason="no luck")
    stats = await jobs.stats()
    assert (stats.delayed, stats.in_flight) == (1, 0)


async def test_many_leases_are_extended_at_once(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"a", b"b"])
    messages = await jobs.receive(2)
    await jobs.extend(messages, 600)
    assert all(590 < message.lease_remaining <= 600 for message in messages)


async def test_lease_has_a_limit_of_twelve_hours(side: Any, q: str) -> None:
    await one(side, q)
    (taken,) = await side.take(q)
    await side.extend(taken, 43_100)
    with pytest.raises(Refused):
        await side.extend(taken, 43_201)
    if side.name == "penstock":
        await side.extend(taken, 43_200)


async def test_next_try_knows_how_far_the_last_one_got(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.extend(60, checkpoint=b"page 7")
    await message.nack(delay=0)
    (again,) = await jobs.receive(wait=5)
    assert again.checkpoint == b"page 7"


# Operate


async def test_purge_leaves_what_is_in_flight(side: Any, q: str) -> None:
    """Not there: AWS says so, moto shows it. And there it is done once a minute."""
    await side.declare(q)
    for text in "abc":
        await side.publish(q, text)
    await side.take(q)
    await side.purge(q)
    assert await side.counts(q) == {"penstock": Counts(0, 1, 0), "sqs": Counts(0, 0, 0)}[side.name]
    if side.name == "sqs":
        with pytest.raises(Refused):
            await side.purge(q)
    else:
        assert await side.purge(q) == 0


async def test_dead_letters_are_redriven(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue_many([b"a", b"b", b"c"])
    for message in await jobs.receive(3):
        await message.dead_letter("poison" if message.text == "a" else "no such user")
    dead = client.queue("jobs.dead")
    assert (await dead.redrive(dry_run=True)).messages == 3
    assert (await dead.redrive(reason="poison", rate=500)).messages == 1
    (again,) = await jobs.receive()
    assert (again.text, again.attempt, again.delivery) == ("a", 1, 1)
    assert again.history is not None
    assert again.history.reason == "poison"


async def test_dead_letter_keeps_its_id_and_age(side: Any, q: str) -> None:
    dead = await dead_letters(side, q, max_deliveries=1)
    await side.publish(q, "x")
    (taken,) = await side.take(q)
    await side.release(taken)
    assert not await side.take(q)
    (letter,) = await side.take(dead, wait=5)
    if side.name == "sqs":
        assert letter.raw["MessageId"] == taken.raw["MessageId"]
    else:
        assert (letter.raw.id, letter.raw.history.first_at) == (taken.raw.id, taken.raw.enqueued_at)


async def test_in_flight_has_a_limit(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_in_flight=2)
    await jobs.enqueue_many([b"x"] * 5)
    assert len(await jobs.receive(10)) == 2
    assert not await jobs.receive(10, wait=0)
    assert (await client.describe_queue((await client.create_queue("other")).name)).settings[
        "max_in_flight"
    ] == 100_000
    with pytest.raises(Invalid, match="max_in_flight"):
        await client.alter_queue("jobs", max_in_flight=1_000_001)


async def test_queue_is_bounded(client: Client, jobs: Queue[bytes]) -> None:
    assert (await client.describe_queue("jobs")).settings["max_messages"] == 1_000_000
    await client.alter_queue("jobs", max_messages=None, max_bytes=None)
    assert (await client.describe_queue("jobs")).settings["max_messages"] is None


async def test_names_may_have_dots_and_colons(client: Client) -> None:
    await client.create_queue("eu.orders:paid_1-2")
    await client.create_queue("n" * 250)
    with pytest.raises(Invalid):
        await client.create_queue("n" * 251)


async def test_settled_messages_are_replayed(client: Client) -> None:
    jobs = await client.create_queue("jobs", keep_settled=86_400)
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.ack()
    assert (await jobs.replay(since=message.enqueued_at)).messages == 1
    assert len(await jobs.receive()) == 1


async def test_request_has_its_answer(jobs: Queue[bytes]) -> None:
    async def shout(message: Message[bytes]) -> None:
        await message.reply(message.text.upper())

    worker = asyncio.ensure_future(jobs.work(shout))
    assert (await jobs.request("hello", timeout=10)).text == "HELLO"
    worker.cancel()
    await asyncio.wait([worker])


async def test_metrics_have_names(broker: BrokerProcess, client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"a", b"b", b"c"])
    await jobs.enqueue("d", delay=600)
    first, _ = await jobs.receive(2)
    await first.ack()
    fair = await client.create_queue("fair", fair=True)
    await fair.enqueue("x", message_group="a")
    status, text = broker.get("/metrics")
    assert status == 200
    for line in (
        'penstock_queue_messages{queue="jobs",state="ready"} 1.0',
        'penstock_queue_messages{queue="jobs",state="in_flight"} 1.0',
        'penstock_queue_messages{queue="jobs",state="delayed"} 1.0',
        'penstock_queue_enqueued_total{queue="jobs"} 4.0',
        'penstock_queue_delivered_total{queue="jobs"} 2.0',
        'penstock_queue_acked_total{queue="jobs"} 1.0',
        'penstock_queue_duplicates_total{queue="jobs"} 0.0',
        'penstock_queue_oldest_age_seconds{queue="jobs",state="ready"}',
        "penstock_payload_bytes_total",
        'penstock_requests_total{code="OK",verb="receive"}',
        'penstock_queue_throttled_tenants{queue="fair"} 0.0',
        'penstock_queue_blocked_groups{queue="jobs"} 0.0',
    ):
        assert line.lower() in text.lower()
