"""What a start makes durable before it serves, and what it knows of lives before."""

import pytest
from tests.unit.storage.one_node import QUEUE, OneNode, PowerCut, behind

from penstock_broker.durability import OS_MS
from penstock_broker.storage.blocks import BLOCK_HEADER_BYTES
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.storage.files import PAGE_BYTES, StorageError, Write
from penstock_protocol.batch import BatchBuilder, BatchView
from penstock_protocol.messages.queues import Ack
from penstock_protocol.slices import encode_ranges

WEAK = [b"a", b"b", b"c"]


def written(node: OneNode, *bodies: bytes) -> OneNode:
    """Messages that are written, each in a block of its own, and not synced."""
    queue = node.core.registry.queues[QUEUE]
    for body in bodies:
        builder = BatchBuilder()
        builder.extend([body])
        batch = BatchView(memoryview(builder.encode()))
        part = Part(queue.uuid, Kind.APPEND, queue.log.end, 1, 0, b"", 0)
        now = node.clock.now()
        node.core.engine.append([part], [Body(batch.view, batch.crc)], wall=now.wall, within=OS_MS)
        node.turn()
    return node


def test_all_blocks_that_nothing_proves_are_there_after_two_power_cuts() -> None:
    node = written(OneNode().create_queue(), *WEAK)
    life = OneNode(node.files.kill().disk, node.clock)
    assert life.messages() == WEAK
    assert len(life.core.report.unproven) > 1
    life = OneNode(life.files.disk.crashed(), node.clock)
    assert life.messages() == WEAK
    assert OneNode(life.files.disk.crashed(), node.clock).messages() == WEAK


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("nth", [1, 2])
def test_start_cut_short_while_it_writes_blocks_again_loses_none_of_them(call: str, nth: int) -> None:
    node = written(OneNode().create_queue(), *WEAK)
    node.core.engine.journal.demand(node.core.engine.journal.end)
    node.turn()
    disk = node.files.disk = node.files.disk.crashed()
    with pytest.raises(PowerCut):
        OneNode(disk, node.clock, behind(call, "journal-", Write, nth))
    for life in node.lives_after():
        assert life.messages() == WEAK


def test_unproven_batch_whose_own_length_is_damaged_is_cut() -> None:
    node = OneNode().create_queue().enqueue(b"1", b"2")
    journal, log = node.core.engine.journal, node.core.registry.queue(QUEUE).log
    place = log.at(1)
    assert place is not None
    file, at = journal.locate(log.position(1) - place.length)
    disk = node.files.disk.crashed()
    disk.flip(file.name, at, 0x41)
    life = OneNode(disk, node.clock)
    assert life.messages() == [b"1"]
    assert file.name in (life.core.report.torn or "")


def test_unproven_block_of_which_not_all_was_stored_is_cut_wherever_it_stands() -> None:
    node = OneNode().create_queue().enqueue(b"1", b"2")
    body = b"body" * 500
    node.files.crash_at = behind("write", "journal-", Write)
    with pytest.raises(PowerCut):
        node.enqueue(body)
    assert node.core.engine.journal.files[-1].used > 2 * PAGE_BYTES, "it is not the first of its file"
    lives = list(node.lives_after())
    assert all(life.messages() in (node.confirmed, [*node.confirmed, body]) for life in lives)
    assert any(life.core.report.torn for life in lives)


@pytest.mark.parametrize("page", [1, 2])
def test_damage_in_the_last_file_below_the_largest_W_refuses_the_start(page: int) -> None:
    node = OneNode().create_queue().enqueue(b"1", b"2", b"3", b"4")
    disk = node.files.disk.crashed()
    name = node.core.engine.journal.files[-1].name
    disk.flip(name, page * PAGE_BYTES + 8, 0x41)
    with pytest.raises(StorageError, match=f"{name} is damaged at byte {page * PAGE_BYTES}"):
        OneNode(disk, node.clock)


def test_settle_of_an_earlier_life_is_stale() -> None:
    node = OneNode().create_queue().enqueue(b"1")
    before = node.receive(1)
    life = OneNode(node.files.kill().disk, node.clock)
    life.receive(1)
    settled = life.ask(Ack(QUEUE, memoryview(encode_ranges(before))))
    assert (settled.messages, bytes(settled.payload)) == (0, encode_ranges(before))


def test_boot_number_is_larger_than_that_of_a_life_whose_file_is_cut() -> None:
    node = OneNode().create_queue().enqueue(b"1" * PAGE_BYTES)
    disk = node.files.disk.crashed()
    with pytest.raises(PowerCut):
        OneNode(disk, node.clock, behind("write", "journal-", Write))
    header = next(index for index, unit in enumerate(disk.unsynced()) if unit.sector >= 0)
    life = OneNode(disk.crashed([header]), node.clock)
    assert BLOCK_HEADER_BYTES < 512, "its first sector is that of the header"
    assert life.core.report.torn is not None
    assert life.core.engine.journal.boot == node.core.engine.journal.boot + 2
    assert life.messages() == node.confirmed
