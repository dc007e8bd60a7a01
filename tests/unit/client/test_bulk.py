"""Many at once: how the input is cut, how far it is taken, and what is said when it stops half-way."""

import asyncio
import gc
from itertools import accumulate, count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.scripted_server import ScriptedServer, until
from tests.unit.client.publishing import quiet, start

import penstock
from penstock import bulk
from penstock.errors import BatchError, Disconnected, Invalid, OutcomeUnknown, QueueFull, TooLarge
from penstock.lanes import Batch
from penstock.murmur2 import partition_of
from penstock_protocol.batch import Kind
from penstock_protocol.errors import Busy, SequenceGap
from penstock_protocol.limits import BATCH_BYTES_MAX, BATCH_COUNT_MAX, SEQUENCES_IN_FLIGHT_MAX
from penstock_protocol.messages.queues import Enqueue
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document
from penstock_protocol.messages.topics import DescribeTopic, Produce

LARGE = 600_000
"""One such body fills a batch."""


@pytest.fixture
async def server():
    async with ScriptedServer(credit=64 << 20) as server:
        yield server


def large(index):
    return b"%d" % (index % 10) * LARGE


async def of_generator(items):
    for item in items:
        yield item


FORMS = {
    "a list": list,
    "a tuple": tuple,
    "a generator": iter,
    "an async generator": of_generator,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_what_fits_one_batch_is_one_frame(server, client, queue, form):
    publishing = start(queue.enqueue_many(form([b"a", b"b", b"c"])))
    asked = await server.asked(Enqueue)
    assert asked.bodies == [b"a", b"b", b"c"]
    asked.confirm(first=4)
    receipts = await publishing
    assert [receipt.offset for receipt in receipts] == [4, 5, 6]
    assert (len(receipts), receipts[-1].offset) == (3, 6)
    await quiet(server, client)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_longer_input_is_batches_in_order_without_waiting_for_confirms(server, queue, form):
    publishing = start(queue.enqueue_many(form([large(i) for i in range(5)])))
    asked = [await server.asked(Enqueue) for _ in range(5)]
    assert [each.bodies for each in asked] == [[large(i)] for i in range(5)]
    for index, each in enumerate(asked):
        each.confirm(first=index)
    assert [receipt.offset for receipt in await publishing] == list(range(5))


async def test_the_broker_is_at_work_on_one_call_while_the_next_is_made(server, client, queue, monkeypatch):
    posted = []
    post = client.wire.post

    def watched(message, on_reply):
        posted.append(message)
        return post(message, on_reply)

    monkeypatch.setattr(client.wire, "post", watched)
    calls = [start(queue.enqueue_many([body])) for body in (b"a", b"b")]
    await asyncio.sleep(0)  # both calls are made, and this task comes before whatever they put off
    assert len(posted) == 2
    for _ in calls:
        (await server.asked(Enqueue)).confirm()
    await asyncio.gather(*calls)


async def test_a_call_does_not_pass_a_message_that_still_gathers(server, queue):
    one = start(queue.enqueue(b"first"))
    many = start(queue.enqueue_many([b"second", b"third"]))
    asked = [await server.asked(Enqueue) for _ in range(2)]
    assert [each.bodies for each in asked] == [[b"first"], [b"second", b"third"]]
    for each in asked:
        each.confirm()
    await asyncio.gather(one, many)


async def test_what_is_confirmed_is_not_kept_until_the_garbage_is_collected(server, queue):
    gc.collect()
    gc.disable()
    try:
        calls = [start(queue.enqueue_many([b"one", b"two"])), start(queue.enqueue(b"three"))]
        for _ in calls:
            (await server.asked(Enqueue)).confirm()
        await asyncio.gather(*calls)
        kept = [each for each in gc.get_objects() if isinstance(each, Batch)]
        assert [(each.count, each.data) for each in kept] == [(1, None)], "but the place where one may gather"
    finally:
        gc.enable()


async def test_a_batch_holds_ten_thousand(server, queue):
    publishing = start(queue.enqueue_many([b""] * (BATCH_COUNT_MAX + 1)))
    for messages in (BATCH_COUNT_MAX, 1):
        asked = await server.asked(Enqueue)
        assert asked.batch.count == messages
        asked.confirm()
    assert len(await publishing) == BATCH_COUNT_MAX + 1


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=40))
def test_cuts_cover_plain_bodies_in_order_and_keep_the_limit(sizes):
    found = list(bulk.cuts([bytes(size) for size in sizes]))
    assert found[0][0] == 0
    assert found[-1][1] == len(sizes)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    for first, end, ends in found:
        assert ends == list(accumulate(sizes[first:end]))
        assert end - first == 1 or ends[-1] + 4 * (end - first) + 32 <= BATCH_BYTES_MAX


