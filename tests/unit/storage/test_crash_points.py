"""Each crash point of the storage specification: whatever a power cut there leaves, nothing is lost.

A test runs a broker up to the point, lets the machine die there in every way the disk allows, and starts
again. `storage/README.md` names each point and its test.
"""

from collections.abc import Callable

import pytest
from tests.fakes.disk import Call
from tests.unit.storage.one_node import CrashAt, OneNode, PowerCut, behind

from penstock_broker.storage.files import Copy, Drop, Job, Prepare, Sync, Write

PREPARING = ("create", "write", "sync", "sync_directory")
MANY = [b"more %d" % n for n in range(12)]
"""Enough to begin several files."""


def began() -> OneNode:
    """Three messages: the first in a journal file that is full, the others in the next one."""
    return OneNode().create_queue().enqueue(b"1", b"2", b"3")


def dies(node: OneNode, crash_at: CrashAt, act: Callable[[], object]) -> OneNode:
    """`act` is cut short where `crash_at` says."""
    node.files.crash_at = crash_at
    with pytest.raises(PowerCut):
        act()
    return node


def check_every_life(node: OneNode) -> list[OneNode]:
    """Every life after the crash has what was confirmed, in order, and behind it at most what was open; and
    a life after that has the same."""
    lives = []
    for life in node.lives_after():
        life.confirmed = life.messages()
        assert life.confirmed in (node.confirmed, node.confirmed + node.open)
        assert OneNode(life.files.disk.crashed(), node.clock).messages() == life.confirmed
        lives.append(life)
    assert lives
    return lives


def began_weakly() -> OneNode:
    """Three messages that are written and not synced: two of them in the newest journal file."""
    return OneNode().create_queue("os").enqueue(b"1", b"2", b"3")


def check_every_prefix(node: OneNode) -> set[int]:
    """Every life after the crash has the first of what was confirmed or open, without a hole, and a life
    after that the same. How many of them there may be."""
    lengths = set()
    for life in node.lives_after():
        found = life.messages()
        assert found == (node.confirmed + node.open)[: len(found)]
        assert OneNode(life.files.disk.crashed(), node.clock).messages() == found
        lengths.add(len(found))
    return lengths


def check_it_goes_on(life: OneNode) -> None:
    """The life takes messages, archives, and has them all."""
    life.enqueue(*MANY)
    life.archive()
    assert life.messages() == life.confirmed


# ---- Preparing a file


@pytest.mark.parametrize("call", PREPARING)
def test_crash_while_a_file_is_prepared_leaves_a_file_that_counts_for_nothing(call: str) -> None:
    node = began()
    dies(node, behind(call, "journal-", Prepare), lambda: node.enqueue(*MANY))
    for life in check_every_life(node):
        check_it_goes_on(life)


@pytest.mark.parametrize("call", ["rename", "write", "sync", "sync_directory"])
def test_crash_while_a_file_is_recycled_brings_back_nothing_it_held(call: str) -> None:
    node = began().receive_and_ack(2).checkpoint().checkpoint()
    prepares = behind(call, "journal-", Prepare)

    def crash_at(job: Job, at: Call) -> bool:
        return isinstance(job, Prepare) and job.recycle is not None and prepares(job, at)

    dies(node, crash_at, lambda: node.enqueue(*MANY))
    for life in check_every_life(node):
        check_it_goes_on(life)


# ---- Writing a block


def test_crash_before_a_block_is_synced_keeps_it_whole_or_cuts_it() -> None:
    node = began()
    body = b"long" * 1_000
    dies(node, behind("write", "journal-", Write), lambda: node.enqueue(body))
    lives = check_every_life(node)
    assert {life.confirmed[-1] for life in lives} == {b"3", body}
    assert any(life.core.report.torn for life in lives)


def test_crash_behind_a_sync_keeps_a_block_that_nobody_heard_of() -> None:
    node = began()
    dies(node, behind("sync", "journal-", Write), lambda: node.enqueue(b"last"))
    (life,) = node.lives_after()
    assert life.messages() == [*node.confirmed, b"last"]
    assert len(life.core.report.unproven) == 1


