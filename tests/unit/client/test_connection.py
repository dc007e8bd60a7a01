"""The wire: handshake, reconnecting, requests that outlive a socket, and the errors when time is up."""

import asyncio
import gc
import time
from random import Random

import pytest
import uvloop
from tests.fakes.scripted_server import ScriptedServer, until

from penstock.connection import Wire
from penstock.endpoint import endpoints
from penstock.errors import (
    Busy,
    ClientClosed,
    Disconnected,
    NotFound,
    OutcomeUnknown,
    Timeout,
    Unauthenticated,
)
from penstock.events import ConnectFailed, ConnectionLost, Reconnected
from penstock_protocol.errors import Unsupported
from penstock_protocol.messages.queues import (
    Credit,
    Deliver,
    Delivery,
    DescribeQueue,
    Enqueue,
    Purge,
    Receive,
)
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Cancel, Document, Goodbye, Hello, Ping, Pong

DESCRIBE = DescribeQueue("jobs")
ANSWER = Document(pack_document({"name": "jobs"}))
WAIT = Receive("jobs", 1, 20_000)


@pytest.fixture
def events():
    return []


@pytest.fixture
async def wire(server, events):
    wire = Wire(endpoints(server.url, "secret"), random=Random(1), name="me", on_event=events.append)
    await wire.open(5.0)
    yield wire
    await wire.close(1.0)


async def test_the_handshake_names_the_session_the_producer_and_the_token(server, wire):
    (hello,) = server.hellos
    assert (hello.token, hello.client, hello.producer_id) == ("secret", "me", wire.producer_id)
    assert len(hello.session) == 16


async def test_what_is_posted_while_a_socket_dies_is_answered_with_nothing_and_not_written(wire, caplog):
    answers = []
    wire._socket.drop("for the test")
    for _ in range(10):
        assert wire.post(DESCRIBE, answers.append)
    await until(lambda: answers == [None] * 10)
    assert "socket.send()" not in caplog.text


async def test_a_refused_handshake_is_raised_at_once(server):
    server.welcome = Unauthenticated("who are you?")
    wire = Wire(endpoints(server.url, None), random=Random(1))
    with pytest.raises(Unauthenticated, match="who are you"):
        await wire.open(5.0)


async def test_nobody_there_is_disconnected_after_the_connect_timeout_and_says_why(events):
    wire = Wire(endpoints("penstock://127.0.0.1:1", None), random=Random(1), on_event=events.append)
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1.*penstock serve"):
        await wire.open(0.1)
    assert isinstance(events[0], ConnectFailed)


async def test_every_url_is_tried_in_turn(server):
    wire = Wire(endpoints(["penstock://127.0.0.1:1", server.url], None), random=Random(1))
    await wire.open(5.0)
    assert wire.connected
    await wire.close(1.0)


async def test_requests_are_answered_out_of_order(server, wire):
    first = asyncio.ensure_future(wire.request(DescribeQueue("a")))
    second = asyncio.ensure_future(wire.request(DescribeQueue("b")))
    a, b = await server.asked(DescribeQueue), await server.asked(DescribeQueue)
    b.reply(Document(b"b"))
    a.reply(Document(b"a"))
    assert [(await first).payload, (await second).payload] == [b"a", b"b"]


async def test_a_refusal_is_raised_as_its_class(server, wire):
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    (await server.asked(DescribeQueue)).reply(NotFound("no queue", hint="create it"))
    with pytest.raises(NotFound, match="create it"):
        await asking


async def test_a_busy_broker_is_asked_again_after_the_pause_it_wants(server, wire):
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    (await server.asked(DescribeQueue)).reply(Busy("later", retry_after=0.001))
    (await server.asked(DescribeQueue)).reply(ANSWER)
    assert await asking == ANSWER


async def test_a_request_outlives_its_socket_and_its_sender_hears_of_it(server, wire, events):
    again = []
    asking = asyncio.ensure_future(wire.request(DESCRIBE, on_resend=lambda: again.append(True)))
    await server.asked(DescribeQueue)
    assert not again
    server.cut()
    (await server.asked(DescribeQueue)).reply(ANSWER)
    assert await asking == ANSWER
    assert again == [True]
    assert [type(event) for event in events] == [ConnectionLost, Reconnected]
    assert server.hellos[0].session == server.hellos[1].session


async def test_a_refused_request_that_is_sent_again_was_not_in_doubt(server, wire):
    again = []
    asking = asyncio.ensure_future(wire.request(DESCRIBE, on_resend=lambda: again.append(True)))
    (await server.asked(DescribeQueue)).reply(Busy("later"))
    (await server.asked(DescribeQueue)).reply(ANSWER)
    await asking
    assert not again


async def test_the_client_comes_back_when_the_broker_does(server, wire, events):
    await server.stop_listening()
    server.cut()
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    await until(lambda: any(isinstance(event, ConnectFailed) for event in events))
    await server.listen()
    (await server.asked(DescribeQueue)).reply(ANSWER)
    assert await asking == ANSWER


