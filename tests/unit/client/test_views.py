"""Views over delivered bytes: what is in them, and what happens when the bytes are wrong."""

from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from tests.fakes.client_wire import LOG, FakeClient, delivered, payload_of, queue_of

from penstock import codecs
from penstock.errors import Corrupt, Invalid
from penstock.queue import Queue
from penstock.record import RecordRun
from penstock.runs import id_of, place_of
from penstock.views import Messages, Receipts, Records
from penstock_protocol.batch import Kind
from penstock_protocol.messages.queues import Delivery
from penstock_protocol.slices import REDELIVERED, REPLAYED, decode_slices


def messages_of(*parts: tuple[bytes, bytes], codec: codecs.Codec[Any] = codecs.raw) -> Messages[Any]:
    client: Any = FakeClient()
    queue: Queue[Any] = Queue(client, "jobs", codec)
    return Messages(queue, queue.runs(Delivery(*payload_of(*parts))))


def records_of(*parts: tuple[bytes, bytes]) -> Records[bytes]:
    slices, payload = payload_of(*parts)
    runs = [RecordRun(s, b, "lines", codecs.raw) for s, b in decode_slices(memoryview(payload), slices)]
    return Records(3, runs, start=0, end=9, next_offset=2)


async def test_messages_of_several_slices_are_one_sequence() -> None:
    messages = messages_of(delivered(b"a", b"b", first=5), delivered(b"c", first=9, attempt=2, delivery=4))
    assert len(messages) == 3
    assert [m.body for m in messages] == [b"a", b"b", b"c"]
    assert [m.offset for m in messages] == [5, 6, 9]
    assert [messages[i].body for i in range(3)] == [b"a", b"b", b"c"]
    assert [(m.attempt, m.delivery) for m in messages] == [(1, 1), (1, 1), (2, 4)]
    assert [m.body for m in messages[1:]] == [b"b", b"c"]
    assert messages[-1].body == b"c"


@pytest.mark.parametrize("index", [3, -4], ids=["behind the end", "before the start"])
async def test_an_index_outside_a_view_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        messages_of(delivered(b"a", b"b", b"c"))[index]


async def test_an_empty_delivery_is_an_empty_view() -> None:
    messages = messages_of()
    assert not messages
    assert list(messages) == []


async def test_a_message_shows_its_stamps() -> None:
    (message,) = messages_of(
        delivered(b"x", first=40, origin_first=2, token=99, attempt=3, delivery=5, flags=REDELIVERED)
    )
    assert message.id == f"{LOG}:2"
    assert (message.offset, message.partition, message.queue) == (40, 0, "jobs")
    assert (message.attempt, message.delivery, message.redelivered) == (3, 5, True)
    assert message.lease_token == 99
    assert 29 < message.lease_remaining <= 30
    assert message.enqueued_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


async def test_a_message_shows_its_columns_and_none_where_it_has_no_cell() -> None:
    with_headers = [(Kind.HEADERS, msgpack.packb({"n": 1, "s": "x", "none": None}))]
    first, second = messages_of(delivered(b"a", b"b", cells=[with_headers, []]))
    assert first.headers == {"n": 1, "s": "x", "none": None}
    assert second.headers == {}
    assert second.key is None
    assert (second.message_group, second.priority, second.reply_to) == (None, 0, None)
    assert (second.correlation_id, second.content_type) == (None, None)


async def test_a_body_goes_through_the_codec_and_raw_does_not() -> None:
    (message,) = messages_of(delivered(b'{"a":"\xc3\xa9"}'), codec=codecs.json)
    assert message.body == {"a": "é"}
    assert message.body is message.body
    assert message.raw == b'{"a":"\xc3\xa9"}'
    assert message.text == '{"a":"é"}'


async def test_messages_of_the_same_place_are_equal() -> None:
    messages = messages_of(delivered(b"a", b"b"))
    assert messages[0] == messages[0]
    assert messages[0] != messages[1]
    assert messages[1] in messages
    assert len({messages[0], messages[0], messages[1]}) == 2
    assert messages_of(delivered(b"a"))[0] != messages[0]


@pytest.mark.parametrize("at", [8, 20, -1], ids=["version", "sequence", "last byte of a body"])
async def test_a_damaged_batch_is_corrupt(at: int) -> None:
    stamps, batch = delivered(b"payload")
    damaged = bytearray(batch)
    damaged[at] ^= 1
    with pytest.raises(Corrupt):
        messages_of((stamps, bytes(damaged)))


