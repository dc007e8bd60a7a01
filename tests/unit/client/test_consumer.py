"""Push delivery: credit, the buffer, leases, reconnects, stopping. The test plays the broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.fakes.client_wire import FakeClient, delivered, queue_of, turns

from penstock.consumer import Consumer
from penstock.errors import Busy, ClientClosed, Corrupt, Invalid, NotFound
from penstock.events import LeaseLost
from penstock.message import Message
from penstock.prefetch import Prefetch
from penstock_protocol.limits import MIB
from penstock_protocol.messages.queues import Ack, Consume, Credit, Extend, Nack, Outcome, Settled, Stop
from penstock_protocol.messages.session import Done
from penstock_protocol.slices import Range, decode_ranges, encode_ranges


@pytest.fixture
def client() -> FakeClient:
    made = FakeClient()
    made.wire.answers = {kind: lambda _: Settled(1, b"") for kind in (Ack, Nack, Extend)}
    made.wire.answers |= {kind: lambda _: Done() for kind in (Consume, Stop)}
    return made


def consumer_of(client: FakeClient, **options: Any) -> Consumer[bytes]:
    return queue_of(client).consume(**options)


@asynccontextmanager
async def consuming(client: FakeClient, **options: Any) -> AsyncIterator[Consumer[bytes]]:
    async with consumer_of(client, **options) as consumer:
        yield consumer


def released(client: FakeClient) -> list[Range]:
    nacks = [nack for nack in client.wire.of(Nack) if nack.outcome == Outcome.RELEASE]
    return [each for nack in nacks for each in decode_ranges(memoryview(nack.payload))]


async def take(consumer: Consumer[bytes], count: int) -> list[Message[bytes]]:
    return [await anext(consumer) for _ in range(count)]


# Credit


async def test_subscribes_with_one_credit_and_asks_for_another_as_one_is_taken(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        (consume,) = client.wire.of(Consume)
        assert (consume.queue, consume.credit, consume.payload) == ("jobs", 1, b"")
        client.wire.deliver(consume.subscription, delivered(b"a"))
        (message,) = await take(consumer, 1)
        assert message.body == b"a"
        assert client.wire.sent == [Credit(consume.subscription, 1)]


async def test_fixed_prefetch_grants_what_is_missing_by_quarters(client: FakeClient) -> None:
    async with consuming(client, prefetch=8) as consumer:
        (consume,) = client.wire.of(Consume)
        assert consume.credit == 8
        client.wire.deliver(consume.subscription, delivered(*[b"x"] * 8))
        await take(consumer, 1)
        assert client.wire.sent == []
        await take(consumer, 1)
        assert client.wire.sent == [Credit(consume.subscription, 2)]


@pytest.mark.parametrize("prefetch", [0, -1, 1_001])
async def test_impossible_prefetch_is_invalid(client: FakeClient, prefetch: int) -> None:
    with pytest.raises(Invalid, match="prefetch"):
        consumer_of(client, prefetch=prefetch)


def test_prefetch_doubles_only_while_the_broker_uses_it_up() -> None:
    prefetch = Prefetch(None)
    assert prefetch.subscribed(0) == 1
    prefetch.ran_dry()
    assert prefetch.target == 1
    for target in (2, 4, 8):
        prefetch.delivered(prefetch.credit, 100)
        prefetch.ran_dry()
        assert prefetch.target == target
        assert prefetch.grant(0) == target
    prefetch.delivered(1, 100)
    prefetch.ran_dry()
    assert prefetch.target == 8


def test_prefetch_never_exceeds_a_thousand() -> None:
    prefetch = Prefetch(None)
    prefetch.subscribed(0)
    for _ in range(20):
        prefetch.delivered(prefetch.credit, 100)
        prefetch.ran_dry()
        prefetch.grant(0)
    assert prefetch.target == 1_000


def test_prefetch_holds_at_most_a_second_of_measured_work() -> None:
    prefetch = Prefetch(None)
    prefetch.subscribed(0)
    for _ in range(10):
        prefetch.delivered(prefetch.credit, 100)
        prefetch.ran_dry()
        prefetch.grant(0)
    for second in range(100):
        prefetch.taken(second / 10, waited=False)
    prefetch.delivered(prefetch.credit, 100)
    prefetch.grant(0)
    assert prefetch.target in (9, 10)


def test_waiting_for_a_message_is_no_work() -> None:
    prefetch = Prefetch(64)
    adaptive = Prefetch(None)
    for at in (0.0, 50.0, 100.0):
        prefetch.taken(at, waited=True)
        adaptive.taken(at, waited=True)
    for each in (adaptive, prefetch):
        each.delivered(1, 1)
        each.ran_dry()
    assert adaptive.target == 2
    assert prefetch.target == 64


def test_prefetch_holds_at_most_16_mib() -> None:
    prefetch = Prefetch(None)
    prefetch.subscribed(0)
    for _ in range(20):
        prefetch.delivered(1, 4 * MIB)
        prefetch.delivered(prefetch.credit or 1, 4 * MIB)
        prefetch.ran_dry()
        prefetch.grant(0)
    assert prefetch.target <= 16


@pytest.mark.parametrize(("size", "held"), [(100, 1_000), (100_000, 167), (MIB, 16), (4 * MIB, 4)])
def test_fixed_prefetch_holds_at_most_16_mib_too(size: int, held: int) -> None:
    prefetch = Prefetch(1_000)
    first = prefetch.subscribed(0)
    assert first == 16
    prefetch.delivered(first, first * size)
    assert prefetch.grant(0) == held
    assert prefetch.grant(held) == 0


def test_fixed_prefetch_that_is_small_is_granted_at_once() -> None:
    assert Prefetch(10).subscribed(0) == 10
    assert Prefetch(10).subscribed(4) == 6


# The loop


async def test_messages_come_in_order_of_delivery(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"a", b"b"), delivered(b"c", first=2, token=8))
        client.wire.deliver(1, delivered(b"d", first=3, token=9))
        assert [m.body for m in await take(consumer, 4)] == [b"a", b"b", b"c", b"d"]


async def test_cancelled_anext_takes_nothing(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        waiting = asyncio.ensure_future(anext(consumer))
        await turns()
        waiting.cancel()
        await turns()
        client.wire.deliver(1, delivered(b"a"))
        (message,) = await take(consumer, 1)
        assert message.body == b"a"


@pytest.mark.parametrize("before", [True, False])
async def test_anext_cancelled_in_the_turn_of_a_delivery_leaves_it_to_the_next_waiter(
    client: FakeClient, *, before: bool
) -> None:
    async with consuming(client) as consumer:
        first = asyncio.ensure_future(anext(consumer))
        second = asyncio.ensure_future(anext(consumer))
        await turns()
        if before:
            first.cancel()
        client.wire.deliver(1, delivered(b"a"))
        first.cancel()
        assert (await second).body == b"a"
        assert first.cancelled()


async def test_several_tasks_share_a_consumer(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        tasks = [asyncio.ensure_future(anext(consumer)) for _ in range(3)]
        await turns()
        client.wire.deliver(1, delivered(b"a", b"b"))
        await turns()
        assert sorted(task.result().body for task in tasks if task.done()) == [b"a", b"b"]
        client.wire.deliver(1, delivered(b"c", first=2))
        await asyncio.gather(*tasks)


async def test_deleted_queue_ends_the_loop_with_not_found(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        waiting = asyncio.ensure_future(anext(consumer))
        await turns()
        client.wire.deliver(1)
        with pytest.raises(NotFound, match="deleted"):
            await waiting


async def test_damaged_delivery_comes_out_of_the_loop(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        stamps, batch = delivered(b"a")
        client.wire.deliver(1, (stamps, batch[:-1] + b"b"))
        with pytest.raises(Corrupt):
            await anext(consumer)


async def test_iterating_without_entering_is_an_error(client: FakeClient) -> None:
    with pytest.raises(RuntimeError, match="enter the consumer"):
        await anext(consumer_of(client))


async def test_a_consumer_is_entered_once(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        pass
    with pytest.raises(RuntimeError, match="used once"):
        await consumer.__aenter__()


# Subscribing


async def test_refused_subscription_raises_on_entering(client: FakeClient) -> None:
    client.wire.answers[Consume] = lambda _: NotFound("no queue 'jobs'")
    with pytest.raises(NotFound):
        async with consuming(client):
            raise AssertionError("entered")
    assert client.consumers == set()
    assert client.wire.subscriptions == {}


async def test_busy_broker_is_asked_again(client: FakeClient) -> None:
    answers = iter([Busy("later", retry_after=0.001), Done()])
    client.wire.answers[Consume] = lambda _: next(answers)
    async with consuming(client):
        assert len(client.wire.of(Consume)) == 2


async def test_cancelled_while_entering_stops_the_subscription(client: FakeClient) -> None:
    del client.wire.answers[Consume]
    entering = asyncio.ensure_future(consumer_of(client).__aenter__())
    await turns()
    entering.cancel()
    await turns()
    assert entering.cancelled()
    assert client.wire.of(Stop) == [Stop(1)]
    assert client.wire.subscriptions == {}


async def test_entering_on_a_closed_client_raises(client: FakeClient) -> None:
    client.wire.closed = True
    with pytest.raises(ClientClosed):
        await consumer_of(client).__aenter__()


async def test_entering_waits_for_a_connection(client: FakeClient) -> None:
    client.wire.connected = False
    entering = asyncio.ensure_future(consumer_of(client).__aenter__())
    await turns()
    assert client.wire.asked == []
    client.wire.reconnect()
    consumer = await entering
    assert len(client.wire.of(Consume)) == 1
    await consumer.__aexit__(None, None, None)


async def test_stop_while_entering_ends_it_as_closed(client: FakeClient) -> None:
    client.wire.connected = False
    consumer = consumer_of(client)
    entering = asyncio.ensure_future(consumer.__aenter__())
    await turns()
    consumer.stop()
    with pytest.raises(ClientClosed):
        await entering


# Stopping


async def test_stop_releases_what_was_not_started_and_ends_the_loop(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"a", b"b", b"c"), delivered(b"d", token=9, first=8))
        (in_hand,) = await take(consumer, 1)
        consumer.stop()
        with pytest.raises(StopAsyncIteration):
            await anext(consumer)
        await client.settler.flush()
        assert released(client) == [Range(7, 1, 0, 2), Range(9, 8, 0, 1)]
        async with in_hand:
            pass
        assert client.wire.sent == []
    assert client.wire.of(Ack)


async def test_stop_wakes_whoever_waits(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        tasks = [asyncio.ensure_future(anext(consumer, None)) for _ in range(3)]
        await turns()
        consumer.stop()
        assert await asyncio.gather(*tasks) == [None] * 3


async def test_what_arrives_after_stop_is_released(client: FakeClient) -> None:
    del client.wire.answers[Stop]
    async with consuming(client) as consumer:
        consumer.stop()
        client.wire.deliver(1, delivered(b"late", first=3))
        client.wire.last(Stop).reply(Done())
    await client.settler.flush()
    assert released(client) == [Range(7, 3, 0, 1)]
    assert client.wire.subscriptions == {}


async def test_leaving_waits_for_the_barrier_behind_the_last_delivery(client: FakeClient) -> None:
    del client.wire.answers[Stop]
    consumer = await consumer_of(client).__aenter__()
    leaving = asyncio.ensure_future(consumer.__aexit__(None, None, None))
    await turns(10)
    assert not leaving.done()
    client.wire.last(Stop).reply(Done())
    await leaving


async def test_leaving_gives_back_what_is_in_hand_unsettled(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"a", b"b", b"c"))
        first, _ = await take(consumer, 2)
        await first.ack()
    await client.settler.flush()
    assert released(client) == [Range(7, 1, 0, 2)]


async def test_busy_broker_is_asked_again_to_stop(client: FakeClient) -> None:
    answers = iter([Busy("later", retry_after=0.001), Done()])
    client.wire.answers[Stop] = lambda _: next(answers)
    async with consuming(client):
        pass
    assert len(client.wire.of(Stop)) == 2
    assert client.wire.subscriptions == {}


async def test_cancelled_leaving_still_releases_what_arrives(client: FakeClient) -> None:
    del client.wire.answers[Stop]
    consumer = await consumer_of(client).__aenter__()
    leaving = asyncio.ensure_future(consumer.__aexit__(None, None, None))
    await turns()
    leaving.cancel()
    await turns()
    client.wire.deliver(1, delivered(b"late"))
    client.wire.last(Stop).reply(Done())
    await client.settler.flush()
    assert released(client) == [Range(7, 0, 0, 1)]


async def test_leaving_without_a_connection_does_not_wait(client: FakeClient) -> None:
    async with consuming(client):
        client.wire.lose()
    client.wire.reconnect()
    assert [type(asked.message) for asked in client.wire.asked[-2:]] == [Consume, Stop]
    assert client.wire.of(Consume)[-1].credit == 0
    assert client.wire.subscriptions == {}


# Leases


async def test_leases_are_extended_as_ranges_without_what_is_settled(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(*[b"x"] * 6, lease=30))
        messages = await take(consumer, 4)
        await messages[1].ack()
        await messages[2].ack()
        extend = await client.wire.until(Extend)
        assert (extend.queue, extend.extend) == ("jobs", 30)
        assert decode_ranges(memoryview(extend.payload)) == [Range(7, 0, 0, 1), Range(7, 3, 0, 3)]
        before = messages[0].lease_remaining
        await client.wire.until(Extend, 2)
        assert messages[0].lease_remaining > 0 < before


async def test_shorter_lease_brings_the_next_extension_forward(client: FakeClient) -> None:
    async with consuming(client, prefetch=10):
        client.wire.deliver(1, delivered(b"a", lease=3_600_000))
        client.wire.deliver(1, delivered(b"b", first=1, lease=30))
        assert (await client.wire.until(Extend)).extend == 30


async def test_message_in_hand_beyond_max_processing_is_not_extended(client: FakeClient) -> None:
    async with consuming(client, prefetch=10, max_processing=0) as consumer:
        client.wire.deliver(1, delivered(b"a", b"b", b"c", lease=30))
        await take(consumer, 2)
        extend = await client.wire.until(Extend)
        assert decode_ranges(memoryview(extend.payload)) == [Range(7, 2, 0, 1)]


async def test_stale_extension_drops_the_message_from_the_buffer(client: FakeClient) -> None:
    stale = encode_ranges([Range(7, 0, 0, 1)])
    client.wire.answers[Extend] = lambda _: Settled(1, stale)
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"gone", b"here", lease=300))
        await client.wire.until(Extend)
        assert client.wire.events == [LeaseLost("jobs", 1)]
        assert (await anext(consumer)).body == b"here"


async def test_message_whose_lease_ran_out_in_the_buffer_is_not_handed_out(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"old", lease=0), delivered(b"new", token=8, first=1))
        assert (await anext(consumer)).body == b"new"


# Reconnects


def tokens_of(consume: Consume) -> set[int]:
    held = bytes(consume.payload)
    return {int.from_bytes(held[at : at + 8], "little") for at in range(0, len(held), 8)}


async def test_reconnect_subscribes_with_the_tokens_held_and_the_credit_left(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(
            1, delivered(b"a"), delivered(b"b", token=8, first=1), delivered(b"c", token=9, first=2)
        )
        done, _ = await take(consumer, 2)
        await done.ack()
        client.wire.lose()
        client.wire.reconnect()
        consume = client.wire.of(Consume)[-1]
        assert tokens_of(consume) == {8, 9}
        assert consume.credit == 9
        assert [type(a.message) for a in client.wire.asked[-2:]] == [Consume, Extend]


async def test_reconnect_keeps_the_tokens_of_settles_without_an_answer(client: FakeClient) -> None:
    del client.wire.answers[Ack]
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"a"))
        async with await anext(consumer):
            pass
        await turns()
        client.wire.lose()
        client.wire.reconnect()
        assert tokens_of(client.wire.of(Consume)[-1]) == {7}
        client.wire.last(Ack).reply(Settled(1, b""))


async def test_leases_lost_with_the_session_leave_the_buffer_after_a_reconnect(client: FakeClient) -> None:
    async with consuming(client, prefetch=10) as consumer:
        client.wire.deliver(1, delivered(b"a"), delivered(b"b", token=8, first=1))
        client.wire.answers[Extend] = lambda extend: Settled(0, extend.payload)
        client.wire.lose()
        client.wire.reconnect()
        assert client.wire.events == [LeaseLost("jobs", 2)]
        client.wire.deliver(1, delivered(b"again", token=10))
        assert (await anext(consumer)).body == b"again"


async def test_queue_deleted_while_away_ends_the_loop(client: FakeClient) -> None:
    async with consuming(client) as consumer:
        client.wire.lose()
        client.wire.answers[Consume] = lambda _: NotFound("no queue 'jobs'")
        client.wire.reconnect()
        with pytest.raises(NotFound):
            await anext(consumer)