async def test_a_read_without_an_answer_times_out(server, wire):
    with pytest.raises(Timeout, match="DescribeQueue"):
        await wire.request(DESCRIBE, timeout=0.01)


async def test_a_change_without_an_answer_has_an_unknown_outcome_and_can_be_asked_again(server, wire):
    with pytest.raises(OutcomeUnknown) as caught:
        await wire.request(Purge("jobs"), timeout=0.01)
    await server.asked(Purge)
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    (await server.asked(DescribeQueue)).reply(ANSWER)
    await asking
    wire_timeout = asyncio.ensure_future(caught.value.retry())
    (await server.asked(Purge)).reply(ANSWER)
    assert await wire_timeout == ANSWER


async def test_what_was_never_sent_is_disconnected(server, wire):
    await server.stop_listening()
    server.cut()
    await until(lambda: not wire.connected)
    with pytest.raises(Disconnected, match="not sent"):
        await wire.request(Purge("jobs"), timeout=0.01)


async def test_what_was_only_refused_ends_with_that_refusal(server, wire):
    asking = asyncio.ensure_future(wire.request(Purge("jobs"), timeout=0.05))
    (await server.asked(Purge)).reply(Busy("the pool is empty", retry_after=60))
    with pytest.raises(Busy, match="the pool is empty"):
        await asking


async def test_a_cancelled_wait_is_ended_at_the_broker_and_its_late_reply_is_handed_over(server, wire):
    late = []
    asking = asyncio.ensure_future(wire.request(WAIT, on_late=late.append))
    asked = await server.asked(Receive)
    asking.cancel()
    cancel = await server.asked(Cancel)
    assert cancel.message.correlation == asked.correlation
    asked.reply(Delivery(0, b""))
    await until(lambda: late)
    assert isinstance(late[0], Delivery)


async def test_a_wait_whose_time_is_up_is_ended_at_the_broker_too(server, wire):
    late = []
    with pytest.raises(Timeout):
        await wire.request(WAIT, timeout=0.01, on_late=late.append)
    asked = await server.asked(Receive)
    await server.asked(Cancel)
    asked.reply(Delivery(0, b""))
    await until(lambda: late)


async def test_a_reply_that_came_in_the_same_turn_as_the_cancellation_is_handed_over(server, wire):
    late = []
    asking = asyncio.ensure_future(wire.request(WAIT, on_late=late.append))
    asked = await server.asked(Receive)
    socket = wire._socket
    for on_reply in list(socket._replies.values()):
        on_reply(Delivery(0, b""))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(late) == 1
    asked.reply(Delivery(0, b""))
    await until(lambda: not socket._replies)
    assert len(late) == 2


async def test_a_request_that_cannot_wait_is_not_cancelled_at_the_broker(server, wire):
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    asked = await server.asked(DescribeQueue)
    asking.cancel()
    other = asyncio.ensure_future(wire.request(DescribeQueue("other")))
    (await server.asked(DescribeQueue)).reply(ANSWER)
    asked.reply(ANSWER)
    await other


async def test_pushes_reach_their_subscription_and_no_other(server, wire):
    got, connected = [], []
    number = wire.next_subscription()
    wire.subscribe(number, got.append, lambda: connected.append(True))
    server.push(Deliver(number + 1, 0, b""))
    server.push(Deliver(number, 0, b""))
    await until(lambda: got)
    assert [deliver.subscription for deliver in got] == [number]
    assert not connected
    wire.unsubscribe(number)
    server.push(Deliver(number, 0, b""))
    wire.send(Credit(number, 1))
    await server.asked(Credit)
    assert len(got) == 1


async def test_a_subscription_is_told_of_a_new_connection_before_waiting_requests_are_sent(server, wire):
    posted = []
    wire.subscribe(1, lambda _: None, lambda: wire.post(Purge("first"), posted.append))
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    await server.asked(DescribeQueue)
    server.cut()
    (await server.asked(Purge)).reply(ANSWER)
    (await server.asked(DescribeQueue)).reply(ANSWER)
    await asking
    assert posted == [ANSWER]


async def test_nothing_is_posted_without_a_connection(server, wire):
    await server.stop_listening()
    server.cut()
    await until(lambda: not wire.connected)
    assert not wire.post(Purge("jobs"), lambda reply: None)
    wire.send(Credit(1, 1))


async def test_a_posted_request_learns_that_its_socket_was_lost(server, wire):
    replies = []
    assert wire.post(Enqueue("jobs", b"x"), replies.append)
    await server.asked(Enqueue)
    server.cut()
    await until(lambda: replies)
    assert replies == [None]


