"""Members of a group: what they do with what they are told. The test is the broker."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from tests.fakes.client_wire import NOW_MS, turns
from tests.fakes.group_broker import Group, filled
from tests.fakes.topic_broker import Held, document

from penstock import record_consumer
from penstock.errors import Busy, Conflict, Invalid, NotFound, Stale, Timeout
from penstock.events import PartitionsLost
from penstock.topic_consumer import TopicConsumer
from penstock.values import TopicPartition
from penstock_protocol.messages.groups import Heartbeat, Join, Leave
from penstock_protocol.messages.topics import At, DescribeGroup, Fetch, Offset, Offsets


class Calls:
    """Callbacks that write down what was called, and what was done by then."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.made: list[tuple[str, tuple[int, ...]]] = []
        self.committed: list[dict[int, int]] = []

    async def assigned(self, partitions: Sequence[int]) -> None:
        self.made.append(("assigned", tuple(partitions)))
        assert not [f for f in self._group.wire.of(Fetch) if f.partition in partitions]

    def revoked(self, partitions: Sequence[int]) -> None:
        self.made.append(("revoked", tuple(partitions)))
        self.committed.append({n: offset for n, (offset, _) in self._group.committed.items()})


async def read(consumer: TopicConsumer[Any], count: int) -> list[tuple[int, int]]:
    records = [await anext(consumer) for _ in range(count)]
    return [(record.partition, record.offset) for record in records]


# Joining and leaving


async def test_member_joins_reads_and_leaves() -> None:
    group = filled()
    calls = Calls(group)
    async with group.member(
        on_assigned=calls.assigned, on_revoked=calls.revoked, assignor="range"
    ) as consumer:
        (join,) = group.wire.of(Join)
        assert join == Join("readers", bytes(16), ("lines",), "range", None, b"")
        assert consumer.assignment == (0, 1)
        await group.carried_out()
        assert len(await read(consumer, 5)) == 5
        assert group.wire.of(Leave) == []
    assert group.wire.of(Leave) == [Leave("readers", bytes(16))]
    assert calls.made == [("assigned", (0, 1)), ("revoked", (0, 1))]
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_where_the_group_begins_is_committed_at_once() -> None:
    group = filled()
    group.committed[1] = 3, ""
    async with group.member(start="latest"):
        assert group.committed == {0: (20, ""), 1: (3, "")}


async def test_refused_join_comes_out_of_the_block() -> None:
    group = Group()
    group.wire.answers[Join] = lambda _: Conflict("the group is full")
    with pytest.raises(Conflict):
        async with group.member():
            pass
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_cancelled_while_it_joins_it_leaves() -> None:
    group = Group()
    del group.wire.answers[Join]
    entering = asyncio.ensure_future(group.member().__aenter__())
    await group.wire.until(Join)
    entering.cancel()
    await asyncio.wait([entering])
    assert group.wire.of(Leave) != []


async def test_cancelled_at_any_turn_while_it_leaves_it_has_left() -> None:
    cancelled = [await left_when_cancelled_after(count) for count in range(1, 20)]
    assert cancelled == sorted(cancelled, reverse=True)
    assert 1 < sum(cancelled) < len(cancelled)


async def left_when_cancelled_after(count: int) -> bool:
    """So many turns after it began to leave; whether it was still about to."""
    group = filled()
    consumer = group.member()
    await consumer.__aenter__()
    await group.carried_out()
    leaving = asyncio.ensure_future(consumer.__aexit__(None, None, None))
    await turns(count)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert group.wire.of(Leave) != []
    return leaving.cancelled()


async def test_callback_that_raises_at_the_start_comes_out_of_the_block() -> None:
    group = Group()

    def assigned(partitions: Sequence[int]) -> None:
        raise ValueError("not ready")

    with pytest.raises(ValueError, match="not ready"):
        async with group.member(on_assigned=assigned):
            pass
    assert group.wire.of(Leave) != []


async def test_member_that_is_silent_to_the_broker_asks_again() -> None:
    group = filled()
    async with group.member() as consumer:
        await turns()
        group.wire.last(Heartbeat).reply(Timeout("too slow"))
        await turns()
        group.wire.last(Heartbeat).reply(Busy("too much"))
        await turns()
        group.tell(1)
        await group.carried_out()
        assert consumer.assignment == (1,)


