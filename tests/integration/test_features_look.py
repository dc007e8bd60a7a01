"""Looking inside a queue, holding it, and what it does when it is full."""

import asyncio

import pytest

import penstock
from penstock import Client, NotFound, Outgoing, Queue

AT_ONCE = penstock.Backoff(initial=0, jitter=0)


@pytest.fixture
async def jobs(client: Client) -> Queue[bytes]:
    return await client.create_queue("jobs", retry=AT_ONCE)


async def test_paused_queue_takes_and_does_not_give(jobs: Queue[bytes]) -> None:
    await jobs.enqueue("before")
    (message,) = await jobs.receive()
    await jobs.pause()
    receipt = await jobs.enqueue("x")
    assert not await jobs.receive(wait=0.1)
    await message.ack()
    assert any("paused" in reason for reason in (await jobs.explain(receipt.id)).reasons)
    waiting = asyncio.ensure_future(jobs.receive(wait=20))
    assert await jobs.resume()
    assert [message.text for message in await waiting] == ["x"]


async def test_pause_outlives_nobody_but_is_a_setting(client: Client, jobs: Queue[bytes]) -> None:
    await jobs.pause()
    assert (await client.describe_queue("jobs")).settings["paused"] is True


async def test_messages_are_found_in_every_state(jobs: Queue[bytes]) -> None:
    items = [Outgoing(f"{i}", headers={"user": i % 2, "n": i}) for i in range(6)]
    receipts = await jobs.enqueue_many([*items, Outgoing("later", headers={"user": 0}, delay=3_600)])
    (first,) = await jobs.receive()
    found = await jobs.find(header=("user", 0))
    assert [(each.state, each.message.text) for each in found] == [
        ("in_flight", "0"),
        ("ready", "2"),
        ("ready", "4"),
        ("delayed", "later"),
    ]
    assert [each.message.text for each in await jobs.find(header=("user", 1), limit=2)] == ["1", "3"]
    assert len(await jobs.find(header=("n", None))) == 6
    (one,) = await jobs.find(id=receipts[3].id)
    assert (one.message.text, one.message.offset) == ("3", 3)
    await first.ack()


async def test_many_messages_are_found_over_many_looks(jobs: Queue[bytes]) -> None:
    await jobs.enqueue_many([b"%d" % i for i in range(30_000)])
    last = await jobs.enqueue("last", headers={"a": "b"})
    assert [each.message.id for each in await jobs.find(header=("a", "b"))] == [last.id]
    assert len(await jobs.find(limit=120)) == 120


async def test_explain_tells_whose_lease_it_is(client: Client, jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x")
    assert (await jobs.explain(receipt.id)).reasons == ("nobody receives or consumes",)
    await jobs.receive()
    explained = await jobs.explain(receipt.id)
    assert explained.state == "in_flight"
    assert explained.facts["offset"] == receipt.offset
    assert "has it, for" in explained.reasons[0]


async def test_explain_tells_which_message_holds_its_group(jobs: Queue[bytes]) -> None:
    receipts = await jobs.enqueue_many([Outgoing(f"{i}", message_group="acme") for i in range(2)])
    await jobs.receive()
    explained = await jobs.explain(receipts[1].id)
    assert explained.state == "held"
    assert any("message group 'acme'" in reason for reason in explained.reasons)
    assert [message.text for message in await jobs.peek(state="held")] == ["1"]


async def test_story_of_a_message_begins_with_its_enqueueing(jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.nack(delay=3_600, reason="busy")
    story = await jobs.story(receipt.id)
    assert story[0].what == "enqueued"
    assert any("busy" in line.detail for line in story)
    assert story == sorted(story, key=lambda line: line.when)


async def test_story_of_a_settled_message_tells_how_it_ended(client: Client, jobs: Queue[bytes]) -> None:
    receipts = await jobs.enqueue_many(["done", "bad"])
    done, bad = await jobs.receive(2)
    await done.nack(delay=0, reason="busy")
    await bad.dead_letter("no such user")
    (again,) = await jobs.receive()
    await again.ack()
    story = await jobs.story(receipts[0].id)
    assert [line.what for line in story] == ["enqueued", "nacked", "acked", "settled"]
    assert "busy" in story[1].detail
    story = await jobs.story(receipts[1].id)
    assert [line.what for line in story] == ["enqueued", "rejected", "dead-lettered", "settled"]
    assert story[2].detail == "to offset 0 of queue 'jobs.dead': no such user"
    story = await client.queue("jobs.dead").story(receipts[1].id)
    assert {line.what for line in story} == {"enqueued", "rejected", "ready"}


async def test_dead_letter_queue_can_be_looked_at_before_anything_died(
    client: Client, jobs: Queue[bytes]
) -> None:
    dead = client.queue("jobs.dead")
    assert (await dead.stats()).ready == 0
    assert list(await dead.peek()) == []
    assert (await dead.redrive()).messages == 0


async def test_moved_message_is_tried_on_from_where_it_was(client: Client, jobs: Queue[bytes]) -> None:
    other = await client.create_queue("other")
    await jobs.enqueue("x")
    (message,) = await jobs.receive()
    await message.nack(delay=0, reason="busy")
    assert (await jobs.move("other")).messages == 1
    (message,) = await other.receive()
    assert message.attempt == 2
    assert message.history is not None
    assert [each.error for each in message.history.attempts] == ["busy"]


async def test_what_never_was_cannot_be_explained(jobs: Queue[bytes]) -> None:
    receipt = await jobs.enqueue("x")
    with pytest.raises(NotFound):
        await jobs.explain(receipt.id.replace(":0", ":99"))


async def test_full_queue_may_drop_the_oldest(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_messages=3, overflow="drop_oldest")
    await jobs.enqueue_many([b"%d" % i for i in range(3)])
    await jobs.enqueue_many([b"3", b"4"])
    assert [message.text for message in await jobs.receive(10, wait=0)] == ["2", "3", "4"]


async def test_full_queue_may_dead_letter_the_oldest(client: Client) -> None:
    jobs = await client.create_queue("jobs", max_messages=2, overflow="dead_letter_oldest")
    for text in ("a", "b", "c"):
        await jobs.enqueue(text)
    assert [message.text for message in await jobs.receive(10, wait=1)] == ["b", "c"]
    (dead,) = await client.queue("jobs.dead").receive(wait=5)
    assert dead.text == "a"
    assert dead.history is not None
    assert dead.history.reason == "overflow"
