"""Replay: bounded ranges, limited rates, readers without a group. The test is the broker."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fakes.client_wire import NOW_MS, turns
from tests.fakes.topic_broker import APPENDED, Broker

from penstock.errors import Invalid
from penstock.pacing import Recorded, Steady, pace_of
from penstock.values import instant_of
from penstock_protocol.messages.topics import Commit, Fetch, Offset, Offsets

NOW = instant_of(NOW_MS)


def filled(count: int, partitions: int = 1) -> Broker:
    broker = Broker(partitions)
    for partition in range(partitions):
        broker.append(*[b"%d" % i for i in range(count)], partition=partition)
    return broker


async def offsets_of(consumer: Any) -> list[tuple[int, int]]:
    async with asyncio.timeout(5), consumer:
        return [(record.partition, record.offset) async for record in consumer]


# Ranges


async def test_until_now_ends_at_the_end_there_was_at_the_start() -> None:
    broker = filled(25, 2)
    consumer = broker.consumer(0, 1, until="now")
    async with consumer:
        for partition in range(2):
            broker.append(b"later", partition=partition)
        seen = [(record.partition, record.offset) async for record in consumer]
    assert sorted(seen) == [(partition, offset) for partition in range(2) for offset in range(25)]


async def test_until_an_offset_cuts_a_fetch() -> None:
    broker = filled(25)
    consumer = broker.consumer(until={0: 13}, auto_commit=True)
    assert await offsets_of(consumer) == [(0, offset) for offset in range(13)]
    assert broker.committed == {0: (13, "")}
    assert [fetch.records for fetch in broker.wire.of(Fetch)] == [13, 3]


async def test_until_cuts_batches_too() -> None:
    broker = filled(25)
    async with broker.consumer(until={0: 13}) as consumer:
        assert [len(records) async for records in consumer.batches(6)] == [6, 4, 3]


async def test_hole_before_the_end_is_read_and_counts_as_finished() -> None:
    broker = filled(12)
    broker.gone = {8, 9, 10, 11}
    consumer = broker.consumer(until="now", auto_commit=True)
    assert await offsets_of(consumer) == [(0, offset) for offset in range(8)]
    assert broker.committed == {0: (12, "")}


async def test_until_in_the_middle_of_a_hole_is_committed_as_it_is() -> None:
    broker = filled(10)
    broker.gone = {3, 4, 5, 6}
    consumer = broker.consumer(until={0: 5}, auto_commit=True)
    assert await offsets_of(consumer) == [(0, 0), (0, 1), (0, 2)]
    assert broker.committed == {0: (5, "")}


async def test_range_that_is_read_already_ends_at_once() -> None:
    broker = filled(10)
    broker.committed[0] = 10, ""
    assert await offsets_of(broker.consumer(until="now")) == []
    assert broker.wire.of(Fetch) == []


async def test_partitions_that_a_mapping_does_not_name_end_where_they_end_now() -> None:
    broker = filled(5, 2)
    assert len(await offsets_of(broker.consumer(0, 1, until={0: 2}))) == 7


async def test_an_instant_is_asked_of_the_broker() -> None:
    broker = filled(5)
    begin, end = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
    await offsets_of(broker.consumer(start=begin, until=end))
    assert [(asked.at.name, asked.time) for asked in broker.wire.of(Offset)] == [
        ("TIME", NOW_MS - 7_200_000),
        ("TIME", NOW_MS - 3_600_000),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": -1}, "is no offset"),
        ({"start": "middle"}, "no place in a partition"),
        ({"start": datetime(2026, 1, 1)}, "no time zone"),
        ({"until": "latest"}, "is no end"),
        ({"until": datetime(2026, 1, 1)}, "no time zone"),
        ({"start": NOW, "until": NOW}, "is not after"),
        ({"rate": 0}, "is no rate"),
        ({"rate": float("inf")}, "is no rate"),
        ({"rate": "fast"}, "is no rate"),
        ({"instance": "one"}, "for members"),
        ({"on_revoked": print}, "for members"),
    ],
)
def test_what_can_never_be_is_invalid_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        Broker().consumer(**options)


async def test_an_end_in_the_future_is_invalid() -> None:
    with pytest.raises(Invalid, match="future"):
        await offsets_of(Broker().consumer(until=NOW + timedelta(seconds=1)))


# Without a group


async def test_reader_without_a_group_reads_all_partitions_and_commits_nothing() -> None:
    broker = filled(5, 3)
    async with broker.topic().consumer(None, until="now") as consumer:
        assert consumer.assignment == (0, 1, 2)
        seen = [record async for record in consumer]
        with pytest.raises(Invalid, match="no group"):
            await consumer.commit()
        with pytest.raises(Invalid, match="no group"):
            await consumer.commit(seen[0])
    assert len(seen) == 15
    assert broker.wire.of(Commit) == broker.wire.of(Offsets) == []


def test_automatic_commits_need_a_group() -> None:
    with pytest.raises(Invalid, match="auto_commit needs a group"):
        Broker().consumer(group=None, auto_commit=True)


# Rates


@pytest.mark.parametrize("rate", [0.5, 1, 30, 1_000])
def test_steady_rate_lets_as_many_go_in_each_second(rate: float) -> None:
    pace, now, gone = Steady(rate), 100.0, []
    while now < 110:
        pause = pace.pause(now, 0)
        if pause:
            now += pause
            continue
        count = int(pace.most())
        pace.took(count)
        gone.append((now, count))
    assert sum(count for _, count in gone) == pytest.approx(10 * rate, abs=max(1, rate * 0.06))
    for begin in range(100, 110):
        assert sum(count for at, count in gone if begin <= at < begin + 1) <= 1.06 * rate + 1


def test_steady_rate_saves_up_little() -> None:
    pace = Steady(100)
    assert pace.pause(0.0, 0) == 0
    pace.took(1)
    assert pace.pause(3_600.0, 0) == 0
    assert pace.most() == 5


def test_recorded_rate_keeps_the_pauses() -> None:
    pace = Recorded()
    assert pace.pause(50.0, 10_000) == 0
    assert pace.pause(50.0, 10_500) == pytest.approx(0.5)
    assert pace.pause(50.5, 10_500) == 0
    assert pace.pause(50.5, 9_000) == 0
    assert pace_of(None) is None


async def test_consumer_keeps_to_its_rate() -> None:
    broker = filled(20)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    assert len(await offsets_of(broker.consumer(until="now", rate=200))) == 20
    assert 0.04 < loop.time() - begin < 2


async def test_recorded_partitions_are_merged_by_time() -> None:
    broker = filled(4, 2)
    broker.times = {offset: APPENDED + 20 * offset for offset in range(4)}
    seen = await offsets_of(broker.consumer(0, 1, until="now", rate="recorded"))
    assert [offset for _, offset in seen] == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_stopped_reader_does_not_wait_for_its_turn() -> None:
    broker = filled(3)
    broker.times = {offset: APPENDED + 3_600_000 * offset for offset in range(3)}
    async with broker.consumer(rate="recorded") as consumer:
        assert (await anext(consumer)).offset == 0
        waiting = asyncio.ensure_future(anext(consumer, None))
        await turns(10)
        assert not waiting.done()
        consumer.stop()
        assert await waiting is None


def test_instants_are_aware() -> None:
    assert NOW.tzinfo is UTC
