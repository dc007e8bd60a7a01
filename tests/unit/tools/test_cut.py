"""What a start makes of a journal of which repair cut a block: nothing wrong, whatever the block said."""

from collections.abc import Callable

import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.unit.storage.one_node import OneNode
from tests.unit.tools.ground import (
    TOPIC,
    began,
    copied,
    examined,
    fetch,
    flipped,
    life_on,
    produce,
    with_topic,
)

from penstock_broker.storage.entries import Kind
from penstock_broker.storage.files import PAGE_BYTES
from penstock_broker.tools.doctor import study
from penstock_broker.tools.dump import Wanted, chosen
from penstock_broker.tools.repair import plan_block
from penstock_protocol.errors import Corrupt, NotFound
from penstock_protocol.messages.queues import CreateQueue, DeleteQueue
from penstock_protocol.messages.topics import Commit, CreateTopic


def block_of(files: MemoryFiles, kind: Kind, nth: int = 0) -> tuple[str, int]:
    """File and byte of the block with the nth part of a kind."""
    parts = [part for part in chosen(files, Wanted()) if part["is"] == "part" and part["kind"] == kind.name]
    return parts[nth]["file"], parts[nth]["at"] // PAGE_BYTES * PAGE_BYTES


def life_without(node: OneNode, kind: Kind, nth: int = 0) -> OneNode:
    """A life in which the block with that part is rotten, and was cut."""
    name, at = block_of(copied(node), kind, nth)
    files = flipped(node, name, at + 4)
    plan_block(files, name, at).do()
    return life_on(files, node)


def test_queue_whose_creation_was_cut_is_not_there_and_can_be_made_again() -> None:
    node = began()
    life = life_without(node, Kind.CREATE)
    with pytest.raises(NotFound):
        life.messages()
    assert life.create_queue().enqueue(b"new").messages() == [b"new"]


def test_queue_whose_deletion_was_cut_is_deleted_by_the_creation_of_its_successor() -> None:
    node = OneNode().create_queue().enqueue(b"old")
    node.ask(DeleteQueue("jobs"))
    node.create_queue().enqueue(b"new", b"newer")
    life = life_without(node, Kind.DELETE)
    assert life.messages() == [b"new", b"newer"]
    assert len(list(life.core.registry.owners())) == 1


def test_queue_whose_deletion_was_cut_is_there_again() -> None:
    node = OneNode().create_queue().enqueue(b"old")
    node.ask(DeleteQueue("jobs"))
    node.ask(CreateQueue("other", {}, "check"))
    assert life_without(node, Kind.DELETE).messages() == [b"old"]


def test_committed_offset_that_was_cut_is_the_one_before() -> None:
    node = with_topic()
    for offset in (2, 5):
        node.ask(Commit("billing", TOPIC, ((0, offset, ""),)))
    produce(node, b"h")
    life = life_without(node, Kind.OFFSETS, 1)
    (committed,) = life.core.registry.groups["billing"].offsets.values()
    assert committed.offset == 2
    assert len(fetch(life, 0)) == 8


@pytest.mark.parametrize(
    ("kind", "nth"),
    [(Kind.SEGMENT, 0), (Kind.ARCHIVED, -1), (Kind.WRITTEN, -1)],
    ids=["segment begun", "batches moved", "segment written"],
)
def test_no_segment_that_is_pointed_to_is_written_over_or_dropped(kind: Kind, nth: int) -> None:
    node = with_topic().archive()
    produce(node, *(b"%d" % number for number in range(9)))
    life = life_without(node, kind, nth)
    again = settled(life, lambda: produce(life, *(b"%d" % number for number in range(9, 18))))
    assert [value for _, value in fetch(again, 0)] == [
        *(b"%c" % letter for letter in b"abcdefg"),
        *(b"%d" % number for number in range(18)),
    ]
    _, found = examined(copied(again))
    assert found == []


def test_log_whose_first_move_was_cut_is_corrupt_and_not_short_of_what_was_moved() -> None:
    node = with_topic().archive()
    produce(node, b"h", b"i", b"j")
    life = life_without(node, Kind.ARCHIVED)
    with pytest.raises(Corrupt):
        fetch(life, 0)


def settled(life: OneNode, work: Callable[[], None]) -> OneNode:
    """The next life, behind checkpoints and whatever the archiver has to do."""
    for _ in range(3):
        life.archive().checkpoint()
    work()
    for _ in range(3):
        life.archive().checkpoint()
    life.stop()
    return OneNode(life.files.disk.crashed(), life.clock)


def test_topic_that_lacks_records_in_the_middle_is_corrupt_and_the_others_serve() -> None:
    node = with_topic()
    node.ask(CreateTopic("others", {}, "check"))
    life = life_without(node, Kind.APPEND, 3)
    with pytest.raises(Corrupt):
        fetch(life, 0)
    assert study(copied(life)).registry.corrupt == {node.core.registry.partition(TOPIC, 0).uuid}
    assert life.core.registry.partition("others", 0).log.end == 0


def test_cut_at_the_first_and_at_every_later_block_never_stops_a_start() -> None:
    node = began().archive().receive_and_ack(3).checkpoint()
    node.enqueue(b"8", b"9")
    places = {
        (block["file"], block["at"])
        for block in chosen(copied(node), Wanted(files=["journal-*"]))
        if block["is"] == "block"
    }
    cut = 0
    for name, at in sorted(places):
        files = flipped(node, name, at + 4)
        if study(files).report is None:
            plan_block(files, name, at).do()
            cut += 1
        life = life_on(files, node)
        life.checkpoint().stop()
        assert study(copied(life)).report is not None
    assert cut