async def test_silence_is_met_with_a_ping_and_then_with_a_new_connection(events):
    async with ScriptedServer(ping_ms=20) as server:
        wire = Wire(endpoints(server.url, None), random=Random(1), on_event=events.append)
        await wire.open(5.0)
        pings = []
        server.answers[Ping] = pings.append
        await until(lambda: len(server.hellos) == 2)
        assert pings
        assert "silent" in events[0].reason
        await wire.close(1.0)


async def test_a_broker_that_answers_pings_is_not_left(events):
    async with ScriptedServer(ping_ms=10) as server:
        wire = Wire(endpoints(server.url, None), random=Random(1), on_event=events.append)
        await wire.open(5.0)
        pings = []

        def pong(asked, answer=server.answers[Ping]):
            pings.append(asked)
            answer(asked)

        server.answers[Ping] = pong
        await until(lambda: len(pings) > 5)
        assert not events
        await wire.close(1.0)


async def test_the_broker_s_ping_is_answered(server, wire):
    server.push(Ping())
    await until(lambda: server.pongs)
    assert server.pongs[0].time > 0


async def test_garbage_from_the_broker_ends_the_connection_not_the_client(server, wire, events):
    server.peers[-1].transport.write(b"\xff" * 64)
    await until(lambda: len(server.hellos) == 2)
    assert "protocol" in events[0].reason


async def test_closing_says_goodbye_and_ends_what_waits(server, wire):
    goodbyes = []
    answer = server.answers[Goodbye]
    server.answers[Goodbye] = lambda asked: (goodbyes.append(asked), answer(asked))
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    await server.asked(DescribeQueue)
    await wire.close(1.0)
    assert len(goodbyes) == 1
    with pytest.raises(ClientClosed):
        await asking
    with pytest.raises(ClientClosed):
        await wire.request(DESCRIBE)
    await until(lambda: not server.peers)


async def test_closing_does_not_wait_for_a_broker_that_is_silent(server, wire):
    server.answers[Goodbye] = lambda asked: None
    await wire.close(0.01)
    await until(lambda: not server.peers)


async def test_closing_while_reconnecting_ends_it(server, wire):
    await server.stop_listening()
    server.cut()
    await until(lambda: not wire.connected)
    await wire.close(1.0)
    await server.listen()
    with pytest.raises(ClientClosed):
        await wire.request(DESCRIBE)
    assert len(server.hellos) == 1


async def test_an_event_handler_that_raises_is_logged_and_breaks_nothing(server, caplog):
    def broken(event):
        raise ValueError("mine")

    wire = Wire(endpoints(server.url, None), random=Random(1), on_event=broken)
    await wire.open(5.0)
    server.cut()
    await until(lambda: len(server.hellos) == 2)
    assert "on_event raised" in caplog.text
    await wire.close(1.0)


async def test_nothing_is_left_behind_in_the_loop(server):
    wire = Wire(endpoints(server.url, None), random=Random(1))
    await wire.open(5.0)
    await wire.close(1.0)
    del wire
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_it_works_in_another_event_loop_than_asyncio_s_own():
    async def main():
        async with ScriptedServer() as server:
            wire = Wire(endpoints(server.url, None), random=Random(1))
            await wire.open(5.0)
            asking = asyncio.ensure_future(wire.request(DESCRIBE))
            (await server.asked(DescribeQueue)).reply(ANSWER)
            assert await asking == ANSWER
            await wire.close(1.0)

    uvloop.run(main())


async def test_a_connection_closed_in_the_handshake_is_named_with_its_address(server):
    server.answers[Hello] = lambda asked: asked.peer.transport.close()
    wire = Wire(endpoints(server.url, None), random=Random(1))
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:\d+: the connection was closed during") as caught:
        await wire.open(0.05)
    assert str(caught.value).count("penstock serve") == 1


async def test_a_broker_of_another_wire_version_is_not_supported(server):
    server.welcome = server.welcome._replace(version=2)
    wire = Wire(endpoints(server.url, None), random=Random(1))
    with pytest.raises(Unsupported, match="version 2"):
        await wire.open(5.0)


async def test_a_reply_to_nothing_ends_the_connection(server, wire, events):
    asking = asyncio.ensure_future(wire.request(DESCRIBE))
    asked = await server.asked(DescribeQueue)
    asked.reply(ANSWER)
    asked.reply(ANSWER)
    await asking
    await until(lambda: len(server.hellos) == 2)
    assert "not open" in events[0].reason


async def test_the_clock_of_the_broker_goes_on_from_its_welcome(server, events):
    server.welcome = server.welcome._replace(time=5_000_000)
    wire = Wire(endpoints(server.url, None), random=Random(1), on_event=events.append)
    assert abs(wire.now_ms() - time.time() * 1000) < 60_000  # not connected yet: this machine's
    await wire.open(5.0)
    assert 5_000_000 <= wire.now_ms() < 5_060_000
    server.answers[Ping] = lambda asked: asked.reply(Pong(7_000_000))
    assert await wire.broker_time() == 7_000_000
    await wire.close(1.0)
