"""Working over a topic on the real broker: members, hand-overs, dead letters."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess
from tests.integration.test_groups import until

import penstock
from penstock import Backoff, Client, DeadLetter, Outgoing, Record, Retry, TopicPartition
from penstock.events import PartitionsLost

SECONDS = 20
PARTITIONS = 4
RECORDS = 2_000
KEYS = 50


async def filled(client: Client, dead: float = 0.0) -> penstock.Topic[bytes]:
    """A topic of records with keys, numbered within each key."""
    topic = await client.create_topic("lines", partitions=PARTITIONS)
    await topic.produce_many(
        Outgoing(b"%d" % (number // KEYS), key=b"k%d" % (number % KEYS)) for number in range(RECORDS)
    )
    return topic


async def test_members_that_come_and_go_handle_each_record_once_and_in_order_per_key(
    broker: BrokerProcess, client: Client
) -> None:
    await filled(client)
    handled: dict[bytes, list[int]] = {}
    count = 0
    some, all_of_them = asyncio.Event(), asyncio.Event()
    chances = Random(7)

    async def handler(record: Record[bytes]) -> None:
        nonlocal count
        await asyncio.sleep(chances.random() / 500)
        assert record.key is not None
        handled.setdefault(record.key, []).append(int(record.text))
        count += 1
        if count == RECORDS // 4:
            some.set()
        if count == RECORDS:
            all_of_them.set()

    async def member() -> None:
        async with (
            penstock.connect(broker.url, timeout=SECONDS) as mine,
            mine.topic("lines").consumer("g") as consumer,
        ):
            await consumer.work(handler, concurrency=20)

    async with asyncio.timeout(SECONDS):
        members = [asyncio.ensure_future(member()) for _ in range(2)]
        await some.wait()
        members.append(asyncio.ensure_future(member()))
        members[0].cancel()
        await asyncio.wait([members[0]])
        await all_of_them.wait()
        for each in members:
            each.cancel()
        await asyncio.wait(members)
    assert handled == {b"k%d" % key: list(range(RECORDS // KEYS)) for key in range(KEYS)}
    described = await client.group("g").describe()
    assert [row.lag for row in described.partitions] == [0] * PARTITIONS
    assert (described.state, described.members) == ("empty", ())


async def test_poison_goes_to_a_queue_and_the_rest_is_done(client: Client) -> None:
    topic = await filled(client)
    dead = await client.create_queue("lines.dead")
    tries: dict[TopicPartition, int] = {}
    done = 0

    async def handler(record: Record[bytes]) -> None:
        nonlocal done
        if record.text == "3" and record.key == b"k1":
            raise DeadLetter("no such user")
        if record.text == "5" and record.key == b"k2":
            place = TopicPartition(record.topic, record.partition)
            tries[place] = tries.get(place, 0) + 1
            raise Retry from ValueError("never")
        done += 1

    async with asyncio.timeout(SECONDS), topic.consumer("g", until="now") as consumer:
        await consumer.work(handler, dead_letter=dead, max_attempts=3, retry=Backoff(initial=0.01))
    assert (done, list(tries.values())) == (RECORDS - 2, [3])
    letters = {message.headers["x-penstock-reason"]: message for message in await dead.receive(2)}
    assert letters.keys() == {"no such user", "ValueError: never"}
    letter = letters["ValueError: never"]
    assert (letter.text, letter.headers["x-penstock-attempts"]) == ("5", 3)
    assert letter.headers["x-penstock-origin-key"] == b"k2"
    (again,) = await topic.fetch(
        int(str(letter.headers["x-penstock-origin-partition"])),
        int(str(letter.headers["x-penstock-origin-offset"])),
        max_records=1,
    )
    assert (again.id, again.text) == (letter.headers["x-penstock-origin"], "5")
    assert sum(row.lag or 0 for row in (await client.group("g").describe()).partitions) == 0


async def test_member_that_keeps_a_partition_too_long_loses_it(start_broker: StartBroker) -> None:
    broker = start_broker(
        "--set", "groups.rebalance_timeout=1s", "--set", "groups.heartbeat=200ms"
    ).wait_ready()
    events: list[Any] = []
    async with (
        penstock.connect(broker.url, timeout=SECONDS, on_event=events.append) as client,
        penstock.connect(broker.url, timeout=SECONDS) as other,
    ):
        topic = await client.create_topic("lines", partitions=2)
        await topic.produce_many([Outgoing(b"x", partition=number % 2) for number in range(10)])
        revoked: list[Sequence[int]] = []
        begun: set[int] = set()
        go_on = asyncio.Event()

        async def handler(record: Record[bytes]) -> None:
            begun.add(record.partition)
            await go_on.wait()

        async with asyncio.timeout(SECONDS), topic.consumer("g", on_revoked=revoked.append) as slow:
            working = asyncio.ensure_future(slow.work(handler))
            await until(lambda: begun == {0, 1})
            async with other.topic("lines").consumer("g") as quick:
                await until(lambda: sorted([*slow.assignment, *quick.assignment]) == [0, 1] and bool(revoked))
                lost = {
                    place for each in events if isinstance(each, PartitionsLost) for place in each.partitions
                }
                assert {TopicPartition("lines", partition) for partition in quick.assignment} <= lost
                assert (await anext(quick)).offset == 0
                go_on.set()
                working.cancel()
                await asyncio.wait([working])
