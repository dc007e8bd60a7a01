"""The other half of the rows of "Coming from RabbitMQ": receive, settle, operate. See
test_coming_from_rabbitmq.py."""

import asyncio
import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration import pages
from tests.integration.process import BrokerProcess
from tests.integration.sides import NO_DEAD_LETTERS, Counts, Refused, dead_letters, drain, gone, until

import penstock
from penstock import Backoff, Client, Message, NotFound, Stale

PAGE = pages.Page("coming-from-rabbitmq.md")
AT_ONCE = Backoff(initial=0, jitter=0)


@pytest.fixture
async def side(beside_rabbitmq: Any) -> Any:
    """Each of the two."""
    return beside_rabbitmq


async def numbers(side: Any, q: str, count: int, **settings: Any) -> list[str]:
    """A queue with messages 0, 1, …, and their texts."""
    await side.declare(q, **settings)
    texts = [str(number) for number in range(count)]
    for text in texts:
        await side.publish(q, text)
    return texts


# Receive


async def test_get_from_an_empty_queue_is_no_error(side: Any, q: str) -> None:
    await side.declare(q)
    assert await side.take(q) == []


async def test_receive_waits_for_the_first(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    waiting = asyncio.ensure_future(jobs.receive(10, wait=20))
    await asyncio.sleep(0.2)
    await jobs.enqueue("x")
    async with asyncio.timeout(5):
        (message,) = await waiting
    assert message.text == "x"


async def test_consumer_is_sent_messages_in_order(side: Any, q: str) -> None:
    texts = await numbers(side, q, 5)
    async with side.consuming(q) as consumer:
        taken = await consumer.arrived(5)
        assert [each.text for each in taken] == texts
        await side.ack(*taken)
    assert (await side.counts(q)).ready == 0


async def test_work_acks_what_a_handler_has_done(client: Client) -> None:
    jobs = await client.create_queue("jobs", retry=AT_ONCE)
    over, attempts = asyncio.Event(), []

    async def handle(message: Message[bytes]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            raise RuntimeError("the first time fails")
        over.set()

    worker = asyncio.ensure_future(jobs.work(handle, concurrency=2))
    await jobs.enqueue("x")
    async with asyncio.timeout(10):
        await over.wait()
    worker.cancel()
    await asyncio.wait([worker])
    await client.flush()
    assert attempts == [1, 2]
    assert (await jobs.stats()).settled_total == 1


async def test_prefetch_bounds_what_is_sent_ahead(side: Any, q: str) -> None:
    """There a message in hand counts until it is acked, here until it is taken."""
    texts = await numbers(side, q, 6)
    async with side.consuming(q, prefetch=2) as consumer:
        await until(side, q, Counts(4, 2))
        taken = await consumer.arrived(6, within=1)
        if side.name == "rabbitmq":
            assert [each.text for each in taken] == texts[:2]
            await side.ack(*taken)
            taken = await consumer.arrived(2)
            assert [each.text for each in taken] == texts[2:4]
        else:
            assert [each.text for each in taken] == texts


async def test_consumer_of_higher_priority_is_served_first(side: Any, q: str) -> None:
    await side.declare(q)
    async with (
        side.another() as other,
        side.consuming(q, prefetch=5, priority=0) as low,
        other.consuming(q, prefetch=5, priority=5) as high,
    ):
        for number in range(5):
            await side.publish(q, str(number))
        assert len(await high.arrived(5)) == 5
        assert await low.arrived(1, within=0.2) == []


async def test_without_acks_a_message_is_gone_when_it_is_sent(side: Any, q: str) -> None:
    await numbers(side, q, 1)
    async with side.consuming(q, settle=True) as consumer:
        assert len(await consumer.arrived(1)) == 1
    await asyncio.sleep(0.2)
    assert await side.take(q) == []


async def test_stopped_consumer_finishes_what_it_has_in_hand(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue_many([b"0", b"1", b"2"])
    async with jobs.consume(prefetch=3) as consumer, await anext(consumer) as message:
        consumer.stop()
        await asyncio.sleep(0.2)
        stats = await jobs.stats()
        assert (message.text, stats.ready, stats.in_flight) == ("0", 2, 1)
    await client.flush()
    assert (await jobs.stats()).settled_total == 1


async def test_returned_message_says_so(side: Any, q: str) -> None:
    await numbers(side, q, 1)
    (first,) = await side.take(q)
    await side.release(first)
    (again,) = await side.take(q, wait=5)
    assert (first.redelivered, again.redelivered) == (False, True)
    if side.name == "penstock":
        assert (again.raw.delivery, again.raw.attempt) == (2, 1)


# Settle


async def test_acked_message_is_gone(side: Any, q: str) -> None:
    await numbers(side, q, 1)
    await side.ack(*await side.take(q))
    assert await side.take(q) == []


async def test_second_ack_is_refused(side: Any, q: str) -> None:
    await numbers(side, q, 2)
    first, second = await side.take(q, 2)
    await side.ack(first)
    with pytest.raises(Refused):
        await side.ack(first)
    if side.name == "penstock":
        await side.ack(second)
        with pytest.raises(Stale):
            await second.raw.nack()
    else:
        assert not second.raw[0].is_open  # and its channel's other messages are back


async def test_many_are_acked_at_once(side: Any, q: str) -> None:
    await numbers(side, q, 5)
    if side.name == "penstock":
        await (await side.client.queue(q).receive(4)).ack()
    else:
        taken = await side.take(q, 4)
        await side.ack_up_to(taken[-1])
    assert await drain(side, q, 5, wait=0.2) == ["4"]


async def test_released_message_is_back_at_once_in_its_place(side: Any, q: str) -> None:
    texts = await numbers(side, q, 3)
    await side.release(*await side.take(q))
    assert await drain(side, q, 3) == texts


async def test_release_counts_no_failure(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_attempts=1)
    await jobs.enqueue("x")
    for delivery in range(1, 4):
        (message,) = await jobs.receive()
        assert (message.attempt, message.delivery) == (1, delivery)
        await message.release()
    assert (await jobs.stats()).ready == 1


async def test_failed_message_is_back(side: Any, q: str) -> None:
    texts = await numbers(side, q, 2)
    await side.fail(*await side.take(q))
    assert sorted(await drain(side, q, 2)) == texts


async def test_failure_is_counted_and_waits_longer_each_time(client: Client) -> None:
    jobs = await client.create_queue("jobs", retry=Backoff(initial=0.1, factor=3, jitter=0))
    await jobs.enqueue("x")
    loop, waited = asyncio.get_running_loop(), []
    failed = loop.time()
    for attempt in (1, 2, 3):
        (message,) = await jobs.receive(wait=5)
        waited.append(loop.time() - failed)
        assert message.attempt == attempt
        failed = loop.time()  # the wait counts from the nack, not from its confirm
        await message.nack(reason="no luck")
    assert waited[1] >= 0.09
    assert waited[2] >= 0.29


async def test_rejected_message_is_a_dead_letter(side: Any, q: str) -> None:
    dead = await dead_letters(side, q)
    await side.publish(q, "poison")
    await side.bury(*await side.take(q))
    assert await drain(side, dead, 1) == ["poison"]
    assert await side.take(q) == []


async def test_handler_may_ask_for_a_dead_letter(client: Client) -> None:
    dead_jobs = await client.create_queue("jobs.dead", **NO_DEAD_LETTERS)
    jobs = await client.create_queue("jobs")
    await jobs.enqueue("poison")

    async def handle(message: Message[bytes]) -> None:
        raise penstock.DeadLetter("no such user")

    worker = asyncio.ensure_future(jobs.work(handle))
    (dead,) = await dead_jobs.receive(wait=10)
    worker.cancel()
    await asyncio.wait([worker])
    assert dead.history is not None
    assert dead.history.reason == "no such user"


async def _rejected(side: Any, q: str) -> str:
    dead = await dead_letters(side, q)
    await side.publish(q, "x")
    await side.bury(*await side.take(q))
    return dead


async def _expired(side: Any, q: str) -> str:
    dead = await dead_letters(side, q, ttl=0.1, on_expiry="dead_letter")
    await side.publish(q, "x")
    return dead


async def _pushed_out(side: Any, q: str) -> str:
    dead = await dead_letters(side, q, max_messages=1, overflow="dead_letter_oldest")
    for text in "xy":
        await side.publish(q, text)
    return dead


async def _tried_in_vain(side: Any, q: str) -> str:
    dead = await dead_letters(side, q, max_attempts=1, retry=AT_ONCE)
    await side.publish(q, "x")
    await side.fail(*await side.take(q, wait=5))
    return dead


@pytest.mark.parametrize(
    ("make", "there", "here"),
    [
        (_rejected, "rejected", "rejected"),
        (_expired, "expired", "expired"),
        (_pushed_out, "maxlen", "overflow"),
        (_tried_in_vain, "delivery_limit", "max_attempts"),
    ],
    ids=["rejected", "expired", "pushed out", "tried in vain"],
)
async def test_dead_letter_says_why(
    side: Any, q: str, make: Callable[[Any, str], Any], there: str, here: str
) -> None:
    q = f"{q}-{there}"
    dead = await make(side, q)
    (letter,) = await side.take(dead, wait=10)
    assert letter.text == "x"
    if side.name == "rabbitmq":
        (death,) = letter.headers["x-death"]
        assert (death["reason"], death["queue"], death["count"]) == (there, q, 1)
    else:
        history = letter.raw.history
        assert (history.reason, history.queue) == (here, q)


async def test_lease_is_extended_while_a_message_is_in_hand(client: Client) -> None:
    jobs = await client.create_queue("jobs", visibility_timeout=0.5)
    await jobs.enqueue("x")
    async with jobs.consume() as consumer, await anext(consumer) as message:
        await asyncio.sleep(1.2)
        assert (await jobs.stats()).in_flight == 1
        await message.ack()
    await jobs.enqueue("y")
    async with jobs.consume(max_processing=0.5) as consumer:
        first = await anext(consumer)
        async with asyncio.timeout(10):
            again = await anext(consumer)
        assert (again.text, again.delivery) == ("y", 2)
        with pytest.raises(Stale):
            await first.ack()


# Later, and answers


async def test_delay_is_part_of_a_publish(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    begin = asyncio.get_running_loop().time()
    await jobs.enqueue("later", delay=0.4)
    far = await jobs.enqueue("much later", delay=3_600)
    (message,) = await jobs.receive(wait=5)
    assert message.text == "later"
    assert asyncio.get_running_loop().time() - begin >= 0.39
    assert await jobs.cancel(far.id)


async def test_request_has_its_answer(side: Any, q: str) -> None:
    await side.declare(q)
    assert await side.request(q, "hello", str.upper) == "HELLO"
    assert (await side.counts(q)).ready == 0


async def test_answer_for_nobody_is_refused(side: Any, q: str) -> None:
    """Both are told that the one who asked has gone."""
    await side.declare(q)
    await side.publish(q, "hello", reply_to="nobody", correlation_id="1")
    (taken,) = await side.take(q)
    with pytest.raises(Refused):
        await side.publish("nobody", "HELLO")
    if side.name == "penstock":
        with pytest.raises(NotFound):
            await taken.raw.reply("HELLO")
    await side.ack(taken)


# Operate


async def test_purge_leaves_what_is_in_flight(side: Any, q: str) -> None:
    await numbers(side, q, 5)
    (taken,) = await side.take(q)
    assert await side.purge(q) == 4
    await side.release(taken)
    assert await drain(side, q, 2, wait=0.3) == ["0"]


async def test_deleted_queue_is_gone_with_its_messages(side: Any, q: str) -> None:
    await numbers(side, q, 2)
    await side.delete(q)
    await gone(side, q)
    await side.declare(q)
    assert await side.take(q) == []


async def test_deleting_ends_consumers(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    async with jobs.consume() as consumer:
        await client.delete_queue("jobs")
        with pytest.raises(NotFound):
            await anext(consumer)


async def test_messages_move_and_dead_letters_go_back(client: Client) -> None:
    jobs, other = await client.create_queue("jobs"), await client.create_queue("other")
    await jobs.enqueue_many([b"a", b"b"])
    assert (await jobs.move("other", limit=1, rate=1000)).messages == 1
    assert (await other.stats()).ready == 1
    for message in await jobs.receive(1):
        await message.dead_letter("poison")
    assert (await client.queue("jobs.dead").redrive(reason="poison")).messages == 1
    assert (await jobs.stats()).ready == 1


async def test_looking_takes_nothing(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    receipt = await jobs.enqueue("x", headers={"user": 42})
    (seen,) = await jobs.peek(state="ready")
    (found,) = await jobs.find(header=("user", 42))
    assert seen.id == found.message.id == receipt.id
    assert (await jobs.explain(receipt.id)).state == "ready"
    assert (await jobs.story(receipt.id))[0].what == "enqueued"
    (message,) = await jobs.receive()
    assert (message.delivery, message.redelivered) == (1, False)


async def test_settings_change_while_it_runs(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue("x")
    await client.alter_queue("jobs", max_messages=1)
    with pytest.raises(penstock.QueueFull):
        await jobs.enqueue("y")
    assert [each.settings["max_messages"] for each in await client.list_queues("jo")] == [1]


async def test_paused_queue_delivers_nothing(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue("x")
    await jobs.pause()
    assert not await jobs.receive(wait=0)
    await jobs.resume()
    assert len(await jobs.receive(wait=0)) == 1


async def test_settled_messages_are_replayed(client: Client) -> None:
    jobs = await client.create_queue("jobs", keep_settled=3600)
    receipt = await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.ack()
    assert (await jobs.replay(since=message.enqueued_at)).messages == 1
    (again,) = await jobs.receive()
    assert (again.id, again.replayed) == (receipt.id, True)


async def test_metrics_have_names(broker: BrokerProcess, client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue_many([b"a", b"b", b"c"])
    first, second = await jobs.receive(2)
    await first.ack()
    await second.release()
    await jobs.receive(1)
    await client.flush()
    status, text = broker.get("/metrics")
    assert status == 200
    for line in (
        'penstock_queue_messages{queue="jobs",state="ready"} 1.0',
        'penstock_queue_messages{queue="jobs",state="in_flight"} 1.0',
        'penstock_queue_enqueued_total{queue="jobs"} 3.0',
        'penstock_queue_delivered_total{queue="jobs"} 3.0',
        'penstock_queue_acked_total{queue="jobs"} 1.0',
        'penstock_queue_redelivered_total{queue="jobs"} 1.0',
    ):
        assert line in text
    for name in ("oldest_age_seconds", "bytes", "refused_total", "dead_lettered_total"):
        assert f"penstock_queue_{name}" in text
    for name in ("penstock_connections", "penstock_disk_free_bytes", "penstock_journal_sync_seconds"):
        assert name in text


def test_metrics_have_names_there(rabbitmq: Any) -> None:
    with urllib.request.urlopen(rabbitmq.metrics, timeout=10) as response:
        text = response.read().decode()
    (table,) = [each for each in PAGE.text.split("\n## ") if each.startswith("Metrics")]
    names = set(re.findall(r"`(rabbitmq_\w+)`", table))
    assert len(names) > 8
    assert [name for name in sorted(names) if f"# TYPE {name} " not in text] == []