async def test_nothing_given_is_nothing_sent(server, client, queue):
    assert len(await queue.enqueue_many([])) == 0
    assert len(await queue.enqueue_many(iter([]))) == 0
    await quiet(server, client)


async def test_outgoing_messages_keep_their_headers(server, queue):
    items = ["plain", penstock.Outgoing("dressed", headers={"a": 1})]
    publishing = start(queue.enqueue_many(items))
    asked = await server.asked(Enqueue)
    assert asked.bodies == [b"plain", b"dressed"]
    assert [len(cell) for cell in asked.batch.cells(Kind.HEADERS)] == [0, 4]
    asked.confirm()
    await publishing


async def test_values_go_through_the_codec(server, client):
    queue = client.queue("jobs", codec=penstock.codecs.json)
    publishing = start(queue.enqueue_many([{"a": 1}, "text"]))
    asked = await server.asked(Enqueue)
    assert asked.bodies == [b'{"a":1}', b'"text"']
    asked.confirm()
    await publishing


async def test_the_input_is_taken_as_it_can_be_sent(server, queue):
    taken = count()
    publishing = start(queue.enqueue_many(large(next(taken)) for _ in iter(int, 1)))
    asked = [await server.asked(Enqueue) for _ in range(SEQUENCES_IN_FLIGHT_MAX)]
    ahead = next(taken)
    assert ahead <= SEQUENCES_IN_FLIGHT_MAX + 3
    asked[0].confirm()
    await server.asked(Enqueue)
    assert next(taken) == ahead + 2
    publishing.cancel()


async def test_the_pending_bound_holds_the_input_back(server):
    client = await penstock.connect(server.url, max_pending_bytes=LARGE)
    publishing = start(client.queue("jobs").enqueue_many([large(i) for i in range(3)]))
    for index in range(3):
        asked = await server.asked(Enqueue)
        await quiet(server, client)
        asked.confirm(first=index)
    assert len(await publishing) == 3
    await client.close()


# Atomic


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_atomic_input_above_one_batch_is_refused_before_anything_is_sent(server, client, queue, form):
    with pytest.raises(TooLarge, match="atomic"):
        await queue.enqueue_many(form([large(i) for i in range(3)]), atomic=True)
    await quiet(server, client)


async def test_atomic_input_of_one_batch_is_sent(server, queue):
    publishing = start(queue.enqueue_many([b"a", b"b"], atomic=True))
    (await server.asked(Enqueue)).confirm()
    assert len(await publishing) == 2


# Failures


async def test_one_batch_fails_with_the_plain_error(server, queue):
    publishing = start(queue.enqueue_many([b"a", b"b"]))
    (await server.asked(Enqueue)).reply(QueueFull("full"))
    with pytest.raises(QueueFull):
        await publishing


async def test_the_first_failure_stops_and_tells_what_is_durable_and_what_was_refused(server, client, queue):
    items = [large(i) for i in range(4)]
    publishing = start(queue.enqueue_many(items))
    asked = [await server.asked(Enqueue) for _ in range(4)]
    asked[0].confirm(first=9)
    asked[1].reply(QueueFull("full", hint="add workers"))
    for each in asked[2:]:
        each.reply(SequenceGap("gap", detail={"expected": 1}))
    with pytest.raises(BatchError, match="add workers") as caught:
        await publishing
    error = caught.value
    assert isinstance(error.__cause__, QueueFull)
    assert [receipt.offset for receipt in error.receipts] == [9]
    assert error.refused == items[1:]
    assert error.unknown == []
    await quiet(server, client)


async def test_behind_a_failed_call_the_address_goes_on(server, queue):
    publishing = start(queue.enqueue_many([large(0), large(1)]))
    first, second = await server.asked(Enqueue), await server.asked(Enqueue)
    first.reply(QueueFull("full"))
    second.reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(BatchError):
        await publishing
    call = start(queue.enqueue("x"))
    asked = await server.asked(Enqueue)
    assert asked.batch.sequence == 0
    asked.confirm()
    await call


