"""Confirms of batches in which not every message is new: duplicates, and job keys that are taken."""

import pytest
from tests.fakes.scripted_server import LOG, ScriptedServer
from tests.unit.client.publishing import start

import penstock
from penstock import Outgoing
from penstock.confirms import accepted, understood
from penstock.errors import BatchError, Conflict, OutcomeUnknown, QueueFull
from penstock.runs import id_of
from penstock_protocol.messages.queues import Confirm, Enqueue
from penstock_protocol.slices import Exceptional, Status, encode_exceptions

LARGE = 600_000
"""One such body fills a batch."""


@pytest.fixture
async def server():
    async with ScriptedServer(credit=64 << 20) as server:
        yield server


def confirmed(first, messages, *exceptions):
    return Confirm(
        *(0, first, messages, False, "fsync", 1_000, 1_000, LOG), encode_exceptions(list(exceptions))
    )


def duplicate(index, offset):
    return Exceptional(index, Status.DUPLICATE, offset)


def taken(index, offset):
    return Exceptional(index, Status.CONFLICT, offset)


async def test_a_duplicate_has_the_receipt_of_the_message_that_stands_for_it(server, queue):
    calls = [start(queue.enqueue(f"{i}", dedup_id=f"{i % 2}")) for i in range(3)]
    (await server.asked(Enqueue)).reply(confirmed(10, 3, duplicate(2, 10)))
    first, second, third = [await call for call in calls]
    assert (first.offset, first.duplicate, second.offset, second.duplicate) == (10, False, 11, False)
    assert (third.id, third.offset, third.duplicate) == (id_of(LOG, 10), 10, True)


async def test_a_job_key_that_is_taken_refuses_its_message_alone(server, queue):
    calls = [start(queue.enqueue(f"{i}", job_key="k")) for i in range(3)]
    (await server.asked(Enqueue)).reply(confirmed(10, 3, taken(1, 10), taken(2, 4)))
    assert (await calls[0]).offset == 10
    with pytest.raises(Conflict, match="taken by the message at offset 10") as caught:
        await calls[1]
    assert caught.value.detail == {"offset": 10}
    assert "on_conflict" in caught.value.hint
    with pytest.raises(Conflict, match="offset 4"):
        await calls[2]


async def test_who_asks_again_learns_of_the_conflict_too(server):
    client = await penstock.connect(server.url, timeout=0.02)
    publishing = start(client.queue("jobs").enqueue("x", job_key="k"))
    await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await publishing
    asking = start(caught.value.retry())
    (await server.asked(Enqueue)).reply(confirmed(5, 1, taken(0, 2)))
    with pytest.raises(Conflict, match="offset 2"):
        await asking
    await client.close(0)


async def test_many_with_duplicates_have_the_receipts_of_the_originals(server, queue):
    publishing = start(queue.enqueue_many([Outgoing(f"{i}", dedup_id="d") for i in range(3)]))
    (await server.asked(Enqueue)).reply(confirmed(10, 3, duplicate(1, 10), duplicate(2, 10)))
    receipts = await publishing
    assert [(receipt.offset, receipt.duplicate) for receipt in receipts] == [
        (10, False),
        (10, True),
        (10, True),
    ]


async def test_many_with_a_job_key_that_is_taken_tell_which_it_was_when_all_is_sent(server, queue):
    bodies = [b"%d" % i * LARGE for i in range(3)]
    items = [Outgoing(bodies[0], job_key="a"), Outgoing(b"b", job_key="a"), *bodies[1:]]
    publishing = start(queue.enqueue_many(items))
    (await server.asked(Enqueue)).reply(confirmed(0, 2, taken(1, 0)))
    for offset in (2, 3):
        (await server.asked(Enqueue)).confirm(offset)
    with pytest.raises(BatchError, match="3 messages are durable, 1 were refused") as caught:
        await publishing
    assert [receipt.offset for receipt in caught.value.receipts] == [0, 2, 3]
    assert caught.value.refused == [items[1]]
    assert caught.value.unknown == []
    assert isinstance(caught.value.__cause__, Conflict)


async def test_a_failure_tells_of_conflicts_before_it(server, queue):
    items = [Outgoing(b"a" * LARGE, job_key="k"), b"b" * LARGE]
    publishing = start(queue.enqueue_many(items))
    (await server.asked(Enqueue)).reply(confirmed(0, 1, taken(0, 9)))
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    with pytest.raises(BatchError, match="full") as caught:
        await publishing
    assert list(caught.value.receipts) == []
    assert caught.value.refused == items


async def test_many_whose_outcome_was_unknown_tell_of_conflicts_when_asked_again(server):
    client = await penstock.connect(server.url, timeout=0.02)
    items = [Outgoing(f"{i}", job_key="k") for i in range(2)]
    publishing = start(client.queue("jobs").enqueue_many(items))
    await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await publishing
    asking = start(caught.value.retry())
    (await server.asked(Enqueue)).reply(confirmed(5, 2, taken(1, 5)))
    with pytest.raises(BatchError) as error:
        await asking
    assert [receipt.offset for receipt in error.value.receipts] == [5]
    assert error.value.refused == items[1:]
    await client.close(0)


@pytest.mark.parametrize(
    ("at", "left"),
    [
        ([], [(2, 4)]),
        ([0, 1, 6], [(2, 4)]),
        ([2], [(3, 3)]),
        ([5], [(2, 3)]),
        ([3], [(2, 1), (4, 2)]),
        ([2, 3, 4, 5], []),
    ],
)
def test_a_stretch_is_cut_where_messages_were_refused(at, left):
    confirm = understood(confirmed(0, 8, *(taken(index, 0) for index in reversed(at)), duplicate(7, 1)))
    assert [(first, messages) for _, first, messages in accepted(confirm, 2, 4)] == left


def test_a_confirm_that_says_the_same_of_all_stays_as_it_is():
    confirm = confirmed(0, 8)
    assert understood(confirm) is confirm
