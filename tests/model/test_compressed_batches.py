"""Compressed batches in a whole node: kept and served as they came, cut without a look inside."""

from random import Random
from typing import Any

import msgpack
import pytest
from tests.model.bench import Bench
from tests.model.test_compaction import TOPIC, Squeezed

from penstock.compression import compressor, inflated
from penstock_broker.session import Connection
from penstock_protocol.batch import LZ4, ZSTD, BatchBuilder, BatchView, Kind
from penstock_protocol.checksum import crc32
from penstock_protocol.errors import Invalid, TooLarge
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import schedules as c
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import Range, Slice, decode_slices, encode_ranges

CODECS = pytest.mark.parametrize("codec", [LZ4, ZSTD], ids=["lz4", "zstd"])


def squeezed(*bodies: bytes, codec: int = LZ4, keys: tuple[bytes, ...] = ()) -> memoryview:
    builder = BatchBuilder()
    for index, body in enumerate(bodies):
        builder.add(body, [(Kind.KEY, msgpack.packb(keys[index]))] if keys else ())
    data = memoryview(builder.encode(0, 0, codec, compressor(codec)))
    assert BatchView(data).codec == codec
    return data


def bodies_of(delivery: Any) -> list[bytes]:
    """The values of a delivery of compressed batches, as a reader sees them."""
    found: list[bytes] = []
    for stamps, data in decode_slices(memoryview(delivery.payload), delivery.slices):
        view = BatchView(data)
        assert view.codec
        bodies = inflated(view, stamps)
        ends = [0, *view.ends()]
        found += [bytes(bodies[ends[index] : ends[index + 1]]) for index in range(view.count)]
    return found


def stamps_of(delivery: Any) -> list[Slice]:
    return [stamps for stamps, _ in decode_slices(memoryview(delivery.payload), delivery.slices)]


def fetched(bench: Bench, me: Connection, offset: int = 0, records: int = 100) -> Any:
    return bench.call(me, t.Fetch("events", 0, offset, records, 1 << 20, 0))


BODIES = [b"%d " % number * 50 for number in range(8)]


def bench_with_topic() -> tuple[Bench, Connection]:
    bench = Bench()
    me = bench.connect()
    bench.call(me, t.CreateTopic("events", {}, "check"))
    return bench, me


def produce(bench: Bench, me: Connection, data: memoryview) -> Any:
    return bench.until_taken(me, t.Produce("events", 0, payload=data))


@CODECS
def test_compressed_batch_is_served_as_it_was_sent_and_after_a_restart(codec: int) -> None:
    bench, me = bench_with_topic()
    sent = squeezed(*BODIES, codec=codec)
    confirm = produce(bench, me, sent)
    assert (confirm.messages, confirm.credit) == (8, len(sent))
    ((_, data),) = decode_slices(memoryview(fetched(bench, me).payload), 1)
    assert bytes(data) == bytes(sent)
    bench = Bench(bench.files.crash(Random(1)), bench.clock)
    ((_, data),) = decode_slices(memoryview(fetched(bench, bench.connect()).payload), 1)
    assert bytes(data) == bytes(sent)


@CODECS
def test_fetch_begins_and_ends_anywhere_in_a_compressed_batch(codec: int) -> None:
    bench, me = bench_with_topic()
    produce(bench, me, squeezed(*BODIES, codec=codec))
    for offset in range(8):
        for records in (1, 3, 100):
            delivery = fetched(bench, me, offset, records)
            assert bodies_of(delivery) == BODIES[offset : offset + records]
            assert delivery.next == min(8, offset + records)