# Hand-over


async def test_partition_is_given_up_when_what_is_in_hand_is_finished() -> None:
    group = filled()
    calls = Calls(group)
    async with group.member(auto_commit=True, on_revoked=calls.revoked) as consumer:
        held = await anext(consumer)
        held_back = await anext(consumer)
        assert (held.partition, held_back.offset) == (held_back.partition, 1)
        group.tell(1 - held.partition)
        await turns(20)
        assert group.done == 1
        assert (await anext(consumer)).partition == 1 - held.partition
        await group.carried_out()
    assert calls.made[0] == ("revoked", (held.partition,))
    assert calls.committed[0][held.partition] == 2


async def test_partition_nobody_works_on_is_given_up_at_once_and_the_other_is_not_touched() -> None:
    group = filled()
    async with group.member() as consumer:
        record = await anext(consumer)
        kept = consumer.readers[TopicPartition("lines", record.partition)]
        fetches = len(group.wire.of(Fetch))
        group.tell(record.partition)
        await group.carried_out()
        assert consumer.assignment == (record.partition,)
        assert consumer.readers == {kept.place: kept}
        assert await read(consumer, 9) == [(record.partition, offset) for offset in range(1, 10)]
        assert len([f for f in group.wire.of(Fetch)[fetches:] if f.offset == 0]) == 0


async def test_commit_in_on_revoked_covers_what_is_finished() -> None:
    group = filled(1)

    async def revoked(partitions: Sequence[int]) -> None:
        await consumer.commit(metadata="handed over")

    async with group.member(on_revoked=revoked) as consumer:
        await read(consumer, 5)
        group.tell()
        await turns(10)
        reading = asyncio.ensure_future(anext(consumer))
        await group.carried_out()
        assert group.committed == {0: (5, "handed over")}
        group.tell(0)
        record = await reading
        assert record.offset == 5


async def test_partition_that_comes_back_while_it_is_given_up_is_read_from_where_it_stands() -> None:
    group = filled(1)
    calls = Calls(group)
    async with group.member(
        auto_commit=True, on_assigned=calls.assigned, on_revoked=calls.revoked
    ) as consumer:
        await read(consumer, 3)
        group.tell()
        await turns(10)
        calls.assigned = lambda partitions: None  # type: ignore[method-assign,assignment]
        group.tell(0)
        group.wire.asked = [asked for asked in group.wire.asked if not isinstance(asked.message, Fetch)]
        assert (await anext(consumer)).offset == 3
        await group.carried_out()


async def test_commit_of_a_partition_that_is_gone_is_stale() -> None:
    group = filled()
    async with group.member() as consumer:
        records = [await anext(consumer) for _ in range(20)]
        moved = records[0].partition
        assert records[-1].partition != moved
        group.tell(1 - moved)
        await group.carried_out()
        with pytest.raises(Stale, match="not assigned to this consumer any more"):
            await consumer.commit(records[0])
        with pytest.raises(Invalid, match="is not assigned"):
            consumer.seek(moved, 0)


async def test_callback_that_raises_comes_out_of_the_loop_and_the_partition_is_given_away() -> None:
    group = filled()

    def revoked(partitions: Sequence[int]) -> None:
        if partitions == (1,):
            raise ValueError("cannot let go")

    async with group.member(on_revoked=revoked) as consumer:
        group.tell(0)
        await turns(20)
        with pytest.raises(ValueError, match="cannot let go"):
            await anext(consumer)
        assert consumer.assignment == (0,)


async def test_topic_that_is_gone_when_it_is_assigned_is_left_out() -> None:
    group = filled(1, given=())
    async with group.member() as consumer:
        group.wire.answers[Offsets] = lambda _: NotFound("no topic 'lines'")
        group.tell(0)
        await group.carried_out()
        assert consumer.assignment == ()


# Lost memberships


