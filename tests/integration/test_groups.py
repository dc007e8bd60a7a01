"""Consumer groups on the real broker: who reads what, as members come and go."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.fakes.proxy import Proxy
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Outgoing, TopicPartition
from penstock.events import PartitionsLost

SECONDS = 20
QUICK = ("--set", "groups.session_timeout=2s", "--set", "groups.heartbeat=200ms")
"""Members are missed soon."""
PARTITIONS = 6


async def until(holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Come back when it holds, or time out."""
    async with asyncio.timeout(SECONDS):
        while True:
            held = holds()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


class Reading:
    """A member that reads in a task, and what it saw. `hold`: it keeps what it has in hand until it is let
    go."""

    def __init__(self, consumer: Any, *, commits: bool = True) -> None:
        self.consumer = consumer
        self.seen: list[tuple[TopicPartition, int]] = []
        self.revoked: list[Any] = []
        self.hold: asyncio.Event | None = None
        self._commits = commits
        self._task: asyncio.Task[None] | None = None

    async def _read(self) -> None:
        async for record in self.consumer:
            self.seen.append((TopicPartition(record.topic, record.partition), record.offset))
            if self.hold is not None:
                await self.hold.wait()
            if self._commits:
                await self.consumer.commit()

    def begin(self) -> "Reading":
        self._task = asyncio.ensure_future(self._read())
        return self

    async def end(self) -> None:
        """Stop, and raise what it raised."""
        self.consumer.stop()
        if self._task is not None:
            await self._task


@pytest.fixture
async def another(broker: BrokerProcess) -> AsyncIterator[Callable[..., Awaitable[Client]]]:
    """Opens further clients of the broker."""
    async with AsyncExitStack() as stack:

        async def connect(**options: Any) -> Client:
            return await stack.enter_async_context(penstock.connect(broker.url, timeout=SECONDS, **options))

        yield connect


async def produce(client: Client, topic: str, count: int, partitions: int = PARTITIONS) -> None:
    """That many records, in turn over the partitions."""
    items = [Outgoing(b"%d" % number, partition=number % partitions) for number in range(count)]
    await client.topic(topic).produce_many(items)


async def test_one_member_reads_all_partitions_and_two_share_them(client: Client, another: Any) -> None:
    topic = await client.create_topic("lines", partitions=PARTITIONS)
    await produce(client, "lines", 600)
    async with topic.consumer("g") as first:
        assert first.assignment == tuple(range(PARTITIONS))
        reading = Reading(first).begin()
        await until(lambda: len(reading.seen) == 600)
        other = (await another()).topic("lines")
        async with other.consumer("g") as second:
            await until(lambda: len(second.assignment) == 3)
            assert sorted(first.assignment + second.assignment) == list(range(PARTITIONS))
            more = Reading(second).begin()
            await produce(client, "lines", 600)
            await until(lambda: len(reading.seen) + len(more.seen) == 1_200)
            await more.end()
        await until(lambda: len(first.assignment) == PARTITIONS)
        await reading.end()
    assert set(Counter(reading.seen + more.seen).values()) == {1}


async def test_hand_overs_with_commits_lose_and_double_nothing(client: Client, another: Any) -> None:
    topic = await client.create_topic("lines", partitions=PARTITIONS)
    seen: list[tuple[int, int]] = []
    done = asyncio.Event()
    others = [await another() for _ in range(3)]

    async def member(of: Client, most: float) -> None:
        mine = 0
        async with of.topic("lines").consumer("g", auto_commit=True) as consumer:
            async for records in consumer.batches(50):
                seen.extend((record.partition, record.offset) for record in records)
                mine += len(records)
                if len(seen) >= 6_000:
                    done.set()
                if mine >= most:  # the batch in hand stays unfinished, unless it is committed
                    await consumer.commit()
                    return

    async with asyncio.timeout(SECONDS):
        lasting = asyncio.ensure_future(member(client, float("inf")))
        coming = [asyncio.ensure_future(member(each, 300)) for each in others]
        for _ in range(10):
            await produce(client, "lines", 600)
        await done.wait()
        for task in (lasting, *coming):
            task.cancel()
        await asyncio.wait([lasting, *coming])
    assert sorted(seen) == [(partition, offset) for partition in range(PARTITIONS) for offset in range(1_000)]
    assert await topic.offset(0, "latest") == 1_000


