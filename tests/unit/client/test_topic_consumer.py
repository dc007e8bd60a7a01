"""Consumers of a topic: what they read and commit. The test is the broker."""

import asyncio
from typing import Any

import pytest
from tests.fakes.client_wire import turns
from tests.fakes.topic_broker import Broker

from penstock import commits, record_consumer
from penstock.errors import Invalid, NotFound, OffsetOutOfRange, Timeout
from penstock.events import CommitFailed
from penstock.views import Taken
from penstock_protocol.messages.topics import (
    Commit,
    Fetch,
)

# Reading


async def test_reads_from_the_committed_offset_else_from_start() -> None:
    broker = Broker(3)
    for partition in range(3):
        broker.append(b"0", b"1", b"2", partition=partition)
    broker.committed[1] = 2, ""
    async with broker.consumer(0, 1, 2, start="latest") as consumer:
        assert (await anext(consumer)).offset == 2
        broker.append(b"3", partition=0)
        record = await anext(consumer)
        assert (record.partition, record.offset) == (0, 3)
    assert consumer.assignment == (0, 1, 2)


async def test_a_partition_is_read_in_order_and_no_partition_starves_another() -> None:
    broker = Broker(2)
    for partition in range(2):
        broker.append(*[b"%d" % i for i in range(25)], partition=partition)
    seen: dict[int, list[int]] = {0: [], 1: []}
    async with broker.consumer(0, 1) as consumer:
        for _ in range(30):
            record = await anext(consumer)
            seen[record.partition].append(record.offset)
    assert all(offsets == list(range(len(offsets))) for offsets in seen.values())
    assert min(len(offsets) for offsets in seen.values()) >= 10


async def test_one_fetch_waits_while_another_is_read() -> None:
    broker = Broker()
    broker.append(*[b"x"] * 40)
    async with broker.consumer() as consumer:
        await turns(10)
        assert [f.offset for f in broker.wire.of(Fetch)] == [0]
        await anext(consumer)
        await turns(10)
        assert [f.offset for f in broker.wire.of(Fetch)] == [0, 10]


async def test_batches_come_from_one_partition_up_to_the_size_asked_for() -> None:
    broker = Broker(2)
    broker.append(*[b"x"] * 7, partition=0)
    broker.append(*[b"y"] * 3, partition=1)
    sizes = []
    async with broker.consumer(0, 1) as consumer:
        await turns(10)
        async for records in consumer.batches(max_records=5):
            assert len({r.partition for r in records}) == 1
            sizes.append(len(records))
            if sum(sizes) == 10:
                break
    assert sorted(sizes) == [2, 3, 5]


async def test_batches_cut_a_fetch_wherever_they_end_and_single_records_go_on_there() -> None:
    broker = Broker()
    broker.append(*[b"%d" % i for i in range(10)])
    async with broker.consumer() as consumer:
        batches = consumer.batches(max_records=4)
        first, second = await anext(batches), await anext(batches)
        assert isinstance(second, Taken)
        assert [record.value for record in second] == [b"4", b"5", b"6", b"7"]
        assert second[-1].offset == 7
        assert b"".join(first.bodies() if isinstance(first, Taken) else []) == b"0123"
        assert b"".join(second.bodies()) == b"4567"
        assert (await anext(consumer)).offset == 8


async def test_loop_whose_body_never_waits_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_consumer, "YIELD_SECONDS", 0)
    monkeypatch.setattr(record_consumer, "STRETCH_RECORDS", 3)
    broker = Broker()
    broker.append(*[b"x"] * 10)
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    async with broker.consumer() as consumer:
        await turns(10)
        running = asyncio.ensure_future(other())
        for _ in range(10):
            await anext(consumer)
        assert ran >= 3
        running.cancel()


async def test_stop_ends_the_loop() -> None:
    broker = Broker()
    async with broker.consumer() as consumer:
        reading = asyncio.ensure_future(anext(consumer, None))
        await turns()
        assert broker.consumers == {consumer}
        consumer.stop()
        assert await reading is None
    assert broker.consumers == set()


