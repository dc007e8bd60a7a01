"""Requests that are answered in parts, on a socket; and a reader that is, at the end of a partition."""

import asyncio
from random import Random

import pytest
from tests.fakes.client_wire import delivered, payload_of, turns
from tests.fakes.scripted_server import until
from tests.fakes.topic_broker import Broker

from penstock.connection import Wire
from penstock.endpoint import endpoints
from penstock.errors import Busy, Corrupt, Disconnected, NotFound, OffsetOutOfRange, Timeout
from penstock.reading import FETCH_RECORDS
from penstock_protocol.messages.session import Cancel
from penstock_protocol.messages.topics import Fetch, Fetched

FETCH = Fetch("orders", 0, 4, 100, 1 << 20, 20_000, None, True)


def fetched(first: int, *bodies: bytes) -> Fetched:
    end = first + len(bodies)
    return Fetched(*_front(first, end), payload_of(delivered(*bodies, first=first, token=0))[1])


def _front(first: int, end: int) -> tuple[int, int, int, int]:
    return int(end > first), 0, end, end


NOTHING = Fetched(0, 0, 6, 6, b"")


@pytest.fixture
async def wire(server):
    wire = Wire(endpoints(server.url, None), random=Random(1))
    await wire.open(5.0)
    yield wire
    await wire.close(1.0)


async def test_parts_come_in_order_and_the_last_reply_ends_the_request(server, wire):
    parts = []
    asking = asyncio.ensure_future(wire.request(FETCH, on_part=parts.append))
    asked = await server.asked(Fetch)
    assert asked.message == FETCH
    asked.part(fetched(4, b"a"))
    asked.part(fetched(5, b"b"))
    await until(lambda: len(parts) == 2)
    assert [part.next for part in parts] == [5, 6]
    assert not asking.done()
    asked.reply(NOTHING)
    assert (await asking).next == 6
    assert (len(parts), wire._socket._replies, wire._socket._parts) == (2, {}, {})


@pytest.mark.parametrize("end", ["the socket is lost", "the broker is busy"])
async def test_request_is_not_sent_again_behind_a_part(server, wire, end):
    parts = []
    asking = asyncio.ensure_future(wire.request(FETCH, on_part=parts.append))
    asked = await server.asked(Fetch)
    asked.part(fetched(4, b"a"))
    await until(lambda: parts)
    if end == "the socket is lost":
        server.cut()
    else:
        asked.reply(Busy("later", retry_after=0.001))
    with pytest.raises(Disconnected, match="the rest"):
        await asking
    assert server.requests.empty()


async def test_request_without_a_part_yet_is_sent_again(server, wire):
    parts = []
    asking = asyncio.ensure_future(wire.request(FETCH, on_part=parts.append))
    await server.asked(Fetch)
    server.cut()
    asked = await server.asked(Fetch)
    asked.part(fetched(4, b"a"))
    asked.reply(NOTHING)
    assert (await asking).next == 6
    assert len(parts) == 1


async def test_refusal_behind_a_part_is_raised(server, wire):
    asking = asyncio.ensure_future(wire.request(FETCH, on_part=lambda part: None))
    asked = await server.asked(Fetch)
    asked.part(fetched(4, b"a"))
    asked.reply(NotFound("it was deleted"))
    with pytest.raises(NotFound, match="deleted"):
        await asking


async def test_parts_for_whoever_has_gone_are_dropped_and_the_broker_is_told(server, wire):
    parts = []
    with pytest.raises(Timeout):
        await wire.request(FETCH, timeout=0.01, on_part=parts.append)
    asked = await server.asked(Fetch)
    assert (await server.asked(Cancel)).message.correlation == asked.correlation
    asked.part(fetched(4, b"a"))
    asked.reply(NOTHING)
    await until(lambda: not wire._socket._replies)
    assert (parts, wire._socket._parts, wire.connected) == ([], {}, True)


async def test_part_that_cannot_be_read_ends_the_request_here_and_there(server, wire):
    def refuse(part):
        raise Corrupt("a slice fails its checksum")

    asking = asyncio.ensure_future(wire.request(FETCH, on_part=refuse))
    asked = await server.asked(Fetch)
    asked.part(fetched(4, b"a"))
    with pytest.raises(Corrupt, match="checksum"):
        await asking
    assert (await server.asked(Cancel)).message.correlation == asked.correlation
    asked.reply(NOTHING)
    await until(lambda: not wire._socket._replies)


