"""Publishing through the client to the real broker, which is killed, stopped, filled, or cut off meanwhile.

Every test ends with a look at what is really there: nothing twice, nothing confirmed missing.
"""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.fakes.proxy import Proxy
from tests.fakes.scripted_server import until
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Queue, Topic
from penstock.errors import BatchError, Conflict, NotFound, OutcomeUnknown, QueueFull, TooLarge

SECONDS = 60
"""How long anything may take; nothing here is expected to take a tenth of it."""


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs")


async def bodies_of(queue: Queue[bytes]) -> dict[int, bytes]:
    """Every message of a queue by offset; they are leased from now on."""
    found: dict[int, bytes] = {}
    while messages := await queue.receive(10_000, wait=0):
        found |= {message.offset: message.body for message in messages}
    return found


async def records_of(topic: Topic[bytes], partition: int) -> list[bytes]:
    """Every value of a partition, by offset."""
    found: list[bytes] = []
    while records := await topic.fetch(partition, len(found), max_records=10_000):
        assert records[0].offset == len(found)
        found += [record.raw for record in records]
    return found


def replies(broker: BrokerProcess, verb: str) -> dict[str, float]:
    """How many requests of a verb were answered so far, by outcome."""
    pattern = rf'^penstock_requests_total{{code="(\w+)",verb="{verb}"}} (\S+)$'
    return {
        code: float(count) for code, count in re.findall(pattern, broker.get("/metrics")[1], re.MULTILINE)
    }


# Through failures


async def test_publishes_survive_a_killed_broker_each_exactly_once(
    start_broker: StartBroker,
) -> None:
    broker = start_broker().wait_ready()
    confirmed: dict[bytes, int] = {}
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, timeout=SECONDS) as client:
        jobs = await client.create_queue("jobs")

        async def publish(task: int) -> None:
            for number in range(100):
                body = b"%d/%d" % (task, number)
                confirmed[body] = (await jobs.enqueue(body)).offset

        publishing = [asyncio.ensure_future(publish(task)) for task in range(20)]
        for share in (400, 1_200):
            await until(lambda share=share: len(confirmed) >= share, SECONDS)
            broker.kill()
            proxy.close()
            broker = start_broker().wait_ready()
            proxy.reopen(broker.address)
        await asyncio.gather(*publishing)
        assert await bodies_of(jobs) == {offset: body for body, offset in confirmed.items()}
        assert len(confirmed) == 2_000


async def test_many_records_survive_a_killed_broker_in_order_and_once(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    taken = 0
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, timeout=SECONDS) as client:
        topic = await client.create_topic("log", partitions=2)

        def values() -> Iterator[penstock.Outgoing]:
            nonlocal taken
            for taken in range(100_000):
                yield penstock.Outgoing(b"%d" % taken, partition=taken % 2)

        publishing = asyncio.ensure_future(topic.produce_many(values()))
        await until(lambda: taken > 50_000, SECONDS)
        broker.kill()
        proxy.close()
        broker = start_broker().wait_ready()
        proxy.reopen(broker.address)
        receipts = await publishing
        for partition in range(2):
            expected = [b"%d" % i for i in range(partition, 100_000, 2)]
            assert await records_of(topic, partition) == expected
        assert [(each.partition, each.offset) for each in receipts[-2:]] == [(0, 49_999), (1, 49_999)]


async def test_publishes_survive_lost_sockets_each_exactly_once(broker: BrokerProcess) -> None:
    confirmed: dict[bytes, int] = {}
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, timeout=SECONDS) as client:
        jobs = await client.create_queue("jobs")

        async def publish(task: int) -> None:
            for number in range(50):
                body = b"%d/%d" % (task, number)
                confirmed[body] = (await jobs.enqueue(body)).offset

        publishing = [asyncio.ensure_future(publish(task)) for task in range(10)]
        for share in range(25, 500, 50):
            await until(lambda share=share: len(confirmed) >= share, SECONDS)
            proxy.cut()
        await asyncio.gather(*publishing)
        assert await bodies_of(jobs) == {offset: body for body, offset in confirmed.items()}
        assert len(confirmed) == 500