async def test_cancelled_anext_loses_no_record() -> None:
    broker = Broker()
    async with broker.consumer() as consumer:
        reading = asyncio.ensure_future(anext(consumer))
        await turns()
        reading.cancel()
        broker.append(b"a")
        await turns()
        assert (await anext(consumer)).value == b"a"


async def test_a_broker_that_cannot_be_reached_is_asked_again() -> None:
    broker = Broker()
    broker.append(b"a")
    fetch, failures = broker._fetch, [Timeout("too slow")]
    broker.wire.answers[Fetch] = lambda request: failures.pop() if failures else fetch(request)
    async with broker.consumer() as consumer:
        assert (await anext(consumer)).value == b"a"


async def test_offset_out_of_range_comes_out_of_the_loop_and_seek_goes_on() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c")
    broker.starts[0] = 2
    broker.committed[0] = 1, ""
    async with broker.consumer() as consumer:
        with pytest.raises(OffsetOutOfRange) as raised:
            await anext(consumer)
        consumer.seek(0, raised.value.detail["start"])
        assert (await anext(consumer)).value == b"c"


async def test_seek_drops_what_was_fetched_and_moves_what_is_committed() -> None:
    broker = Broker()
    broker.append(*[b"%d" % i for i in range(5)])
    async with broker.consumer() as consumer:
        assert (await anext(consumer)).offset == 0
        consumer.seek(0, 3)
        await consumer.commit()
        assert broker.committed == {0: (3, "")}
        assert (await anext(consumer)).offset == 3


async def test_paused_partitions_hand_out_nothing_until_resumed() -> None:
    broker = Broker(2)
    broker.append(b"a", partition=0)
    broker.append(b"b", partition=1)
    async with broker.consumer(0, 1) as consumer:
        consumer.pause(0)
        assert (await anext(consumer)).value == b"b"
        reading = asyncio.ensure_future(anext(consumer))
        await turns(10)
        assert not reading.done()
        consumer.resume()
        assert (await reading).value == b"a"


@pytest.mark.parametrize("act", [lambda c: c.seek(5, 0), lambda c: c.pause(5), lambda c: c.resume(5)])
async def test_a_partition_that_is_not_assigned_is_invalid(act: Any) -> None:
    async with Broker().consumer() as consumer:
        with pytest.raises(Invalid, match="partition 5 is not assigned"):
            act(consumer)


async def test_a_consumer_without_partitions_is_invalid() -> None:
    with pytest.raises(Invalid, match="without partitions"):
        Broker().topic().consumer("readers", partitions=[])


# Committing


async def test_commit_covers_finished_records_and_the_one_in_hand() -> None:
    broker = Broker(2)
    broker.append(b"a", b"b", b"c", partition=1)
    async with broker.consumer(0, 1) as consumer:
        await anext(consumer)
        await anext(consumer)
        await consumer.commit(metadata="by hand")
    assert broker.committed[1] == (2, "by hand")


async def test_commit_up_to_a_record_stores_the_offset_behind_it() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c")
    async with broker.consumer() as consumer:
        first = await anext(consumer)
        await anext(consumer)
        await consumer.commit(first)
    assert broker.committed == {0: (1, "")}


async def test_commit_of_all_that_was_fetched_covers_the_hole_behind_it() -> None:
    broker = Broker()
    broker.append(b"a", b"b", b"c", b"d")
    broker.gone = {1, 3}
    async with broker.consumer() as consumer:
        first = await anext(consumer)
        await consumer.commit(first)
        assert broker.committed == {0: (1, "")}
        last = await anext(consumer)
        assert last.offset == 2
        await consumer.commit(last)
        assert broker.committed == {0: (4, "")}
        await consumer.commit()
    assert len(broker.wire.of(Commit)) == 2


async def test_hole_that_is_found_when_all_is_finished_is_finished_too() -> None:
    broker = Broker()
    broker.append(*[b"x"] * 10, b"y", b"z")
    broker.gone = {10, 11}
    async with broker.consumer(auto_commit=True) as consumer:
        async for records in consumer.batches(100):
            assert len(records) == 10
            await turns(10)
            consumer.stop()
    assert broker.committed == {0: (12, "")}


