"""Producers with a name, on the client: opened once, fenced for good, opened again when an id is spent."""

import asyncio
from typing import Any

import pytest
from tests.unit.client.publishing import start

import penstock
from penstock.errors import OutcomeUnknown, Stale
from penstock_protocol.limits import PRODUCER_ID_NAMED_MIN
from penstock_protocol.messages.schema import pack_document
from penstock_protocol.messages.session import Document, Ping
from penstock_protocol.messages.topics import OpenProducer, Produce

FIRST, SECOND = PRODUCER_ID_NAMED_MIN | 1, PRODUCER_ID_NAMED_MIN | 2
NAME = "orders-writer"


@pytest.fixture
async def client(server):
    client = await penstock.connect(server.url, timeout=0.3)
    yield client
    await client.close(0)


@pytest.fixture
def topic(client):
    return client.topic("orders", producer=NAME)


async def opened(server, id: int = FIRST, *, again: bool = False) -> None:
    asked = await server.asked(OpenProducer)
    assert asked.message == OpenProducer(NAME, again)
    asked.reply(Document(pack_document({"producer_id": id})))


def seen(asked: Any) -> tuple[int, int, int, list[bytes]]:
    return asked.batch.producer_id, asked.batch.sequence, asked.message.partition, asked.bodies


async def test_the_name_is_opened_once_and_shared_by_handles_and_partitions(server, client, topic):
    calls = [start(topic.produce("a", partition=0)), start(topic.produce("b", partition=1))]
    calls.append(start(client.topic("orders", producer=NAME).produce("c", partition=0)))
    await opened(server)
    asked = [await server.asked(Produce) for _ in range(2)]
    assert sorted(map(seen, asked)) == [(FIRST, 0, 0, [b"a", b"c"]), (FIRST, 0, 1, [b"b"])]
    for each in asked:
        each.confirm()
    await asyncio.gather(*calls)
    call = start(topic.produce("d", partition=1))
    last = await server.asked(Produce)
    assert seen(last) == (FIRST, 1, 1, [b"d"])
    last.confirm(1)
    await call


async def test_without_the_name_the_client_s_own_id_is_used_beside_it(server, client, topic):
    named = start(topic.produce("a", partition=0))
    await opened(server)
    one = await server.asked(Produce)
    plain = start(client.topic("orders").produce("b", partition=0))
    two = await server.asked(Produce)
    assert one.batch.producer_id == FIRST
    assert 0 < two.batch.producer_id == server.hellos[0].producer_id < PRODUCER_ID_NAMED_MIN
    one.confirm(0)
    two.confirm(1)
    await asyncio.gather(named, plain)


async def test_a_fenced_producer_says_so_for_good_and_does_not_take_the_name_back(server, client, topic):
    call = start(topic.produce("a", partition=0))
    await opened(server)
    asked = await server.asked(Produce)
    asked.reply(Stale("another instance has taken over", hint="stop this one", detail={"expected": 0}))
    with pytest.raises(Stale, match="another instance"):
        await call
    for handle in (topic, client.topic("others", producer=NAME)):
        with pytest.raises(Stale) as raised:
            await handle.produce("b", partition=0)
        assert raised.value.hint == "stop this one"
        with pytest.raises(Stale):
            await handle.produce_many([b"c"])
    assert server.requests.empty()


async def test_a_lost_connection_goes_on_under_the_same_id(server, topic):
    call = start(topic.produce("a", partition=0))
    await opened(server)
    before = seen(await server.asked(Produce))
    server.cut()
    again = await server.asked(Produce)
    assert seen(again) == before
    again.confirm()
    await call


async def test_a_refused_opening_is_told_and_tried_again_by_the_next_call(server, topic):
    call = start(topic.produce("a", partition=0))
    asked = await server.asked(OpenProducer)
    asked.reply(penstock.Invalid("there are too many names"))
    with pytest.raises(penstock.Invalid, match="too many"):
        await call
    call = start(topic.produce("a", partition=0))
    await opened(server)
    (await server.asked(Produce)).confirm()
    await call