async def test_a_clean_restart_is_invisible_to_publishers(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, timeout=SECONDS) as client:
        jobs = await client.create_queue("jobs")
        await jobs.enqueue("before")
        broker.signal(signal.SIGTERM)
        publishing = [asyncio.ensure_future(jobs.enqueue(f"{i}")) for i in range(10)]
        await asyncio.sleep(0)
        assert broker.wait() == 0
        proxy.close()
        broker = start_broker().wait_ready()
        proxy.reopen(broker.address)
        await asyncio.gather(*publishing)
        found = await bodies_of(jobs)
        assert Counter(found.values()) == Counter([b"before", *(b"%d" % i for i in range(10))])


# Outcomes


@pytest.fixture
async def hasty(broker: BrokerProcess) -> AsyncIterator[Queue[bytes]]:
    """A queue of a client that gives up soon."""
    async with penstock.connect(broker.url, timeout=0.3) as client:
        yield await client.create_queue("jobs")


async def unknown(broker: BrokerProcess, queue: Queue[bytes], bodies: list[str]) -> list[OutcomeUnknown]:
    """The errors of publishes to a broker that does not answer."""
    broker.signal(signal.SIGSTOP)
    outcomes = await asyncio.gather(*map(queue.enqueue, bodies), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, OutcomeUnknown)]
    assert len(errors) == len(bodies)
    return errors


async def test_a_publish_that_happened_is_found_by_asking_again(
    broker: BrokerProcess, hasty: Queue[bytes]
) -> None:
    errors = await unknown(broker, hasty, ["a", "b", "c"])
    broker.signal(signal.SIGCONT)
    receipts = await asyncio.gather(*(error.retry() for error in errors))
    assert [receipt.offset for receipt in receipts] == [0, 1, 2]
    assert await bodies_of(hasty) == {0: b"a", 1: b"b", 2: b"c"}


async def test_a_lost_publish_is_made_up_for_by_asking_again(
    start_broker: StartBroker,
) -> None:
    broker = start_broker().wait_ready()
    async with Proxy(broker.address) as proxy, penstock.connect(proxy.url, timeout=0.3) as client:
        jobs = await client.create_queue("jobs")
        await jobs.enqueue("before")
        errors = await unknown(broker, jobs, ["a", "b"])
        broker.kill()
        proxy.close()
        broker = start_broker().wait_ready()
        proxy.reopen(broker.address)
        await until(lambda: client.wire.connected)
        await jobs.enqueue("new")
        receipts = await asyncio.gather(*(error.retry() for error in errors))
        assert [receipt.offset for receipt in receipts] == [2, 3]
        assert await bodies_of(jobs) == {0: b"before", 1: b"new", 2: b"a", 3: b"b"}


async def test_publishing_goes_on_behind_an_unknown_publish(
    broker: BrokerProcess, hasty: Queue[bytes]
) -> None:
    (error,) = await unknown(broker, hasty, ["lost?"])
    broker.signal(signal.SIGCONT)
    receipt = await hasty.enqueue("next")
    again = await error.retry()
    assert await bodies_of(hasty) == {receipt.offset: b"next", again.offset: b"lost?"}


async def test_a_full_queue_stops_many_at_a_batch_and_says_where(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_messages=15_000)
    items = [b"%d" % i for i in range(40_000)]
    with pytest.raises(BatchError) as caught:
        await jobs.enqueue_many(items)
    error = caught.value
    assert isinstance(error.__cause__, QueueFull)
    assert [receipt.offset for receipt in error.receipts] == list(range(10_000))
    assert error.refused == items[10_000 : 10_000 + len(error.refused)]
    assert error.unknown == []
    assert await bodies_of(jobs) == dict(enumerate(items[:10_000]))