async def test_after_a_failure_nothing_more_is_taken_from_the_input(server, queue):
    taken = []

    def items():
        for index in range(100):
            taken.append(index)
            yield large(index)

    publishing = start(queue.enqueue_many(items()))
    asked = [await server.asked(Enqueue) for _ in range(SEQUENCES_IN_FLIGHT_MAX)]
    before = len(taken)
    asked[0].reply(QueueFull("full"))
    for each in asked[1:]:
        each.reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(BatchError) as caught:
        await publishing
    assert len(taken) == before
    assert len(caught.value.refused) == before


async def test_an_item_that_cannot_be_encoded_ends_the_input_before_it(server, queue):
    publishing = start(queue.enqueue_many(iter([large(0), large(1), "good", 5, "never reached"])))
    (await server.asked(Enqueue)).confirm(0)
    rest = await server.asked(Enqueue)
    assert rest.bodies == [large(1), b"good"]
    rest.confirm(1)
    with pytest.raises(BatchError) as caught:
        await publishing
    assert isinstance(caught.value.__cause__, Invalid)
    assert [receipt.offset for receipt in caught.value.receipts] == [0, 1, 2]
    assert caught.value.refused == [5]


async def test_an_item_that_cannot_be_encoded_in_the_first_batch_is_the_plain_error(server, client, queue):
    with pytest.raises(Invalid):
        await queue.enqueue_many(["good", 5])
    await quiet(server, client)


async def test_an_exception_of_the_input_itself_is_the_caller_s(queue):
    def items():
        yield "good"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await queue.enqueue_many(items())


async def test_without_a_connection_nothing_was_sent(server, client, queue):
    await server.stop_listening()
    server.cut()
    await until(lambda: not client.wire.connected)
    with pytest.raises(Disconnected):
        await queue.enqueue_many([b"a"], timeout=0.01)
    with pytest.raises(BatchError) as caught:
        await queue.enqueue_many([large(0), large(1)], timeout=0.01)
    assert len(caught.value.refused) == 2


async def test_what_may_be_durable_is_unknown_and_can_be_asked_for(server):
    client = await penstock.connect(server.url, timeout=0.05)
    queue = client.queue("jobs")
    items = [large(i) for i in range(3)]
    publishing = start(queue.enqueue_many(items))
    asked = [await server.asked(Enqueue) for _ in range(3)]
    asked[0].confirm()
    with pytest.raises(BatchError) as caught:
        await publishing
    error = caught.value
    assert (len(error.receipts), error.refused, error.unknown) == (1, [], items[1:])
    assert isinstance(error.__cause__, OutcomeUnknown)
    asking = start(error.__cause__.retry())
    for offset in (1, 2):
        again = await server.asked(Enqueue)
        assert bytes(again.message.payload) == bytes(asked[offset].message.payload)
        again.confirm(offset, duplicate=True)
    assert [receipt.offset for receipt in await asking] == [1, 2]
    await client.close(0)


async def test_one_unknown_batch_is_the_plain_error_and_its_retry_returns_the_receipts(server):
    client = await penstock.connect(server.url, timeout=0.02)
    publishing = start(client.queue("jobs").enqueue_many([b"a", b"b"]))
    await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await publishing
    with pytest.raises(OutcomeUnknown) as again:
        await caught.value.retry()
    await server.asked(Enqueue)
    asking = start(again.value.retry())
    (await server.asked(Enqueue)).confirm(5)
    assert [receipt.offset for receipt in await asking] == [5, 6]
    await client.close(0)


async def test_a_call_s_own_time_ends_its_waiting_alone(server, queue):
    neighbour = start(queue.enqueue("patient"))
    first = await server.asked(Enqueue)
    hasty = start(queue.enqueue_many([b"a"], timeout=0.01))
    second = await server.asked(Enqueue)
    with pytest.raises(OutcomeUnknown) as caught:
        await hasty
    asking = start(caught.value.retry())
    first.confirm(0)
    second.confirm(1)
    assert (await neighbour).offset == 0
    assert [receipt.offset for receipt in await asking] == [1]


# Cancellation


async def test_cancelled_its_unsent_batches_are_withdrawn_and_the_sent_ones_go_on(server, client, queue):
    items = [large(i) for i in range(SEQUENCES_IN_FLIGHT_MAX - 1)]
    neighbour = start(queue.enqueue_many(items))
    open_ones = [await server.asked(Enqueue) for _ in items]
    publishing = start(queue.enqueue_many([large(0), large(1), large(2)]))
    sent = await server.asked(Enqueue)
    await quiet(server, client)
    publishing.cancel()
    await asyncio.wait([publishing])
    for each in open_ones:
        each.confirm()
    await neighbour
    sent.reply(Busy("later", retry_after=0.001))
    again = await server.asked(Enqueue)
    assert again.bodies == [large(0)]
    again.confirm()
    await client.flush()
    await quiet(server, client)


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_cancelled_at_any_await_the_address_goes_on(server, client, queue, turns):
    offsets = count()
    published = []

    def confirm(asked):
        published.extend(asked.bodies)
        asked.confirm(next(offsets))

    server.answers[Enqueue] = confirm
    publishing = start(queue.enqueue_many(large(i) for i in range(5)))
    for _ in range(turns):
        await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.wait([publishing])
    await queue.enqueue("next")
    await client.flush()
    assert published == [*(large(i) for i in range(len(published) - 1)), b"next"]
    assert client.publisher._pending == 0


