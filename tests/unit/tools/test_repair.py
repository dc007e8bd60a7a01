"""Repair cuts what is named and nothing else, says what was lost by it, and keeps what it cut."""

import pytest
from tests.fakes.clock import ManualClock
from tests.unit.storage.one_node import OneNode
from tests.unit.tools.ground import (
    MASK,
    TOPIC,
    began,
    body_at,
    copied,
    examined,
    fetch,
    flipped,
    life_on,
    page,
    produce,
    with_topic,
)

from penstock_broker.storage.checkpoint import SLOTS
from penstock_broker.storage.files import StorageError
from penstock_broker.tools.command import Failed
from penstock_broker.tools.doctor import examine, study
from penstock_broker.tools.dump import Wanted, chosen
from penstock_broker.tools.repair import Range, plan_block, plan_checkpoint, plan_range
from penstock_protocol.errors import Corrupt, NotFound
from penstock_protocol.messages.queues import CreateQueue, DeleteQueue

JOBS = "jobs"


def file_name(node: OneNode, index: int) -> str:
    return node.core.engine.journal.files[index].name


def two_queues() -> OneNode:
    """Messages 1 to 7 in `jobs`, and then a queue `other` with nothing in it."""
    node = began()
    node.ask(CreateQueue("other", {}, "check"))
    return node


# Blocks


@pytest.mark.parametrize("at", [4, 16, 40, 76, 90, 130])
def test_cut_block_lets_a_start_pass_and_its_queue_is_corrupt(at: int) -> None:
    node = two_queues()
    name = file_name(node, 1)
    files = flipped(node, name, page(2) + at)
    with pytest.raises(StorageError, match="damaged at byte"):
        OneNode(files.disk.crashed(), node.clock)
    plan = plan_block(files, name, page(2))
    assert "  corrupt by it, answering Corrupt from then on: queue jobs" in plan.lines
    plan.do()
    life = life_on(files, node)
    with pytest.raises(Corrupt):
        life.messages()
    assert life.core.registry.queue("other").log.end == 0


def test_queue_that_is_corrupt_by_a_cut_stays_so_behind_checkpoints_and_can_be_deleted() -> None:
    node = began()
    files = flipped(node, file_name(node, 1), page(2) + 4)
    plan_block(files, file_name(node, 1), page(2)).do()
    life = life_on(files, node).checkpoint().checkpoint()
    life.stop()
    again = OneNode(life.files.disk.crashed(), node.clock)
    with pytest.raises(Corrupt):
        again.messages()
    again.ask(DeleteQueue(JOBS))
    with pytest.raises(NotFound):
        again.messages()
    assert again.create_queue().enqueue(b"new").messages() == [b"new"]


def test_what_is_cut_is_kept_in_a_file_that_a_broker_leaves_alone() -> None:
    node = began()
    name = file_name(node, 1)
    files = flipped(node, name, page(2) + 4)
    was = files.read(name, page(2), page(1))
    plan = plan_block(files, name, page(2))
    plan.do()
    assert files.read(plan.aside, 0, page(2)) == was
    assert plan.aside in life_on(files, node).files.names()


def test_two_blocks_lost_in_a_row_are_cut_as_one() -> None:
    node = began()
    name = file_name(node, 1)
    files = flipped(node, name, page(1) + 4, page(2) + 4)
    plan = plan_block(files, name, page(1))
    assert plan.lines[0].startswith("cut 2 blocks")
    plan.do()
    case, _ = examined(files)
    assert case.report is not None


def test_file_without_any_whole_block_or_header_can_be_cut() -> None:
    node = began()
    name = file_name(node, 1)
    files = flipped(node, name, 4, *(page(number) + 4 for number in (1, 2, 3)))
    plan = plan_block(files, name, page(1))
    assert plan.lines[0].startswith("cut 3 blocks")
    plan.do()
    life_on(files, node)