async def given_up(server, topic) -> tuple[Any, OutcomeUnknown]:
    """A batch whose outcome nobody told; the request, and what its caller got."""
    call = start(topic.produce("a", partition=0))
    await opened(server)
    asked = await server.asked(Produce)
    with pytest.raises(OutcomeUnknown) as raised:
        await call
    return asked, raised.value


async def test_behind_an_unknown_outcome_the_name_is_opened_again_and_numbers_begin_anew(server, topic):
    await given_up(server, topic)
    await opened(server, SECOND, again=True)
    call = start(topic.produce("b", partition=0))
    asked = await server.asked(Produce)
    assert seen(asked) == (SECOND, 0, 0, [b"b"])
    asked.confirm(1)
    await call


async def test_nothing_new_is_sent_anywhere_while_an_outcome_under_the_old_id_is_open(server, client):
    topic = client.topic("orders", producer=NAME)
    call = start(topic.produce("a", partition=0))
    await opened(server)
    await server.asked(Produce)
    await asyncio.sleep(0.2)  # so that the other one's time ends later
    other = start(topic.produce("b", partition=1))
    open_still = await server.asked(Produce)
    with pytest.raises(OutcomeUnknown):
        await call
    new = start(topic.produce("c", partition=1))
    await client.wire.request(Ping())
    assert server.requests.empty()
    open_still.confirm(0)
    await other
    await opened(server, SECOND, again=True)
    asked = await server.asked(Produce)
    assert seen(asked) == (SECOND, 0, 1, [b"c"])
    asked.confirm(1)
    await new


async def test_an_unknown_outcome_that_did_not_happen_is_published_under_the_new_id(server, topic):
    asked, unknown = await given_up(server, topic)
    await opened(server, SECOND, again=True)
    retry = start(unknown.retry())
    old = await server.asked(Produce)
    assert seen(old) == seen(asked)
    old.reply(Stale("fenced", detail={"expected": 0}))
    anew = await server.asked(Produce)
    assert seen(anew) == (SECOND, 0, 0, [b"a"])
    anew.confirm(5)
    assert (await retry).offset == 5


async def test_an_unknown_outcome_that_did_happen_is_found_under_the_old_id(server, topic):
    _, unknown = await given_up(server, topic)
    await opened(server, SECOND, again=True)
    retry = start(unknown.retry())
    (await server.asked(Produce)).confirm(3, duplicate=True)
    assert (await retry).offset == 3


async def test_a_confirm_that_came_too_late_is_the_answer_to_who_asks_again(server, topic):
    asked, unknown = await given_up(server, topic)
    asked.confirm(7)
    await opened(server, SECOND, again=True)
    assert (await unknown.retry()).offset == 7


async def test_an_outcome_that_the_broker_has_forgotten_stays_unknown(server, topic):
    first = start(topic.produce("a", partition=0))
    await opened(server)
    (await server.asked(Produce)).confirm(0)
    await first
    call = start(topic.produce("b", partition=0))
    await server.asked(Produce)
    with pytest.raises(OutcomeUnknown) as raised:
        await call
    await opened(server, SECOND, again=True)
    retry = start(raised.value.retry())
    (await server.asked(Produce)).reply(Stale("fenced", detail={"expected": 0}))
    with pytest.raises(OutcomeUnknown):
        await retry


async def test_who_waits_for_another_id_is_told_that_the_name_was_taken(server, client, topic):
    _, unknown = await given_up(server, topic)
    asked = await server.asked(OpenProducer)
    waiting = start(topic.produce("b", partition=0))
    await client.wire.request(Ping())
    asked.reply(Stale("another instance has taken over"))
    with pytest.raises(Stale):
        await waiting
    retry = start(unknown.retry())
    (await server.asked(Produce)).reply(Stale("another instance", detail={"expected": 0}))
    with pytest.raises(Stale):
        await retry
    assert server.requests.empty()
