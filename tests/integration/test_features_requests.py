"""Throw-away queues, and requests that wait for an answer in one."""

import asyncio

import pytest
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Conflict, Invalid, Message, NotFound, Queue, Timeout


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs")


async def shout(message: Message[bytes]) -> None:
    await message.reply(message.text.upper(), {"attempt": message.attempt}, "text/plain")


async def test_request_gets_its_answer(client: Client, jobs: Queue[bytes]) -> None:
    worker = asyncio.ensure_future(jobs.work(shout))
    answers = await asyncio.gather(*(jobs.request(f"hello {i}") for i in range(100)))
    assert [answer.text for answer in answers] == [f"HELLO {i}" for i in range(100)]
    assert (answers[0].headers, answers[0].content_type) == ({"attempt": 1}, "text/plain")
    stats = await jobs.stats()
    assert (stats.ready, stats.in_flight, stats.settled_total) == (0, 0, 100)
    worker.cancel()
    await asyncio.wait([worker])


async def test_one_queue_for_answers_goes_with_its_client(
    broker: BrokerProcess, client: Client, jobs: Queue[bytes]
) -> None:
    async with penstock.connect(broker.url) as other:
        worker = asyncio.ensure_future(jobs.work(shout))
        for _ in range(3):
            await other.queue("jobs").request("x")
        worker.cancel()
        await asyncio.wait([worker])
        names = [queue.name for queue in await client.list_queues("queue-")]
        assert len(names) == 1
        with pytest.raises(Conflict, match="another session"):
            await client.queue(names[0]).receive(wait=0)
    assert [queue.name for queue in await client.list_queues("queue-")] == []


async def test_request_that_nobody_answers_times_out(jobs: Queue[bytes]) -> None:
    with pytest.raises(Timeout, match="no answer from 'jobs'"):
        await jobs.request("x", 0.1)
    assert (await jobs.stats()).ready == 1


async def test_reply_without_an_address_is_invalid_and_settles_nothing(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    with pytest.raises(Invalid, match="reply_to"):
        await message.reply("y")
    await message.ack()


async def test_reply_to_who_has_gone_is_not_found_and_the_message_can_be_acked(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x", reply_to="nowhere", correlation_id="7")
    (message,) = await jobs.receive()
    assert (message.reply_to, message.correlation_id) == ("nowhere", "7")
    with pytest.raises(NotFound):
        await message.reply("y")
    await message.ack()


async def test_reply_is_an_ack_too(client: Client, jobs: Queue[bytes]) -> None:
    answers = await client.create_queue("answers")
    await jobs.enqueue("x", reply_to="answers", correlation_id="7")
    async with (await jobs.receive())[0] as message:
        await message.reply("y")
    await client.flush()
    (answer,) = await answers.receive()
    assert (answer.text, answer.correlation_id, answer.reply_to) == ("y", "7", None)
    assert (await jobs.stats()).settled_total == 1


async def test_queue_that_nobody_uses_is_gone_after_a_while(client: Client) -> None:
    made = await client.create_queue(None, expires=0.5)
    await made.enqueue("x")
    for _ in range(100):
        if not await client.list_queues(made.name):
            break
        await asyncio.sleep(0.1)
    with pytest.raises(NotFound):
        await made.stats()
