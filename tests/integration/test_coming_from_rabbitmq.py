"""Each row of "Coming from RabbitMQ" is tried here. Where it says what RabbitMQ does, RabbitMQ is asked: such
a test takes the same steps with both, and both have to show the same, or what the row says of each."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration import pages
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess
from tests.integration.sides import Counts, Refused, dead_letters, drain, gone, until

import penstock
from penstock import Backoff, Client, Conflict, Invalid, QueueFull, TooLarge

PAGE = pages.Page("coming-from-rabbitmq.md")


@pytest.fixture
async def side(beside_rabbitmq: Any) -> Any:
    """Each of the two."""
    return beside_rabbitmq


# The page itself


def test_page_names_a_test_for_every_row_and_every_test_is_named() -> None:
    tests = pages.tests("test_coming_from_rabbitmq*.py")
    assert len(PAGE.rows()) > 40
    assert PAGE.untried(tests) == []
    assert PAGE.unnamed(tests) == set()
    assert PAGE.unknown_words() == []


def test_page_program_runs_on_penstock(broker: BrokerProcess) -> None:
    assert pages.first_line(PAGE.program("penstock"), pages.environ(broker)) == "to user:42\n"


def test_page_program_runs_on_rabbitmq(broker: BrokerProcess, rabbitmq: Any) -> None:
    environment = pages.environ(broker, AMQP_URL=rabbitmq.url)
    assert pages.first_line(PAGE.program("pika"), environment) == "to user:42\n"


def test_page_commands_run_line_by_line(broker: BrokerProcess) -> None:
    (session,) = PAGE.sessions()
    printed = "".join(pages.typed(session, broker))
    assert "user:42" in printed


# Connections and channels


async def test_error_ends_a_channel_there_and_nothing_here(side: Any, q: str) -> None:
    channel = getattr(side, "channel", None)
    with pytest.raises(Refused):
        await side.counts(q)
    assert channel is None or not channel.is_open
    await side.declare(q)
    await side.publish(q, "x")
    assert await drain(side, q, 1) == ["x"]


async def test_lost_consumer_gives_its_messages_back_at_once(side: Any, q: str) -> None:
    await side.declare(q)
    await side.publish(q, "x")
    async with side.another() as other, other.consuming(q) as consumer:
        assert [each.text for each in await consumer.arrived(1)] == ["x"]
        assert not await side.take(q)
    (again,) = await side.take(q, wait=5)
    assert again.redelivered


# Queues


async def test_queue_and_message_survive_a_kill(start_broker: StartBroker) -> None:
    broker = start_broker().wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs")
        assert (await jobs.enqueue("x")).durability == "fsync"
        hasty = await client.create_queue("hasty", durability="os")
        assert (await hasty.enqueue("x")).durability == "os"
    broker.kill()
    async with penstock.connect(start_broker().wait_ready().url) as client:
        assert (await client.queue("jobs").stats()).ready == 1


async def test_declaring_again_is_compared(side: Any, q: str) -> None:
    await side.declare(q, max_messages=5)
    await side.declare(q, max_messages=5)
    with pytest.raises(Refused):
        await side.declare(q, max_messages=6)
    if side.name == "penstock":
        with pytest.raises(Conflict):
            await side.client.create_queue(q, max_messages=6)
        await side.client.create_queue(q, max_messages=6, if_exists="keep")
        await side.client.create_queue(q, max_messages=6, if_exists="alter")
        assert (await side.client.describe_queue(q)).settings["max_messages"] == 6


async def test_passive_declare_tells_the_count_and_makes_nothing(side: Any, q: str) -> None:
    for _ in range(2):
        with pytest.raises(Refused):
            await side.counts(q)
    await side.declare(q)
    await side.publish(q, "x")
    assert (await side.counts(q)).ready == 1


async def test_exclusive_queue_is_of_one_connection_and_goes_with_it(side: Any, q: str) -> None:
    async with side.another() as owner:
        await owner.declare(q, exclusive=True)
        with pytest.raises(Refused):
            await side.take(q)
        await owner.publish(q, "x")
        assert await drain(owner, q, 1) == ["x"]
    await gone(side, q)


async def test_unused_queue_expires(side: Any, q: str) -> None:
    await side.declare(q, expires=2)
    async with side.consuming(q) as consumer:
        assert not await consumer.arrived(1, within=2.5)
        assert (await side.counts(q)).ready == 0
    await asyncio.sleep(2.5)
    await gone(side, q, ask_every=3)


async def test_publishing_is_a_use_here(client: Client) -> None:
    jobs = await client.create_queue("jobs", expires=1)
    for _ in range(8):
        await jobs.enqueue("x")
        await asyncio.sleep(0.2)
    assert (await jobs.stats()).ready == 8


async def test_broker_names_a_queue(client: Client) -> None:
    first, second = await client.create_queue(None), await client.create_queue(None)
    assert first.name != second.name


async def test_queue_ttl_expires_messages(side: Any, q: str) -> None:
    await side.declare(q, ttl=0.2)
    await side.publish(q, "x")
    assert (await side.counts(q)).ready == 1
    await until(side, q, Counts(0))


async def test_expired_messages_are_dead_letters(side: Any, q: str) -> None:
    dead = await dead_letters(side, q, ttl=0.1, on_expiry="dead_letter")
    await side.publish(q, "x")
    assert await drain(side, dead, 1) == ["x"]


async def test_message_ttl_ends_behind_others_too(side: Any, q: str) -> None:
    """A classic queue looks at its head alone."""
    await side.declare(q)
    await side.publish(q, "stays")
    await side.publish(q, "goes", ttl=0.1)
    await asyncio.sleep(0.5)
    assert (await side.counts(q)).ready == {"penstock": 1, "rabbitmq": 2}[side.name]
    assert await drain(side, q, 2, wait=0.2) == ["stays"]


async def test_full_queue_refuses(side: Any, q: str) -> None:
    await side.declare(q, max_messages=2, overflow="reject")
    await side.publish(q, "a")
    await side.publish(q, "b")
    with pytest.raises(Refused):
        await side.publish(q, "c")
    assert await drain(side, q, 3, wait=0.2) == ["a", "b"]


async def test_full_queue_drops_the_oldest(side: Any, q: str) -> None:
    await side.declare(q, max_messages=2, overflow="drop_oldest")
    for text in "abc":
        await side.publish(q, text)
    assert await drain(side, q, 3, wait=0.2) == ["b", "c"]


async def test_bytes_have_a_limit(side: Any, q: str) -> None:
    """Here headers and a little more than the bodies count."""
    await side.declare(q, max_bytes=3000, overflow="reject")
    room = {"penstock": 2, "rabbitmq": 3}[side.name]
    for _ in range(room):
        await side.publish(q, "x" * 1000)
    with pytest.raises(Refused):
        await side.publish(q, "x" * 1000)
    assert (await side.counts(q)).ready == room


async def test_dropped_messages_are_dead_letters(side: Any, q: str) -> None:
    dead = await dead_letters(side, q, max_messages=2, overflow="dead_letter_oldest")
    for text in "abc":
        await side.publish(q, text)
    assert await drain(side, dead, 1) == ["a"]
    assert await drain(side, q, 3, wait=0.2) == ["b", "c"]


async def test_priority_comes_first(side: Any, q: str) -> None:
    await side.declare(q, priorities=True)
    await side.publish_many(
        q, [(f"{each}.{turn}", {"priority": each}) for turn in range(2) for each in (0, 9, 4)]
    )
    assert await drain(side, q, 6) == ["9.0", "9.1", "4.0", "4.1", "0.0", "0.1"]


async def test_priority_above_nine_is_invalid(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    with pytest.raises(Invalid, match="0 to 9"):
        await jobs.enqueue("x", priority=10)


async def test_single_active_consumer_has_a_successor(side: Any, q: str) -> None:
    await side.declare(q, single_active=True)
    async with side.consuming(q, prefetch=10) as second_in_line:
        async with side.another() as other, other.consuming(q, prefetch=10):
            await side.publish(q, "a")
            (taken,) = await second_in_line.arrived(1)
            await side.ack(taken)
        await side.publish(q, "b")
        assert [each.text for each in await second_in_line.arrived(1)] == ["b"]


async def test_failures_have_a_limit(side: Any, q: str) -> None:
    """A delivery limit of 2 is three tries: the first, and two more."""
    dead = await dead_letters(side, q, max_attempts=3, retry=Backoff(initial=0, jitter=0))
    await side.publish(q, "poison")
    tries = 0
    while taken := await side.take(q, wait=1):
        tries += 1
        await side.fail(*taken)
    assert tries == 3
    assert await drain(side, dead, 1) == ["poison"]


async def test_limits_are_there_from_the_start(client: Client) -> None:
    await client.create_queue("jobs")
    settings = (await client.describe_queue("jobs")).settings
    assert (settings["max_attempts"], settings["max_deliveries"], settings["dead_letter"]) == (
        5, 50, "jobs.dead",
    )  # fmt: skip
    assert settings["max_messages"] == 1_000_000


async def test_stream_is_a_topic(client: Client) -> None:
    events = await client.create_topic("events")
    await events.produce("paid")
    for group in ("billing", "analytics"):
        async with events.consumer(group, partitions=[0]) as consumer:
            assert (await anext(aiter(consumer))).text == "paid"


# Publish


async def test_published_message_is_received(side: Any, q: str) -> None:
    await side.declare(q)
    await side.publish(q, "x")
    (taken,) = await side.take(q)
    assert (taken.text, taken.redelivered) == ("x", False)
    assert not await side.take(q)
    await side.ack(taken)
    assert (await side.counts(q)).ready == 0


async def test_many_are_one_batch_all_or_nothing(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_messages=2)
    with pytest.raises(QueueFull):
        await jobs.enqueue_many([b"a", b"b", b"c"])
    assert (await jobs.stats()).ready == 0
    with pytest.raises(TooLarge):
        await jobs.enqueue_many([b"x"] * 10_001, atomic=True)


async def test_message_for_no_queue_is_refused(side: Any, q: str) -> None:
    with pytest.raises(Refused):
        await side.publish(q, "x")


async def test_properties_arrive(side: Any, q: str) -> None:
    sent = {"reply_to": "answers", "correlation_id": "7", "content_type": "text/plain"}
    await side.declare(q)
    await side.publish(q, "x", headers={"user": 42, "type": "mail"}, **sent)
    (taken,) = await side.take(q)
    assert taken.headers == {"user": 42, "type": "mail"}
    message = taken.raw if side.name == "penstock" else taken.raw[2]
    assert {name: getattr(message, name) for name in sent} == sent


async def test_broker_gives_ids_and_times(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    receipt = await jobs.enqueue("x")
    (message,) = await jobs.receive()
    assert message.id == receipt.id
    assert abs((message.enqueued_at - datetime.now(UTC)).total_seconds()) < 60


async def test_dedup_id_makes_a_duplicate_harmless(client: Client) -> None:
    jobs = await client.create_queue("jobs")
    first = await jobs.enqueue("x", dedup_id="order-7")
    again = await jobs.enqueue("x", dedup_id="order-7")
    assert (again.id, again.duplicate, first.duplicate) == (first.id, True, False)
    assert (await jobs.stats()).ready == 1


def test_exchanges_and_transactions_are_not_there_yet() -> None:
    for absent in ("create_exchange", "transaction"):
        assert not hasattr(Client, absent)