async def test_partition_in_hand_is_given_up_when_it_is_finished(client: Client, another: Any) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await produce(client, "lines", 20, partitions=2)
    revoked: list[Sequence[int]] = []
    async with topic.consumer("g", auto_commit=True, on_revoked=revoked.append) as first:
        held = await anext(first)
        async with (await another()).topic("lines").consumer("g") as second:
            taken = 1 - held.partition
            if not second.assignment:
                await until(lambda: bool(second.assignment) or len(first.assignment) == 1 or bool(revoked))
            moved = [*second.assignment]
            if held.partition in moved:  # never while it is in hand
                raise AssertionError(moved)
            reading = asyncio.ensure_future(anext(first))
            await until(lambda: len(second.assignment) == 1)
            assert set(first.assignment) | set(second.assignment) == {held.partition, taken}
            record = await anext(second)
            assert record.offset == (1 if record.partition == held.partition else 0)
            reading.cancel()
            await asyncio.wait([reading])
    assert revoked[0] == (record.partition,)


async def test_callbacks_come_before_the_first_record_and_before_the_hand_over(
    client: Client, another: Any
) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await produce(client, "lines", 40, partitions=2)
    calls: list[tuple[str, Sequence[int]]] = []

    async def assigned(partitions: Sequence[int]) -> None:
        calls.append(("assigned", partitions))
        for partition in partitions:
            first.seek(partition, 5)

    async def revoked(partitions: Sequence[int]) -> None:
        calls.append(("revoked", partitions))
        await first.commit(metadata="handed over")

    first = topic.consumer("g", on_assigned=assigned, on_revoked=revoked)
    async with first:
        assert calls == [("assigned", (0, 1))]
        reading = Reading(first, commits=False).begin()
        await until(lambda: len(reading.seen) == 30)
        assert {offset for _, offset in reading.seen} == set(range(5, 20))
        async with (await another()).topic("lines").consumer("g") as second:
            await until(lambda: bool(second.assignment))
            (moved,) = second.assignment
            assert calls[1] == ("revoked", (moved,))
            stored = (await client.group("g").offsets("lines"))[moved]
            assert (stored, stored.metadata) == (20, "handed over")
            await reading.end()
    assert calls[2] == ("revoked", (1 - moved,))


async def test_partitions_that_stay_are_not_touched(client: Client, another: Any) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await produce(client, "lines", 200, partitions=2)
    async with topic.consumer("g") as first:
        before = dict(first.readers)
        seen = [await anext(first)]
        async with asyncio.timeout(SECONDS), (await another()).topic("lines").consumer("g") as second:
            seen.append(await anext(first))
            while not second.assignment:
                seen.append(await anext(first))
                await asyncio.sleep(0.01)
            (kept,) = first.assignment
            assert first.readers[TopicPartition("lines", kept)] is before[TopicPartition("lines", kept)]
            while len([each for each in seen if each.partition == kept]) < 100:
                seen.append(await anext(first))
    offsets = [each.offset for each in seen if each.partition == kept]
    assert offsets[-1] == 99


KILLED = """
import asyncio, sys, penstock
async def main():
    async with penstock.connect(sys.argv[1]) as client:
        async with client.topic("lines").consumer("g", instance=sys.argv[2] or None) as consumer:
            print(len(consumer.assignment), flush=True)
            async for record in consumer:
                await consumer.commit()
asyncio.run(main())
"""


