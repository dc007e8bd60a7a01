"""Message groups, fair shares, rates, and who of several consumers gets a message."""

import asyncio

import pytest

import penstock
from penstock import Client, Invalid, Outgoing, Queue

AT_ONCE = penstock.Backoff(initial=0, jitter=0)


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", retry=AT_ONCE)


def of_groups(*names: str, each: int) -> list[Outgoing]:
    return [Outgoing(f"{name}{i}", message_group=name) for i in range(each) for name in names]


async def texts(queue: Queue[bytes], most: int = 100, wait: float = 0.1) -> list[str]:
    return [message.text for message in await queue.receive(most, wait=wait)]


# Message groups


async def test_one_of_each_group_is_out_and_the_next_follows_it(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many(of_groups("a", "b", each=2))
    first = await jobs.receive(10, wait=0.1)
    assert [message.text for message in first] == ["a0", "b0"]
    assert [message.message_group for message in first] == ["a", "b"]
    stats = await jobs.stats()
    assert (stats.ready, stats.held) == (2, 2)
    await first[0].ack()
    assert await texts(jobs) == ["a1"]


async def test_messages_without_a_group_are_not_held_up(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([*of_groups("a", each=2), b"x", b"y"])
    assert await texts(jobs) == ["a0", "x", "y"]


async def test_order_in_a_group_is_kept_by_many_workers_and_retries(
    client: Client, jobs: Queue[bytes]
) -> None:
    done: dict[str, list[int]] = {name: [] for name in "abcde"}
    over = asyncio.Event()

    async def handle(message: penstock.Message[bytes]) -> None:
        group, number = message.text[0], int(message.text[1:])
        if number % 3 == 0 and message.attempt == 1:
            raise penstock.Retry(delay=0)
        done[group].append(number)
        if sum(map(len, done.values())) == 100:
            over.set()

    await jobs.enqueue_many(of_groups(*done, each=20))
    worker = asyncio.ensure_future(jobs.work(handle, concurrency=8))
    async with asyncio.timeout(20):
        await over.wait()
    worker.cancel()
    await asyncio.wait([worker])
    assert done == {name: list(range(20)) for name in done}


async def test_failed_head_blocks_its_own_group_alone(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many(of_groups("a", "b", each=2))
    a0, b0 = await jobs.receive(2)
    await a0.nack(delay=3_600)
    await b0.ack()
    assert await texts(jobs) == ["b1"]
    assert (await jobs.stats()).blocked_groups == 1


async def test_failed_head_may_be_passed_over(client: Client) -> None:
    jobs = await client.create_queue("jobs", group_failure="skip")
    await jobs.enqueue_many(of_groups("a", each=2))
    (a0,) = await jobs.receive()
    await a0.nack(delay=3_600)
    assert await texts(jobs) == ["a1"]


async def test_group_whose_message_died_may_be_parked_until_it_is_resumed(client: Client) -> None:
    jobs = await client.create_queue("jobs", group_failure="park")
    receipts = await jobs.enqueue_many(of_groups("a", each=2))
    (a0,) = await jobs.receive()
    await a0.dead_letter("poison")
    assert await texts(jobs) == []
    explained = await jobs.explain(receipts[1].id)
    assert "parked" in explained.reasons[0]
    assert await jobs.resume("a")
    assert not await jobs.resume("a")
    assert await texts(jobs) == ["a1"]


async def test_group_may_have_several_out(client: Client) -> None:
    jobs = await client.create_queue("jobs", group_concurrency=2)
    await jobs.enqueue_many(of_groups("a", each=4))
    assert await texts(jobs) == ["a0", "a1"]


# Fair shares


async def test_noisy_tenant_does_not_delay_a_quiet_one(client: Client) -> None:
    jobs = await client.create_queue("jobs", fair=True)
    await jobs.enqueue_many(of_groups("noisy", each=100))
    await jobs.enqueue("quiet", message_group="quiet")
    assert "quiet" in await texts(jobs, 4)


async def test_weights_are_shares(client: Client) -> None:
    jobs = await client.create_queue("jobs", fair=True, group_weights={"large": 3})
    await jobs.enqueue_many(of_groups("large", "small", each=100))
    got = await texts(jobs, 40)
    assert 28 <= sum(text.startswith("large") for text in got) <= 32
    described = await client.describe_queue("jobs")
    assert described.settings["group_weights"] == {"large": 3}


async def test_tenant_may_have_a_cap_in_flight(client: Client) -> None:
    jobs = await client.create_queue("jobs", fair=True, group_concurrency=2)
    await jobs.enqueue_many(of_groups("a", "b", each=5))
    assert sorted(await texts(jobs)) == ["a0", "a1", "b0", "b1"]


async def test_fair_is_not_altered_with_messages_inside(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    with pytest.raises(Invalid, match="fair cannot be changed while queue 'jobs' holds 1 messages"):
        await client.alter_queue("jobs", fair=True)


# Rates


async def test_rate_of_a_queue_limits_what_is_delivered(client: Client) -> None:
    jobs = await client.create_queue("jobs", rate=20)
    await jobs.enqueue_many([b"x"] * 100)
    loop = asyncio.get_running_loop()
    begin, got = loop.time(), 0
    while loop.time() - begin < 1.5:
        got += len(await jobs.receive(100, wait=0.1))
    assert 15 <= got <= 55


async def test_rate_of_a_group_limits_that_group(client: Client) -> None:
    jobs = await client.create_queue("jobs", fair=True, group_rate=1)
    await jobs.enqueue_many(of_groups("a", each=10))
    await jobs.enqueue_many(of_groups("b", each=1))
    got = await texts(jobs, wait=0.3)
    assert "b0" in got
    assert len(got) < 5
    assert (await jobs.stats()).throttled_tenants == 1


# Consumers


async def test_consumer_of_a_higher_priority_gets_everything_while_it_can(jobs: Queue[bytes]) -> None:
    async with jobs.consume(prefetch=5) as low, jobs.consume(prefetch=5, priority=1) as high:
        await jobs.enqueue_many([b"%d" % i for i in range(5)])
        async with asyncio.timeout(10):
            assert [(await anext(high)).text for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert low._buffered == 0


async def test_single_active_consumer_has_a_successor(client: Client) -> None:
    jobs = await client.create_queue("jobs", single_active=True)
    async with jobs.consume(prefetch=2) as first, jobs.consume(prefetch=2) as second:
        await jobs.enqueue_many([b"a", b"b"])
        async with asyncio.timeout(10):
            for text in ("a", "b"):
                async with await anext(first) as message:
                    assert message.text == text
            await client.flush()
            first.stop()
            await jobs.enqueue("c")
            async with await anext(second) as message:
                assert message.text == "c"
    with pytest.raises(Invalid, match="single active consumer"):
        await jobs.receive(wait=0)


async def test_what_is_in_flight_has_a_limit(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_in_flight=3)
    await jobs.enqueue_many([b"x"] * 5)
    messages = await jobs.receive(10, wait=0.1)
    assert len(messages) == 3
    assert not await jobs.receive(10, wait=0)
    await messages.ack()
    assert len(await jobs.receive(10, wait=1)) == 2
