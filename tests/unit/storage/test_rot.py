"""What damage on the disk does: found before a byte of it is served, and nothing else is lost by it."""

import pytest
from tests.fakes.disk import Disk
from tests.unit.storage.one_node import OneNode

from penstock_broker.storage.blocks import BLOCK_HEADER_BYTES
from penstock_broker.storage.files import PAGE_BYTES, StorageError
from penstock_broker.storage.gathered import JournalFile
from penstock_protocol.errors import Corrupt

MASK = 0x41


def began() -> OneNode:
    """Messages 1 in a full journal file, 2 and 3 and 4 in the next, 5 in the last; all proven but 5."""
    return OneNode().create_queue().enqueue(b"1", b"2", b"3", b"4", b"5")


def file_of(node: OneNode, index: int) -> JournalFile:
    return node.core.engine.journal.files[index]


def flipped(node: OneNode, name: str, offset: int) -> Disk:
    """The disk after a power cut, with one byte changed."""
    disk = node.files.disk.crashed()
    disk.flip(name, offset, MASK)
    return disk


@pytest.mark.parametrize("index", [0, 1, -1])
@pytest.mark.parametrize("offset", [0, 8, 16, 36])
def test_damaged_header_of_a_journal_file_loses_nothing(index: int, offset: int) -> None:
    node = began()
    life = OneNode(flipped(node, file_of(node, index).name, offset), node.clock)
    assert life.messages() == node.confirmed


@pytest.mark.parametrize("at", [0, 16, 40, 76, BLOCK_HEADER_BYTES, BLOCK_HEADER_BYTES + 24])
@pytest.mark.parametrize("page", [1, 2, 3])
def test_damaged_block_that_a_later_one_proves_refuses_the_start_and_names_file_and_byte(
    page: int, at: int
) -> None:
    node = began()
    name = file_of(node, 1).name
    with pytest.raises(StorageError, match=f"{name} is damaged at byte {page * PAGE_BYTES}"):
        OneNode(flipped(node, name, page * PAGE_BYTES + at), node.clock)


@pytest.mark.parametrize("at", [0, 4, 9, 33])
def test_damaged_body_makes_its_message_corrupt_and_leaves_the_others(at: int) -> None:
    node = began()
    body = node.core.registry.queue("jobs").log.at(0).position
    disk = flipped(node, file_of(node, 0).name, body - file_of(node, 0).start + PAGE_BYTES + at)
    life = OneNode(disk, node.clock)
    with pytest.raises(Corrupt) as corrupt:
        life.messages()
    assert corrupt.value.detail == {"first": 0, "messages": 1}


@pytest.mark.parametrize("at", [4, BLOCK_HEADER_BYTES])
def test_damaged_last_block_looks_torn_and_is_cut(at: int) -> None:
    node = began().enqueue(b"6")
    name = file_of(node, -1).name
    life = OneNode(flipped(node, name, 2 * PAGE_BYTES + at), node.clock)
    assert life.messages() == node.confirmed[:-1]
    assert name in (life.core.report.torn or "")


def test_damaged_block_header_behind_both_checkpoints_misplaces_nothing() -> None:
    node = began().checkpoint().checkpoint()
    life = OneNode(flipped(node, file_of(node, 0).name, PAGE_BYTES + 16), node.clock)
    assert life.messages() == node.confirmed


def test_damaged_checkpoint_falls_back_to_the_older_one() -> None:
    node = began().checkpoint().checkpoint().enqueue(b"6")
    for offset in range(0, 56, 4):
        life = OneNode(flipped(node, "checkpoint-1", offset), node.clock)
        assert life.messages() == node.confirmed
        assert [slot.name for slot in life.core.report.slots] == ["checkpoint-0"]


def test_damaged_snapshot_falls_back_to_the_older_one_of_that_machine() -> None:
    node = began().checkpoint().checkpoint().enqueue(b"6")
    size = node.files.names()["checkpoint-1"]
    for offset in range(PAGE_BYTES, size, 16):
        assert OneNode(flipped(node, "checkpoint-1", offset), node.clock).messages() == node.confirmed


def test_both_snapshots_of_a_queue_damaged_make_it_corrupt_and_the_node_serves() -> None:
    node = began().checkpoint().checkpoint()
    disk = node.files.disk.crashed()
    for slot in OneNode(disk.crashed(), node.clock).core.report.slots:
        disk.flip(slot.name, slot.rows[node.core.registry.queue("jobs").uuid].at, MASK)
    life = OneNode(disk, node.clock)
    with pytest.raises(Corrupt, match="both snapshots"):
        life.messages()


def test_journal_that_ends_before_what_a_checkpoint_proves_refuses_the_start() -> None:
    node = began().checkpoint()
    disk = node.files.disk.crashed()
    disk.truncate(file_of(node, -1).name, PAGE_BYTES)
    with pytest.raises(StorageError, match="was durable up to"):
        OneNode(disk, node.clock)


def test_damaged_segment_makes_its_messages_corrupt() -> None:
    node = began().archive()
    name = next(name for name in node.files.names() if name.startswith("segment-"))
    for offset in range(node.files.names()[name]):
        life = OneNode(flipped(node, name, offset), node.clock)
        try:
            found = life.messages()
        except Corrupt:
            continue
        assert found in (node.confirmed[: len(found)], node.confirmed)
        assert len(found) < len(node.confirmed), f"damage at {offset} of {name} went unseen"
