"""Limits and settings of queues as their users meet them: what is refused says what to do, what is lowered
counts, and what is counted can be looked at; a real broker, through the SDK and as it is typed."""

import asyncio

import pytest
from tests.integration.command import Cli
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Invalid, Outgoing, Queue


async def bury(queue: Queue[bytes], count: int) -> None:
    """Dead-letter so many messages, each as it comes."""
    for _ in range(count):
        (message,) = await queue.receive(wait=5)
        await message.dead_letter("poison")


async def test_setting_that_a_topic_cannot_keep_says_what_to_do(client: Client) -> None:
    await client.create_topic("log")
    with pytest.raises(Invalid, match="ttl=60000 ms is not kept by a queue over a topic") as refused:
        await client.create_queue("jobs", source="log", ttl=60)
    assert refused.value.hint == "set the topic's retention"
    await client.create_queue("jobs", source="log", rate=100, max_in_flight=10, max_messages=None)
    with pytest.raises(Invalid, match="overflow='drop_oldest'"):
        await client.alter_queue("jobs", overflow="drop_oldest")
    altered = await client.alter_queue("jobs", rate=None)
    assert altered.settings.items() >= {"rate": None, "overflow": "reject"}.items()


async def test_queue_is_made_again_from_what_is_told_of_one_over_a_topic(client: Client) -> None:
    await client.create_topic("log")
    await client.create_queue("jobs", source="log", retry=penstock.Backoff(initial=2))
    told = (await client.describe_queue("jobs")).settings
    await client.create_queue("copy", **told)
    assert (await client.describe_queue("copy")).settings == told


def test_what_is_refused_over_a_topic_is_refused_as_it_is_typed(cli: Cli) -> None:
    cli("topic", "create", "log")
    code, line = cli.fails("queue", "create", "jobs", "--source", "log", "--delay", "1m")
    assert code == 1
    assert "delay=60000 ms is not kept by a queue over a topic" in line
    cli("queue", "create", "jobs", "--source", "log")
    code, line = cli.fails("queue", "create", "more", "--dead-letter", "jobs")
    assert code == 1
    assert "dead_letter='jobs' is not allowed" in line
    assert "name another queue" in line
    code, line = cli.fails("queue", "create", "jobs.dead", "--source", "log")
    assert "dead letters of queue 'jobs' go to queue 'jobs.dead'" in line


async def test_dead_letters_of_records_are_redriven_to_a_queue_that_is_named(client: Client) -> None:
    log = await client.create_topic("log")
    over = await client.create_queue("over", source="log")
    retries = await client.create_queue("retries")
    await log.produce("x")
    await bury(over, 1)
    assert (await client.queue("over.dead").redrive("retries")).messages == 1
    assert [message.text for message in await retries.receive(wait=5)] == ["x"]


async def test_lowered_limit_is_kept_from_the_next_message_on(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs", max_messages=10, overflow="drop_oldest")
        await jobs.enqueue_many([f"{number}" for number in range(10)])
        await client.alter_queue("jobs", max_messages=5)
    broker.kill()
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = client.queue("jobs")
        await jobs.enqueue("new")
        assert (await jobs.stats()).ready == 5
        assert [message.text for message in await jobs.peek(10)] == ["6", "7", "8", "9", "new"]


async def test_look_at_dead_letters_shows_all_that_count(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue_many([Outgoing(f"{number}", message_group="acme") for number in range(4)])
    await bury(jobs, 4)
    dead = client.queue("jobs.dead")
    looked = [message.text for message in await dead.peek(10)]
    assert looked == [each.message.text for each in await dead.find()] == ["0", "1", "2", "3"]
    assert (await dead.stats()).ready == len(looked)
    assert [message.text for message in await dead.peek(2)] == ["0", "1"]


async def test_tenant_at_its_cap_is_in_the_metrics(client: Client, broker: BrokerProcess) -> None:
    jobs = await client.create_queue("jobs", fair=True, group_concurrency=2)
    await jobs.enqueue_many([Outgoing("x", message_group="acme")] * 5)
    await jobs.enqueue("x", message_group="quiet")
    messages = await jobs.receive(10, wait=5)
    assert len(messages) == 3

    def throttled() -> float:
        status, text = broker.get("/metrics")
        assert status == 200
        rows = dict(row.rsplit(" ", 1) for row in text.splitlines() if row[0] != "#")
        return float(rows['penstock_queue_throttled_tenants{queue="jobs"}'])

    assert await asyncio.to_thread(throttled) == 1.0
    await jobs.purge()
    assert await asyncio.to_thread(throttled) == 0.0


async def test_what_waits_behind_a_failed_message_is_explained(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    await jobs.enqueue("head", message_group="acme")
    behind = await jobs.enqueue("behind", message_group="acme")
    (head,) = await jobs.receive(wait=5)
    await head.nack(delay=600)
    explained = await jobs.explain(behind.id)
    assert explained.state == "held"
    waits = "message group 'acme' waits for the message at offset 0: it failed and is tried again in"
    assert any(waits in reason for reason in explained.reasons)
