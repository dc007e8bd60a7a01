"""Expected offsets: alone in a batch, in order, and asked for again as they were."""

import asyncio
from typing import Any

import pytest
from tests.fakes.scripted_server import until
from tests.unit.client.publishing import start

from penstock import Outgoing
from penstock.errors import Conflict, Invalid, OutcomeUnknown
from penstock_protocol.errors import SequenceGap
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document
from penstock_protocol.messages.topics import DescribeTopic, Produce


@pytest.fixture
def topic(client):
    return client.topic("orders")


def seen(asked: Any) -> tuple[list[bytes], int | None, int]:
    return asked.bodies, asked.message.expected_offset, asked.batch.sequence


async def some(server, count: int) -> list[Any]:
    return [await server.asked(Produce) for _ in range(count)]


async def test_a_record_that_expects_an_offset_shares_its_batch_with_nobody(server, topic):
    calls = [start(topic.produce(each, partition=0)) for each in "ab"]
    calls.append(start(topic.produce("c", partition=0, expected_offset=2)))
    calls += [start(topic.produce(each, partition=0)) for each in "de"]
    asked = await some(server, 2)
    assert [seen(each) for each in asked] == [([b"a", b"b"], None, 0), ([b"c"], 2, 1)]
    for first, each in zip((0, 2), asked, strict=True):
        each.confirm(first)
    (last,) = await some(server, 1)
    assert seen(last) == ([b"d", b"e"], None, 2)
    last.confirm(3)
    assert [metadata.offset for metadata in await asyncio.gather(*calls)] == [0, 1, 2, 3, 4]


async def test_who_comes_later_does_not_join_a_batch_in_front_of_it(server, topic):
    first = [start(topic.produce(each, partition=0)) for each in "a"]
    one = await server.asked(Produce)
    first.append(start(topic.produce("b", partition=0)))
    two = await server.asked(Produce)
    calls = [start(topic.produce("c", partition=0))]  # gathers, for two are open
    await asyncio.sleep(0)
    calls.append(start(topic.produce("d", partition=0, expected_offset=3)))
    calls.append(start(topic.produce("e", partition=0)))
    asked = [one, two, *await some(server, 2)]
    assert [seen(each)[0] for each in asked[2:]] == [[b"c"], [b"d"]]
    for offset, each in enumerate(asked):
        each.confirm(offset)
    (last,) = await some(server, 1)
    last.confirm(4)
    assert [metadata.offset for metadata in await asyncio.gather(*first, *calls)] == [0, 1, 2, 3, 4]


async def test_a_conflict_leaves_no_gap_in_the_sequences_behind_it(server, topic):
    wrong = start(topic.produce("a", partition=0, expected_offset=9))
    right = start(topic.produce("b", partition=0, expected_offset=0))
    one, two = await some(server, 2)
    one.reply(Conflict("ends at 0", hint="expect 0", detail={"partition": 0, "expected": 9, "end": 0}))
    two.reply(SequenceGap("gap", detail={"expected": 0}))
    with pytest.raises(Conflict) as raised:
        await wrong
    assert raised.value.detail["end"] == 0
    again = await server.asked(Produce)
    assert seen(again) == ([b"b"], 0, 0)
    again.confirm(0)
    assert (await right).offset == 0


async def test_a_lost_connection_repeats_the_expectation_under_the_same_number(server, topic):
    call = start(topic.produce("a", partition=0, expected_offset=4))
    before = seen(await server.asked(Produce))
    server.cut()
    again = await server.asked(Produce)
    assert seen(again) == before == ([b"a"], 4, 0)
    again.confirm(4, duplicate=True)
    assert (await call).duplicate


async def test_an_unknown_outcome_is_asked_for_as_it_was(server, topic):
    call = start(topic.produce("a", partition=0, expected_offset=4, timeout=0.05))
    await server.asked(Produce)
    with pytest.raises(OutcomeUnknown) as raised:
        await call
    retry = start(raised.value.retry())
    await until(lambda: not retry.done())
    server.cut()
    asked = await server.asked(Produce)
    assert seen(asked) == ([b"a"], 4, 0)
    asked.reply(Conflict("ends at 5", detail={"partition": 0, "expected": 4, "end": 5}))
    with pytest.raises(Conflict):
        await retry


async def test_many_records_of_one_key_expect_the_offset_of_the_first(server, topic):
    document = {"partitions": [{}, {}]}
    server.answers[DescribeTopic] = lambda asked: asked.reply(Document(pack_document(document)))
    call = start(
        topic.produce_many([Outgoing(b"a", key="k"), Outgoing(b"b", key="k")], atomic=True, expected_offset=7)
    )
    asked = await server.asked(Produce)
    assert seen(asked) == ([b"a", b"b"], 7, 0)
    asked.confirm(7)
    assert [receipt.offset for receipt in await call] == [7, 8]


async def test_where_no_single_batch_or_partition_is_meant_it_is_invalid_and_nothing_is_sent(server, topic):
    document = {"partitions": [{}, {}]}
    server.answers[DescribeTopic] = lambda asked: asked.reply(Document(pack_document(document)))
    with pytest.raises(Invalid, match="one batch"):
        await topic.produce_many([b"a"], expected_offset=0)
    with pytest.raises(Invalid, match="one partition"):
        await topic.produce(b"a", expected_offset=0)
    with pytest.raises(Invalid, match="go to several"):
        await topic.produce_many(
            [Outgoing(b"a", partition=0), Outgoing(b"b", partition=1)], atomic=True, expected_offset=0
        )
    assert server.requests.empty()


async def test_a_topic_of_one_partition_needs_no_partition_named(server, topic):
    document = {"partitions": [{}]}
    server.answers[DescribeTopic] = lambda asked: asked.reply(Document(pack_document(document)))
    call = start(topic.produce_many([b"a", b"b"], atomic=True, expected_offset=0))
    asked = await server.asked(Produce)
    assert (seen(asked), asked.message.partition) == (([b"a", b"b"], 0, 0), 0)
    asked.confirm(0)
    await call
