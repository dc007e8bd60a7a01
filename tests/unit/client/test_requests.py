"""Requests that wait for an answer: one queue for all of a client's answers, matched by correlation id."""

import asyncio

import msgpack
import pytest
from tests.fakes.client_wire import delivered, payload_of
from tests.fakes.scripted_server import ScriptedServer, until
from tests.unit.client.publishing import start

import penstock
from penstock import codecs
from penstock.errors import ClientClosed, Invalid, NotFound, QueueFull, Timeout
from penstock.events import LateReply
from penstock_protocol.batch import BatchView, Kind
from penstock_protocol.messages.queues import Consume, CreateQueue, Deliver, Enqueue, Stop
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Done


class Answering(ScriptedServer):
    """Makes queues, takes subscriptions; the test answers."""

    def __init__(self):
        super().__init__()
        self.created = []
        self.subscribed = []
        self.answers[CreateQueue] = self._create
        self.answers[Consume] = self._subscribe
        self.answers[Stop] = lambda asked: asked.reply(Done())

    def _create(self, asked):
        self.created.append(asked.message)
        asked.reply(Document(pack_document({})))

    def _subscribe(self, asked):
        self.subscribed.append(asked)
        asked.reply(Done())

    async def question(self):
        """The next request: where its answer goes, its correlation id, its batch."""
        asked = await self.asked(Enqueue)
        asked.confirm()
        batch = BatchView(asked.message.payload)
        labels = [msgpack.unpackb(batch.cells(kind)[0]) for kind in (Kind.REPLY_TO, Kind.CORRELATION_ID)]
        return *labels, batch

    def answer(self, correlation_id, body):
        """Push an answer, settled as it is sent."""
        subscribed = self.subscribed[-1]
        cells = [[(Kind.CORRELATION_ID, msgpack.packb(correlation_id))]]
        part = delivered(body, cells=cells, token=0, lease=0)
        subscribed.peer.push(Deliver(subscribed.message.subscription, *payload_of(part)))


@pytest.fixture
async def server():
    async with Answering() as server:
        yield server


@pytest.fixture
def events():
    return []


@pytest.fixture
async def client(server, events):
    client = await penstock.connect(server.url, on_event=events.append)
    yield client
    await client.close(1)


async def test_an_answer_finds_who_asked(server, queue):
    asking = [start(queue.request(f"{i}")) for i in range(2)]
    to, first, batch = await server.question()
    assert batch.count == 2
    second = msgpack.unpackb(batch.cells(Kind.CORRELATION_ID)[1])
    server.answer(second, b"to the second")
    server.answer(first, b"to the first")
    answers = [await each for each in asking]
    assert [answer.body for answer in answers] == [b"to the first", b"to the second"]
    assert answers[0].queue == to


async def test_one_exclusive_queue_serves_all_requests_of_a_client(server, client):
    for name in ("jobs", "mails"):
        asking = start(client.queue(name).request("x"))
        _, correlation_id, _ = await server.question()
        server.answer(correlation_id, b"y")
        await asking
    (created,) = server.created
    assert created.settings == {"exclusive": True, "expires": 60_000}
    (subscribed,) = server.subscribed
    assert (subscribed.message.queue, subscribed.message.settle) == (created.name, True)


async def test_options_of_a_request_are_those_of_a_message(server, queue):
    asking = start(queue.request("x", ttl=5, priority=3, headers={"a": 1}))
    _, correlation_id, batch = await server.question()
    assert batch.integers(Kind.PRIORITY) == [3]
    assert batch.integers(Kind.TTL) == [5_000]
    server.answer(correlation_id, b"y")
    await asking


async def test_an_answer_goes_through_the_codec_of_who_asked(server, client):
    asking = start(client.queue("jobs", codec=codecs.json).request({"a": 1}))
    _, correlation_id, batch = await server.question()
    assert bytes(batch.bodies()) == b'{"a":1}'
    server.answer(correlation_id, b'{"b":2}')
    assert (await asking).body == {"b": 2}


async def test_an_answer_is_settled_already(server, client, queue):
    asking = start(queue.request("x"))
    _, correlation_id, _ = await server.question()
    server.answer(correlation_id, b"y")
    async with await asking as answer:
        pass
    with pytest.raises(Invalid, match="no lease"):
        await answer.ack()
    await client.flush()
    assert server.requests.empty()


async def test_no_answer_in_time_is_a_timeout_and_a_late_one_an_event(server, queue, events):
    asking = start(queue.request("x", 0.02))
    to, correlation_id, _ = await server.question()
    with pytest.raises(Timeout, match=r"no answer from 'jobs' within 0\.02 s") as raised:
        await asking
    assert raised.value.detail == {"correlation_id": correlation_id}
    server.answer(correlation_id, b"too late")
    await until(lambda: events)
    (late,) = events
    assert isinstance(late, LateReply)
    assert (late.message.queue, late.message.correlation_id, late.message.body) == (
        to,
        correlation_id,
        b"too late",
    )


async def test_a_request_that_is_refused_is_that_refusal(server, queue):
    asking = start(queue.request("x"))
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    with pytest.raises(QueueFull):
        await asking


async def test_a_cancelled_request_leaves_nothing_behind(server, client, queue):
    asking = start(queue.request("x"))
    await server.question()
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert client.requests._waiting == {}


@pytest.mark.parametrize("option", ["reply_to", "correlation_id"])
async def test_a_request_cannot_choose_where_its_answer_goes(queue, option):
    with pytest.raises(Invalid, match=option):
        await queue.request("x", **{option: "mine"})


async def test_when_the_queue_for_answers_is_gone_who_waits_is_told_and_the_next_makes_another(server, queue):
    asking = start(queue.request("x"))
    await server.question()
    subscribed = server.subscribed[-1]
    subscribed.peer.push(Deliver(subscribed.message.subscription, 0, b""))
    with pytest.raises(Timeout, match="the queue for answers is gone"):
        await asking
    asking = start(queue.request("x"))
    _, correlation_id, _ = await server.question()
    server.answer(correlation_id, b"y")
    await asking
    assert len(server.created) == 2


async def test_a_queue_for_answers_that_cannot_be_subscribed_to_is_told_and_made_again(server, queue):
    server.answers[Consume] = lambda asked: asked.reply(NotFound("no queue"))
    asking = start(queue.request("x"))
    (await server.asked(Enqueue)).confirm()
    with pytest.raises(Timeout, match="no queue"):
        await asking
    assert len(server.created) == 1


async def test_closing_the_client_ends_the_waiting(server, client, queue):
    asking = start(queue.request("x"))
    await server.question()
    await client.close()
    with pytest.raises(ClientClosed, match="before the answer came"):
        await asking
