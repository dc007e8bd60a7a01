"""The doctor names what is damaged, what that means, and what to type; of a healthy directory it says so."""

import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.unit.tools.ground import (
    MASK,
    began,
    body_at,
    copied,
    examined,
    flipped,
    life_on,
    page,
    segment_of,
    with_topic,
)

from penstock_broker.storage.blocks import FILE
from penstock_broker.storage.checkpoint import SLOTS
from penstock_broker.storage.files import StorageError
from penstock_broker.tools.doctor import examine, study, summary
from penstock_protocol.checksum import crc32
from penstock_protocol.errors import Corrupt

JOBS = "jobs"


def test_directory_in_use_a_moment_ago_is_healthy() -> None:
    node = began().archive().receive_and_ack(2).checkpoint().enqueue(b"8").checkpoint()
    case, found = examined(copied(node))
    assert found == []
    assert summary(case)["messages"] == 6
    assert summary(case)["queues"] == 1


def test_doctor_changes_nothing() -> None:
    node = began().archive().checkpoint()
    files = copied(node)
    before = {name: bytes(inode.shown) for name, inode in files.disk.names.items()}
    examined(files)
    assert {name: bytes(inode.shown) for name, inode in files.disk.names.items()} == before


def test_rotten_block_refuses_the_start_and_repair_is_named_for_it() -> None:
    node = began()
    name = node.core.engine.journal.files[1].name
    case, found = examined(flipped(node, name, page(2) + 4))
    assert case.report is None
    assert [each.start for each in found] == ["is refused", "is refused"]
    assert found[1].where == f"{name} at byte {page(2)}"
    assert all(f"penstock repair DATA --block {name}:{page(2)}" in each.do for each in found)
    assert "APPEND queue jobs 2" in found[1].means


def test_damaged_message_is_named_with_its_queue_and_offset() -> None:
    node = began()
    name, at = body_at(node, node.core.registry.queue(JOBS).uuid, 0)
    files = flipped(node, name, at + 33)
    _, (found,) = examined(files)
    assert found.where == f"{name} at byte {at}"
    assert "queue jobs 0" in found.what
    assert found.do.endswith("penstock repair DATA --range jobs:0-0")
    with pytest.raises(Corrupt):
        life_on(files, node).messages()


def test_damaged_bytes_of_a_settled_message_are_without_effect() -> None:
    node = began()
    name, at = body_at(node, node.core.registry.queue(JOBS).uuid, 1)
    node.receive_and_ack(2)
    case, found = examined(flipped(node, name, at + 33))
    assert found == []
    assert [note.means[:8] for note in examine(case) if "checksum" in note.what] == ["nothing:"]


def test_torn_tail_is_a_note_and_no_finding() -> None:
    node = began()
    newest = node.core.engine.journal.files[-1]
    case = study(flipped(node, newest.name, newest.used - page(1) + 90))
    notes = [found for found in examine(case) if "torn" in found.what]
    assert [found.damage for found in notes] == [False]
    assert not any(found.damage for found in examine(case))


def test_damaged_checkpoint_is_a_finding_and_the_other_one_serves() -> None:
    node = began().checkpoint().checkpoint()
    case, (found,) = examined(flipped(node, SLOTS[1], 20))
    assert case.report is not None
    assert found.where == SLOTS[1]
    assert "nothing is lost" in found.means


def test_snapshot_damaged_in_both_checkpoints_makes_its_queue_corrupt() -> None:
    node = began().checkpoint().checkpoint()
    uuid = node.core.registry.queue(JOBS).uuid
    disk = node.files.disk.crashed()
    for slot in study(copied(node)).slots:
        disk.flip(slot.name, slot.rows[uuid].at, MASK)
    _, found = examined(MemoryFiles(disk))
    assert any(each.where == "queue jobs" and "Corrupt" in each.means for each in found)


@pytest.mark.parametrize("old", [False, True], ids=["young", "old"])
def test_every_damaged_byte_of_records_that_cannot_be_read_any_more_is_found(old: bool) -> None:
    node = with_topic()
    if old:
        node.archive()
    files = copied(node)
    if not old:
        name, at = body_at(node, node.core.registry.partition("events", 0).uuid, 2)
        places = range(at, at + 34)
    else:
        name = segment_of(files)
        places = range(files.names()[name])
    for place in places:
        case, found = examined(flipped(node, name, place))
        assert case.report is not None
        assert [each.where.split()[0] for each in found] == [name], f"byte {place} of {name}"


def test_segment_that_is_gone_is_found_with_its_offsets() -> None:
    node = with_topic().archive()
    files = copied(node)
    name = segment_of(files)
    del files.disk.names[name]
    _, found = examined(files)
    assert found
    assert all("gone" in each.what and "topic events/0" in each.what for each in found)


def test_leftover_segment_and_strange_file_are_notes() -> None:
    node = began()
    files = copied(node)
    for name in ("segment-000000000000", "notes.txt"):
        files.disk.create(name)
        files.disk.write(name, 0, b"what is this")
    case = study(files)
    notes = {found.where: found for found in examine(case)}
    assert not any(found.damage for found in notes.values())
    assert notes["segment-000000000000"].start == "unlinks it"
    assert "left alone" in notes["notes.txt"].means


def test_newer_format_is_said_and_nothing_is_guessed() -> None:
    node = began()
    name = node.core.engine.journal.files[0].name
    files = copied(node)
    data = files.disk.names[name].shown
    data[4:6] = (99).to_bytes(2, "little")
    data[FILE.size : FILE.size + 4] = crc32(data[: FILE.size]).to_bytes(4, "little")
    case, found = examined(files)
    assert case.report is None
    assert "format 99" in found[0].what
    with pytest.raises(StorageError, match="format 99"):
        life_on(files, node)


def test_page_the_disk_cannot_read_is_a_finding() -> None:
    node = began()
    uuid = node.core.registry.queue(JOBS).uuid
    name, at = body_at(node, uuid, 1)
    files = copied(node)
    files.disk.spoil(name, at)
    _, found = examined(files)
    assert any("cannot read" in each.what for each in found)