def test_settles_that_were_cut_only_mean_that_messages_come_again_and_say_so() -> None:
    node = began()
    position = node.core.engine.journal.end
    node.receive_and_ack(2)
    file, at = node.core.engine.journal.locate(-(-position // page(1)) * page(1))
    node.enqueue(b"8", b"9")
    files = flipped(node, file.name, at + 4)
    plan = plan_block(files, file.name, at)
    assert "  corrupt by it, answering Corrupt from then on: none" in plan.lines
    plan.do()
    life = life_on(files, node)
    assert life.messages() == [b"%d" % number for number in range(1, 10)]
    assert life.core.registry.queue(JOBS).suspect_below >= 7


def test_message_whose_block_is_cut_is_read_still_if_a_checkpoint_knows_it() -> None:
    node = OneNode().create_queue().enqueue(b"1").checkpoint().enqueue(b"2", b"3", b"4").checkpoint()
    node.enqueue(b"5", b"6", b"7")
    held = node.core.engine.journal.files
    before = study(copied(node))
    assert before.report is not None
    rotten = next(
        (file.name, at)
        for file in reversed(held)
        for at in range(page(1), file.used, page(1))
        if file.start + at - page(1) < before.slots[0].oldest
    )
    files = flipped(node, rotten[0], rotten[1] + 4)
    case, _ = examined(files)
    if case.report is None:
        plan_block(files, *rotten).do()
    assert life_on(files, node).messages() == node.confirmed


@pytest.mark.parametrize("what", ["whole", "torn"])
def test_block_that_is_in_nobodys_way_is_not_cut(what: str) -> None:
    node = began()
    newest = node.core.engine.journal.files[-1]
    name, at = (file_name(node, 1), page(2)) if what == "whole" else (newest.name, newest.used - page(1))
    files = copied(node) if what == "whole" else flipped(node, name, at + 90)
    with pytest.raises(Failed, match="not damaged" if what == "whole" else "in nobody's way"):
        plan_block(files, name, at)


def test_nothing_is_changed_before_the_plan_is_done() -> None:
    node = began()
    files = flipped(node, file_name(node, 1), page(2) + 4)
    before = {name: bytes(inode.shown) for name, inode in files.disk.names.items()}
    plan_block(files, file_name(node, 1), page(2))
    assert {name: bytes(inode.shown) for name, inode in files.disk.names.items()} == before


# Checkpoints


def test_checkpoint_is_renamed_and_the_other_one_serves() -> None:
    node = began().checkpoint().enqueue(b"8").checkpoint()
    files = copied(node)
    was = files.read(SLOTS[1], 0, 1 << 20)
    plan = plan_checkpoint(files, SLOTS[1])
    plan.do()
    assert SLOTS[1] not in files.names()
    assert files.read(plan.aside, 0, 1 << 20) == was
    assert life_on(files, node).messages() == node.confirmed


def test_checkpoint_that_a_start_needs_is_not_renamed() -> None:
    node = began().archive().checkpoint().checkpoint().enqueue(*(b"%d" % n for n in range(20))).archive()
    node.checkpoint().checkpoint().archive()
    files = copied(node)
    if min(file.start for file in node.core.engine.journal.files) == 0:
        pytest.fail("the journal still begins at its beginning")
    files.disk.flip(SLOTS[0], 20, MASK)
    with pytest.raises(Failed, match="without checkpoint-1 a start is refused"):
        plan_checkpoint(files, SLOTS[1])


# Ranges


def test_damaged_message_that_is_given_up_is_purged_and_the_others_are_served() -> None:
    node = began()
    name, at = body_at(node, node.core.registry.queue(JOBS).uuid, 2)
    files = flipped(node, name, at + 33)
    plan = plan_range(files, Range(JOBS, 2, 2), node.clock)
    plan.do()
    assert files.read(plan.aside, 0, 100) == files.read(name, at, 37)
    next_life = files.kill()
    assert not any(found.damage for found in examine(study(next_life)))
    life = life_on(next_life, node)
    assert life.messages() == [b"1", b"2", b"4", b"5", b"6", b"7"]
    assert life.enqueue(b"8").core.registry.queue(JOBS).log.end == 8


@pytest.mark.parametrize("old", [False, True], ids=["young", "old"])
@pytest.mark.parametrize("offset", [0, 2, 3])
def test_damaged_record_that_is_given_up_is_a_hole(old: bool, offset: int) -> None:
    node = with_topic()
    if old:
        node.archive()
    uuid = node.core.registry.partition(TOPIC, 0).uuid
    name, at = record_at(node, uuid, offset, old=old)
    files = flipped(node, name, at + 33)
    _, found = examined(files)
    assert [each.do.split()[-1] for each in found if "--range" in each.do] == [f"events/0:{offset}-{offset}"]
    plan_range(files, Range("events/0", offset, offset), node.clock).do()
    next_life = files.kill()
    assert not any(found.damage for found in examine(study(next_life)))
    life = life_on(next_life, node)
    whole = [(n, b"%c" % letter) for n, letter in enumerate(b"abcdefg") if n != offset]
    assert fetch(life, 0) == whole
    produce(life, b"h")
    assert fetch(life, 0) == [*whole, (7, b"h")]


def record_at(node: OneNode, uuid: bytes, offset: int, *, old: bool) -> tuple[str, int]:
    """File and byte of a record's batch."""
    if not old:
        return body_at(node, uuid, offset)
    batches = chosen(copied(node), Wanted(files=["segment-*"]))
    return next((b["file"], b["at"]) for b in batches if b["is"] == "batch" and b["first"] == offset)


def test_range_that_is_whole_is_not_given_up() -> None:
    node = began()
    name, at = body_at(node, node.core.registry.queue(JOBS).uuid, 2)
    files = flipped(node, name, at + 33)
    with pytest.raises(Failed, match="jobs:3 is not damaged"):
        plan_range(files, Range(JOBS, 2, 3), node.clock)


def test_range_of_a_log_that_does_not_exist_says_how_to_write_it() -> None:
    with pytest.raises(Failed, match="orders/0 for a partition"):
        plan_range(copied(began()), Range("nobody", 0, 1), ManualClock())


def test_range_waits_until_a_start_is_not_refused_any_more() -> None:
    node = began()
    files = flipped(node, file_name(node, 1), page(2) + 4)
    with pytest.raises(Failed, match="mend that first"):
        plan_range(files, Range(JOBS, 0, 0), node.clock)