async def test_consumer_in_a_hole_at_the_end_commits_behind_it() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    broker.gone = {0, 1}
    async with broker.consumer() as consumer:
        reading = asyncio.ensure_future(anext(consumer))
        await turns(10)
        await consumer.commit()
        assert broker.committed == {0: (2, "")}
        broker.append(b"c")
        assert (await reading).offset == 2


async def test_commit_with_nothing_new_asks_nothing() -> None:
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer() as consumer:
        await consumer.commit()
        await anext(consumer)
        await consumer.commit()
        await consumer.commit()
    assert len(broker.wire.of(Commit)) == 1


async def test_without_auto_commit_nothing_is_stored_unasked() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    async with broker.consumer() as consumer:
        await anext(consumer)
        await anext(consumer)
    assert broker.committed == {}


async def test_clean_exit_with_auto_commit_stores_what_is_finished_and_not_the_record_in_hand() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await anext(consumer)
    assert broker.committed == {0: (1, "")}


async def test_a_commit_by_hand_is_not_taken_back_on_exit() -> None:
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await consumer.commit()
    assert broker.committed == {0: (1, "")}


async def test_a_body_that_raises_is_never_committed() -> None:
    broker = Broker()
    broker.append(b"a", b"b")

    async def read() -> None:
        async with broker.consumer(auto_commit=True) as consumer:
            async for record in consumer:
                if record.offset:
                    raise ValueError(record)

    with pytest.raises(ValueError, match="Record 1"):
        await read()
    assert broker.committed == {}


async def test_auto_commit_stores_every_thousand_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "AUTO_COMMIT_RECORDS", 20)
    broker = Broker()
    broker.append(*[b"x"] * 50)
    async with broker.consumer(auto_commit=True) as consumer:
        for _ in range(45):
            await anext(consumer)
        await turns(10)
        assert [c.offsets for c in broker.wire.of(Commit)] == [((0, 20, ""),), ((0, 40, ""),)]


async def test_auto_commit_stores_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "AUTO_COMMIT_SECONDS", 0.001)
    broker = Broker()
    broker.append(b"a")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        reading = asyncio.ensure_future(anext(consumer, None))
        commit = await broker.wire.until(Commit)
        assert commit.offsets == ((0, 1, ""),)
        reading.cancel()


async def test_auto_commit_stores_what_was_passed_over_while_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "AUTO_COMMIT_SECONDS", 0.001)
    broker = Broker()
    broker.append(b"a", b"b")
    broker.gone = {0, 1}
    async with broker.consumer(auto_commit=True) as consumer:
        reading = asyncio.ensure_future(anext(consumer, None))
        commit = await broker.wire.until(Commit)
        assert commit.offsets == ((0, 2, ""),)
        reading.cancel()


async def test_reading_outside_of_the_block_is_told_and_does_not_hang() -> None:
    broker = Broker()
    broker.append(b"a")
    consumer = broker.consumer()
    with pytest.raises(RuntimeError, match="async with"):
        await anext(consumer)
    async with consumer:
        assert (await anext(consumer)).value == b"a"
    with pytest.raises(RuntimeError, match="async with"):
        await anext(consumer)


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(Invalid, match="auto_comit") as caught:
        Broker().consumer(auto_comit=True)
    assert "auto_commit" in caught.value.hint


async def test_a_failed_automatic_commit_is_an_event_and_the_next_covers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "AUTO_COMMIT_RECORDS", 1)
    broker = Broker()
    broker.append(b"a", b"b")
    commit, failures = broker._commit, [NotFound("no topic 'lines'")]
    broker.wire.answers[Commit] = lambda request: failures.pop() if failures else commit(request)
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await anext(consumer)
        await turns(5)
        (event,) = broker.wire.events
        assert isinstance(event, CommitFailed)
        assert (event.group, event.topic) == ("readers", "lines")
    assert broker.committed == {0: (1, "")}


async def test_closing_the_client_stores_what_is_finished() -> None:
    broker = Broker()
    broker.append(b"a", b"b")
    async with broker.consumer(auto_commit=True) as consumer:
        await anext(consumer)
        await anext(consumer)
        consumer.stop()
        await consumer.closed()
        assert broker.committed == {0: (1, "")}
        assert len(broker.wire.of(Commit)) == 1
