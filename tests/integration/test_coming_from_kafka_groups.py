"""The rows of "Coming from Kafka" about consumers and groups: see test_coming_from_kafka.py."""

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tests.integration.conftest import StartBroker
from tests.integration.sides import Refused
from tests.integration.streams import Said, becomes, turns

import penstock
from penstock import Client, Outgoing, TopicPartition

PARTITIONS = 4


@pytest.fixture
async def side(beside_kafka: Any) -> Any:
    """Each of the two."""
    return beside_kafka


def rows(count: int, partitions: int = PARTITIONS) -> list[Outgoing]:
    """So many records, in turn over the partitions."""
    return [Outgoing(b"%d" % number, partition=number % partitions) for number in range(count)]


def places(topic: str, partitions: int = PARTITIONS) -> set[TopicPartition]:
    """All partitions of a topic."""
    return {TopicPartition(topic, number) for number in range(partitions)}


# Hand-over


async def test_clean_hand_over_loses_and_doubles_nothing(side: Any, q: str) -> None:
    """The same script on both: one reads, another joins in the middle of it, and leaves again."""
    await side.create(q, PARTITIONS)
    await side.produce(q, *rows(400))
    said: list[Said] = []
    async with side.member("first", q, [q], said) as first:
        await turns(lambda: len(first.read) >= 40, first)
        async with side.member("second", q, [q], said) as second:
            await turns(lambda: len(first.assignment) == len(second.assignment) == 2, first, second)
            await turns(lambda: len(first.read) >= 120 and len(second.read) >= 40, first, second)
            await second.commit()
        await turns(lambda: len(first.read) + len(second.read) == 400, first)
        await first.commit()
    assert Counter(first.read + second.read) == Counter((q, n % PARTITIONS, n // 4) for n in range(400))
    assert await side.committed(q, q) == dict.fromkeys(range(PARTITIONS), (100, ""))
    moved = said[1].places
    assert len(moved) == 2
    assert said == [
        Said("first", "assigned", frozenset(places(q))),
        Said("first", "revoked", moved),
        Said("second", "assigned", moved),
        Said("second", "revoked", moved),
        Said("first", "assigned", moved),
        Said("first", "revoked", frozenset(places(q))),
    ]


async def test_members_share_partitions_and_groups_do_not(side: Any, q: str) -> None:
    await side.create(q, PARTITIONS)
    await side.produce(q, *rows(40))
    async with side.member("a", f"{q}1", [q]) as a, side.member("b", f"{q}1", [q]) as b:
        await turns(lambda: len(a.assignment) == len(b.assignment) == 2, a, b)
        assert a.assignment | b.assignment == places(q)
        await turns(lambda: len(a.read) + len(b.read) == 40, a, b)
    async with side.member("c", f"{q}2", [q]) as c:
        await turns(lambda: len(c.read) == 40, c)


ASSIGNED = {
    "range": ["x0 x1 y0", "x2 x3 y1", "x4 y2"],
    "range apart": ["x0 y0 y1", "y2", "x1 y3"],
    "in turn": ["x0 x3 y1", "x1 x4 y2", "x2 y0"],
    "in turn apart": ["x0 y0 y3", "y1", "x1 y2"],
}
"""What a, b and c are to read."""
ASSIGNMENTS: list[tuple[str, dict[str, int], dict[str, Sequence[str]]]] = [
    ("range", {"x": 5, "y": 3}, {"a": "xy", "b": "xy", "c": "xy"}),
    ("range", {"x": 2, "y": 4}, {"a": "xy", "b": "y", "c": "xy"}),
    ("round_robin", {"x": 5, "y": 3}, {"a": "xy", "b": "xy", "c": "xy"}),
    ("round_robin", {"x": 2, "y": 4}, {"a": "xy", "b": "y", "c": "xy"}),
]


@pytest.mark.parametrize(
    ("assignor", "sizes", "members"), ASSIGNMENTS, ids=["range", "range apart", "in turn", "in turn apart"]
)
async def test_range_and_round_robin_give_what_kafka_gives(
    side: Any,
    assignor: str,
    sizes: dict[str, int],
    members: dict[str, Sequence[str]],
    request: pytest.FixtureRequest,
) -> None:
    case = request.node.callspec.id.partition("-")[2]
    group = f"assigned {case}".replace(" ", ".")
    for topic, partitions in sizes.items():
        await side.create(f"{group}.{topic}", partitions)
    async with (
        side.member("a", group, [f"{group}.{t}" for t in members["a"]], assignor=assignor, instance="a") as a,
        side.member("b", group, [f"{group}.{t}" for t in members["b"]], assignor=assignor, instance="b") as b,
        side.member("c", group, [f"{group}.{t}" for t in members["c"]], assignor=assignor, instance="c") as c,
    ):
        three = (a, b, c)

        def now() -> list[str]:
            return [" ".join(sorted(f"{t[-1]}{n}" for t, n in each.assignment)) for each in three]

        await turns(lambda: now() == ASSIGNED[case], *three)


async def test_uniform_is_even_within_each_topic(client: Client) -> None:
    for topic in ("x", "y"):
        await client.create_topic(topic, partitions=3)
    async with (
        client.consumer("g", topics=["x", "y"], assignor="uniform") as a,
        client.consumer("g", topics=["x", "y"], assignor="uniform") as b,
    ):
        await becomes(lambda: _is(len(a.assignment) == len(b.assignment) == 3))
        for each in (a, b):
            assert sorted(Counter(topic for topic, _ in each.assignment).values()) == [1, 2]
    assert (await client.group("g").describe()).assignor is None


# Fencing


def positions(member: Any) -> Any:
    """Where a member of Kafka's stands, in each partition that it has."""
    return member.consumer.position(member.consumer.assignment())


async def test_silent_member_loses_its_partitions_and_its_commit_is_refused(kafka: Any, q: str) -> None:
    """Kafka: who does not poll. The other half is below."""
    from tests.integration.kafka_side import Kafka

    side = Kafka(kafka.url)
    await side.create(q, PARTITIONS)
    await side.produce(q, *rows(40))
    async with side.member("silent", q, [q], session=1, poll_interval=1) as silent:
        await turns(lambda: len(silent.read) >= 4, silent)
        held = positions(silent)
        async with side.member("other", q, [q]) as other:
            # Each time it is given more, it begins once more where nothing is committed.
            await turns(lambda: [place.offset for place in positions(other)] == [10] * PARTITIONS, other)
            with pytest.raises(Refused, match=r"UNKNOWN_MEMBER|ILLEGAL_GENERATION"):
                await silent.store(held)
            await other.commit()
    assert {offset for offset, _ in (await side.committed(q, q)).values()} == {10}


async def test_member_whose_loop_stands_still_loses_its_partitions_and_its_commit_is_stale(
    start_broker: StartBroker,
) -> None:
    quick = ("--set", "groups.session_timeout=1s", "--set", "groups.heartbeat=200ms")
    broker = start_broker(*quick).wait_ready()
    stands, goes_on = threading.Event(), threading.Event()

    async def silent() -> None:
        async with (
            penstock.connect(broker.url, timeout=20) as client,
            client.topic("lines").consumer("g") as consumer,
        ):
            for _ in range(4):
                await anext(consumer)
            stands.set()
            goes_on.wait(30)
            with pytest.raises(penstock.Stale):
                await consumer.commit()

    async with penstock.connect(broker.url, timeout=20) as client:
        topic = await client.create_topic("lines", partitions=PARTITIONS)
        await topic.produce_many(rows(40))
        thread = asyncio.ensure_future(asyncio.to_thread(asyncio.run, silent()))
        await asyncio.to_thread(stands.wait, 30)
        async with topic.consumer("g") as other:
            async with asyncio.timeout(30):
                for _ in range(40):
                    await anext(other)
            goes_on.set()
            await thread
            await other.commit()
        assert set((await client.group("g").offsets("lines")).values()) == {10}


async def test_slow_handler_loses_nothing_here(start_broker: StartBroker) -> None:
    quick = ("--set", "groups.session_timeout=1s", "--set", "groups.heartbeat=200ms")
    async with penstock.connect(start_broker(*quick).wait_ready().url, timeout=20) as client:
        topic = await client.create_topic("lines", partitions=2)
        await topic.produce_many(rows(20, 2))
        async with topic.consumer("g") as slow, topic.consumer("g") as other:
            await becomes(lambda: _is(len(other.assignment) == 1))
            record = await anext(slow)
            await asyncio.sleep(2.5)
            await slow.commit()
            assert slow.assignment == (record.partition,)


async def _is(value: bool) -> bool:
    return value


async def test_instance_comes_back_to_what_it_had(side: Any, q: str) -> None:
    await side.create(q, PARTITIONS)
    said: list[Said] = []
    async with side.member("a", q, [q], said, instance="a") as a:
        async with side.member("b", q, [q], instance="b") as b:
            await turns(lambda: len(a.assignment) == len(b.assignment) == 2, a, b)
            had, told = b.assignment, len(said)
        async with side.member("b", q, [q], instance="b") as b:
            await turns(lambda: b.assignment == had, a, b)
        assert len(said) == told


# Offsets


async def test_commit_stores_the_next_offset_and_a_text(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    async with side.member("m", q, [q]) as member:
        await turns(lambda: len(member.read) == 3, member)
        await member.commit(metadata="lines of page 3")
        assert await side.committed(q, q) == {0: (3, "lines of page 3")}


async def test_group_goes_on_behind_what_it_committed(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    await side.commit(q, q, {0: 5}, "from outside")
    assert await side.committed(q, q) == {0: (5, "from outside")}
    async with side.member("m", q, [q]) as member:
        await turns(lambda: len(member.read) == 5, member)
        assert [offset for _, _, offset in member.read] == [5, 6, 7, 8, 9]


async def test_record_in_hand_is_committed_there_and_not_here(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    async with side.member("m", q, [q], auto_commit=True) as member:
        await turns(lambda: len(member.read) == 3, member)
    assert await side.committed(q, q) == {0: (3 if side.name == "kafka" else 2, "")}


async def test_start_counts_for_those_without_a_commit(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    async with side.member("m", f"{q}1", [q], start="latest") as late:
        while not late.read:
            await side.produce(q, *rows(1, 1))
            await late.turn()
        assert late.read[0][2] >= 10
    async with side.member("m", f"{q}2", [q], start="earliest") as early:
        await turns(lambda: bool(early.read), early)
        assert early.read[0][2] == 0
    await side.commit(f"{q}3", q, {0: 4})
    async with side.member("m", f"{q}3", [q], start="latest") as known:
        await turns(lambda: bool(known.read), known)
        assert known.read[0][2] == 4


async def test_commit_beyond_the_end_is_refused_here(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    if side.name == "kafka":
        await side.commit(q, q, {0: 1_000})
        assert await side.committed(q, q) == {0: (1_000, "")}
        return
    with pytest.raises(Refused, match="end"):
        await side.commit(q, q, {0: 1_000})
    assert await side.committed(q, q) == {}


async def test_commit_for_a_partition_that_is_not_there_is_refused(side: Any, q: str) -> None:
    await side.create(q)
    with pytest.raises(Refused):
        await side.commit(q, q, {7: 0})


async def test_group_with_members_takes_no_commits_from_outside(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    async with side.member("m", q, [q]) as member:
        await turns(lambda: bool(member.assignment), member)
        with pytest.raises(Refused):
            await side.commit(q, q, {0: 5})
        with pytest.raises(Refused):
            await side.delete_group(q)
    await side.commit(q, q, {0: 5})
    await side.delete_group(q)
    assert await side.committed(q, q) == {}


async def test_commits_that_nobody_waits_for_keep_their_order(client: Client) -> None:
    topic = await client.create_topic("lines")
    await topic.produce_many(rows(20, 1))
    async with topic.consumer("g", until="now") as consumer:
        commits = [asyncio.create_task(consumer.commit(upto=record)) async for record in consumer]
        await asyncio.gather(*commits)
        assert await client.group("g").offsets("lines") == {0: 20}


# Reading


async def test_seek_goes_back_and_forth(side: Any, q: str) -> None:
    await side.create(q)
    await side.produce(q, *rows(10, 1))
    async with side.reading(q, q, partitions=[0]) as reader:
        await turns(lambda: len(reader.read) == 3, reader)
        for offset in (8, 1):
            reader.read.clear()
            await reader.seek(TopicPartition(q, 0), offset)
            await turns(lambda: bool(reader.read), reader)
            assert reader.read[0][2] == offset


async def test_paused_partition_hands_out_nothing(side: Any, q: str) -> None:
    await side.create(q, 2)
    await side.produce(q, *rows(200, 2))
    async with side.reading(q, q, partitions=[0, 1]) as reader:
        await turns(lambda: len(reader.read) >= 3, reader)
        await reader.pause(TopicPartition(q, 0))
        had = _of(reader, 0)
        await turns(lambda: _of(reader, 1) == 100, reader)
        assert _of(reader, 0) == had
        await reader.resume(TopicPartition(q, 0))
        await turns(lambda: len(reader.read) == 200, reader)


def _of(member: Any, partition: int) -> int:
    return sum(number == partition for _, number, _ in member.read)


async def test_explicit_partitions_are_nobodys_business(side: Any, q: str) -> None:
    await side.create(q, 2)
    await side.produce(q, *rows(20, 2))
    async with (
        side.reading(q, q, partitions=[0, 1]) as one,
        side.reading(q, q, partitions=[1], start=5) as two,
    ):
        await turns(lambda: len(one.read) == 20 and len(two.read) == 5, one, two)
        assert {offset for _, _, offset in two.read} == {5, 6, 7, 8, 9}
        await one.commit()
    assert await side.committed(q, q) == {0: (10, ""), 1: (10, "")}


async def test_reader_without_a_group_leaves_no_trace(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await topic.produce_many(rows(20, 2))
    async with topic.consumer(None, until="now") as consumer:
        assert len([record async for record in consumer]) == 20
    assert await client.list_groups() == []


async def test_stopped_consumer_ends_its_loop(client: Client) -> None:
    topic = await client.create_topic("lines")
    async with topic.consumer("g") as consumer:
        asyncio.get_running_loop().call_soon(consumer.stop)
        assert [record async for record in consumer] == []


async def test_batches_are_of_one_partition(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=2)
    await topic.produce_many(rows(100, 2))
    sizes = []
    async with topic.consumer("g", until="now") as consumer:
        async for records in consumer.batches(20):
            assert len({record.partition for record in records}) == 1
            sizes.append(len(records))
    assert sum(sizes) == 100
    assert max(sizes) == 20


async def test_handlers_work_side_by_side_and_in_order_of_each_key(client: Client) -> None:
    topic = await client.create_topic("lines", partitions=2)
    dead = await client.create_topic("dead")
    await topic.produce_many([Outgoing(b"%d" % n, key=f"k{n % 5}") for n in range(50)])
    seen: dict[bytes, list[int]] = {}
    at_once, most = 0, 0

    async def handle(record: penstock.Record[bytes]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        if record.text == "7":
            raise penstock.DeadLetter("I do not like sevens")
        assert record.key is not None
        seen.setdefault(record.key, []).append(int(record.text))

    async with topic.consumer("g", until="now") as consumer:
        await consumer.work(handle, concurrency=5, dead_letter=dead)
    assert most > 1
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 49
    (letter,) = await dead.fetch(0, 0)
    assert letter.text == "7"
    assert sum((await client.group("g").offsets("lines")).values()) == 50


async def test_lag_is_told_in_records_and_seconds(client: Client) -> None:
    topic = await client.create_topic("lines")
    await topic.produce_many(rows(10, 1))
    async with topic.consumer("g") as consumer:
        for _ in range(4):
            await anext(consumer)
        await consumer.commit()
        described = await client.group("g").describe()
    (row,) = described.partitions
    assert (row.current, row.end, row.lag) == (4, 10, 6)
    assert row.lag_seconds is not None
    assert row.member is not None


def test_times_of_groups_are_settings_of_the_broker(cli: Any) -> None:
    shown = cli("config", "show").decode()
    for setting in (
        'session_timeout = "45s"',
        'heartbeat = "3s"',
        'rebalance_timeout = "5m"',
        'offsets_retention = "30d"',
    ):
        assert setting in shown