def test_crash_in_the_first_block_of_a_file_falls_back_to_the_file_before() -> None:
    node = OneNode().create_queue().enqueue(b"1")
    full = node.core.engine.journal.files[-1].name
    dies(node, behind("write", "journal-", Write), lambda: node.enqueue(b"2"))
    assert node.core.engine.journal.files[-1].name > full
    lives = check_every_life(node)
    assert {life.confirmed[-1] for life in lives} == {b"1", b"2"}


# ---- Writing and syncing apart


def test_crash_before_a_late_sync_keeps_the_blocks_up_to_the_first_that_is_not_whole() -> None:
    node = began_weakly()
    assert check_every_prefix(node) == {1, 2, 3}
    assert any(life.core.report.torn for life in node.lives_after())
    assert OneNode(node.files.kill().disk, node.clock).messages() == node.confirmed


def test_crash_behind_a_late_sync_keeps_all_that_was_written_before() -> None:
    node = began_weakly()
    node.core.engine.journal.demand(node.core.engine.journal.end)
    dies(node, behind("sync", "journal-", Sync), node.turn)
    assert check_every_prefix(node) == {3}


@pytest.mark.parametrize("call", ["sync", "write"])
def test_crash_while_a_file_is_begun_finds_the_one_before_whole_if_it_was_written_to(call: str) -> None:
    node = began_weakly()
    full = node.core.engine.journal.files[-1].name
    job = Sync if call == "sync" else Write

    def crash_at(doing: Job, at: Call) -> bool:
        begun = isinstance(doing, Sync) or (isinstance(doing, Write) and doing.name > full)
        return isinstance(doing, job) and begun and at.kind == call

    dies(node, crash_at, lambda: node.enqueue(*MANY))
    lengths = check_every_prefix(node)
    whole = len(node.confirmed)
    assert lengths == ({whole} if call == "sync" else {whole, whole + 1})


# ---- Starting


@pytest.mark.parametrize("call", PREPARING)
def test_crash_while_a_start_prepares_its_file_changes_nothing(call: str) -> None:
    node = began()
    disk = node.files.disk = node.files.disk.crashed()
    with pytest.raises(PowerCut):
        OneNode(disk, node.clock, behind(call, "journal-", Prepare))
    for life in node.lives_after():
        assert life.messages() == node.confirmed


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("nth", [1, 2, 3], ids=["unproven-blocks", "the-first-of-them", "boot-entry"])
def test_crash_while_a_start_writes_changes_nothing(call: str, nth: int) -> None:
    node = began_weakly()
    disk = node.files.disk = node.files.disk.crashed(range(len(node.files.disk.unsynced())))
    with pytest.raises(PowerCut):
        OneNode(disk, node.clock, behind(call, "journal-", Write, nth))
    for life in node.lives_after():
        assert life.messages() == node.confirmed
        assert OneNode(life.files.disk.crashed(), node.clock).messages() == node.confirmed


# ---- Checkpoints


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("step", ["empty-header", "snapshots", "header"])
def test_crash_while_a_checkpoint_is_written_leaves_the_other_one(step: str, call: str) -> None:
    node = began().checkpoint().checkpoint().enqueue(b"4")
    snapshots_and_directory = len(list(node.core.registry.all())) + 1
    writes = {
        "empty-header": 1,
        "snapshots": 1 + snapshots_and_directory,
        "header": 2 + snapshots_and_directory,
    }
    syncs = {"empty-header": 1, "snapshots": 2, "header": 3}
    nth = (writes if call == "write" else syncs)[step]
    dies(node, behind(call, "checkpoint-", Copy, nth), node.checkpoint)
    whole = {len(life.core.report.slots) for life in node.lives_after()}
    assert whole <= {1, 2}
    assert (whole == {2}) == ((step, call) == ("header", "sync"))
    for life in node.lives_after():
        assert life.messages() == node.confirmed


