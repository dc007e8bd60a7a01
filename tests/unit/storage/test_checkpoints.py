"""When a checkpoint is written, and what is in it."""

import pytest
from tests.model.bench import Bench, batch
from tests.unit.storage.one_node import OneNode, PowerCut, behind

from penstock_broker.storage import saver
from penstock_broker.storage.checkpoint import SLOTS
from penstock_broker.storage.files import Copy
from penstock_protocol.messages import queues as q


def test_checkpoint_waits_until_all_it_reflects_is_durable() -> None:
    bench = Bench()
    connection = bench.connect()
    bench.call(connection, q.CreateQueue("jobs", {}, "check"))
    bench.ask(connection, q.Enqueue("jobs", batch(b"not durable yet")))
    bench.core.engine.checkpoint_now()
    bench.turn()
    assert bench.queue("jobs").log.end == 1
    assert not [job for job in bench.jobs if job.name in SLOTS]
    bench.run_jobs()
    bench.turn()
    assert [job for job in bench.jobs if job.name in SLOTS]


def test_what_changed_since_the_last_checkpoint_is_in_the_next() -> None:
    node = OneNode().create_queue().enqueue(b"1").checkpoint().enqueue(b"2").checkpoint()
    (slot, *_) = OneNode(node.files.disk.crashed(), node.clock).core.report.slots
    assert (
        slot.rows[node.core.registry.queue("jobs").uuid].as_of > node.core.registry.queue("jobs").changed_at
    )
    assert OneNode(node.files.disk.crashed(), node.clock).messages() == [b"1", b"2"]


def test_older_snapshot_of_one_machine_is_brought_up_to_date_by_the_journal() -> None:
    node = OneNode().create_queue().enqueue(b"1").checkpoint().enqueue(b"2").checkpoint()
    disk = node.files.disk.crashed()
    slot = OneNode(disk.crashed(), node.clock).core.report.slots[0]
    disk.flip(slot.name, slot.rows[node.core.registry.queue("jobs").uuid].at, 0x41)
    assert OneNode(disk, node.clock).messages() == [b"1", b"2"]


def test_machines_saved_at_different_positions_are_brought_up_to_date_each_from_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saver, "MACHINES_PER_TURN", 1)
    bench = Bench()
    connection = bench.connect()
    for name in ("a", "b"):
        bench.call(connection, q.CreateQueue(name, {}, "check"))
    bench.core.engine.checkpoint_now()
    while bench.core.engine.checkpointing:
        for name in ("a", "b"):
            bench.ask(connection, q.Enqueue(name, batch(b"x")))
        bench.turn()
        bench.run_jobs()
    ends = [bench.queue(name).log.end for name in ("a", "b")]
    life = Bench(bench.files.kill(), bench.clock)
    (slot,) = life.core.report.slots
    assert len({row.as_of for row in slot.rows.values()}) > 1
    assert [life.queue(name).log.end for name in ("a", "b")] == ends


def test_checkpoint_that_a_kill_left_unsynced_is_made_sure_before_the_other_is_written_over() -> None:
    node = OneNode().create_queue().enqueue(b"1").checkpoint()
    node.receive_and_ack(1).enqueue(b"2").checkpoint().enqueue(b"3")
    header_written = 3 + len(list(node.core.registry.all()))
    node.files.crash_at = behind("write", "checkpoint-", Copy, header_written)
    with pytest.raises(PowerCut):
        node.checkpoint()
    life = OneNode(node.files.kill().disk, node.clock)
    newest = life.core.report.slots[0]
    life.files.crash_at = behind("sync", "checkpoint-", Copy)
    with pytest.raises(PowerCut):
        life.checkpoint()
    for later in life.lives_after():
        assert later.core.report.slots[0].generation == newest.generation
