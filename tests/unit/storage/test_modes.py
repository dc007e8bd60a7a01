"""What each durability mode keeps: a kill takes nothing, a power cut at most the newest of a weaker mode."""

import pytest
from tests.unit.storage.one_node import QUEUE, OneNode

from penstock_broker.storage.files import PAGE_BYTES, StorageError
from penstock_protocol.batch import BatchBuilder
from penstock_protocol.errors import Corrupt
from penstock_protocol.messages.queues import AlterQueue, Confirm, CreateQueue, Enqueue, Nack, Outcome
from penstock_protocol.slices import encode_ranges

MASK = 0x41
MODES = ["fsync", "interval:50ms", "os"]
INTERVAL_MS = 50
MANY = [b"%d" % n for n in range(11)]
"""Over several journal files."""


def publish(node: OneNode, queue: str, body: bytes) -> Confirm:
    """One message; its confirm."""
    builder = BatchBuilder()
    builder.extend([body])
    confirm: Confirm = node.ask(Enqueue(queue, memoryview(builder.encode())))
    return confirm


def kept(node: OneNode) -> set[int]:
    """How many of the confirmed messages a power cut now may leave; always the first ones, without a hole,
    and as many behind a second one."""
    counts = set()
    for life in node.lives_after():
        found = life.messages()
        assert found == node.confirmed[: len(found)]
        assert OneNode(life.files.disk.crashed(), node.clock).messages() == found
        counts.add(len(found))
    return counts


@pytest.mark.parametrize("mode", MODES)
def test_confirm_says_which_mode_was_met(mode: str) -> None:
    node = OneNode().create_queue(mode)
    assert publish(node, QUEUE, b"1").durability == mode


def test_queue_without_a_mode_has_that_of_the_node() -> None:
    assert publish(OneNode().create_queue(), QUEUE, b"1").durability == "fsync"


@pytest.mark.parametrize("mode", MODES)
def test_kill_loses_nothing_in_any_mode(mode: str) -> None:
    node = OneNode().create_queue(mode).enqueue(*MANY)
    node.receive_and_ack(2)
    life = OneNode(node.files.kill().disk, node.clock)
    assert life.messages() == node.confirmed
    assert OneNode(life.files.disk.crashed(), node.clock).messages() == node.confirmed


def test_power_cut_loses_nothing_in_fsync() -> None:
    assert kept(OneNode().create_queue("fsync").enqueue(*MANY)) == {len(MANY)}


def test_power_cut_takes_the_newest_of_os_and_never_what_is_in_a_file_before() -> None:
    node = OneNode().create_queue("os").enqueue(*MANY)
    counts = kept(node)
    assert max(counts) == len(MANY)
    assert len(MANY) - 3 <= min(counts) < len(MANY), "a file has three blocks"


def test_power_cut_loses_nothing_that_an_interval_is_over_for() -> None:
    node = OneNode().create_queue("interval:50ms").enqueue(b"1", b"2", b"3")
    assert kept(node) > {3}
    node.clock.advance(INTERVAL_MS - 1)
    node.turn()
    assert kept(node) > {3}
    node.clock.advance(1)
    node.turn()
    assert kept(node) == {3}


def test_what_a_strict_queue_confirms_keeps_all_that_was_written_before() -> None:
    node = OneNode().create_queue("os").enqueue(b"1", b"2")
    node.ask(CreateQueue("strict", {"durability": "fsync"}, "check"))
    node.enqueue(b"3", b"4")
    assert min(kept(node)) < 4
    publish(node, "strict", b"x")
    node.enqueue(b"5")
    assert kept(node) == {4, 5}
    for life in node.lives_after():
        assert life.core.registry.queue("strict").log.end == 1


def test_altering_to_fsync_keeps_all_that_is_there() -> None:
    node = OneNode().create_queue("os").enqueue(b"1", b"2", b"3")
    node.ask(AlterQueue(QUEUE, {"durability": "fsync"}))
    assert kept(node) == {3}
    node.enqueue(b"4")
    assert kept(node) == {4}


def test_altering_to_os_counts_from_now_on() -> None:
    node = OneNode().create_queue("fsync").enqueue(b"1")
    node.ask(AlterQueue(QUEUE, {"durability": "os"}))
    node.enqueue(b"2")
    assert kept(node) == {1, 2}


def test_dead_letter_goes_by_the_stricter_mode_of_its_two_queues() -> None:
    node = OneNode().create_queue("os")
    node.ask(CreateQueue(f"{QUEUE}.dead", {"durability": "fsync"}, "check"))
    node.enqueue(b"1")
    node.ask(Nack(QUEUE, Outcome.DEAD_LETTER, None, None, memoryview(encode_ranges(node.receive(1)))))
    for life in node.lives_after():
        assert life.core.registry.queue(f"{QUEUE}.dead").log.end == 1
        assert life.messages() == []


