"""What a message brings along when it has failed, and its way back: history, checkpoint, redrive, replay."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.integration.conftest import StartBroker

import penstock
from penstock import Client, Invalid, Queue, Redriven

AT_ONCE = penstock.Backoff(initial=0, jitter=0)


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", max_attempts=2, retry=AT_ONCE)


async def kill(queue: Queue[bytes], count: int = 1, reason: str = "poison") -> None:
    """Dead-letter that many."""
    messages = await queue.receive(count)
    assert len(messages) == count
    for message in messages:
        await message.dead_letter(reason)


# History and checkpoint


async def test_dead_letter_tells_where_it_was_and_every_try(client: Client, jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x", headers={"a": 1})
    for turn in range(2):
        (message,) = await jobs.receive(wait=5)
        await message.nack(reason=f"no luck {turn}")
    (dead,) = await client.queue("jobs.dead").peek()
    history = dead.history
    assert history is not None
    assert (dead.id, history.queue, history.offset) == (receipt.id, "jobs", receipt.offset)
    assert [(each.outcome, each.error) for each in history.attempts] == [
        ("nacked", "no luck 0"),
        ("nacked", "no luck 1"),
    ]
    assert history.last_at is not None
    assert history.first_at <= history.attempts[0].end <= history.last_at
    assert dead.headers == {"a": 1}


async def test_message_that_is_tried_again_tells_of_the_try_before(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    assert (message.history, message.checkpoint) == (None, None)
    await message.nack(reason="busy")
    (again,) = await jobs.receive(wait=5)
    assert again.history is not None
    assert [each.error for each in again.history.attempts] == ["busy"]
    assert again.history.last_at is None


async def test_next_try_is_given_the_last_checkpoint(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs", retry=AT_ONCE)
        await jobs.enqueue("x")
        (message,) = await jobs.receive(visibility_timeout=1)
        await message.extend(1, b"a third")
        await message.extend(1, checkpoint=b"x" * 65_536)
    broker.kill()
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        (again,) = await client.queue("jobs").receive(wait=30)
        assert again.checkpoint == b"x" * 65_536
        await again.ack()


# Redrive


async def test_redriven_message_is_back_where_it_died_with_a_fresh_count_and_its_history(
    client: Client, jobs: Queue[bytes]
) -> None:
    receipt = await jobs.enqueue("x")
    await kill(jobs)
    dead = client.queue("jobs.dead")
    assert (await dead.redrive(dry_run=True)).messages == 1
    assert (await dead.stats()).ready == 1
    assert (await dead.redrive()).messages == 1
    assert (await dead.stats()).ready == 0
    (message,) = await jobs.receive(wait=5)
    assert (message.id, message.text, message.attempt, message.delivery) == (receipt.id, "x", 1, 1)
    assert message.history is not None
    assert message.history.reason == "poison"
    await message.ack()


async def test_redrive_takes_a_limit_a_reason_and_another_queue(client: Client, jobs: Queue[bytes]) -> None:
    other = await client.create_queue("other")
    await jobs.enqueue_many([b"%d" % i for i in range(6)])
    await kill(jobs, 3, "this")
    await kill(jobs, 3, "that")
    dead = client.queue("jobs.dead")
    assert (await dead.redrive(other, reason="that", limit=2)).messages == 2
    assert [message.text for message in await other.receive(10, wait=1)] == ["3", "4"]
    assert (await dead.stats()).ready == 4


async def test_redrive_keeps_its_pace(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"x"] * 10)
    await kill(jobs, 10)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    assert (await client.queue("jobs.dead").redrive(rate=20)).messages == 10
    assert 0.3 <= loop.time() - begin < 5


async def test_many_are_redriven_in_steps(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"%d" % i for i in range(5_000)])
    while (await jobs.stats()).ready:
        messages = await jobs.receive(1_000)
        await messages.queue.dead_letter(messages, "poison")
    assert (await client.queue("jobs.dead").redrive()).messages == 5_000
    assert (await jobs.stats()).ready == 5_000


async def test_what_did_not_die_is_not_redriven_without_a_target(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    with pytest.raises(Invalid, match="no dead letter"):
        await jobs.redrive()


async def test_dead_letters_that_would_go_round_are_refused(client: Client, jobs: Queue[bytes]) -> None:
    await client.create_queue("a", dead_letter="b")
    with pytest.raises(Invalid, match="go round: b → a → b"):
        await client.create_queue("b", dead_letter="a")


# Replay and move


async def test_settled_messages_are_replayed_with_their_ids(client: Client) -> None:
    jobs = await client.create_queue("jobs", keep_settled=3_600)
    before = datetime.now(UTC) - timedelta(seconds=5)
    after = before + timedelta(minutes=1)
    receipts = await jobs.enqueue_many([b"%d" % i for i in range(5)])
    await (await jobs.receive(5)).ack()
    assert (await jobs.replay(before, after, dry_run=True)).messages == 5
    assert (await jobs.replay(before, after)).messages == 5
    messages = await jobs.receive(10, wait=5)
    assert [message.text for message in messages] == ["0", "1", "2", "3", "4"]
    assert [message.id for message in messages] == [receipt.id for receipt in receipts]
    assert all(message.replayed for message in messages)


async def test_replay_goes_into_another_queue_and_takes_a_limit(client: Client) -> None:
    jobs = await client.create_queue("jobs", keep_settled=3_600)
    other = await client.create_queue("other")
    await jobs.enqueue_many([b"%d" % i for i in range(5)])
    await (await jobs.receive(5)).ack()
    await asyncio.sleep(0.01)
    since = datetime.now(UTC) - timedelta(minutes=1)
    assert (await jobs.replay(since, into=other, limit=2)).messages == 2
    assert await jobs.replay(datetime.now(UTC)) == Redriven(0, 0)
    assert [message.text for message in await other.receive(10, wait=1)] == ["0", "1"]


async def test_move_takes_messages_of_a_state(client: Client, jobs: Queue[bytes]) -> None:
    other = await client.create_queue("other")
    await jobs.enqueue("ready")
    later = await jobs.enqueue("later", delay=3_600)
    assert (await jobs.move(other, state="delayed")).messages == 1
    stats = await jobs.stats()
    assert (stats.ready, stats.delayed) == (1, 0)
    (moved,) = await other.find(id=later.id)
    assert moved.message.text == "later"


async def test_move_takes_one_message_by_its_id_or_header(client: Client, jobs: Queue[bytes]) -> None:
    await client.create_queue("other")
    receipts = await jobs.enqueue_many([b"a", b"b", penstock.Outgoing("c", headers={"user": 42})])
    assert (await jobs.move("other", id=receipts[1].id)).messages == 1
    assert (await jobs.move("other", header=("user", 42))).messages == 1
    assert [message.text for message in await client.queue("other").receive(10, wait=1)] == ["b", "c"]
