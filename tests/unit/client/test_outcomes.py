"""What a publish that was not confirmed in time, or whose caller left, comes to."""

import asyncio
from itertools import count

import pytest
from tests.fakes.scripted_server import until
from tests.unit.client.publishing import quiet, start

import penstock
from penstock.errors import Busy, Disconnected, OutcomeUnknown, QueueFull
from penstock_protocol.errors import SequenceGap
from penstock_protocol.messages.queues import Enqueue, ListQueues

# Time


async def test_without_a_connection_a_publish_was_surely_not_sent(server, client, queue):
    await server.stop_listening()
    server.cut()
    await until(lambda: not client.wire.connected)
    with pytest.raises(Disconnected, match="not sent"):
        await queue.enqueue("x", timeout=0.01)
    await server.listen()
    await until(lambda: client.wire.connected)
    await quiet(server, client)


async def test_a_caller_whose_time_is_up_leaves_the_batch_to_the_others(server, queue):
    patient, hasty = start(queue.enqueue("1")), start(queue.enqueue("2", timeout=0.01))
    asked = await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await hasty
    asking = start(caught.value.retry())
    asked.confirm(first=5)
    assert (await patient).offset == 5
    assert (await asking).offset == 6
    assert (await caught.value.retry()).offset == 6


async def test_a_publish_may_take_longer_than_the_client_s_timeout(server):
    client = await penstock.connect(server.url, timeout=0.02)
    call = start(client.queue("jobs").enqueue("x", timeout=10))
    asked = await server.asked(Enqueue)
    with pytest.raises(penstock.Timeout):
        await client.wire.request(ListQueues("", "", 1))
    asked.confirm()
    assert (await call).offset == 0
    await client.close()


@pytest.fixture
async def given_up(server):
    """A client whose batch of three messages has ended as unknown, with the three errors."""
    client = await penstock.connect(server.url, timeout=0.02)
    queue = client.queue("jobs")
    calls = [start(queue.enqueue(f"{i}")) for i in range(3)]
    lost = await server.asked(Enqueue)
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [OutcomeUnknown] * 3
    yield client, lost, errors
    await client.close(0)


async def test_after_an_unknown_batch_the_address_goes_on_under_another_producer(server, given_up):
    client, lost, _ = given_up
    call = start(client.queue("jobs").enqueue("new"))
    asked = await server.asked(Enqueue)
    assert asked.batch.producer_id != lost.batch.producer_id
    assert asked.batch.sequence == 0
    asked.confirm()
    await call


async def test_asking_again_sends_the_same_bytes_once_for_all_who_ask(server, given_up):
    client, lost, errors = given_up
    asking = [start(error.retry()) for error in errors]
    again = await server.asked(Enqueue)
    assert bytes(again.message.payload) == bytes(lost.message.payload)
    again.confirm(4, duplicate=True)
    assert [(await each).offset for each in asking] == [4, 5, 6]
    await quiet(server, client)
    assert (await errors[0].retry()).offset == 4


async def test_asking_again_for_what_never_arrived_publishes_it_anew(server, given_up):
    client, lost, errors = given_up
    call = start(client.queue("jobs").enqueue("new"))
    (await server.asked(Enqueue)).confirm()
    await call
    asking = start(errors[1].retry())
    (await server.asked(Enqueue)).reply(SequenceGap("gap", detail={"expected": 0}))
    anew = await server.asked(Enqueue)
    assert anew.bodies == lost.bodies
    assert anew.batch.producer_id != lost.batch.producer_id
    assert anew.batch.sequence == 1
    anew.confirm(first=8)
    assert (await asking).offset == 9


async def test_asking_again_a_broker_that_has_forgotten_stays_unknown(server):
    client = await penstock.connect(server.url, timeout=0.05)
    queue = client.queue("jobs")
    call = start(queue.enqueue("1"))
    (await server.asked(Enqueue)).confirm()
    await call
    call = start(queue.enqueue("2"))
    lost = await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await call
    asking = start(caught.value.retry())
    (await server.asked(Enqueue)).reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(OutcomeUnknown) as again:
        await asking
    await quiet(server, client)
    asking = start(again.value.retry())
    asked = await server.asked(Enqueue)
    assert bytes(asked.message.payload) == bytes(lost.message.payload)
    asked.confirm(1)
    assert (await asking).offset == 1
    await client.close(0)


async def test_asking_again_without_an_answer_is_unknown_again(given_up):
    _, _, errors = given_up
    with pytest.raises(OutcomeUnknown):
        await errors[0].retry()


async def test_a_refusal_to_asking_again_is_definite(server, given_up):
    _, _, errors = given_up
    asking = start(errors[0].retry())
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    with pytest.raises(QueueFull):
        await asking


async def test_a_refusal_that_one_was_told_is_what_all_are_told(server, given_up):
    client, _, errors = given_up
    asking = start(errors[0].retry())
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    with pytest.raises(QueueFull):
        await asking
    with pytest.raises(QueueFull):
        await errors[1].retry()
    await quiet(server, client)


async def test_a_caller_that_left_early_learns_of_the_refusal_without_sending_again(server, client, queue):
    patient, hasty = start(queue.enqueue("1")), start(queue.enqueue("2", timeout=0.01))
    asked = await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await hasty
    asked.reply(QueueFull("full"))
    with pytest.raises(QueueFull):
        await patient
    with pytest.raises(QueueFull):
        await caught.value.retry()
    await quiet(server, client)