# Topics


def topic_of(server, client, partitions):
    document = {"partitions": [{"partition": i} for i in range(partitions)]}
    server.answers[DescribeTopic] = lambda asked: asked.reply(Document(pack_document(document)))
    return client.topic("log")


async def test_records_go_where_their_keys_say_and_receipts_keep_the_order_of_the_input(server, client):
    topic = topic_of(server, client, 3)
    keys = [f"{i}".encode() for i in range(20)]
    publishing = start(topic.produce_many(penstock.Outgoing(key, key=key) for key in keys))
    partitions = {partition_of(key, 3) for key in keys}
    for _ in partitions:
        asked = await server.asked(Produce)
        assert asked.bodies == [key for key in keys if partition_of(key, 3) == asked.message.partition]
        asked.confirm(first=100)
    found = [(receipt.partition, receipt.offset) for receipt in await publishing]
    nexts = {partition: count(100) for partition in partitions}
    assert found == [(partition_of(key, 3), next(nexts[partition_of(key, 3)])) for key in keys]


async def test_records_without_a_key_take_the_partitions_in_turn_a_batch_each(server, client):
    topic = topic_of(server, client, 3)
    publishing = start(topic.produce_many([large(i) for i in range(3)]))
    asked = [await server.asked(Produce) for _ in range(3)]
    assert sorted(each.message.partition for each in asked) == [0, 1, 2]
    for each in asked:
        each.confirm()
    await publishing


async def test_a_failure_in_one_partition_counts_what_is_durable_from_the_start_only(server, client):
    topic = topic_of(server, client, 2)
    a, b = (penstock.Outgoing("x", partition=i) for i in range(2))
    publishing = start(topic.produce_many([a, b, a]))
    asked = {each.message.partition: each for each in [await server.asked(Produce) for _ in range(2)]}
    asked[1].reply(QueueFull("full"))
    asked[0].confirm(first=3)
    with pytest.raises(BatchError) as caught:
        await publishing
    assert [receipt.offset for receipt in caught.value.receipts] == [3]
    assert caught.value.refused == [b]


async def test_drafts_of_many_partitions_are_sent_before_they_fill_the_memory(server, client, monkeypatch):
    monkeypatch.setattr(bulk, "DRAFTED_BYTES_MAX", 2 * LARGE)
    topic = topic_of(server, client, 10)
    server.answers[Produce] = lambda asked: asked.confirm()
    await topic.produce_many([b"x"])  # so that it knows its partitions
    call = bulk.Bulk(client.publisher, topic._encode, list, plain=None, atomic=False, timeout=None)
    most = 0

    def items():
        nonlocal most
        for index in range(30):
            most = max(most, sum(draft.size for draft in call._drafts.values()))
            yield penstock.Outgoing(large(index), partition=index % 10)

    assert len(await call.run(items())) == 30
    assert 2 * LARGE < most < 4 * LARGE


async def test_what_a_partition_gets_is_one_batch_in_order_with_keys_and_without(server, client):
    topic = topic_of(server, client, 1)
    records = [penstock.Outgoing(b"%d" % i, key="k" if i % 2 else None) for i in range(9)]
    publishing = start(topic.produce_many(records, atomic=True))
    asked = await server.asked(Produce)
    assert asked.bodies == [record.body for record in records]
    asked.confirm(first=5)
    assert [receipt.offset for receipt in await publishing] == list(range(5, 14))


async def test_records_without_a_key_go_on_elsewhere_when_a_batch_is_full(server, client):
    topic = topic_of(server, client, 3)
    publishing = start(topic.produce_many([penstock.Outgoing(large(i)) for i in range(6)]))
    partitions = []
    for _ in range(6):
        asked = await server.asked(Produce)
        partitions.append(asked.message.partition)
        asked.confirm()
    assert sorted(partitions) == [0, 0, 1, 1, 2, 2]
    await publishing
