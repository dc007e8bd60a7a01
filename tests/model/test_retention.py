"""Retention on a whole node: what goes, what stays, and what readers and groups are told."""

from typing import Any

import pytest
from tests.fakes.clock import ManualClock
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench, batch, got

from penstock_broker.topics import retention
from penstock_broker.topics.partition import Partition
from penstock_protocol.errors import NotFound, OffsetOutOfRange
from penstock_protocol.messages import topics as t
from penstock_protocol.messages.schema import unpack_document

TOPIC = "log"
BODY = b"x" * 900
HOUR_MS = 3_600_000
ARCHIVED_AFTER_MS = 61_000


class OneTopic(Bench):
    """A node with one topic and a connection."""

    def __init__(
        self,
        settings: dict[str, Any] | None,
        files: MemoryFiles | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        super().__init__(files, clock)
        self.peer = self.connect()
        if settings is not None:
            self.call(self.peer, t.CreateTopic(TOPIC, settings, "check"))

    def partition(self, number: int = 0) -> Partition:
        return self.core.registry.topics[TOPIC].partitions[number]

    def produce(self, *bodies: bytes, partition: int = 0, after: int = 0) -> None:
        self.clock.advance(after)
        self.until_taken(self.peer, t.Produce(TOPIC, partition, None, batch(*bodies)))

    def fetch(self, offset: int, records: int = 1_000) -> Any:
        return self.call(self.peer, t.Fetch(TOPIC, 0, offset, records, 1 << 20, 0))

    def bodies(self, offset: int) -> list[bytes]:
        return [body for each in got(self.fetch(offset)) for body in each.bodies]

    def alter(self, **settings: Any) -> None:
        self.call(self.peer, t.AlterTopic(TOPIC, settings))

    def wait(self, ms: int) -> None:
        """Time passes, and then as much as a round of retention needs."""
        self.clock.advance(ms)
        for _ in range(3):
            self.settle()
            self.clock.advance(retention.EVERY_MS)
        self.settle()

    def range(self, number: int = 0) -> tuple[int, int]:
        log = self.partition(number).log
        return log.start, log.end


def test_records_go_when_they_are_too_old_and_others_stay() -> None:
    node = OneTopic({"retention": HOUR_MS})
    node.produce(b"a", b"b")
    node.produce(b"c", after=HOUR_MS // 2)
    node.wait(HOUR_MS // 2 - 10_000)
    assert node.range() == (0, 3)
    node.wait(10_000)
    assert node.range() == (2, 3)
    assert node.bodies(2) == [b"c"]


def test_age_counts_for_old_data_too_and_to_the_last_record() -> None:
    node = OneTopic({"retention": HOUR_MS})
    node.produce(b"a", b"b")
    node.produce(BODY * 20, after=1)
    node.wait(ARCHIVED_AFTER_MS)
    assert list(node.partition().log.stretches())
    node.wait(HOUR_MS)
    assert node.range() == (3, 3)
    assert node.partition().log.size_bytes == 0
    assert not node.core.registry.node.segments


def test_oldest_records_of_the_whole_topic_go_when_it_is_too_large() -> None:
    node = OneTopic({"partitions": 2, "retention_bytes": 3_000})
    for number in range(6):
        node.produce(BODY, partition=number % 2, after=1)
    node.wait(0)
    assert [node.range(0), node.range(1)] == [(1, 3), (1, 3)]
    node.produce(BODY, partition=1)
    node.wait(0)
    assert [node.range(0), node.range(1)] == [(2, 3), (1, 4)]


def test_topic_never_falls_below_its_size_limit() -> None:
    node = OneTopic({"retention_bytes": 10_000})
    for _ in range(40):
        node.produce(BODY)
    node.wait(0)
    batch_bytes = node.partition().log.size_bytes // (node.range()[1] - node.range()[0])
    assert 10_000 <= node.partition().log.size_bytes < 10_000 + batch_bytes


def test_limit_of_zero_keeps_nothing_and_none_keeps_all() -> None:
    node = OneTopic({"retention": None, "retention_bytes": None})
    node.produce(BODY)
    node.wait(100 * 365 * 24 * HOUR_MS)
    assert node.range() == (0, 1)
    node.alter(retention=0)
    node.wait(0)
    assert node.range() == (1, 1)


def test_compacted_topic_loses_nothing_to_age_or_size() -> None:
    node = OneTopic({"retention": None, "retention_bytes": 0, "cleanup": "delete"})
    node.produce(BODY)
    node.alter(retention=1, cleanup="compact")
    node.wait(HOUR_MS)
    assert node.range() == (0, 1)
    node.alter(cleanup="both")
    node.wait(0)
    assert node.range() == (1, 1)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("end", ["killed", "cut off"])
def test_what_went_stays_away_after_a_restart(checkpoint: bool, end: str) -> None:
    node = OneTopic({"retention": HOUR_MS})
    node.produce(b"a")
    node.produce(b"b", after=HOUR_MS + 1)
    node.wait(0)
    node.alter(retention=None)  # so that nothing else takes it away
    if checkpoint:
        node.core.engine.checkpoint_now()
        node.settle()
    files = node.files.kill() if end == "killed" else node.files.crash()
    again = OneTopic(None, files, node.clock)
    assert again.range() == (1, 2)
    assert again.bodies(1) == [b"b"]


def test_fetch_below_the_new_start_tells_the_range() -> None:
    node = OneTopic({"retention": HOUR_MS})
    node.produce(b"a")
    node.produce(b"b", after=HOUR_MS + 1)
    node.wait(0)
    refused = node.fetch(0)
    assert isinstance(refused, OffsetOutOfRange)
    assert refused.detail == {"start": 1, "end": 2}


def test_fetch_that_waits_at_the_end_gets_what_comes_after_everything_went() -> None:
    node = OneTopic({"retention": 10_000})
    node.produce(b"a")
    waiting = node.ask(node.peer, t.Fetch(TOPIC, 0, 1, 100, 1 << 20, 1_000_000))
    node.wait(20_000)
    assert node.range() == (1, 1)
    node.produce(b"b")
    fetched = node.replies[node.peer, waiting]
    assert [each.bodies for each in got(fetched)] == [[b"b"]]
    assert (fetched.start, fetched.end, fetched.next) == (1, 2, 2)


def test_lag_of_a_group_below_the_start_counts_what_is_kept() -> None:
    node = OneTopic({"retention": HOUR_MS})
    node.produce(*[b"x"] * 10)
    node.call(node.peer, t.Commit("readers", TOPIC, ((0, 3, ""),)))
    node.produce(b"y", b"z", after=HOUR_MS + 1)
    node.wait(0)
    described = unpack_document(node.call(node.peer, t.DescribeGroup("readers")).payload)
    (row,) = described["partitions"]
    assert (row["current"], row["end"], row["lag"]) == (3, 12, 2)
    assert row["lag_seconds"] < 60


def test_bytes_and_records_that_went_are_counted() -> None:
    node = OneTopic({"retention": HOUR_MS})
    node.produce(BODY, BODY)
    size = node.partition().log.size_bytes
    node.wait(HOUR_MS + 1)
    (facts,) = node.core.facts(node.clock.now()).partitions
    assert (facts.records_dropped, facts.bytes_dropped, facts.bytes) == (2, size, 0)


def test_round_over_many_topics_comes_in_slices_and_reaches_the_last() -> None:
    node = OneTopic({"retention": HOUR_MS})
    names = [f"t{number:04}" for number in range(2 * retention.SLICE_PLACES)]
    for name in names:
        node.ask(node.peer, t.CreateTopic(name, {"retention": 1}, "check"))
    node.settle()
    node.call(node.peer, t.Produce(names[-1], 0, None, batch(b"x")))
    node.clock.advance(HOUR_MS)
    rounds = retention.Retention(node.core.registry, node.core.engine, lambda partition: None)
    pauses = [rounds.step(node.clock.now().wall)]
    while pauses[-1] == retention.PAUSE_MS:
        pauses.append(rounds.step(node.clock.now().wall))
    assert len(pauses) > 2
    assert node.core.registry.topics[names[-1]].partitions[0].log.start == 1


def test_topic_that_is_deleted_in_the_middle_of_a_round_is_passed_over() -> None:
    node = OneTopic({"retention": 1})
    for _ in range(2 * retention.SLICE_PLACES):
        node.ask(node.peer, t.Produce(TOPIC, 0, None, batch(b"x")))
    node.settle()
    node.clock.advance(HOUR_MS)
    rounds = retention.Retention(node.core.registry, node.core.engine, lambda partition: None)
    assert rounds.step(node.clock.now().wall) == retention.PAUSE_MS
    node.call(node.peer, t.DeleteTopic(TOPIC))
    while rounds.step(node.clock.now().wall) == retention.PAUSE_MS:
        pass
    assert isinstance(node.fetch(0), NotFound)