async def test_what_was_published_anew_is_asked_for_under_its_new_number(server, given_up):
    _, _, errors = given_up
    asking = start(errors[0].retry())
    (await server.asked(Enqueue)).reply(SequenceGap("gap", detail={"expected": 0}))
    anew = await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await asking
    asking = start(caught.value.retry())
    again = await server.asked(Enqueue)
    assert bytes(again.message.payload) == bytes(anew.message.payload)
    again.confirm(first=9, duplicate=True)
    assert (await asking).offset == 9
    assert (await errors[2].retry()).offset == 11


async def test_a_confirm_that_comes_late_answers_the_question(server, given_up):
    client, lost, errors = given_up
    lost.confirm(first=2)
    await quiet(server, client)
    assert (await errors[2].retry()).offset == 4


async def test_a_broker_that_lost_confirmed_batches_gets_the_one_in_doubt_as_the_next(server, queue):
    """In a durability mode that a power cut may cost the newest batches."""
    for body in ("kept", "lost"):
        call = start(queue.enqueue(body))
        (await server.asked(Enqueue)).confirm()
        await call
    call = start(queue.enqueue("in doubt"))
    await server.asked(Enqueue)
    server.cut()
    (await server.asked(Enqueue)).reply(SequenceGap("gap", detail={"expected": 1}))
    again = await server.asked(Enqueue)
    assert (again.bodies, again.batch.sequence) == ([b"in doubt"], 1)
    again.confirm()
    await call


async def test_a_broker_that_forgot_a_producer_in_doubt_makes_it_unknown(server, queue):
    call = start(queue.enqueue("x"))
    await server.asked(Enqueue)
    server.cut()
    (await server.asked(Enqueue)).reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(OutcomeUnknown):
        await call


# Cancellation


async def test_cancelled_before_its_frame_is_built_a_message_is_taken_back(server, queue):
    calls = [start(queue.enqueue(f"{i}")) for i in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    asked = await server.asked(Enqueue)
    assert asked.bodies == [b"0", b"2"]
    asked.confirm()
    assert [(await call).offset for call in (calls[0], calls[2])] == [0, 1]


async def test_a_batch_nobody_waits_for_is_not_sent(server, client, queue):
    call = start(queue.enqueue("x"))
    await asyncio.sleep(0)
    call.cancel()
    await client.flush()
    await quiet(server, client)


async def test_cancelled_when_it_is_sent_only_the_waiting_ends(server, client, queue):
    gone, there = start(queue.enqueue("1")), start(queue.enqueue("2"))
    asked = await server.asked(Enqueue)
    gone.cancel()
    server.cut()
    again = await server.asked(Enqueue)
    assert bytes(again.message.payload) == bytes(asked.message.payload)
    again.confirm()
    assert (await there).offset == 1
    assert gone.cancelled()


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_at_any_await_no_batch_is_lost(server, client, queue, turns):
    """A neighbour in the same batch is confirmed, the cancelled message is in a batch at most once, and the
    next publish has the next number."""
    offsets = count()
    published = []

    def confirm(asked):
        published.extend(asked.bodies)
        asked.confirm(next(offsets))

    server.answers[Enqueue] = confirm
    gone, there = start(queue.enqueue("gone")), start(queue.enqueue("there"))
    for _ in range(turns):
        await asyncio.sleep(0)
    gone.cancel()
    await there
    await queue.enqueue("next")
    await client.flush()
    assert published.count(b"gone") <= 1
    assert [body for body in published if body != b"gone"] == [b"there", b"next"]
    assert client.publisher._pending == 0


async def test_a_batch_that_was_never_sent_in_time_is_disconnected(server):
    client = await penstock.connect(server.url, timeout=0.02)
    await server.stop_listening()
    server.cut()
    await until(lambda: not client.wire.connected)
    with pytest.raises(Disconnected, match="not sent"):
        await client.queue("jobs").enqueue("x")
    await client.close(0)


async def test_who_publishes_later_gets_a_time_of_his_own(server):
    client = await penstock.connect(server.url, timeout=0.6)
    await server.stop_listening()
    server.cut()
    await until(lambda: not client.wire.connected)
    queue = client.queue("jobs")
    first = start(queue.enqueue("1"))
    await asyncio.wait([first], timeout=0.3)
    second = start(queue.enqueue("2"))
    with pytest.raises(Disconnected):
        await first
    assert not second.done()
    with pytest.raises(Disconnected):
        await second
    await client.close(0)


async def test_a_batch_that_was_only_refused_for_now_ends_with_that_refusal(server):
    client = await penstock.connect(server.url, timeout=0.05)
    queue = client.queue("jobs")
    call = start(queue.enqueue("x"))
    (await server.asked(Enqueue)).reply(Busy("the pool is empty", retry_after=60))
    with pytest.raises(Busy, match="the pool is empty"):
        await call
    await client.close(0)


async def test_a_gap_behind_a_refusal_ends_the_doubt_of_a_lost_socket(server):
    client = await penstock.connect(server.url, timeout=0.3)
    queue = client.queue("jobs")
    first = start(queue.enqueue("1"))
    await server.asked(Enqueue)
    second = start(queue.enqueue("2"))
    await server.asked(Enqueue)
    server.cut()
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    (await server.asked(Enqueue)).reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(QueueFull):
        await first
    (await server.asked(Enqueue)).reply(Busy("the pool is empty", retry_after=60))
    with pytest.raises(Busy):
        await second
    await client.close(0)
