"""Filters in the broker: what is fetched is what fits, at its offset, and nobody spins where nothing fits."""

from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.bench import Bench, got

from penstock_broker import filtering
from penstock_broker.session import Connection
from penstock_broker.storage import compactor
from penstock_broker.storage.segment import segment_name
from penstock_protocol.batch import BatchBuilder, BatchView, Kind
from penstock_protocol.errors import Corrupt, Invalid, NotFound
from penstock_protocol.messages import session as s
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import decode_slices

TOPIC = "orders"
ARCHIVED_AFTER_MS = 61_000
TICK_MS = 1_000
EU = {"key": "eu.*"}
Key = bytes | None


class Orders(Bench):
    """A node with a topic of one partition, and who reads it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.me = self.connect()
        self.call(self.me, t.CreateTopic(TOPIC, settings, "check"))
        self.partition = self.core.registry.topics[TOPIC].partitions[0]

    def produce(self, *keys: Key, size: int = 1) -> None:
        builder = BatchBuilder()
        for key in keys:
            builder.add(b"x" * size, [] if key is None else [(Kind.KEY, msgpack.packb(key))])
        self.until_taken(self.me, t.Produce(TOPIC, 0, None, memoryview(builder.encode())))

    def fetch(self, offset: int, where: Any = EU, *, records: int = 100, wait: int = 0) -> Any:
        return self.call(self.me, t.Fetch(TOPIC, 0, offset, records, 1 << 20, wait, where))

    def wait(self, offset: int, where: Any = EU, ms: int = 20_000) -> int:
        """A FETCH that waits; its correlation."""
        asked = self.ask(self.me, t.Fetch(TOPIC, 0, offset, 100, 1 << 20, ms, where))
        self.settle()
        return asked

    def answer(self, asked: int) -> Any:
        return self.replies.get((self.me, asked))

    def read(self, where: Any, records: int = 100) -> tuple[list[tuple[int, Key]], int]:
        """All that fits from the start on, with its offsets; and how many FETCHes it took."""
        found: list[tuple[int, Key]] = []
        offset, fetches = self.partition.log.start, 0
        while offset < self.partition.log.end:
            reply = self.fetch(offset, where, records=records)
            fetches += 1
            some = records_in(reply)
            assert reply.next > offset
            assert all(offset <= each < reply.next for each, _ in some)
            assert len(some) <= records
            found += some
            offset = reply.next
        return found, fetches


def records_in(reply: t.Fetched) -> list[tuple[int, Key]]:
    """Offset and key of each record."""
    found = []
    for stamps, data in decode_slices(memoryview(reply.payload), reply.slices):
        batch = BatchView(data)
        cells = batch.cells(Kind.KEY) or [memoryview(b"")] * batch.count
        found += [
            (stamps.first + delta, msgpack.unpackb(cell) if cell else None)
            for delta, cell in zip(batch.deltas, cells, strict=True)
        ]
        assert stamps.messages == batch.count
        assert stamps.origin_first == stamps.first
    return found


def fitting(keys: list[Key]) -> list[tuple[int, Key]]:
    return [(offset, key) for offset, key in enumerate(keys) if key is not None and key.startswith(b"eu.")]


def test_only_what_fits_is_sent_and_next_lies_behind_all_that_was_seen() -> None:
    node = Orders()
    keys = [b"eu.1", b"us.1", None, b"eu.2", b"us.2"]
    node.produce(*keys[:3])
    node.produce(*keys[3:])
    reply = node.fetch(0)
    assert records_in(reply) == [(0, b"eu.1"), (3, b"eu.2")]
    assert (reply.start, reply.end, reply.next) == (0, 5, 5)
    assert node.partition.records_filtered == 3
    assert records_in(node.fetch(1, {"key": "us.1"})) == [(1, b"us.1")]


def test_next_lies_behind_the_last_record_where_there_is_room_for_no_more() -> None:
    node = Orders()
    node.produce(b"us.1", b"eu.1", b"us.2", b"eu.2", b"us.3")
    reply = node.fetch(0, records=1)
    assert (records_in(reply), reply.next) == ([(1, b"eu.1")], 2)
    assert node.read(EU, 1)[0] == [(1, b"eu.1"), (3, b"eu.2")]


def test_headers_are_looked_at_in_the_broker_too() -> None:
    node = Orders()
    builder = BatchBuilder()
    for number, kind in enumerate(("order", "refund", "ordered")):
        builder.add(b"%d" % number, [(Kind.HEADERS, msgpack.packb({"type": kind, "n": number}))])
    node.until_taken(node.me, t.Produce(TOPIC, 0, None, memoryview(builder.encode())))
    for where, expected in (({"header:type": "order*"}, [b"0", b"2"]), ({"header:n": 1}, [b"1"])):
        assert [body for each in got(node.fetch(0, where)) for body in each.bodies] == expected


def test_one_fetch_looks_through_a_bounded_part_and_says_where_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(filtering, "LOOKED_RECORDS_MAX", 8)
    node = Orders()
    for number in range(10):
        node.produce(*[b"us.%d" % number] * 4, b"eu.%d" % number)
    reply = node.fetch(0)
    assert (len(records_in(reply)), reply.next) == (1, 8)
    found, fetches = node.read(EU)
    assert found == [(number * 5 + 4, b"eu.%d" % number) for number in range(10)]
    assert 6 <= fetches <= 8


def test_batches_that_cannot_fit_cost_nothing_but_their_bytes() -> None:
    node = Orders(retention=None)
    for _ in range(40):
        node.produce(*[b"us.1"] * 3, size=10_000)
    found, fetches = node.read(EU)
    assert (found, node.partition.records_filtered) == ([], 120)
    assert fetches == 2  # 1.2 MB


@pytest.mark.parametrize("restart", [False, True])
def test_old_records_are_filtered_as_young_ones(restart: bool) -> None:
    node = Orders(retention=None)
    keys: list[Key] = [b"%s.%d" % ((b"eu", b"us")[n % 3 > 0], n) for n in range(300)]
    for at in range(0, 300, 10):
        node.produce(*keys[at : at + 10], size=100)
    node.clock.advance(ARCHIVED_AFTER_MS)
    node.settle()
    assert any(node.partition.log.stretches())
    if restart:
        node.files = node.files.crash(Random(3))
        life = Bench(node.files, node.clock)
        node.core, node.me = life.core, life.connect()
        node.partition = node.core.registry.topics[TOPIC].partitions[0]
    assert node.read(EU)[0] == fitting(keys)


KEYS = st.lists(st.sampled_from([b"eu.1", b"eu.2", b"us.1", b"us.2", None]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 20), st.booleans())
def test_reading_with_a_filter_is_reading_all_and_choosing(
    batches: list[list[Key]], records: int, looked: int, archived: bool
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(filtering, "LOOKED_RECORDS_MAX", looked)
        node = Orders(retention=None)
        for keys in batches:
            node.produce(*keys)
        if archived:
            node.clock.advance(ARCHIVED_AFTER_MS)
            node.settle()
        every = [key for keys in batches for key in keys]
        assert node.read(EU, records)[0] == fitting(every)
        assert node.read(None, records)[0] == list(enumerate(every))


def test_holes_of_compaction_are_passed_over() -> None:
    node = Orders(cleanup="compact", retention=None)
    for _ in range(60):
        node.produce(b"eu.1", b"us.1", b"eu.2", size=2_000)
    node.clock.advance(ARCHIVED_AFTER_MS)
    for _ in range(compactor.LOOK_EVERY_MS // TICK_MS + 5):
        node.settle()
        node.clock.advance(TICK_MS)
    assert node.partition.cleaned.removed
    kept = [row for row in node.read(None)[0] if row[1] != b"us.1"]
    assert node.read(EU)[0] == kept


# At the end


def test_waiting_reader_gets_what_fits_and_nothing_else() -> None:
    node = Orders()
    asked = node.wait(0)
    node.produce(b"us.1")
    assert node.answer(asked) is None
    node.produce(b"us.2", b"eu.1")
    reply = node.answer(asked)
    assert (records_in(reply), reply.next) == ([(2, b"eu.1")], 3)


def test_reader_at_the_end_hears_after_a_moment_of_what_was_not_for_it() -> None:
    node = Orders()
    asked = node.wait(0)
    for number in range(5):
        node.clock.advance(150)
        node.produce(b"us.%d" % number)
    assert node.answer(asked) is None
    node.clock.advance(filtering.TELL_MS - 4 * 150 - 1)
    node.settle()
    assert node.answer(asked) is None
    node.clock.advance(1)
    node.settle()
    reply = node.answer(asked)
    assert (reply.slices, reply.next, reply.end) == (0, 5, 5)


def test_wait_begins_in_front_of_the_end_too() -> None:
    node = Orders()
    node.produce(b"us.1", b"us.2")
    asked = node.wait(0)
    assert node.answer(asked) is None
    node.produce(b"eu.1")
    assert records_in(node.answer(asked)) == [(2, b"eu.1")]


def test_wait_of_a_reader_is_not_longer_than_it_asked_for() -> None:
    node = Orders()
    node.produce(b"us.1")
    asked = node.wait(0, ms=300)
    node.clock.advance(299)
    node.settle()
    assert node.answer(asked) is None
    node.clock.advance(1)
    node.settle()
    assert (node.answer(asked).slices, node.answer(asked).next) == (0, 1)


def test_reader_far_behind_is_told_where_to_go_on_instead_of_waiting() -> None:
    node = Orders(retention=None)
    for _ in range(120):
        node.produce(*[b"us.1"] * 3, size=10_000)
    asked = node.wait(0)
    reply = node.answer(asked)
    assert reply.slices == 0
    assert 0 < reply.next < reply.end


def test_nothing_that_happens_without_records_wakes_a_waiting_reader() -> None:
    node = Orders()
    node.produce(b"us.1")
    asked = node.wait(0, ms=900)
    deadline = node.core.deadline
    assert deadline is not None
    node.settle()
    assert (node.core.deadline, node.jobs, node.answer(asked)) == (deadline, [], None)


def test_wait_is_cancelled_and_ends_with_its_topic_and_its_connection() -> None:
    node = Orders()
    node.produce(b"us.1")
    asked = node.wait(0)
    node.ask(node.me, s.Cancel(asked))
    node.settle()
    assert (node.answer(asked).slices, node.answer(asked).next) == (0, 1)
    gone = node.wait(0)
    other: Connection = node.connect(b"another session.")
    node.ask(other, t.Fetch(TOPIC, 0, 0, 100, 1 << 20, 20_000, EU))
    node.settle()
    node.core.disconnected(other, node.clock.now())
    node.call(node.me, t.DeleteTopic(TOPIC))
    assert isinstance(node.answer(gone), NotFound)


def test_what_was_damaged_is_said_where_it_lies_and_not_before() -> None:
    node = Orders(retention=None)
    for number in range(12):
        node.produce(b"us.%d" % number, size=3_000)
    node.clock.advance(ARCHIVED_AFTER_MS)
    node.settle()
    stretch = next(each for each in node.partition.log.stretches() if each.end > 1)
    name = segment_name(stretch.segment)
    content = node.files.read(name, stretch.at, stretch.length)
    node.files.disk.flip(name, stretch.at + content.index(b"us.1x") + 100, 1)
    replies = [node.fetch(offset) for offset in (0, 1, 2)]
    assert isinstance(replies[1], Corrupt)
    assert (replies[0].slices, replies[0].next) == (0, 1)
    assert (replies[2].slices, replies[2].next) == (0, 12)


@pytest.mark.parametrize("where", [{"key": "\\"}, {"color": "red"}, {"key": "*" * 17}, {"header:h": ("a",)}])
def test_what_cannot_be_asked_is_refused_at_once(where: Any) -> None:
    node = Orders()
    assert isinstance(node.fetch(0, where, wait=60_000), Invalid)