def test_dead_letter_queue_made_on_first_need_has_the_mode_of_its_queue() -> None:
    node = OneNode().create_queue("os").enqueue(b"1")
    node.ask(Nack(QUEUE, Outcome.DEAD_LETTER, None, None, memoryview(encode_ranges(node.receive(1)))))
    assert publish(node, f"{QUEUE}.dead", b"2").durability == "os"


def test_after_a_loss_offsets_go_on_from_the_recovered_end_and_nothing_cut_comes_back() -> None:
    node = OneNode().create_queue("os").enqueue(b"1", b"2", b"3")
    for life in node.lives_after():
        life.confirmed = life.messages()
        assert publish(life, QUEUE, b"new").first == len(life.confirmed)
        life.confirmed.append(b"new")
        life.enqueue(*MANY)
        assert OneNode(life.files.kill().disk, node.clock).messages() == life.confirmed


def test_lease_token_of_a_life_whose_newest_was_lost_is_never_given_again() -> None:
    node = OneNode().create_queue("os").enqueue(b"1", b"2", b"3")
    before = max(each.token for each in node.receive(3))
    for life in node.lives_after():
        if life.messages():
            assert min(each.token for each in life.receive(3)) > before


@pytest.mark.parametrize("index", range(3))
def test_damaged_body_in_an_unproven_block_cuts_it_and_all_behind_it(index: int) -> None:
    node = OneNode().create_queue("os").enqueue(*MANY)
    journal, log = node.core.engine.journal, node.core.registry.queue(QUEUE).log
    newest = journal.files[-1]
    first = next(n for n in range(len(MANY)) if log.position(n) > newest.start)
    offset = min(first + index, len(MANY) - 1)
    disk = node.files.kill().disk
    disk.flip(newest.name, log.position(offset) - newest.start + PAGE_BYTES - 1, MASK)
    life = OneNode(disk, node.clock)
    assert life.messages() == node.confirmed[:offset]
    assert newest.name in (life.core.report.torn or "")


def test_damaged_body_in_a_block_that_is_proven_is_corrupt_and_nothing_is_cut() -> None:
    node = OneNode().create_queue("os").enqueue(*MANY)
    log, file = node.core.registry.queue(QUEUE).log, node.core.engine.journal.files[0]
    disk = node.files.kill().disk
    disk.flip(file.name, log.position(0) - file.start + PAGE_BYTES - 1, MASK)
    life = OneNode(disk, node.clock)
    with pytest.raises(Corrupt) as corrupt:
        life.messages()
    assert corrupt.value.detail == {"first": 0, "messages": 1}
    assert life.core.report.torn is None


def test_checkpoint_of_a_weak_mode_waits_for_the_sync_it_demands() -> None:
    node = OneNode().create_queue("os").enqueue(b"1", b"2", b"3").checkpoint()
    assert kept(node) == {3}
    assert all(life.core.report.slots for life in node.lives_after())


def test_archived_and_freed_files_of_a_weak_mode_are_missed_by_nobody() -> None:
    node = OneNode().create_queue("os").enqueue(*MANY).archive().checkpoint().checkpoint().archive()
    assert any(name.startswith("segment-") for name in node.files.names())
    node.enqueue(b"x")
    assert min(kept(node)) >= len(MANY)


# ---- What cannot be read


def test_checkpoint_slot_that_cannot_be_read_falls_back_to_the_older_one() -> None:
    node = OneNode().create_queue().enqueue(b"1").checkpoint().checkpoint().enqueue(b"2")
    for offset in (0, PAGE_BYTES, node.files.names()["checkpoint-1"] - 1):
        disk = node.files.disk.crashed()
        disk.spoil("checkpoint-1", offset)
        assert OneNode(disk, node.clock).messages() == node.confirmed


def test_journal_header_that_cannot_be_read_loses_nothing() -> None:
    node = OneNode().create_queue().enqueue(*MANY)
    disk = node.files.disk.crashed()
    disk.spoil(node.core.engine.journal.files[0].name, 0)
    assert OneNode(disk, node.clock).messages() == node.confirmed


def test_block_below_W_that_cannot_be_read_refuses_the_start_and_names_file_and_byte() -> None:
    node = OneNode().create_queue().enqueue(*MANY)
    name = node.core.engine.journal.files[1].name
    disk = node.files.disk.crashed()
    disk.spoil(name, 2 * PAGE_BYTES)
    with pytest.raises(StorageError, match=f"{name} is damaged at byte {2 * PAGE_BYTES}: it cannot be read"):
        OneNode(disk, node.clock)


def test_last_block_that_cannot_be_read_is_cut_and_named() -> None:
    node = OneNode().create_queue().enqueue(b"1", b"2", b"3")
    file = node.core.engine.journal.files[-1]
    disk = node.files.disk.crashed()
    disk.spoil(file.name, file.used - PAGE_BYTES)
    life = OneNode(disk, node.clock)
    assert life.messages() == node.confirmed[:-1]
    assert f"{file.name} at byte {file.used - PAGE_BYTES}: it cannot be read" in (life.core.report.torn or "")