async def test_lost_membership_is_joined_again_and_what_nobody_read_goes_on() -> None:
    group = filled()
    calls = Calls(group)
    async with group.member(on_revoked=calls.revoked) as consumer:
        seen = await read(consumer, 3)
        readers = dict(consumer.readers)
        group.lose(0, 1)
        await group.carried_out()
        assert group.claims() == {"lines": [0, 1]}
        assert consumer.readers == readers
        assert calls.made == []
        seen += await read(consumer, 7)
        assert seen == [(seen[0][0], offset) for offset in range(10)]
        await consumer.commit()
    assert group.wire.events == []


async def test_what_others_have_by_now_is_dropped_and_revoked(caplog: pytest.LogCaptureFixture) -> None:
    group = filled()
    calls = Calls(group)
    stale: list[Stale] = []

    async def revoked(partitions: Sequence[int]) -> None:
        calls.revoked(partitions)
        if partitions == (lost,):
            try:
                await consumer.commit()
            except Stale as error:
                stale.append(error)

    async with group.member(auto_commit=True, on_revoked=revoked) as consumer:
        records = [await anext(consumer) for _ in range(3)]
        lost = records[0].partition
        group.lose(1 - lost)
        await group.carried_out()  # in hand or not
        assert calls.made == [("revoked", (lost,))]
        assert len(stale) == 1
        assert group.wire.events == [PartitionsLost("readers", (TopicPartition("lines", lost),))]
        with pytest.raises(Stale):
            await consumer.commit(records[0])
        assert records[-1].partition == lost
        with pytest.raises(Stale):
            await consumer.commit()  # it is in hand
        assert (await anext(consumer)).partition == 1 - lost
        await consumer.commit()
    assert group.committed.get(lost, (0, ""))[0] == 0
    assert "no member of group 'readers' any more" in caplog.text


async def test_partition_that_another_one_read_on_is_read_from_where_that_one_was() -> None:
    group = filled(1)
    calls = Calls(group)
    async with group.member(on_revoked=calls.revoked) as consumer:
        await read(consumer, 3)
        group.committed[0] = 12, "by another"
        group.lose(0)
        await group.carried_out()
        assert calls.made == [("revoked", (0,))]
        assert await read(consumer, 1) == [(0, 12)]


async def test_commit_upto_a_record_from_before_the_partition_went_and_came_back_is_stale() -> None:
    group = filled(1)
    async with group.member() as consumer:
        before = await anext(consumer)
        group.committed[0] = 12, "by another"
        group.lose(0)
        await group.carried_out()
        after = await anext(consumer)
        with pytest.raises(Stale, match="not assigned to this consumer any more"):
            await consumer.commit(before)
        assert group.committed == {0: (12, "by another")}
        await consumer.commit(after)
        assert group.committed == {0: (13, "")}
        consumer.seek(0, before.offset)
        await consumer.commit(await anext(consumer))
        assert group.committed == {0: (1, "")}


async def test_nothing_is_handed_out_while_it_is_no_member() -> None:
    group = filled(1)
    async with group.member() as consumer:
        await read(consumer, 1)
        del group.wire.answers[Join]
        group.lose(0)
        await turns(10)
        reading = asyncio.ensure_future(anext(consumer))
        await turns(20)
        assert not reading.done()
        group.wire.answers[Join] = group._join
        group.wire.last(Join).reply(Timeout("too slow"))
        assert (await reading).offset == 1


async def test_commit_that_finds_the_membership_lost_is_repeated_when_it_is_back() -> None:
    group = filled(1)
    async with group.member() as consumer:
        await read(consumer, 4)
        group.stale = Stale("no member any more")
        group.generation += 1
        await consumer.commit()
    assert group.committed == {0: (4, "")}
    assert len(group.wire.of(Join)) == 2


async def test_commit_is_stale_when_the_partition_did_not_come_back() -> None:
    group = filled(1)
    async with group.member() as consumer:
        await read(consumer, 4)
        group.stale, group.given = Stale("no member any more"), []
        group.generation += 1
        with pytest.raises(Stale):
            await consumer.commit()
    assert group.committed == {0: (0, "")}


async def test_membership_lost_while_it_waits_for_the_application_waits_no_longer() -> None:
    group = filled(1)
    calls = Calls(group)
    async with group.member(on_revoked=calls.revoked) as consumer:
        await read(consumer, 1)
        group.tell()
        await turns(10)
        assert calls.made == []
        group.lose()
        await group.carried_out()
        assert calls.made == [("revoked", (0,))]
        assert group.claims() == {}