async def test_a_full_queue_takes_publishes_again_when_there_is_room(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_messages=2)
    await jobs.enqueue_many(["a", "b"])
    with pytest.raises(QueueFull):
        await jobs.enqueue("c")
    with pytest.raises(QueueFull):
        await jobs.enqueue_many(["c", "d"])
    await (await jobs.receive(2)).ack()
    assert (await jobs.enqueue("c")).offset == 2


async def test_an_unknown_queue_is_not_found_with_the_command_that_creates_it(client: Client) -> None:
    for publish in (client.queue("nope").enqueue("x"), client.queue("nope").enqueue_many(["x"])):
        with pytest.raises(NotFound, match="penstock queue create"):
            await publish
    with pytest.raises(NotFound, match="penstock topic create"):
        await client.topic("nope").produce("x")


async def test_a_queue_deleted_and_made_anew_is_another_queue(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue("old")
    await jobs.enqueue("old")
    await client.delete_queue("jobs")
    with pytest.raises(NotFound):
        await jobs.enqueue("to nobody")
    await client.create_queue("jobs")
    await jobs.enqueue("new")
    assert await bodies_of(jobs) == {0: b"new"}


async def test_atomic_is_all_or_nothing(jobs: Queue[bytes]) -> None:
    with pytest.raises(TooLarge):
        await jobs.enqueue_many([b"x"] * 10_001, atomic=True)
    assert (await jobs.stats()).ready == 0
    assert len(await jobs.enqueue_many([b"x"] * 10_000, atomic=True)) == 10_000


# Flow


async def test_calls_of_a_thousand_tasks_share_frames(
    broker: BrokerProcess, client: Client, jobs: Queue[bytes]
) -> None:
    async def publish(task: int) -> None:
        for _ in range(10):
            await jobs.enqueue(b"%d" % task)

    await asyncio.gather(*map(publish, range(1_000)))
    assert (await jobs.stats()).ready == 10_000
    assert replies(broker, "ENQUEUE")["OK"] <= 200


async def test_publishes_beyond_the_credit_wait_for_it(start_broker: StartBroker) -> None:
    broker = start_broker("--set", "limits.credit_bytes=64KiB").wait_ready()
    async with penstock.connect(broker.url, timeout=SECONDS) as client:
        queues = [await client.create_queue(f"jobs-{i}") for i in range(8)]
        body = bytes(10_000)
        await asyncio.gather(*(queue.enqueue(body) for queue in queues for _ in range(50)))
        await asyncio.gather(*(queue.enqueue_many([body] * 300) for queue in queues))
        assert [(await queue.stats()).ready for queue in queues] == [350] * 8
    assert set(replies(broker, "ENQUEUE")) == {"OK"}


@pytest.mark.parametrize("bound", [1, 5_000])
async def test_publishes_beyond_the_pending_bound_wait_in_line(broker: BrokerProcess, bound: int) -> None:
    async with penstock.connect(broker.url, timeout=SECONDS, max_pending_bytes=bound) as client:
        jobs = await client.create_queue("jobs")
        many = jobs.enqueue_many(b"%d" % i for i in range(100))
        single = [jobs.enqueue(bytes(1_000)) for _ in range(100)]
        await asyncio.gather(*single, many)
        assert (await jobs.stats()).ready == 200


async def test_leaving_the_block_flushes_what_was_published(broker: BrokerProcess) -> None:
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs")
        publishing = [asyncio.ensure_future(jobs.enqueue(f"{i}")) for i in range(100)]
        await asyncio.sleep(0)
    await asyncio.gather(*publishing)
    async with penstock.connect(broker.url) as client:
        assert (await client.queue("jobs").stats()).ready == 100


# Cancellation


async def test_cancelled_at_every_await_no_batch_is_lost(client: Client, jobs: Queue[bytes]) -> None:
    """In each round a publish, a call of many and a neighbour share the address; the first two are cancelled
    one loop turn later than in the round before."""
    kept, cancelled = [], []
    for turns in range(60):
        gone = asyncio.ensure_future(jobs.enqueue(b"gone %d" % turns))
        many = asyncio.ensure_future(jobs.enqueue_many(b"many %d/%d" % (turns, i) for i in range(3)))
        neighbour = asyncio.ensure_future(jobs.enqueue(b"kept %d" % turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = [call.done() for call in (gone, many)]
        gone.cancel()
        many.cancel()
        await asyncio.wait([gone, many])
        await neighbour
        kept.append(b"kept %d" % turns)
        (kept if finished[0] else cancelled).append(b"gone %d" % turns)
        (kept if finished[1] else cancelled).extend(b"many %d/%d" % (turns, i) for i in range(3))
    await client.flush()
    found = Counter((await bodies_of(jobs)).values())
    assert set(found.values()) == {1}
    assert all(body in found for body in kept)
    assert set(found) <= set(kept) | set(cancelled)
    for turns in range(60):
        assert sum(b"many %d/%d" % (turns, i) in found for i in range(3)) in (0, 3)


# Administration, where only the real broker can tell


async def test_settings_come_back_as_they_were_given(client: Client) -> None:
    backoff = penstock.Backoff(initial=0.5, factor=3, max=60, jitter=0)
    await client.create_queue(
        "jobs", visibility_timeout=5, retry=backoff, max_messages=None, max_bytes=10_000
    )
    found = await client.describe_queue("jobs")
    assert found.settings == {
        "visibility_timeout": 5.0,
        "max_attempts": 5,
        "max_deliveries": 50,
        "dead_letter": "jobs.dead",
        "retry": backoff,
        "max_messages": None,
        "max_bytes": 10_000,
        "max_in_flight": 100_000,
        "overflow": "reject",
        "delay": 0.0,
        "ttl": None,
        "on_expiry": "drop",
        "dedup_window": 300.0,
        "content_dedup": False,
        "job_scope": "done",
        "priority_ageing": None,
        "single_active": False,
        "paused": False,
        "fair": False,
        "group_concurrency": None,
        "group_failure": "block",
        "group_weights": {},
        "rate": None,
        "group_rate": None,
        "expires": None,
        "exclusive": False,
        "source": None,
        "keep_settled": None,
        "durability": None,
    }
    await client.create_queue("copy", **found.settings)
    assert (await client.describe_queue("copy")).settings == found.settings


async def test_creating_what_exists_compares_alters_or_keeps(client: Client) -> None:
    await client.create_queue("jobs", max_attempts=3)
    await client.create_queue("jobs", max_attempts=3)
    with pytest.raises(Conflict, match="max_attempts"):
        await client.create_queue("jobs", max_attempts=4)
    await client.create_queue("jobs", max_attempts=4, if_exists="keep")
    assert (await client.describe_queue("jobs")).settings["max_attempts"] == 3
    await client.create_queue("jobs", max_attempts=4, if_exists="alter")
    assert (await client.describe_queue("jobs")).settings["max_attempts"] == 4
    altered = await client.alter_queue("jobs", max_attempts=None, max_deliveries=None, dead_letter=None)
    assert altered.settings["dead_letter"] is None


async def test_queues_and_topics_are_listed_by_prefix_and_deleted(client: Client) -> None:
    for name in ("a1", "a2", "b1"):
        await client.create_queue(name)
        await client.create_topic(name, partitions=2)
    assert [found.name for found in await client.list_queues("a")] == ["a1", "a2"]
    assert [found.name for found in await client.list_topics()] == ["a1", "a2", "b1"]
    await client.delete_queue("a1")
    await client.delete_topic("a1")
    assert [found.name for found in await client.list_queues()] == ["a2", "b1"]
    assert [len(found.partitions) for found in await client.list_topics("a")] == [2]
    with pytest.raises(NotFound):
        await client.delete_queue("a1")
    named = await client.create_queue(None)
    assert (await client.describe_queue(named.name)).created is False
