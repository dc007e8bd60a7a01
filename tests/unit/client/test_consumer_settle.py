"""Consumers that settle what they are sent, and those that have a priority. The test plays the broker."""

import asyncio
from typing import Any

import pytest
from tests.fakes.client_wire import FakeClient, delivered, queue_of, turns

from penstock.consumer import Consumer
from penstock.errors import Invalid, NotFound
from penstock.message import Message
from penstock_protocol.messages.queues import Ack, Consume, Extend, Nack, Settled, Stop
from penstock_protocol.messages.session import Done


@pytest.fixture
def client() -> FakeClient:
    made = FakeClient()
    made.wire.answers = {kind: lambda _: Settled(1, b"") for kind in (Ack, Nack, Extend)}
    made.wire.answers |= {kind: lambda _: Done() for kind in (Consume, Stop)}
    return made


def consuming(client: FakeClient, **options: Any) -> Consumer[bytes]:
    return queue_of(client).consume(**options)


async def take(consumer: Consumer[bytes], count: int) -> list[Message[bytes]]:
    return [await anext(consumer) for _ in range(count)]


async def test_priority_and_at_most_once_are_said_when_subscribing(client: FakeClient) -> None:
    async with consuming(client, priority=3, settle=True):
        (consume,) = client.wire.of(Consume)
        assert (consume.priority, consume.settle) == (3, True)


@pytest.mark.parametrize("priority", [-1, 10, True, 1.5])
async def test_impossible_priority_is_invalid(client: FakeClient, priority: Any) -> None:
    with pytest.raises(Invalid, match="priority="):
        consuming(client, priority=priority)


def sent_settled(*bodies: bytes) -> tuple[bytes, bytes]:
    return delivered(*bodies, token=0, lease=0)


async def test_settled_messages_are_taken_without_a_lease(client: FakeClient) -> None:
    async with consuming(client, prefetch=4, settle=True) as consumer:
        client.wire.deliver(1, sent_settled(b"a", b"b"))
        for message in await take(consumer, 2):
            async with message:
                assert message.lease_token == 0
        assert consumer._timer is None
        client.wire.lose()
        client.wire.reconnect()
    await client.settler.flush()
    assert not client.wire.of(Ack) + client.wire.of(Nack) + client.wire.of(Extend)


async def test_settled_messages_that_wait_are_taken_after_a_stop(client: FakeClient) -> None:
    """They cannot be given back: the loop ends behind the last that was sent."""
    del client.wire.answers[Stop]
    async with consuming(client, prefetch=4, settle=True) as consumer:
        client.wire.deliver(1, sent_settled(b"a", b"b"))
        consumer.stop()
        assert [message.body for message in await take(consumer, 2)] == [b"a", b"b"]
        last = asyncio.ensure_future(anext(consumer))
        await turns()
        client.wire.deliver(1, sent_settled(b"c"))
        assert (await last).body == b"c"
        over = asyncio.ensure_future(anext(consumer, None))
        await turns()
        assert not over.done()
        client.wire.last(Stop).reply(Done())
        assert await over is None
    assert client.wire.of(Nack) == []


async def test_without_a_connection_nothing_more_can_come_after_a_stop(client: FakeClient) -> None:
    del client.wire.answers[Stop]
    async with consuming(client, settle=True) as consumer:
        consumer.stop()
        over = asyncio.ensure_future(anext(consumer, None))
        await turns()
        assert not over.done()
        client.wire.lose()
        assert await over is None


async def test_settled_messages_are_taken_before_the_news_that_the_queue_is_gone(client: FakeClient) -> None:
    async with consuming(client, prefetch=4, settle=True) as consumer:
        client.wire.deliver(1, sent_settled(b"a"))
        client.wire.deliver(1)
        assert [message.body for message in await take(consumer, 1)] == [b"a"]
        with pytest.raises(NotFound):
            await anext(consumer)