@CODECS
def test_queue_over_a_topic_settles_single_records_of_a_compressed_batch(codec: int) -> None:
    bench, me = bench_with_topic()
    bench.call(me, q.CreateQueue("work", {"source": "events", "max_attempts": 2}, "check"))
    produce(bench, me, squeezed(*BODIES, codec=codec))
    delivery = bench.call(me, q.Receive("work", 3, 0))
    assert bodies_of(delivery) == BODIES[:3]
    (stamps,) = stamps_of(delivery)
    bench.ack(me, "work", Range(stamps.token, 1, 0, 1))
    for attempt in (1, 2):
        again = encode_ranges([Range(stamps.token, 2, 0, 1)])
        bench.call(me, q.Nack("work", q.Outcome.RETRY, 0, "no", memoryview(again)))
        delivery = bench.call(me, q.Receive("work" if attempt == 1 else "work.dead", 1, 0))
        (stamps,) = stamps_of(delivery)
        assert bodies_of(delivery) == [BODIES[2]]
        ((_, data),) = decode_slices(memoryview(delivery.payload), 1)
        (history,) = BatchView(data).cells(Kind.HISTORY) or [memoryview(b"")]
        assert len(msgpack.unpackb(history)["attempts"]) == attempt
    assert stamps.origin_first == 2


def test_dead_letter_of_a_compressed_batch_moves_to_another_queue() -> None:
    bench, me = bench_with_topic()
    bench.call(me, q.CreateQueue("work", {"source": "events", "max_attempts": 1}, "check"))
    bench.call(me, q.CreateQueue("other", {}, "check"))
    produce(bench, me, squeezed(*BODIES))
    (stamps,) = stamps_of(bench.call(me, q.Receive("work", 2, 0)))
    both = encode_ranges([Range(stamps.token, 0, 0, 2)])
    bench.call(me, q.Nack("work", q.Outcome.RETRY, 0, "no", memoryview(both)))
    bench.call(me, q.Transfer("work.dead", "other", "ready", 1_000, 0, {}, False))
    bench.settle()
    assert bodies_of(bench.call(me, q.Receive("other", 10, 0))) == BODIES[:2]


# What is not let in


def test_queue_takes_no_compressed_batch() -> None:
    bench, me = bench_with_topic()
    bench.call(me, q.CreateQueue("work", {}, "check"))
    one = squeezed(BODIES[0])
    refused = bench.call(me, q.Enqueue("work", one))
    assert isinstance(refused, Invalid)
    assert "compress each body" in (refused.hint or "")
    assert isinstance(
        bench.call(me, c.CreateSchedule("nightly", "work", {"every": 60}, "check", one)), Invalid
    )
    bench.enqueue(me, "work", b"x")
    (got,) = bench.receive(me, "work")
    lease = encode_ranges([Range(got.stamps.token, 0, 0, 1)])
    assert isinstance(bench.call(me, q.Reply("work", "work", memoryview(lease + bytes(one)))), Invalid)
    assert bench.queue("work").log.end == 1


@pytest.mark.parametrize(
    ("size", "error", "says"),
    [(9 << 20, TooLarge, "8,388,608"), (200_000, Invalid, "as it is"), (1_100_000, Invalid, "as it is")],
    ids=["beyond what a reader takes", "beyond the ratio", "beyond both the ratio and the message"],
)
def test_bomb_is_refused_by_its_header(size: int, error: type[Exception], says: str) -> None:
    bench, me = bench_with_topic()
    data = bytearray(squeezed(b"x" * 5_000))
    data[28:32] = data[32:36] = size.to_bytes(4, "little")
    data[4:8] = crc32(memoryview(data)[8:]).to_bytes(4, "little")
    refused = bench.call(me, t.Produce("events", 0, payload=memoryview(data)))
    assert isinstance(refused, error)
    assert says in f"{refused} {getattr(refused, 'hint', '')}"
    assert fetched(bench, me).end == 0


# Compaction


def test_compaction_takes_records_out_of_compressed_batches_and_leaves_the_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock_broker.storage.compaction.PIECE_RECORDS", 2)
    node = Squeezed()
    node.fill(1)
    cleaned = node.compact()
    assert node.fetched() == node.expected(cleaned.upto)
    reply = node.call(node.peer, t.Fetch(TOPIC, 0, 0, 10_000, 1 << 20, 0))
    slices = decode_slices(memoryview(reply.payload), reply.slices)
    assert any(BatchView(data).sparse and BatchView(data).codec for _, data in slices)
    numbers = [stamps.origin_first // 5 for stamps, _ in slices]
    assert len(set(numbers)) == len(numbers) > 20, "no batch became several, each with all of the bodies"
