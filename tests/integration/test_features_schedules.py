"""Recurring schedules through the client and the real broker."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.command import Cli
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess

import penstock
from penstock import Client, Conflict, Invalid, NotFound, Queue


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs")


async def test_schedule_enqueues_its_message_again_and_again(client: Client, jobs: Queue[bytes]) -> None:
    options: penstock.EnqueueOptions = {"priority": 3, "headers": {"a": 1}}
    made = await jobs.schedule("often", "go", every=1, options=options)
    assert (made.created, made.queue, made.settings["every"]) == (True, "jobs", 1.0)
    for _ in range(2):
        (message,) = await jobs.receive(wait=10)
        assert (message.text, message.priority, message.headers) == ("go", 3, {"a": 1})
        await message.ack()
    (listed,) = await client.list_schedules()
    assert listed.runs >= 2
    await client.delete_schedule("often")
    with pytest.raises(NotFound):
        await client.alter_schedule("often", paused=True)


async def test_next_runs_of_a_cron_line_are_in_its_zone(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.schedule("mornings", "go", cron="0 9 * * *", zone="Europe/Berlin")
    (listed,) = await client.list_schedules(runs=100)
    assert len(listed.next) == 100
    assert all(each.tzinfo is UTC and each.hour in (7, 8) for each in listed.next)
    assert listed.next[0] - datetime.now(UTC) <= timedelta(days=1, hours=1)


async def test_paused_schedule_does_not_run(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.schedule("often", "go", every=1, paused=True)
    assert (await client.list_schedules())[0].next == ()
    assert not await jobs.receive(wait=1.5)
    await client.alter_schedule("often", paused=False)
    assert len(await jobs.receive(wait=10)) == 1


async def test_run_may_be_left_out_while_the_one_before_is_not_done(
    client: Client, jobs: Queue[bytes]
) -> None:
    await jobs.schedule("often", "go", every=1, overlap="skip")
    await asyncio.sleep(2.5)
    assert (await jobs.stats()).ready == 1
    assert (await client.list_schedules())[0].missed >= 1


async def test_existing_schedule_is_compared(jobs: Queue[bytes]) -> None:
    await jobs.schedule("often", "go", every=60)
    await jobs.schedule("often", "go", every=60)
    with pytest.raises(Conflict):
        await jobs.schedule("often", "other", every=60)
    altered = await jobs.schedule("often", "other", every=30, if_exists="alter")
    assert (altered.created, altered.settings["every"]) == (False, 30.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either cron or every"),
        ({"every": 0.5}, "every"),
        ({"cron": "61 * * * *"}, "61"),
        ({"cron": "0 0 30 2 *"}, "never comes|bad"),
        ({"cron": "* * * * *", "zone": "Europe/Atlantis"}, "Europe/Atlantis"),
        ({"every": 60, "catch_up": "never"}, "catch_up"),
    ],
)
async def test_rhythm_that_cannot_be_is_invalid(
    jobs: Queue[bytes], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(Invalid, match=f"(?i){said}"):
        await jobs.schedule("often", "go", **settings)


async def test_schedules_outlive_a_kill(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs")
        await jobs.schedule("often", "go", every=1)
        await (await jobs.receive(wait=10)).ack()
    broker.kill()
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        (message,) = await client.queue("jobs").receive(wait=10)
        assert message.text == "go"
        assert (await client.list_schedules())[0].runs >= 2


def test_schedule_is_typed_listed_paused_and_deleted(broker: BrokerProcess) -> None:
    cli = Cli(broker)
    cli("queue", "create", "jobs")
    [made] = cli.objects("schedule", "create", "often", "jobs", "go", "--every", "1s", "--content-type", "x")
    assert (made["settings"]["every"], made["queue"]) == (1.0, "jobs")
    assert cli("receive", "jobs", "--format", r"%b %t\n") == b"go x\n"
    assert b"every 1s" in cli("schedule", "list", "--runs", "3")
    [paused] = cli.objects("schedule", "pause", "often")
    assert (paused["settings"]["paused"], paused["next"]) == (True, [])
    cli("schedule", "resume", "often")
    assert cli.run("schedule", "delete", "often").returncode == 2
    assert cli.run("schedule", "delete", "often", "--yes").returncode == 0
    assert cli.objects("schedule", "list") == []
