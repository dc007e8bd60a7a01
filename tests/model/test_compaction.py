"""Compaction on a whole node, against a dict: readers find the last record of every key where it was."""

from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack
import pytest
from tests.fakes.clock import ManualClock
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench

from penstock.compression import compressor, inflated
from penstock_broker.storage import compactor
from penstock_broker.storage.compaction import Cleaned
from penstock_broker.storage.segment import segment_name
from penstock_broker.topics.partition import Partition
from penstock_protocol.batch import ZSTD, BatchBuilder, BatchView, Kind
from penstock_protocol.errors import Invalid
from penstock_protocol.messages import topics as t
from penstock_protocol.slices import decode_slices

TOPIC = "state"
HOUR_MS = 3_600_000
TICK_MS = 1_000
ARCHIVED_AFTER_MS = 61_000
SETTINGS = {"cleanup": "compact", "retention": None, "tombstone_retention": HOUR_MS}
Rows = list[tuple[int, bytes | None, bytes | None]]
"""(offset, key, value); value None is a tombstone."""


class State(Bench):
    """A node with one compacted topic, and what was produced there."""

    def __init__(
        self, files: MemoryFiles | None = None, clock: ManualClock | None = None, rows: Rows | None = None
    ) -> None:
        super().__init__(files, clock)
        self.peer = self.connect()
        self.rows: Rows = rows or []
        if files is None:
            self.call(self.peer, t.CreateTopic(TOPIC, {**SETTINGS, "cleanup": "delete"}, "check"))
            self.produce(*[(None, b"of nobody")] * 5)  # from before it was compacted: they stay
            self.call(self.peer, t.AlterTopic(TOPIC, SETTINGS))

    def again(self, files: MemoryFiles) -> "State":
        """The next life."""
        clock = ManualClock()
        clock.advance(self.clock.now().mono)
        return type(self)(files, clock, list(self.rows))

    @property
    def partition(self) -> Partition:
        return self.core.registry.topics[TOPIC].partitions[0]

    def produce(self, *records: tuple[bytes | None, bytes | None]) -> None:
        builder = BatchBuilder()
        for key, value in records:
            cells: list[tuple[Kind, bytes | int]] = []
            if key is not None:
                cells.append((Kind.KEY, msgpack.packb(key)))
            if value is None:
                cells.append((Kind.ABSENT, 1))
            builder.add(value or b"", cells)
        reply = self.until_taken(self.peer, t.Produce(TOPIC, 0, None, memoryview(self.encoded(builder))))
        self.rows += [(reply.first + index, *record) for index, record in enumerate(records)]

    def encoded(self, builder: BatchBuilder) -> bytes:
        """A batch as its producer sends it."""
        return builder.encode()

    def fill(self, seed: int, batches: int = 60) -> None:
        """Records of few keys, enough for several journal files."""
        random = Random(seed)
        for _ in range(batches):
            common = [b"key%d" % each for each in range(20)]
            keys = [random.choice([b"only %x" % random.getrandbits(40), *common]) for _ in range(5)]
            self.produce(*[(key, random.randbytes(150) + bytes(50)) for key in keys])

    def wait(self, ms: int) -> None:
        """Time passes; then there is time for all that is due."""
        self.clock.advance(ms)
        for _ in range(compactor.LOOK_EVERY_MS // TICK_MS + 5):
            self.settle()
            self.clock.advance(TICK_MS)
        self.settle()

    def compact(self) -> Cleaned:
        """Let everything become old, and be compacted."""
        self.fill(1, batches=1)
        self.wait(ARCHIVED_AFTER_MS)
        return self.partition.cleaned

    def fetched(self, offset: int = 0, records: int = 7) -> Rows:
        """All records from an offset on, in small fetches."""
        rows: Rows = []
        while True:
            reply = self.call(self.peer, t.Fetch(TOPIC, 0, offset, records, 1 << 20, 0))
            rows += list(rows_of(reply))
            assert reply.next > offset or reply.next == reply.end
            offset = reply.next
            if offset == reply.end:
                return rows

    def expected(self, upto: int) -> Rows:
        """What is left when all below `upto` is compacted, tombstones not yet dropped."""
        last = {key: offset for offset, key, _ in self.rows if offset < upto}
        return [row for row in self.rows if row[1] is None or row[0] >= last.get(row[1], 0)]


class Squeezed(State):
    """The same, produced to in compressed batches."""

    def encoded(self, builder: BatchBuilder) -> bytes:
        data = builder.encode(0, 0, ZSTD, compressor(ZSTD))
        assert BatchView(data).codec == ZSTD or not BatchView(data).bodies()
        return data


def rows_of(reply: Any) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    for stamps, data in decode_slices(memoryview(reply.payload), reply.slices):
        view = BatchView(data)
        assert view.count == stamps.messages
        ends = [0, *view.ends()]
        bodies = inflated(view, stamps) if view.codec else view.bodies()
        keys = view.cells(Kind.KEY) or [memoryview(b"")] * view.count
        absent = view.integers(Kind.ABSENT) or [0] * view.count
        for index, delta in enumerate(view.deltas):
            key = msgpack.unpackb(keys[index]) if keys[index] else None
            body = None if absent[index] else bytes(bodies[ends[index] : ends[index + 1]])
            yield stamps.first + delta, key, body


@pytest.mark.parametrize("state", [State, Squeezed])
@pytest.mark.parametrize("seed", range(4))
def test_last_record_of_each_key_is_left_at_its_offset(seed: int, state: type[State]) -> None:
    node = state()
    node.fill(seed)
    before = node.partition.log.size_bytes
    cleaned = node.compact()
    assert cleaned.upto >= 250
    assert node.fetched() == node.expected(cleaned.upto)
    assert cleaned.removed == len(node.rows) - len(node.fetched())
    assert node.partition.log.size_bytes < before
    assert node.partition.log.end == len(node.rows)


def test_every_offset_can_be_read_from_and_leads_to_the_next_that_is_left() -> None:
    node = State()
    node.fill(5)
    expected = node.expected(node.compact().upto)
    for offset in range(0, len(node.rows), 11):
        assert node.fetched(offset, 500) == [row for row in expected if row[0] >= offset]


def test_pass_goes_on_where_the_last_one_ended() -> None:
    node = State()
    node.fill(6)
    first = node.compact()
    node.fill(7)
    second = node.compact()
    assert second.upto > first.upto
    assert node.fetched() == node.expected(second.upto)


def test_map_that_takes_few_keys_cleans_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_broker.storage.compaction.KEYS_MAX", 12)
    node = State()
    node.fill(8)
    upto = node.compact().upto
    assert 0 < upto < 300
    assert node.fetched() == node.expected(upto)


@pytest.mark.parametrize("end", ["killed", "cut off"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_was_compacted_stays_so_after_a_restart(end: str, checkpoint: bool) -> None:
    node = State()
    node.fill(9)
    cleaned = node.compact()
    if checkpoint:
        node.core.engine.checkpoint_now()
        node.settle()
    again = node.again(node.files.kill() if end == "killed" else node.files.crash())
    assert again.partition.cleaned == cleaned
    assert again.fetched() == node.expected(cleaned.upto)


@pytest.mark.covers("compaction", "kill -9", "power cut", "torn write")
@pytest.mark.parametrize("state", [State, Squeezed])
def test_broker_that_dies_at_any_time_of_a_pass_has_lost_no_last_record(state: type[State]) -> None:
    node = state()
    node.fill(10)
    node.fill(1, batches=1)
    before, lives = set(node.rows), 0
    left = set(node.expected(len(node.rows)))
    node.clock.advance(ARCHIVED_AFTER_MS)
    while not node.partition.cleaned.upto:
        node.turn()
        if node.core.engine.archiver.compactor.busy or node.partition.cleaned.upto:
            lives += 1
            for keep in ((), Random(lives)):
                again = node.again(node.files.crash(keep))
                assert left <= set(again.fetched()) <= before
                upto = again.compact().upto
                assert upto >= 250
                assert again.fetched() == again.expected(upto)
        node.run_jobs()
        node.clock.advance(TICK_MS)
    assert lives > 3


def test_tombstone_outlives_what_it_took_away_and_then_goes() -> None:
    node = State()
    node.produce((b"a", b"1" * 300), (b"b", b"1" * 300))
    node.produce((b"a", None))
    node.fill(11)
    cleaned = node.compact()
    tombstone = (7, b"a", None)
    assert tombstone in node.fetched()
    assert (5, b"a", b"1" * 300) not in node.fetched()
    assert cleaned.horizon == cleaned.upto
    node.wait(HOUR_MS)
    assert tombstone not in node.fetched()
    assert (6, b"b", b"1" * 300) in node.fetched()
    assert node.partition.cleaned.horizon == 0


def test_young_records_are_left_to_come() -> None:
    node = State()
    for number in range(3):
        node.produce((b"a", b"%d" % number))
    node.wait(1_000)
    assert node.fetched() == node.rows


def test_topic_that_is_not_compacted_keeps_every_record() -> None:
    node = State()
    node.call(node.peer, t.AlterTopic(TOPIC, {"cleanup": "delete"}))
    node.fill(12)
    assert node.compact() == Cleaned()
    assert node.fetched() == node.rows


@pytest.mark.covers("compaction", "rot")
def test_damaged_log_is_left_as_it_is() -> None:
    node = State()
    node.fill(13)
    node.settle()
    node.clock.advance(ARCHIVED_AFTER_MS)
    while not list(node.partition.log.stretches()):
        node.turn()
        node.run_jobs()
    stretch = next(node.partition.log.stretches())
    node.files.disk.flip(segment_name(stretch.segment), stretch.at + stretch.length - 100, 1)
    assert node.compact() == Cleaned()
    assert node.partition.log.end == len(node.rows)
    assert next(node.partition.log.stretches()) == stretch


@pytest.mark.parametrize("value", [b"a value", None], ids=["record", "tombstone"])
@pytest.mark.parametrize("keys", [(None,), (b"k", None), (None, b"k")], ids=["alone", "last", "first"])
def test_record_without_a_key_is_refused_where_only_the_last_of_a_key_stays(
    value: bytes | None, keys: tuple[bytes | None, ...]
) -> None:
    node = State()
    builder = BatchBuilder()
    for key in keys:
        cells: list[tuple[Kind, bytes | int]] = [] if key is None else [(Kind.KEY, msgpack.packb(key))]
        builder.add(value or b"", cells if value is not None else [*cells, (Kind.ABSENT, 1)])
    data = memoryview(builder.encode())
    refused = node.call(node.peer, t.Produce(TOPIC, 0, None, data))
    assert isinstance(refused, Invalid)
    assert 'cleanup="delete"' in refused.hint
    assert node.partition.log.end == len(node.rows)
    node.call(node.peer, t.AlterTopic(TOPIC, {"cleanup": "delete"}))
    assert node.until_taken(node.peer, t.Produce(TOPIC, 0, None, data)).messages == len(keys)