async def test_seat_that_another_process_took_ends_the_loop() -> None:
    group = filled(1)
    async with group.member(instance="one") as consumer:
        await read(consumer, 1)
        group.lose(detail={"fenced": True})
        await turns(5)
        with pytest.raises(Stale, match="no member any more"):
            await anext(consumer)
    assert len(group.wire.of(Join)) == 1


# Ranges


async def test_member_without_partitions_ends_when_the_others_have_committed_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record_consumer, "LOOK_SECONDS", 0.001)
    group = filled(2, given=())
    rows = [
        {"topic": "lines", "partition": n, "current": 10, "end": 20, "lag": 10, "lag_seconds": 1.0}
        | {"rate_in": 0.0, "rate_out": 0.0, "catch_up_seconds": None, "member": "other"}
        for n in range(2)
    ]
    described = {"name": "readers", "partitions": rows, "state": "stable", "generation": 1}
    described |= {"assignor": "sticky", "members": []}
    group.wire.answers[DescribeGroup] = lambda _: document(described)
    async with group.member(until={0: 15, 1: 15}) as consumer:
        ending = asyncio.ensure_future(anext(consumer, None))
        await group.wire.until(DescribeGroup, 3)
        assert not ending.done()
        for row in rows:
            row["current"] = 15
        assert await ending is None


async def test_member_that_is_given_nothing_yet_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_consumer, "LOOK_SECONDS", 0.001)
    group = filled(1, given=())
    described = {"name": "readers", "partitions": [], "state": "balancing", "generation": 1}
    described |= {"assignor": "sticky", "members": []}
    group.wire.answers[DescribeGroup] = lambda _: document(described)
    async with group.member(until="now") as consumer:
        reading = asyncio.ensure_future(anext(consumer, None))
        await group.wire.until(DescribeGroup, 3)
        assert not reading.done()
        group.tell(0)
        assert (await reading).offset == 0


async def test_partition_received_later_ends_where_it_ended_at_the_start() -> None:
    group = filled(2, given=[0])
    async with group.member(until="now") as consumer:
        group.tell(0, 1)
        await group.carried_out()
        assert [(o.partition, o.at, o.time) for o in group.wire.of(Offset)[-2:]] == [
            (1, At.EARLIEST, 0),
            (1, At.TIME, NOW_MS + 1),
        ]
        assert consumer.assignment == (0, 1)


# Working


async def test_withdrawn_partition_is_given_up_when_its_running_handlers_are_done() -> None:
    group = filled(1)
    calls = Calls(group)
    handler = Held(at=3)

    async with group.member(on_revoked=calls.revoked) as consumer:
        working = asyncio.ensure_future(consumer.work(handler, concurrency=1))
        await handler.begun.wait()
        group.tell()
        await turns(20)
        assert group.done == 1
        handler.go_on.set()
        await group.carried_out()
        assert handler.handled == [0, 1, 2, 3]
        assert calls.committed == [{0: 4}]
        working.cancel()
        await asyncio.wait([working])


async def test_records_of_a_lost_partition_are_not_committed_when_they_are_done() -> None:
    group = filled(1)
    handler = Held()

    async with group.member() as consumer:
        working = asyncio.ensure_future(consumer.work(handler))
        await handler.begun.wait()
        group.lose()
        await group.carried_out()
        handler.go_on.set()
        await turns(10)
        working.cancel()
        await asyncio.wait([working])
    assert group.committed == {0: (0, "")}


async def test_client_that_closes_waits_for_running_handlers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    group = filled(1)
    handler = Held()

    async with group.member() as consumer:
        working = asyncio.ensure_future(consumer.work(handler, concurrency=1))
        await handler.begun.wait()
        consumer.stop()
        closing = asyncio.ensure_future(consumer.closed())
        await turns(10)
        assert not closing.done()
        handler.go_on.set()
        await closing
        await working
    assert group.committed == {0: (1, "")}
    assert group.wire.of(Leave) == [Leave("readers", bytes(16))]
