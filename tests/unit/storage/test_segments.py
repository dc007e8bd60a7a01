"""Old bytes: where they go, how they are found again, and what gives up its place."""

import pytest
from tests.unit.storage.one_node import OneNode

from penstock_broker.storage.node import COMMON
from penstock_broker.storage.segment import index_bytes, segment_name
from penstock_protocol.errors import Corrupt

BODY = 900


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal file holds three batches: blocks of one, own segments from two on, sealed with 16 KiB."""
    monkeypatch.setattr("penstock_broker.storage.archive.BLOCK_BYTES_TARGET", BODY)
    monkeypatch.setattr("penstock_broker.storage.archive.OWN_BYTES_MIN", 2 * BODY)
    monkeypatch.setattr("penstock_broker.storage.archive.SEGMENT_BYTES", 16 << 10)
    monkeypatch.setattr("penstock_broker.storage.evacuation.SEGMENT_BYTES_MIN", BODY)


def bodies(count: int, first: int = 0) -> list[bytes]:
    return [b"%06d" % number * (BODY // 6) for number in range(first, first + count)]


def archived(count: int, node: OneNode | None = None) -> OneNode:
    """A node with so many more messages, all of them in segments."""
    node = node or OneNode().create_queue()
    node.enqueue(*bodies(count, len(node.confirmed)))
    log = node.core.registry.queues["jobs"].log
    for _ in range(10 * count):
        if log.young_position is None or log.young_position >= node.core.engine.journal.files[-1].start:
            return node
        node.archive()
    raise AssertionError("the archiver does not get on")


def passes(node: OneNode) -> OneNode:
    """Time enough for segments to be looked at, and looked at again."""
    for _ in range(6):
        node.clock.advance(10_000)
        node.turn()
    return node


def test_log_with_much_to_move_writes_into_a_segment_of_its_own() -> None:
    node = archived(30)
    log = node.core.registry.queues["jobs"].log
    segments = node.core.engine.node.segments
    assert segments[list(log.stretches())[-1].segment].owner == log.uuid
    assert node.messages() == node.confirmed


def test_log_with_little_to_move_shares_the_common_segment() -> None:
    node = OneNode().create_queue().enqueue(*[b"small"] * 9).archive()
    (segment,) = node.core.engine.node.segments.values()
    assert segment.owner == COMMON
    assert not segment.sealed


def test_segment_is_appended_to_until_it_is_full_then_sealed() -> None:
    node = archived(12)
    before = dict(node.core.engine.node.segments)
    node = archived(60, node)
    segments = node.core.engine.node.segments
    (log,) = {segment.owner for segment in segments.values()} - {COMMON}
    own = [number for number, segment in segments.items() if segment.owner == log]
    assert len(own) > 1
    assert [segments[number].sealed for number in own] == [True] * (len(own) - 1) + [False]
    assert any(segments[number].size > segment.size for number, segment in before.items())
    assert node.messages() == node.confirmed


def test_stretches_are_found_again_after_a_start() -> None:
    node = archived(40)
    life = OneNode(node.files.disk.crashed(), node.clock)
    assert life.messages() == node.confirmed
    assert life.core.engine.node.segments == node.core.engine.node.segments


@pytest.mark.covers("archive", "index damaged")
def test_damaged_index_is_made_again_from_the_blocks() -> None:
    node = archived(30)
    log = node.core.registry.queues["jobs"].log
    stretch = max(log.stretches(), key=lambda stretch: stretch.blocks)
    assert stretch.blocks > 1
    disk = node.files.disk.crashed()
    disk.flip(segment_name(stretch.segment), stretch.at + stretch.length - index_bytes(stretch.blocks), 0xFF)
    life = OneNode(disk, node.clock)
    assert life.messages() == node.confirmed
    assert life.core.engine.reads.indexes_rebuilt == 1


def test_damaged_index_and_a_damaged_block_cost_what_lies_behind_that_block() -> None:
    node = archived(30)
    log = node.core.registry.queues["jobs"].log
    stretch = max(log.stretches(), key=lambda stretch: stretch.blocks)
    index = node.core.engine.reads.index(log, stretch, {})
    disk = node.files.disk.crashed()
    disk.flip(segment_name(stretch.segment), stretch.at + stretch.length - 1, 0xFF)
    disk.flip(segment_name(stretch.segment), stretch.at + index[1].at + 20, 0xFF)
    life = OneNode(disk, node.clock)
    log = life.core.registry.queues["jobs"].log
    whole = list(life.core.engine.reads.cuts(log, stretch.first, index[1].first - stretch.first, {}))
    assert whole[-1].first + whole[-1].messages == index[1].first
    with pytest.raises(Corrupt) as refused:
        list(life.core.engine.reads.cuts(log, index[1].first, 1, {}))
    assert refused.value.detail == {"first": index[1].first, "messages": stretch.end - index[1].first}


def test_message_that_is_stuck_pins_no_segment() -> None:
    node = archived(60)
    stuck = node.confirmed[0]
    before = sum(segment.size for segment in node.core.engine.node.segments.values())
    (first, *others) = [taken for _ in range(6) for taken in node.receive(10)]
    node.settle([taken for taken in others if taken.first > first.first])
    passes(node)
    segments = node.core.engine.node.segments
    log = node.core.registry.queues["jobs"].log
    assert log.start == 0
    assert sum(segment.size for segment in segments.values()) < before / 4
    names = {name for name in node.files.names() if name.startswith("segment-")}
    assert names == {segment_name(number) for number in segments}
    life = OneNode(node.files.disk.crashed(), node.clock)
    assert stuck in life.messages()


def test_segment_that_was_evacuated_is_not_moved_again_and_again() -> None:
    node = archived(60)
    (first, *others) = [taken for _ in range(6) for taken in node.receive(10)]
    node.settle([taken for taken in others if taken.first > first.first])
    passes(node)
    moved = dict(node.core.engine.archiver.bytes_moved)
    segments = dict(node.core.engine.node.segments)
    passes(passes(node))
    assert node.core.engine.archiver.bytes_moved == moved
    assert node.core.engine.node.segments == segments


@pytest.mark.covers("archive", "evacuation", "rot")
def test_rotten_batch_is_moved_as_it_is_and_stays_corrupt() -> None:
    node = OneNode().create_queue().enqueue(*bodies(40))
    disk = node.files.disk.crashed()
    log = node.core.registry.queues["jobs"].log
    place = log.at(3)
    assert place is not None
    file, at = node.core.engine.journal.locate(log.position(3) - place.length)
    disk.flip(file.name, at + place.length - 1, 0xFF)
    life = archived(20, OneNode(disk, node.clock))
    log = life.core.registry.queues["jobs"].log
    assert log.position(3) == 0
    with pytest.raises(Corrupt) as refused:
        list(life.core.engine.reads.cuts(log, 3, 1, {}))
    assert refused.value.detail == {"first": 3, "messages": 1}
    assert len(list(life.core.engine.reads.cuts(log, 4, 36, {}))) == 36
