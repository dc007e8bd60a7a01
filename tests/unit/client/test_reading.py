"""Fetches that are sent before the one in front of them was answered. The test is the broker."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.client_wire import turns
from tests.fakes.topic_broker import Broker

from penstock.errors import NotFound
from penstock.topic_consumer import TopicConsumer
from penstock.turn import SENT_AHEAD_PARTITIONS_MAX
from penstock_protocol.messages.topics import Fetch

LARGE = b"x" * 90_000
"""Ten of them, which the broker of these tests gives at most, nearly fill a fetch."""


def fetches(broker: Broker) -> list[int]:
    return [fetch.offset for fetch in broker.wire.of(Fetch)]


def filled(records: int, partitions: int = 1) -> Broker:
    broker = Broker(partitions)
    for partition in range(partitions):
        broker.append(*[LARGE] * records, partition=partition)
    return broker


async def begin_to_read(broker: Broker, consumer: TopicConsumer[bytes]) -> None:
    """Of the first fetch; what is asked for behind it is not answered."""
    await turns(10)
    del broker.wire.answers[Fetch]
    await anext(consumer)
    await turns(10)


async def read(consumer: TopicConsumer[bytes], records: int) -> list[int]:
    return [(await anext(consumer)).offset for _ in range(records)]


async def test_far_from_the_end_the_next_fetch_is_sent_before_the_one_in_front_is_answered() -> None:
    broker = filled(60)
    async with broker.consumer() as consumer:
        await begin_to_read(broker, consumer)
        assert fetches(broker) == [0, 10, 20]
        broker.wire.answers[Fetch] = broker._fetch
        broker.wire.answer(Fetch)
        assert await read(consumer, 59) == list(range(1, 60))
        assert fetches(broker) == [*range(0, 60, 10)]


async def test_fetch_ahead_that_began_elsewhere_is_asked_for_anew() -> None:
    broker = filled(60)
    broker.times[10] = 1  # alone in its fetch
    async with broker.consumer() as consumer:
        await begin_to_read(broker, consumer)
        broker.wire.answers[Fetch] = broker._fetch
        broker.wire.answer(Fetch)
        assert await read(consumer, 59) == list(range(1, 60))
        assert fetches(broker)[:4] == [0, 10, 20, 11]


async def test_nothing_is_sent_ahead_where_offsets_are_missing() -> None:
    broker = filled(60)
    broker.gone = {offset for offset in range(60) if offset % 10 == 5}
    async with broker.consumer() as consumer:
        await begin_to_read(broker, consumer)
        assert fetches(broker) == [0, 10]


async def test_nothing_is_sent_ahead_for_one_of_many_partitions() -> None:
    broker = filled(60, SENT_AHEAD_PARTITIONS_MAX + 1)
    async with broker.consumer(*range(SENT_AHEAD_PARTITIONS_MAX + 1)) as consumer:
        await begin_to_read(broker, consumer)
        assert fetches(broker) == [0] * (SENT_AHEAD_PARTITIONS_MAX + 1) + [10]


async def test_nothing_beyond_the_last_record_asked_for_is_sent_ahead() -> None:
    broker = filled(60)
    async with broker.consumer(until={0: 15}) as consumer:
        await begin_to_read(broker, consumer)
        assert fetches(broker) == [0, 10]
        broker.wire.answers[Fetch] = broker._fetch
        broker.wire.answer(Fetch)
        assert [record.offset async for record in consumer] == list(range(1, 15))


async def test_seek_forgets_what_was_sent_ahead() -> None:
    broker = filled(60)
    async with broker.consumer() as consumer:
        await begin_to_read(broker, consumer)
        consumer.seek(0, 3)
        broker.wire.answers[Fetch] = broker._fetch
        broker.wire.answer(Fetch)
        assert await read(consumer, 57) == list(range(3, 60))


async def test_error_of_a_fetch_ahead_is_told_behind_the_records_in_front_of_it() -> None:
    broker = filled(60)

    def until_20(request: Fetch) -> object:
        return broker._fetch(request) if request.offset < 20 else NotFound("it was deleted")

    broker.wire.answers[Fetch] = until_20
    async with broker.consumer() as consumer:
        assert await read(consumer, 20) == list(range(20))
        with pytest.raises(NotFound, match="it was deleted"):
            await anext(consumer)


@given(
    sizes=st.lists(st.sampled_from([1, 1_000, 90_000, 300_000]), min_size=1, max_size=80),
    gone=st.sets(st.integers(0, 79), max_size=5),
    alone=st.sets(st.integers(0, 79), max_size=5),
    parts=st.sampled_from([1, 2, 5, 1_000]),
    seed=st.integers(0, 99),
)
def test_every_record_comes_once_and_in_order_whatever_a_fetch_brings(
    sizes: list[int], gone: set[int], alone: set[int], parts: int, seed: int
) -> None:
    async def run() -> None:
        random, broker = Random(seed), Broker()
        broker.gone, broker.times, broker.parts = gone, dict.fromkeys(alone, 1), parts
        first = random.randint(0, len(sizes))
        broker.append(*[bytes(size) for size in sizes[:first]])
        there = [offset for offset in range(len(sizes)) if offset not in gone]
        async with broker.consumer() as consumer:
            reading = asyncio.ensure_future(read(consumer, len(there)))
            for size in sizes[first:]:
                await turns(random.randint(0, 3))
                broker.append(bytes(size))
            assert await reading == there

    asyncio.run(run())
