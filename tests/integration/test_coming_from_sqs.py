"""Each row of "Coming from SQS" is tried here. Where it says what SQS does, moto's server is asked where it
is like SQS: such a test takes the same steps with both, and both have to show the same, or what the row says
of each. What moto does not have or does otherwise is told by the page after the documentation of AWS."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.integration import pages
from tests.integration.conftest import StartBroker
from tests.integration.process import BrokerProcess
from tests.integration.sides import NO_DEAD_LETTERS, Counts, Refused, dead_letters, drain, until

import penstock
from penstock import Client, Conflict, Invalid, Outgoing, Queue, TooLarge
from penstock_protocol.limits import MIB

PAGE = pages.Page("coming-from-sqs.md")


@pytest.fixture
async def side(beside_sqs: Any) -> Any:
    """Each of the two."""
    return beside_sqs


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs")


# The page itself


def test_page_names_a_test_for_every_row_and_every_test_is_named() -> None:
    tests = pages.tests("test_coming_from_sqs*.py")
    assert len(PAGE.rows()) > 35
    assert PAGE.untried(tests) == []
    assert PAGE.unnamed(tests) == set()
    assert PAGE.unknown_words() == []


def test_page_program_runs_on_penstock(broker: BrokerProcess) -> None:
    assert pages.first_line(PAGE.program("penstock"), pages.environ(broker)) == "to user:42\n"


def test_page_program_runs_on_sqs(broker: BrokerProcess, sqs: Any) -> None:
    from tests.integration.sqs_side import environment

    program = pages.environ(broker, **environment(sqs.url))
    assert pages.first_line(PAGE.program("boto3"), program) == "to user:42\n"


def test_page_commands_run_line_by_line(broker: BrokerProcess) -> None:
    (session,) = PAGE.sessions()
    printed = "".join(pages.typed(session, broker))
    assert "user:42" in printed


# Queues


async def test_creating_again_is_compared(side: Any, q: str) -> None:
    await side.declare(q, visibility_timeout=31)
    await side.declare(q, visibility_timeout=31)
    with pytest.raises(Refused):
        await side.declare(q, visibility_timeout=32)
    if side.name == "penstock":
        with pytest.raises(Conflict):
            await side.client.create_queue(q, visibility_timeout=32)
        await side.client.create_queue(q, visibility_timeout=32, if_exists="alter")


async def test_queue_that_is_not_there_is_refused(side: Any, q: str) -> None:
    with pytest.raises(Refused):
        await side.publish(q, "x")
    with pytest.raises(Refused):
        await side.take(q)
    with pytest.raises(Refused):
        await side.delete(q)


async def test_deleted_queue_can_be_made_again_at_once(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x")
    await client.delete_queue("jobs")
    await client.create_queue("jobs")
    assert not await jobs.receive(wait=0)


async def test_message_not_deleted_in_time_comes_back(side: Any, q: str) -> None:
    await side.declare(q, visibility_timeout=2)
    await side.publish(q, "x")
    (first,) = await side.take(q)
    assert not await side.take(q)
    await asyncio.sleep(2.2)
    (again,) = await side.take(q, wait=5)  # here after the retry curve
    assert (first.delivery, again.delivery) == (1, 2)


async def test_queue_delays_its_messages(side: Any, q: str) -> None:
    await side.declare(q, delay=2)
    await side.publish(q, "x")
    assert await side.counts(q) == Counts(0, 0, 1)
    assert not await side.take(q)
    await asyncio.sleep(2.1)
    assert await drain(side, q, 1) == ["x"]


async def test_nothing_expires_unless_told_to(client: Client, jobs: Queue[bytes]) -> None:
    assert (await client.describe_queue("jobs")).settings["ttl"] is None
    short = await client.create_queue("short", ttl=0.1)
    await short.enqueue("x")
    await asyncio.sleep(0.3)
    assert not await short.receive(wait=0)


async def test_long_poll_ends_when_a_message_comes(jobs: Queue[bytes]) -> None:
    waiting = asyncio.ensure_future(jobs.receive())
    await asyncio.sleep(0.1)
    await jobs.enqueue("x")
    async with asyncio.timeout(5):
        assert len(await waiting) == 1


async def test_empty_queue_gives_an_empty_answer(side: Any, q: str) -> None:
    await side.declare(q)
    assert await side.take(q, 10, wait=0) == []


async def test_message_has_a_size_limit_of_a_mebibyte(side: Any, q: str) -> None:
    await side.declare(q)
    await side.publish(q, "x" * MIB)
    with pytest.raises(Refused):
        await side.publish(q, "x" * (MIB + 1))
    if side.name == "penstock":
        with pytest.raises(TooLarge):
            await side.client.queue(q).enqueue(b"x" * (MIB + 1))


async def test_node_may_take_larger_messages(start_broker: StartBroker) -> None:
    broker = start_broker("--set", "limits.message_bytes=6MiB").wait_ready()
    async with penstock.connect(broker.url) as client:
        jobs = await client.create_queue("jobs")
        await jobs.enqueue(b"x" * 6 * MIB)
        (message,) = await jobs.receive()
        assert len(message.raw) == 6 * MIB


async def test_deliveries_have_a_limit(side: Any, q: str) -> None:
    dead = await dead_letters(side, q, max_deliveries=2)
    await side.publish(q, "poison")
    for delivery in (1, 2):
        (taken,) = await side.take(q)
        assert taken.delivery == delivery
        await side.release(taken)
    assert not await side.take(q)
    assert await drain(side, dead, 1) == ["poison"]


async def test_failures_have_a_limit_of_their_own(client: Client) -> None:
    at_once = penstock.Backoff(initial=0)
    dead_jobs = await client.create_queue("jobs.dead", **NO_DEAD_LETTERS)
    jobs = await client.create_queue("jobs", visibility_timeout=0.1, max_attempts=2, retry=at_once)
    await jobs.enqueue("poison")
    for _ in range(2):
        assert len(await jobs.receive(wait=5)) == 1
    (dead,) = await dead_jobs.receive(wait=5)
    assert dead.history is not None
    assert dead.history.reason == "max_attempts"
    assert [each.outcome for each in dead.history.attempts] == ["lease expired"] * 2


async def test_settings_are_read_and_changed(client: Client, jobs: Queue[bytes]) -> None:
    await client.alter_queue("jobs", visibility_timeout=60)
    assert (await client.describe_queue("jobs")).settings["visibility_timeout"] == 60
    await client.create_queue("other")
    assert [each.name for each in await client.list_queues("jo")] == ["jobs"]


async def test_states_are_counted(side: Any, q: str) -> None:
    await side.declare(q)
    for text in "abc":
        await side.publish(q, text)
    await side.publish(q, "d", delay=600)
    await side.take(q)
    await until(side, q, Counts(2, 1, 1))


async def test_sources_of_dead_letters_are_settings(client: Client, jobs: Queue[bytes]) -> None:
    await client.create_queue("more", dead_letter="jobs.dead")
    queues = await client.list_queues()
    found = [each.name for each in queues if each.settings["dead_letter"] == "jobs.dead"]
    assert found == ["jobs", "more"]


def test_policies_keys_and_tags_are_not_there_yet() -> None:
    for absent in ("add_permission", "tag_queue"):
        assert not hasattr(Client, absent)


# Send


async def test_sent_message_has_an_id(jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x")
    (message,) = await jobs.receive()
    assert message.id == receipt.id
    assert receipt.durability == "fsync"


async def test_body_is_bytes(jobs: Queue[bytes]) -> None:
    await jobs.enqueue(b"\x00\xff")
    (message,) = await jobs.receive()
    assert message.body == b"\x00\xff"


async def test_batch_has_its_size(side: Any, q: str) -> None:
    await side.declare(q)
    await side.publish_many(q, [(str(number), {}) for number in range(10)])
    eleven = [(str(number), {}) for number in range(11)]
    if side.name == "sqs":
        with pytest.raises(Refused):
            await side.publish_many(q, eleven)
    else:
        await side.publish_many(q, eleven)
        receipts = await side.client.queue(q).enqueue_many([b"x"] * 10_000, atomic=True)
        assert len(receipts) == 10_000


async def test_batch_is_all_or_nothing(client: Client) -> None:
    small = await client.create_queue("small", max_messages=2)
    with pytest.raises(penstock.QueueFull):
        await small.enqueue_many([b"a", b"b", b"c"])
    assert (await small.stats()).ready == 0


async def test_message_has_its_own_delay(side: Any, q: str) -> None:
    await side.declare(q)
    await side.publish(q, "later", delay=1)
    await side.publish(q, "now")
    assert await drain(side, q, 2, wait=2) == ["now", "later"]


async def test_delay_has_a_limit(side: Any, q: str) -> None:
    await side.declare(q)
    if side.name == "sqs":
        with pytest.raises(Refused):
            await side.publish(q, "x", delay=901)
    else:
        await side.publish(q, "x", delay=timedelta(days=3650))
        with pytest.raises(Refused, match="ten years"):
            await side.publish(q, "x", delay=timedelta(days=3661))


async def test_attributes_arrive_as_headers(side: Any, q: str) -> None:
    await side.declare(q)
    sent = {"user": 42, "name": "Ada", "key": b"\x00\x01"}
    await side.publish(q, "x", headers=sent)
    (taken,) = await side.take(q)
    assert taken.headers == sent


async def test_headers_have_a_limit(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("x", headers={str(number): number for number in range(64)})
    with pytest.raises(TooLarge, match="64"):
        await jobs.enqueue("x", headers={str(number): number for number in range(65)})


# FIFO and fair queues


async def fifo(side: Any, q: str, *texts: str, **settings: Any) -> None:
    """A queue with messages; the first letter is the group."""
    await side.declare(q, fifo=True, **settings)
    for text in texts:
        await side.publish(q, text, message_group=text[0], dedup_id=text)


async def test_group_keeps_its_order_and_others_go_on(side: Any, q: str) -> None:
    await fifo(side, q, "a0", "a1", "b0")
    (a0,) = await side.take(q)
    (b0,) = await side.take(q)
    assert (a0.text, b0.text) == ("a0", "b0")
    assert not await side.take(q)
    await side.ack(a0)
    assert await drain(side, q, 2, wait=0) == ["a1"]


async def test_failed_head_comes_again_before_its_group(side: Any, q: str) -> None:
    await fifo(side, q, "a0", "a1")
    await side.fail(*await side.take(q))
    assert await drain(side, q, 2) == ["a0", "a1"]


async def test_answer_has_one_message_of_each_group(side: Any, q: str) -> None:
    """SQS fills up an answer with more of the same group."""
    await fifo(side, q, "a0", "a1", "b0")
    texts = [each.text for each in await side.take(q, 10)]
    assert texts == {"penstock": ["a0", "b0"], "sqs": ["a0", "a1", "b0"]}[side.name]
    if side.name == "penstock":
        await side.client.create_queue("two", group_concurrency=2)
        await side.publish_many("two", [(text, {"message_group": "a"}) for text in ("0", "1", "2")])
        assert len(await side.take("two", 10)) == 2


async def test_message_without_a_group_has_no_order_to_keep(side: Any, q: str) -> None:
    await side.declare(q, fifo=True)
    if side.name == "sqs":
        with pytest.raises(Refused):
            await side.publish(q, "x", dedup_id="1")
    else:
        await side.publish(q, "x", dedup_id="1")
        assert await drain(side, q, 1) == ["x"]


async def test_second_of_a_dedup_id_is_not_delivered(side: Any, q: str) -> None:
    await side.declare(q, fifo=True)
    for _ in range(2):
        receipt = await side.publish(q, "x", message_group="a", dedup_id="order-7")
    assert await drain(side, q, 2, wait=0) == ["x"]
    if side.name == "penstock":  # and AWS; moto forgets it with the message
        assert receipt.duplicate
        await side.publish(q, "x", message_group="a", dedup_id="order-7")
        assert not await side.take(q)


async def test_window_can_be_chosen(client: Client) -> None:
    jobs = await client.create_queue("jobs", dedup_window=0.2)
    await jobs.enqueue("x", dedup_id="7")
    await asyncio.sleep(0.3)
    assert not (await jobs.enqueue("x", dedup_id="7")).duplicate
    with pytest.raises(Invalid, match="dedup_window"):
        await client.create_queue("week", dedup_window=8 * 86_400)


async def test_body_may_be_the_dedup_id(side: Any, q: str) -> None:
    await side.declare(q, fifo=True, content_dedup=True)
    for text in ("x", "x", "y"):
        await side.publish(q, text, message_group="a")
    assert await drain(side, q, 3, wait=0) == ["x", "y"]


async def test_dedup_id_counts_in_the_whole_queue(side: Any, q: str) -> None:
    await side.declare(q, fifo=True)
    for group in "ab":
        await side.publish(q, group, message_group=group, dedup_id="7")
    assert await drain(side, q, 2, wait=0) == ["a"]


async def test_group_is_a_tenant_of_a_fair_queue(client: Client) -> None:
    jobs = await client.create_queue("jobs", fair=True, group_concurrency=20, group_rate=1000)
    await jobs.enqueue_many([Outgoing("noisy", message_group="noisy")] * 100)
    await jobs.enqueue("quiet", message_group="quiet")
    assert "quiet" in [message.text for message in await jobs.receive(4)]
    weights = await client.create_queue("weighted", fair=True, group_weights={"large": 3})
    assert (await client.describe_queue(weights.name)).settings["group_weights"] == {"large": 3}
