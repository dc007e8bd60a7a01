"""Delay, schedule, expiry and priority through the client and the real broker."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.integration.conftest import StartBroker

import penstock
from penstock import Client, Outgoing, Queue


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", retry=penstock.Backoff(initial=0, jitter=0))


async def texts(queue: Queue[bytes], count: int, wait: float = 5.0) -> list[str]:
    """Receive and ack that many."""
    got: list[str] = []
    while len(got) < count:
        messages = await queue.receive(count - len(got), wait=wait)
        assert messages, f"only {got} came"
        got += [message.text for message in messages]
        await messages.ack()
    return got


async def test_delayed_message_comes_when_its_time_has_come(jobs: Queue[bytes]) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await jobs.enqueue("later", delay=0.3)
    assert await texts(jobs, 1) == ["later"]
    assert loop.time() - begin >= 0.3


async def test_delayed_message_lets_others_pass_and_can_be_seen(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("tomorrow", delay=86_400)
    await jobs.enqueue("now")
    assert await texts(jobs, 1) == ["now"]
    assert (await jobs.stats()).delayed == 1
    assert [each.text for each in await jobs.peek(state="delayed")] == ["tomorrow"]


async def test_delayed_messages_come_in_the_order_of_their_times(jobs: Queue[bytes]) -> None:
    now = datetime.now(UTC)
    await jobs.enqueue_many(
        [
            Outgoing("third", at=now + timedelta(milliseconds=300)),
            Outgoing("first", delay=0.1),
            Outgoing("second", at=now + timedelta(milliseconds=200)),
            Outgoing("at once", at=now - timedelta(days=1)),
        ]
    )
    assert await texts(jobs, 4) == ["at once", "first", "second", "third"]


async def test_queue_may_delay_what_does_not_say_otherwise(client: Client) -> None:
    slow = await client.create_queue("slow", delay=3_600)
    await slow.enqueue("x")
    await slow.enqueue("y", delay=0.05)
    assert await texts(slow, 1) == ["y"]
    assert (await slow.stats()).delayed == 1


async def test_delayed_messages_outlive_a_restart(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs")
        await jobs.enqueue("soon", delay=0.5)
        far = await jobs.enqueue("in ten years", delay=timedelta(days=3_660))
    broker.kill()
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = client.queue("jobs")
        assert await texts(jobs, 1) == ["soon"]
        assert (await jobs.stats()).delayed == 1
        assert await jobs.cancel(far.id)
        assert (await jobs.stats()).delayed == 0


async def test_delayed_message_is_cancelled_by_its_id(jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x", delay=3_600)
    assert await jobs.cancel(receipt.id)
    assert not await jobs.cancel(receipt.id)
    stats = await jobs.stats()
    assert (stats.delayed, stats.ready) == (0, 0)


async def test_message_in_hand_is_not_cancelled(jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x")
    (message,) = await jobs.receive()
    assert not await jobs.cancel(receipt.id)
    await message.ack()


@pytest.mark.parametrize("delay", [0, 0.1], ids=["at once", "sooner"])
async def test_delayed_message_is_rescheduled(jobs: Queue[bytes], delay: float) -> None:
    receipt = await jobs.enqueue("x", delay=3_600)
    assert await jobs.reschedule(receipt.id, delay=delay)
    assert await texts(jobs, 1) == ["x"]


async def test_ready_message_can_be_put_off(jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x")
    assert await jobs.reschedule(receipt.id, at=datetime.now(UTC) + timedelta(hours=1))
    assert not await jobs.receive(wait=0)
    assert (await jobs.stats()).delayed == 1


async def test_expired_message_is_never_delivered(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("gone", ttl=0.05)
    await jobs.enqueue("gone before its time", ttl=0.05, delay=0.2)
    await asyncio.sleep(0.1)
    await jobs.enqueue("there", ttl=60)
    assert await texts(jobs, 1) == ["there"]
    assert not await jobs.receive(wait=0.3)


async def test_expired_messages_may_go_to_the_dead_letter_queue(client: Client) -> None:
    dead_letters = await client.create_queue("dead", dead_letter=None, max_attempts=None, max_deliveries=None)
    jobs = await client.create_queue("jobs", ttl=0.05, on_expiry="dead_letter", dead_letter="dead")
    receipt = await jobs.enqueue("x")
    (dead,) = await dead_letters.receive(wait=5)
    assert (dead.id, dead.text) == (receipt.id, "x")
    assert dead.history is not None
    assert dead.history.reason == "expired"


async def test_message_may_expire_before_it_is_written(client: Client) -> None:
    jobs = await client.create_queue("jobs", on_expiry="dead_letter")
    for _ in range(50):
        await jobs.enqueue("x", ttl=0.001)
    assert await texts(client.queue("jobs.dead"), 50) == ["x"] * 50


async def test_higher_priority_comes_first_and_equals_in_order(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many(
        [Outgoing(f"{priority}.{turn}", priority=priority) for turn in range(2) for priority in (0, 9, 4)]
    )
    assert [each.priority for each in await jobs.peek(1)] != []
    assert await texts(jobs, 6) == ["9.0", "9.1", "4.0", "4.1", "0.0", "0.1"]


async def test_waiting_raises_the_priority_of_an_ageing_queue(client: Client) -> None:
    jobs = await client.create_queue("jobs", priority_ageing=0.05)
    await jobs.enqueue("old")
    await asyncio.sleep(0.3)
    await jobs.enqueue("new", priority=2)
    assert await texts(jobs, 2) == ["old", "new"]
