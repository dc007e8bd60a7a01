"""Publishing over a real socket to a broker that answers as the test says."""

import asyncio
from uuid import UUID

import pytest
from tests.fakes.scripted_server import LOG, ScriptedServer
from tests.unit.client.publishing import quiet, start

import penstock
from penstock.errors import Busy, ClientClosed, NotFound, OutcomeUnknown, QueueFull, TooLarge
from penstock_protocol.batch import Kind
from penstock_protocol.errors import SequenceGap
from penstock_protocol.messages.queues import Confirm, Enqueue
from penstock_protocol.messages.session import Ping


def number(asked):
    return asked.batch.producer_id, asked.batch.sequence


# Gathering


async def test_calls_of_one_turn_share_a_batch_in_their_order(server, queue):
    calls = [start(queue.enqueue(f"{i}")) for i in range(100)]
    asked = await server.asked(Enqueue)
    assert asked.message.queue == "jobs"
    assert asked.bodies == [b"%d" % i for i in range(100)]
    asked.confirm(first=7)
    receipts = await asyncio.gather(*calls)
    assert [receipt.offset for receipt in receipts] == list(range(7, 107))
    assert receipts[1] == (f"{UUID(bytes=LOG)}:8", 8, False, "fsync")


async def test_headers_are_a_column_that_plain_messages_of_the_batch_leave_empty(server, queue):
    calls = [start(queue.enqueue("plain")), start(queue.enqueue("dressed", headers={"a": 1}))]
    asked = await server.asked(Enqueue)
    assert [bytes(cell) for cell in asked.batch.cells(Kind.HEADERS)] == [b"", b"\x81\xa1a\x01"]
    asked.confirm()
    await asyncio.gather(*calls)


async def test_while_two_batches_are_open_the_third_gathers(server, client, queue):
    first = start(queue.enqueue("1"))
    one = await server.asked(Enqueue)
    second = start(queue.enqueue("2"))
    two = await server.asked(Enqueue)
    third = start(queue.enqueue("3"))
    await quiet(server, client)
    fourth = start(queue.enqueue("4"))
    await quiet(server, client)
    one.confirm()
    three = await server.asked(Enqueue)
    assert three.bodies == [b"3", b"4"]
    two.confirm()
    three.confirm()
    await asyncio.gather(first, second, third, fourth)


async def test_a_full_batch_does_not_wait_for_the_open_ones(server, queue):
    calls = [start(queue.enqueue(bytes(300_000))) for _ in range(10)]
    for messages in (3, 3, 3):
        assert (await server.asked(Enqueue)).batch.count == messages
    for call in calls:
        call.cancel()


async def test_lingering_gathers_over_several_turns(server):
    async with penstock.connect(server.url, linger=0.02) as client:
        queue = client.queue("jobs")
        first = start(queue.enqueue("1"))
        await client.wire.request(Ping())
        second = start(queue.enqueue("2"))
        asked = await server.asked(Enqueue)
        assert asked.bodies == [b"1", b"2"]
        asked.confirm()
        await asyncio.gather(first, second)


async def test_a_confirm_does_not_end_the_lingering_of_the_next_batch(server):
    async with penstock.connect(server.url, linger=3_600) as client:
        queue = client.queue("jobs")
        full = start(queue.enqueue_many(["0"]))
        zero = await server.asked(Enqueue)
        first = start(queue.enqueue("1"))
        zero.confirm()
        await full
        await quiet(server, client)
        second = start(queue.enqueue("2"))
        flushing = start(client.flush())
        asked = await server.asked(Enqueue)
        assert asked.bodies == [b"1", b"2"]
        asked.confirm()
        await asyncio.gather(first, second, flushing)


async def test_a_batch_lingers_only_while_it_is_the_last(server):
    async with penstock.connect(server.url, linger=3_600) as client:
        queue = client.queue("jobs")
        first = start(queue.enqueue("1"))
        await quiet(server, client)
        full = start(queue.enqueue_many(["2", "3"]))
        one, two = await server.asked(Enqueue), await server.asked(Enqueue)
        assert (one.bodies, two.bodies) == ([b"1"], [b"2", b"3"])
        one.confirm()
        two.confirm()
        await asyncio.gather(first, full)