def member_process(broker: BrokerProcess, instance: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", KILLED, broker.url, instance], stdout=subprocess.PIPE)


async def first_line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return await asyncio.to_thread(process.stdout.readline)


async def test_killed_members_partitions_move_within_the_session_timeout(start_broker: StartBroker) -> None:
    broker = start_broker(*QUICK, "--set", "server.session_grace=1s").wait_ready()
    async with penstock.connect(broker.url, timeout=SECONDS) as client:
        topic = await client.create_topic("lines", partitions=PARTITIONS)
        with member_process(broker) as process:
            assert await first_line(process) == b"6\n"
            async with topic.consumer("g") as consumer:
                await until(lambda: len(consumer.assignment) == 3)
                process.kill()
                await until(lambda: len(consumer.assignment) == PARTITIONS)
                await produce(client, "lines", 60)
                reading = Reading(consumer).begin()
                await until(lambda: len(reading.seen) == 60)
                await reading.end()


async def test_stopped_process_loses_its_membership_and_comes_back(start_broker: StartBroker) -> None:
    broker = start_broker(*QUICK).wait_ready()
    async with penstock.connect(broker.url, timeout=SECONDS) as client:
        topic = await client.create_topic("lines", partitions=PARTITIONS)
        with member_process(broker) as process:
            await first_line(process)
            async with topic.consumer("g") as consumer:
                await until(lambda: len(consumer.assignment) == 3)
                os.kill(process.pid, signal.SIGSTOP)
                await until(lambda: len(consumer.assignment) == PARTITIONS)
                os.kill(process.pid, signal.SIGCONT)
                await until(lambda: len(consumer.assignment) == 3)
            process.kill()


async def test_instance_finds_its_partitions_again(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url, timeout=SECONDS) as client:
        topic = await client.create_topic("lines", partitions=PARTITIONS)
        async with topic.consumer("g") as other:
            async with topic.consumer("g", instance="one") as one:
                await until(lambda: len(one.assignment) == 3)
                had = one.assignment
            kept = other.assignment
            assert len(kept) == 3
            async with topic.consumer("g", instance="one") as one:
                assert one.assignment == had
            assert other.assignment == kept


async def test_instance_that_is_taken_over_ends_with_stale(client: Client, another: Any) -> None:
    topic = await client.create_topic("lines", partitions=2)
    async with topic.consumer("g", instance="one") as first:
        reading = asyncio.ensure_future(anext(first))
        async with (await another()).topic("lines").consumer("g", instance="one") as second:
            assert second.assignment == (0, 1)
            async with asyncio.timeout(SECONDS):
                with pytest.raises(penstock.Stale, match="same instance"):
                    await reading
            await produce(client, "lines", 2, partitions=2)
            await anext(second)
            await second.commit()


async def test_commit_of_what_was_in_hand_when_its_partition_was_lost_is_stale(
    start_broker: StartBroker,
) -> None:
    broker = start_broker(*QUICK, "--set", "groups.rebalance_timeout=1s").wait_ready()
    events: list[Any] = []
    async with (
        penstock.connect(broker.url, timeout=SECONDS, on_event=events.append) as client,
        penstock.connect(broker.url, timeout=SECONDS) as other,
    ):
        topic = await client.create_topic("lines", partitions=2)
        await topic.produce_many([Outgoing(b"x", partition=1) for _ in range(3)])
        async with topic.consumer("g") as slow, asyncio.timeout(SECONDS):
            record = await anext(slow)
            async with other.topic("lines").consumer("g") as quick:
                reading = asyncio.ensure_future(anext(quick))
                await until(lambda: any(isinstance(each, PartitionsLost) for each in events))
                for upto in (None, record):
                    with pytest.raises(penstock.Stale, match="not assigned to this consumer any more"):
                        await slow.commit(upto)
                await until(lambda: len([*slow.assignment, *quick.assignment]) == 2)
                stored = await client.group("g").offsets("lines")
                assert int(stored[1]) == 0
                again = await (anext(slow) if 1 in slow.assignment else reading)
                assert again.offset == 0
                await (slow if 1 in slow.assignment else quick).commit()
                assert int((await client.group("g").offsets("lines"))[1]) == 1
                reading.cancel()


async def test_new_group_reads_to_the_end_behind_a_restart(start_broker: StartBroker) -> None:
    """For some seconds nobody is given anything: others might come back."""
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        await (await client.create_topic("lines", partitions=2)).produce_many([b"x"] * 100)
    broker.kill()
    broker = start_broker(data=broker.data).wait_ready()
    async with penstock.connect(broker.url) as client, client.topic("lines").consumer("g", until="now") as c:
        assert len([record async for record in c]) == 100


async def test_restarted_broker_is_invisible(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    lost: list[Any] = []
    port = ("--port", str(broker.address[1]), "--http-port", "0")
    async with penstock.connect(broker.url, timeout=SECONDS, on_event=lost.append) as client:
        topic = await client.create_topic("lines", partitions=2)
        await produce(client, "lines", 40, partitions=2)
        revoked: list[Any] = []
        async with topic.consumer("g", on_revoked=revoked.append) as consumer:
            seen = [await anext(consumer) for _ in range(15)]
            await consumer.commit()
            broker.kill()
            start_broker(*port).wait_ready()
            async with asyncio.timeout(SECONDS):
                await consumer.commit(metadata="again")
                seen += [await anext(consumer) for _ in range(25)]
                await consumer.commit()
            assert (revoked, [each for each in lost if isinstance(each, PartitionsLost)]) == ([], [])
    assert sorted((each.partition, each.offset) for each in seen) == [
        (partition, offset) for partition in range(2) for offset in range(20)
    ]
    stored = await_offsets(broker, port)
    assert await stored == {0: 20, 1: 20}


async def await_offsets(broker: BrokerProcess, port: tuple[str, ...]) -> dict[int, int]:
    async with penstock.connect(broker.url, timeout=SECONDS) as client:
        return {n: int(offset) for n, offset in (await client.group("g").offsets("lines")).items()}


async def test_lost_socket_is_invisible_to_a_member(broker: BrokerProcess) -> None:
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, timeout=SECONDS) as client:
        topic = await client.create_topic("lines", partitions=2)
        await produce(client, "lines", 400, partitions=2)
        revoked: list[Any] = []
        async with topic.consumer("g", on_revoked=revoked.append) as consumer:
            for number in range(400):
                await anext(consumer)
                if number % 50 == 0:
                    proxy.cut()
                    await consumer.commit()
            assert revoked == []


async def test_several_topics_and_patterns(client: Client) -> None:
    await client.create_topic("orders", partitions=2)
    await client.create_topic("eu.north.events")
    assigned: list[Sequence[TopicPartition]] = []
    reading = client.consumer(
        "g", topics=["orders", "eu.*.events"], codec=penstock.codecs.json, on_assigned=assigned.append
    )
    async with reading as consumer, asyncio.timeout(SECONDS):
        assert consumer.assignment == (
            TopicPartition("eu.north.events", 0),
            TopicPartition("orders", 0),
            TopicPartition("orders", 1),
        )
        await client.topic("orders").produce(b'{"n": 1}', partition=1)
        record = await anext(consumer)
        assert (record.topic, record.partition, record.value) == ("orders", 1, {"n": 1})
        south = await client.create_topic("eu.south.events")
        await south.produce(b'{"n": 2}')
        record = await anext(consumer)
        assert (record.topic, record.value) == ("eu.south.events", {"n": 2})
        assert assigned[1:] == [(TopicPartition("eu.south.events", 0),)]
        consumer.seek(TopicPartition("orders", 1), 0)
        assert (await anext(consumer)).topic == "orders"
        await consumer.commit()
        await client.delete_topic("eu.south.events")
        await until(lambda: len(consumer.assignment) == 3)
        await client.topic("orders").produce(b"{}", partition=0)
        assert (await anext(consumer)).topic == "orders"
    assert (await client.group("g").offsets("orders")) == {0: 0, 1: 1}


async def test_more_partitions_are_found_and_read_from_their_first_record(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=1)
    async with topic.consumer("g", start="latest") as consumer, asyncio.timeout(SECONDS):
        await client.alter_topic("lines", partitions=3)
        await client.topic("lines").produce(b"first", partition=2)
        record = await anext(consumer)
        assert (record.partition, record.offset) == (2, 0)
        assert consumer.assignment == (0, 1, 2)


async def test_topic_that_does_not_exist_is_not_found(client: Client) -> None:
    with pytest.raises(penstock.NotFound, match="penstock topic create"):
        async with client.topic("nowhere").consumer("g"):
            pass


async def test_group_that_starts_at_the_end_and_dies_skips_nothing(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await produce(client, "lines", 10, partitions=2)
    async with topic.consumer("g", start="latest"):
        pass
    await produce(client, "lines", 10, partitions=2)
    async with topic.consumer("g", start="latest") as consumer:
        assert (await anext(consumer)).offset == 5
    described = await client.group("g").describe()
    assert [row.lag for row in described.partitions] == [5, 5]


async def test_commit_of_a_partition_that_moved_is_stale(client: Client, another: Any) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await produce(client, "lines", 20, partitions=2)
    async with topic.consumer("g") as first:
        records = [await anext(first) for _ in range(20)]
        async with (await another()).topic("lines").consumer("g") as second:
            reading = asyncio.ensure_future(anext(first))
            await until(lambda: bool(second.assignment))
            gone = next(each for each in records if each.partition in second.assignment)
            with pytest.raises(penstock.Stale, match="not assigned to this consumer any more"):
                await first.commit(gone)
            reading.cancel()
            await asyncio.wait([reading])


async def test_group_with_members_takes_no_other_commits_and_stays(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=2)
    group = client.group("g")
    async with topic.consumer("g", instance="one"):
        described = await group.describe()
        assert (described.state, described.assignor) == ("stable", "sticky")
        (member,) = described.members
        assert (member.member, member.instance, member.topics) == ("one", "one", ("lines",))
        assert member.partitions == (TopicPartition("lines", 0), TopicPartition("lines", 1))
        with pytest.raises(penstock.Stale, match="has members"):
            await group.commit("lines", {0: 0})
        with pytest.raises(penstock.Stale, match="has members"):
            await group.reset("lines", "earliest")
        with pytest.raises(penstock.Conflict, match="has members"):
            await group.delete()


async def test_reset_plans_and_does(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await produce(client, "lines", 20, partitions=2)
    group = client.group("g")
    await group.commit("lines", {0: 8})
    plan = await group.reset("lines", "-3", dry_run=True)
    assert plan == [("lines", 0, 8, 5)]
    assert await group.offsets("lines") == {0: 8}
    assert await group.reset("lines", "latest") == [("lines", 0, 8, 10), ("lines", 1, None, 10)]
    assert await group.offsets("lines") == {0: 10, 1: 10}
    assert await group.reset("lines", 4, partition=1) == [("lines", 1, 10, 4)]
    assert await group.reset("lines", "+100", partition=1) == [("lines", 1, 4, 10)]
    stamp = (await topic.fetch(0, 0))[0].timestamp
    assert (await group.reset("lines", stamp))[0].to == 0
    for wrong in ("middle", "1"):
        with pytest.raises(penstock.Invalid, match="is no place"):
            await group.reset("lines", wrong)
    with pytest.raises(penstock.Invalid, match="has no partition 7"):
        await group.reset("lines", 0, partition=7)
    await group.delete()
    with pytest.raises(penstock.NotFound):
        await group.describe()
