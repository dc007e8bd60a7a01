"""Queues through the client and the real broker: enqueue, receive, and every way a message can go."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Queue


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", retry=penstock.Backoff(initial=0, jitter=0))


async def test_what_is_enqueued_is_received_with_its_headers(jobs: Queue[bytes]) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    receipt = await jobs.enqueue("grüße", headers={"n": 1, "s": "é", "b": b"\0", "x": None, "f": 1.5})
    (message,) = await jobs.receive()
    assert (message.text, message.body, message.queue) == ("grüße", "grüße".encode(), "jobs")
    assert message.headers == {"n": 1, "s": "é", "b": b"\0", "x": None, "f": 1.5}
    assert (message.id, message.offset) == (receipt.id, receipt.offset)
    assert (message.attempt, message.delivery, message.redelivered) == (1, 1, False)
    assert before < message.enqueued_at < datetime.now(UTC) + timedelta(seconds=1)
    assert 25 < message.lease_remaining <= 30


async def test_enqueue_many_keeps_its_order_and_tells_every_place(jobs: Queue[bytes]) -> None:
    receipts = await jobs.enqueue_many([b"%d" % i for i in range(25_000)])
    assert len(receipts) == 25_000
    assert [r.offset for r in receipts[:3]] == [0, 1, 2]
    got: list[bytes] = []
    while len(got) < 25_000:
        messages = await jobs.receive(10_000, wait=5)
        got += [message.body for message in messages]
        await messages.ack()
    assert got == [b"%d" % i for i in range(25_000)]


async def test_values_go_through_the_codec_of_the_handle(client: Client, jobs: Queue[bytes]) -> None:
    typed = client.queue("jobs", codec=penstock.codecs.json)
    await typed.enqueue({"user": 42})
    await typed.enqueue("text")
    first, second = await typed.receive(2)
    assert (first.body, first.raw) == ({"user": 42}, b'{"user":42}')
    assert (second.body, second.raw) == ("text", b'"text"')


async def test_receive_waits_for_the_first_message(jobs: Queue[bytes]) -> None:
    waiting = asyncio.ensure_future(jobs.receive(10, wait=20))
    assert len(await jobs.receive(wait=0)) == 0
    await jobs.enqueue("x")
    assert [message.text for message in await waiting] == ["x"]


async def test_receive_comes_back_empty_when_the_wait_is_over(jobs: Queue[bytes]) -> None:
    assert len(await jobs.receive(wait=0)) == 0
    assert len(await jobs.receive(wait=0.05)) == 0


async def test_acked_message_never_returns(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.ack()
    stats = await jobs.stats()
    assert (stats.ready, stats.in_flight, stats.settled_total, stats.bytes) == (0, 0, 1, 0)


async def test_messages_settle_as_ranges(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"x"] * 9)
    messages = await jobs.receive(9)
    await messages[4].nack(delay=3_600)
    await jobs.ack(messages[:3])
    await messages.release()
    stats = await jobs.stats()
    assert (stats.ready, stats.delayed, stats.in_flight, stats.settled_total) == (5, 1, 0, 3)


async def test_nacked_message_comes_back_with_one_more_attempt(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.nack(delay=0, reason="busy")
    (again,) = await jobs.receive(wait=5)
    assert (again.id, again.attempt, again.delivery) == (message.id, 2, 2)
    assert again.lease_token > message.lease_token


async def test_nack_with_a_delay_keeps_the_message_away_for_as_long(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    messages = await jobs.receive()
    loop = asyncio.get_running_loop()
    begin = loop.time()  # the delay counts from the nack, not from its confirm
    await messages.nack(delay=0.2)
    (again,) = await jobs.receive(wait=10)
    assert loop.time() - begin >= 0.15
    await again.nack(delay=3_600)
    assert (await jobs.stats()).delayed == 1


async def test_released_message_comes_back_without_an_attempt_counted(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    await (await jobs.receive()).release()
    (again,) = await jobs.receive(wait=5)
    assert (again.attempt, again.delivery) == (1, 2)


async def test_dead_lettered_message_keeps_its_id_in_the_dead_letter_queue(
    client: Client, jobs: Queue[bytes]
) -> None:
    await jobs.enqueue("x", headers={"a": 1})
    (message,) = await jobs.receive()
    await message.dead_letter("unreadable")
    (dead,) = await client.queue("jobs.dead").receive(wait=5)
    assert (dead.id, dead.text, dead.headers) == (message.id, "x", {"a": 1})
    assert (await jobs.stats()).settled_total == 1


async def test_message_that_fails_too_often_is_dead_lettered(client: Client) -> None:
    queue = await client.create_queue("flaky", max_attempts=2, retry=penstock.Backoff(initial=0, jitter=0))
    await queue.enqueue("x")
    for _ in range(2):
        await (await queue.receive(wait=5)).nack()
    assert len(await client.queue("flaky.dead").receive(wait=5)) == 1


async def test_dead_letter_without_a_dead_letter_queue_is_invalid(client: Client) -> None:
    queue = await client.create_queue("last", dead_letter=None, max_attempts=None, max_deliveries=None)
    await queue.enqueue("x")
    (message,) = await queue.receive()
    with pytest.raises(penstock.Invalid):
        await message.dead_letter("no way out")


async def test_expired_lease_returns_the_message_and_a_late_ack_is_stale(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (late,) = await jobs.receive(visibility_timeout=0.05)
    (again,) = await jobs.receive(wait=10)
    assert (again.id, again.attempt) == (late.id, 2)
    with pytest.raises(penstock.Stale):
        await late.ack()
    assert late.lease_remaining == 0
    await again.ack()


async def test_extended_lease_outlasts_its_visibility_timeout(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive(visibility_timeout=0.3)
    await message.extend(60)
    assert message.lease_remaining > 55
    assert len(await jobs.receive(wait=0.6)) == 0
    await message.ack()


async def test_bearer_lease_outlives_its_client_and_is_settled_by_another(
    broker: BrokerProcess, jobs: Queue[bytes]
) -> None:
    await jobs.enqueue("x")
    async with penstock.connect(broker.url) as other:
        messages = await other.queue("jobs").receive()
    with pytest.raises(penstock.ClientClosed):
        await messages[0].extend(10)
    assert (await jobs.stats()).in_flight == 1
    await jobs.ack(messages)
    assert (await jobs.stats()).settled_total == 1


async def test_only_the_stale_message_of_a_common_frame_raises(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"a", b"b"])
    first, second = await jobs.receive(2)
    await first.release()
    results = await asyncio.gather(first.ack(), second.ack(), return_exceptions=True)
    assert [type(result) for result in results] == [penstock.Stale, type(None)]


async def test_peek_looks_without_a_lease(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"a", b"b", b"c"])
    await jobs.receive(1)
    assert [message.body for message in await jobs.peek()] == [b"b", b"c"]
    assert [message.body for message in await jobs.peek(1)] == [b"b"]
    assert [message.body for message in await jobs.peek(state="in_flight")] == [b"a"]
    assert (await jobs.stats()).ready == 2
    with pytest.raises(penstock.Invalid):
        await jobs.peek(state="lost")


async def test_purge_settles_what_is_not_in_flight(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"x"] * 10)
    messages = await jobs.receive(3)
    assert await jobs.purge() == 7
    await messages.ack()
    assert (await jobs.stats()).settled_total == 10


async def test_calls_on_an_unknown_queue_say_how_to_create_it(client: Client) -> None:
    nowhere = client.queue("nowhere")
    for call in (nowhere.enqueue("x"), nowhere.receive(), nowhere.stats(), nowhere.peek(), nowhere.purge()):
        with pytest.raises(penstock.NotFound, match="penstock queue create"):
            await call


async def test_queue_that_is_full_refuses_and_takes_again_when_drained(client: Client) -> None:
    queue = await client.create_queue("small", max_messages=2)
    await queue.enqueue_many([b"a", b"b"])
    with pytest.raises(penstock.QueueFull):
        await queue.enqueue("c")
    await (await queue.receive()).ack()
    await queue.enqueue("c")


async def test_everything_survives_kill_9(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        queue = await client.create_queue("jobs")
        await queue.enqueue_many([b"%d" % i for i in range(10)])
        await (await queue.receive(4)).ack()
    broker.kill()
    async with penstock.connect(start_broker().wait_ready().url) as client:
        messages = await client.queue("jobs").receive(100, wait=5)
        assert [message.text for message in messages] == [str(i) for i in range(4, 10)]
        assert all(message.redelivered for message in messages)