async def test_nothing_lingers_while_somebody_waits_for_room(server):
    async with penstock.connect(server.url, linger=3_600, max_pending_bytes=100) as client:
        calls = [start(client.queue(name).enqueue(bytes(90))) for name in ("a", "b", "c")]
        for queue in ("a", "b"):
            asked = await server.asked(Enqueue)
            assert asked.message.queue == queue
            asked.confirm()
        flushing = start(client.flush())
        asked = await server.asked(Enqueue)
        assert asked.message.queue == "c"
        asked.confirm()
        await asyncio.gather(*calls, flushing)


async def test_a_body_above_the_broker_s_limit_is_refused_before_it_can_hurt_others():
    async with ScriptedServer(message_bytes=10) as server:
        client = await penstock.connect(server.url)
        with pytest.raises(TooLarge, match="11 bytes; the limit is 10"):
            await client.queue("jobs").enqueue(bytes(11))
        await client.close()


# Bounds


async def test_a_publish_waits_for_credit_and_a_confirm_gives_it_back():
    async with ScriptedServer(credit=1_000) as server:
        client = await penstock.connect(server.url)
        jobs, mails = client.queue("jobs"), client.queue("mails")
        first, second = start(jobs.enqueue(bytes(800))), start(mails.enqueue(bytes(800)))
        asked = await server.asked(Enqueue)
        await quiet(server, client)
        asked.confirm()
        (await server.asked(Enqueue)).confirm()
        await asyncio.gather(first, second)
        await client.close()


async def test_a_refusal_gives_credit_back_too():
    async with ScriptedServer(credit=2_000) as server:
        client = await penstock.connect(server.url)
        calls = [start(client.queue(name).enqueue(bytes(800))) for name in "abc"]
        first, second = await server.asked(Enqueue), await server.asked(Enqueue)
        await quiet(server, client)
        second.reply(NotFound("no such queue"))
        third = await server.asked(Enqueue)
        assert third.message.queue == "c"
        first.confirm()
        third.confirm()
        with pytest.raises(NotFound):
            await calls[1]
        await asyncio.gather(calls[0], calls[2])
        await client.close()


async def test_a_batch_larger_than_all_credit_is_sent_when_nothing_else_is_open():
    async with ScriptedServer(credit=100) as server:
        client = await penstock.connect(server.url)
        call = start(client.queue("jobs").enqueue(bytes(800)))
        (await server.asked(Enqueue)).confirm()
        await call
        await client.close()


async def test_at_the_pending_bound_a_publish_waits_in_line(server):
    client = await penstock.connect(server.url, max_pending_bytes=500)
    queue = client.queue("jobs")
    calls = [start(queue.enqueue(b"%d" % i * 400)) for i in range(4)]
    for offset, bodies in enumerate([2, 2]):
        asked = await server.asked(Enqueue)
        assert asked.batch.count == bodies
        await quiet(server, client)
        asked.confirm(first=2 * offset)
    assert [(await call).offset for call in calls] == [0, 1, 2, 3]
    await client.close()


async def test_a_publish_that_waits_in_line_ends_with_its_time(server):
    client = await penstock.connect(server.url, max_pending_bytes=1)
    queue = client.queue("jobs")
    first = start(queue.enqueue("1"))
    asked = await server.asked(Enqueue)
    with pytest.raises(Busy, match="no room"):
        await queue.enqueue("2", timeout=0.01)
    asked.confirm()
    await first
    await quiet(server, client)
    await client.close()


# Order and retries


async def test_sequences_count_batches_per_address_under_the_producer_of_the_handshake(server, client, queue):
    for expected in range(3):
        call = start(queue.enqueue("x"))
        asked = await server.asked(Enqueue)
        assert number(asked) == (server.hellos[0].producer_id, expected)
        asked.confirm()
        await call
    call = start(client.queue("mails").enqueue("x"))
    asked = await server.asked(Enqueue)
    assert number(asked) == (server.hellos[0].producer_id, 0)
    asked.confirm()
    await call