async def test_part_of_what_was_not_asked_in_parts_breaks_the_protocol(server, wire):
    asking = asyncio.ensure_future(wire.request(FETCH._replace(in_parts=False)))
    (await server.asked(Fetch)).part(fetched(4, b"a"))
    (await server.asked(Fetch)).reply(NOTHING)  # on another connection
    await asking
    assert wire.connections == 2


# The reader


def asked(broker: Broker) -> list[tuple[int, bool]]:
    """Offset of each FETCH, and whether it may be answered in parts."""
    return [(fetch.offset, fetch.in_parts) for fetch in broker.wire.of(Fetch)]


async def read(consumer, records):
    return [(await anext(consumer)).offset for _ in range(records)]


async def test_one_fetch_at_the_end_brings_all_that_comes():
    broker = Broker()
    broker.append(b"0", b"1")
    async with broker.consumer(auto_commit=True) as consumer:
        assert await read(consumer, 2) == [0, 1]
        for offset in range(2, 12):
            reading = asyncio.ensure_future(read(consumer, 1))
            await turns()
            broker.append(b"x")
            assert await reading == [offset]
        assert asked(broker) == [(0, False), (2, True)]
    assert broker.committed[0][0] == 11  # the last one is in hand


async def test_what_comes_while_nobody_takes_it_is_bounded_by_the_fetch():
    broker = Broker()
    async with broker.consumer() as consumer:
        broker.append(b"x")
        await read(consumer, 1)
        for _ in range(2 * FETCH_RECORDS // 10):
            broker.append(*[b"x"] * 10)
        await turns(10)
        assert len(asked(broker)) == 2
        assert await read(consumer, FETCH_RECORDS) == list(range(1, FETCH_RECORDS + 1))


async def test_fetch_far_from_the_end_is_answered_once():
    broker = Broker()
    broker.append(*[b"x"] * 25)
    async with broker.consumer() as consumer:
        await read(consumer, 25)
        await turns()
        assert asked(broker) == [(0, False), (10, False), (20, False), (25, True)]
        consumer.seek(0, 3)
        assert await read(consumer, 2) == [3, 4]
        assert asked(broker)[4] == (3, False)


async def test_parts_of_a_fetch_before_a_seek_are_dropped():
    broker = Broker()
    broker.append(b"0", b"1")
    async with broker.consumer() as consumer:
        await read(consumer, 2)
        await turns()
        consumer.seek(0, 0)
        broker.append(b"2")
        assert await read(consumer, 3) == [0, 1, 2]


async def test_reader_goes_on_behind_the_last_part_when_the_connection_is_lost():
    broker = Broker()
    broker.append(b"0")
    async with broker.consumer() as consumer:
        await read(consumer, 1)
        await turns()
        broker.append(b"1")
        broker.wire.last(Fetch).reply(Disconnected("the rest of the answer was lost"))
        broker.append(b"2")
        assert await read(consumer, 2) == [1, 2]
        assert [offset for offset, _ in asked(broker)] == [0, 1, 2]


async def test_refusal_behind_parts_is_told_behind_their_records():
    broker = Broker()
    broker.append(b"0")
    async with broker.consumer() as consumer:
        await read(consumer, 1)
        await turns()
        broker.append(b"1", b"2")
        broker.wire.last(Fetch).reply(OffsetOutOfRange("gone", detail={"start": 9, "end": 9}))
        assert await read(consumer, 2) == [1, 2]
        with pytest.raises(OffsetOutOfRange):
            await anext(consumer)


async def test_until_ends_within_the_parts():
    broker = Broker()
    async with broker.consumer(until={0: 3}, auto_commit=True) as consumer:
        reading = asyncio.ensure_future(read(consumer, 3))
        for _ in range(5):
            await turns()
            broker.append(b"x")
        assert await reading == [0, 1, 2]
        with pytest.raises(StopAsyncIteration):
            await anext(consumer)
    assert broker.committed[0][0] == 3


async def test_hole_behind_parts_is_passed_over_when_they_are_finished():
    broker = Broker()
    broker.append(b"0")
    broker.gone = {3, 4}
    async with broker.consumer() as consumer:
        await read(consumer, 1)
        await turns()
        broker.append(b"1", b"2")
        broker.append(b"3", b"4")
        assert await read(consumer, 2) == [1, 2]
        await consumer.commit()
    assert broker.committed[0][0] == 5