# ---- Archiving and freeing


@pytest.mark.parametrize("call", PREPARING)
def test_crash_before_a_move_is_recorded_leaves_a_segment_that_counts_for_nothing(call: str) -> None:
    node = began()
    dies(node, behind(call, "segment-", Copy), node.archive)
    for life in node.lives_after():
        assert life.messages() == node.confirmed
        life.confirmed = list(node.confirmed)
        check_it_goes_on(life)


@pytest.mark.parametrize("call", ["write", "sync"])
def test_crash_while_a_move_is_recorded_serves_from_either_place(call: str) -> None:
    node = began()
    dies(node, behind(call, "journal-", Write, 2), node.archive)
    lives = list(node.lives_after())
    in_first_segment = {1 in life.core.registry.node.segments for life in lives}
    assert in_first_segment == ({True, False} if call == "write" else {True})
    for life in lives:
        assert life.messages() == node.confirmed


@pytest.mark.parametrize("call", ["unlink", "sync_directory"])
def test_crash_while_a_journal_file_is_dropped_serves_without_it(call: str) -> None:
    node = began().archive().checkpoint()
    node.core.engine.journal.file_size *= 2  # a file of another size is not recycled
    dies(node, behind(call, "journal-", Drop), node.checkpoint)
    for life in node.lives_after():
        assert life.messages() == node.confirmed


@pytest.mark.parametrize("call", ["unlink", "sync_directory"])
def test_crash_while_a_segment_is_dropped_drops_it_at_the_next_start(call: str) -> None:
    node = began().archive().receive_and_ack(3)

    def drop() -> None:
        node.clock.advance(1_000)
        node.turn()

    dies(node, behind(call, "segment-", Drop), drop)
    for life in node.lives_after():
        assert life.messages() == []
        assert not any(name.startswith("segment-") for name in life.files.names())


def with_a_stuck_message(monkeypatch: pytest.MonkeyPatch) -> OneNode:
    """A segment of which one message is left alive, the first."""
    monkeypatch.setattr("penstock_broker.storage.evacuation.SEGMENT_BYTES_MIN", 1)
    node = OneNode().create_queue().enqueue(*[b"%d" % number * 100 for number in range(12)])
    for _ in range(6):
        node.archive()
    first, *others = node.receive(12)
    node.settle(others)
    del node.confirmed[first.messages :]
    return node


def evacuates(node: OneNode) -> None:
    """Time enough for segments to be looked at, and given up."""
    for _ in range(4):
        node.clock.advance(10_000)
        node.turn()


@pytest.mark.parametrize("call", PREPARING)
def test_crash_before_an_evacuation_is_recorded_leaves_the_segment_as_it_was(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    node = with_a_stuck_message(monkeypatch)
    dies(node, behind(call, "segment-", Copy), lambda: evacuates(node))
    for life in node.lives_after():
        assert life.messages() == node.confirmed
        evacuates(life)
        assert life.messages() == node.confirmed


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("nth", [1, 2, 3], ids=["segment", "moved", "dropped"])
def test_crash_while_an_evacuation_is_recorded_serves_from_either_segment(
    monkeypatch: pytest.MonkeyPatch, call: str, nth: int
) -> None:
    node = with_a_stuck_message(monkeypatch)
    dies(node, behind(call, "journal-", Write, nth), lambda: evacuates(node))
    for life in node.lives_after():
        assert life.messages() == node.confirmed
        evacuates(life)
        assert life.messages() == node.confirmed


# ---- Stopping


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("nth", [1, 2, 3], ids=["hand-outs", "first-stop", "second-stop"])
def test_crash_while_stopping_is_a_start_like_any_other(call: str, nth: int) -> None:
    node = began()
    node.receive(1)
    dies(node, behind(call, "journal-", Write, nth), node.stop)
    for life in node.lives_after():
        assert life.messages() == node.confirmed