async def test_a_lost_socket_means_the_same_bytes_again(server, queue):
    call = start(queue.enqueue("x"))
    first = await server.asked(Enqueue)
    server.cut()
    second = await server.asked(Enqueue)
    assert bytes(second.message.payload) == bytes(first.message.payload)
    second.confirm(3, duplicate=True)
    receipt = await call
    assert (receipt.offset, receipt.duplicate) == (3, True)


async def test_busy_means_the_same_bytes_again(server, queue):
    call = start(queue.enqueue("x"))
    first = await server.asked(Enqueue)
    first.reply(Busy("later", retry_after=0.001))
    second = await server.asked(Enqueue)
    assert bytes(second.message.payload) == bytes(first.message.payload)
    second.confirm()
    await call


async def test_a_refused_batch_fails_its_callers_and_those_behind_it_take_its_number(server, queue):
    refused = start(queue.enqueue("1"))
    first = await server.asked(Enqueue)
    later = start(queue.enqueue("2"))
    second = await server.asked(Enqueue)
    first.reply(QueueFull("full", detail={"max_messages": 1}))
    second.reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(QueueFull) as caught:
        await refused
    assert caught.value.detail == {"max_messages": 1}
    again = await server.asked(Enqueue)
    assert (again.bodies, number(again)) == ([b"2"], number(first))
    again.confirm()
    await later


async def test_each_caller_of_a_refused_batch_gets_an_error_of_its_own(server, queue):
    calls = [start(queue.enqueue("x")) for _ in range(3)]
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [QueueFull] * 3
    assert len(set(map(id, errors))) == 3


async def test_a_queue_made_anew_begins_with_the_sequence_it_asks_for(server, queue):
    for _ in range(2):
        call = start(queue.enqueue("x"))
        (await server.asked(Enqueue)).confirm()
        await call
    call = start(queue.enqueue("y"))
    (await server.asked(Enqueue)).reply(SequenceGap("who are you?", detail={"expected": 0}))
    again = await server.asked(Enqueue)
    assert again.batch.sequence == 0
    again.confirm()
    await call


# The end


async def test_flush_waits_for_what_was_given_so_far_and_no_longer(server, client, queue):
    call = start(queue.enqueue("1"))
    await asyncio.sleep(0)
    flushing = start(client.flush())
    asked = await server.asked(Enqueue)
    later = start(queue.enqueue("2"))
    second = await server.asked(Enqueue)
    assert not flushing.done()
    asked.confirm()
    await flushing
    await call
    second.confirm()
    await later


async def test_closing_ends_what_was_sent_as_unknown_and_the_rest_as_closed(server):
    client = await penstock.connect(server.url, max_pending_bytes=500)
    queue = client.queue("jobs")
    sent = start(queue.enqueue(bytes(400)))
    await server.asked(Enqueue)
    more = start(queue.enqueue(bytes(400)))
    await server.asked(Enqueue)
    gathering, waiting = start(queue.enqueue(bytes(400))), start(queue.enqueue(bytes(400)))
    await client.close(0.01)
    outcomes = await asyncio.gather(sent, more, gathering, waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        OutcomeUnknown,
        OutcomeUnknown,
        ClientClosed,
        ClientClosed,
    ]
    with pytest.raises(ClientClosed):
        await outcomes[0].retry()
    with pytest.raises(ClientClosed):
        await queue.enqueue("x")


async def test_confirms_may_come_in_any_order(server, queue):
    first = start(queue.enqueue("1"))
    one = await server.asked(Enqueue)
    second = start(queue.enqueue("2"))
    two = await server.asked(Enqueue)
    two.reply(Confirm(0, 1, 1, False, "fsync", two.batch.length, 0, LOG))
    one.reply(Confirm(0, 0, 1, False, "fsync", one.batch.length, 0, LOG))
    assert [(await first).offset, (await second).offset] == [0, 1]
    third = start(queue.enqueue("3"))
    three = await server.asked(Enqueue)
    assert three.batch.sequence == 2
    three.confirm(2)
    await third