async def test_a_damaged_slice_is_corrupt() -> None:
    stamps, batch = delivered(b"payload")
    with pytest.raises(Corrupt):
        messages_of((stamps[:8] + b"\1" + stamps[9:], batch))


async def test_a_slice_that_counts_other_messages_than_its_batch_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="slice of 2 messages carries 1"):
        messages_of(delivered(b"payload", messages=2))


async def test_peeked_messages_have_no_lease_to_settle() -> None:
    client = FakeClient()
    queue = queue_of(client)
    messages = Messages(queue, queue.runs(Delivery(*payload_of(delivered(b"a", token=0, lease=0)))))
    assert messages[0].lease_remaining == 0
    with pytest.raises(Invalid, match="peeked"):
        await messages.ack()
    with pytest.raises(Invalid, match="peeked"):
        await messages[0].nack()
    async with messages[0]:
        pass
    await client.settler.flush()
    assert client.wire.asked == []


def test_records_show_key_value_headers_and_times() -> None:
    cells = [
        [(Kind.KEY, msgpack.packb(b"k")), (Kind.TIMESTAMP, 1_000)],
        [(Kind.KEY, msgpack.packb(b"k")), (Kind.ABSENT, 1)],
        [(Kind.HEADERS, msgpack.packb({"h": b"\0"}))],
    ]
    records = records_of(delivered(b"v", b"", b"", cells=cells, first=10, partition=3, token=0))
    value, tombstone, empty = records
    assert (value.topic, value.partition, value.offset) == ("lines", 3, 10)
    assert (value.key, value.value, value.raw, value.text) == (b"k", b"v", b"v", "v")
    assert value.timestamp == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert value.id == f"{LOG}:10"
    assert (tombstone.value, tombstone.raw, tombstone.key) == (None, b"", b"k")
    assert tombstone.timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert (empty.value, empty.key, empty.headers) == (b"", None, {"h": b"\0"})
    assert (records.start, records.end, records.next_offset) == (0, 9, 2)


def test_receipts_are_made_from_parts_when_touched() -> None:
    made: list[tuple[str, int]] = []

    def make(part: str, index: int) -> str:
        made.append((part, index))
        return f"{part}{index}"

    receipts = Receipts(["a", "b"], [2, 3], make)
    assert len(receipts) == 5
    assert made == []
    assert receipts[2] == "b0"
    assert made == [("b", 0)]
    assert list(receipts) == ["a0", "a1", "b0", "b1", "b2"]


async def test_a_message_shows_what_the_broker_added_however_large() -> None:
    attempts = [["worker", 1, 2, "nacked", "no"]] * 100
    history = {
        "queue": "jobs",
        "offset": 3,
        "first_at": 1,
        "last_at": 2,
        "reason": None,
        "attempts": attempts,
    }
    cells = [(Kind.HISTORY, msgpack.packb(history)), (Kind.CHECKPOINT, msgpack.packb(b"x" * 65_536))]
    first, second = messages_of(delivered(b"a", b"b", cells=[cells, []], flags=REPLAYED))
    assert first.checkpoint == b"x" * 65_536
    assert first.history is not None
    assert (first.history.queue, len(first.history.attempts)) == ("jobs", 100)
    assert (second.checkpoint, second.history) == (None, None)
    assert (first.replayed, first.redelivered) == (True, False)


async def test_a_message_through_another_codec_is_the_same_message() -> None:
    (message,) = messages_of(delivered(b'{"a":1}', first=4))
    other = message.through(codecs.json)
    assert (message.body, other.body, other.offset, other.queue) == (b'{"a":1}', {"a": 1}, 4, "jobs")


@pytest.mark.parametrize("offset", [0, 7, 2**63 - 1])
def test_an_id_tells_its_place(offset: int) -> None:
    assert place_of(id_of(LOG.bytes, offset)) == (LOG.bytes, offset)


@pytest.mark.parametrize("id", ["", "7", f"{LOG}", f"{LOG}:", f"{LOG}:-1", f"{LOG}:x", f"{LOG}:1 ", "x:1"])
def test_what_is_no_id_is_invalid(id: str) -> None:
    with pytest.raises(Invalid, match="is no id of a message"):
        place_of(id)
