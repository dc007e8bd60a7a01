"""What a failing or full disk does to a running broker."""

import errno
import os

import pytest
from tests.unit.storage.one_node import OneNode

from penstock_broker.storage.files import Copy, Job, StorageFailed
from penstock_protocol.errors import Corrupt, DiskFull

SECOND_MS = 1_000
CAPACITY = 1 << 30


def second_passes(node: OneNode) -> None:
    node.clock.advance(SECOND_MS)
    node.turn()


def full() -> OneNode:
    """A node that has noticed that its disk is full."""
    node = OneNode().create_queue().enqueue(b"1", b"2", b"3")
    node.files.disk.taken = CAPACITY
    second_passes(node)
    return node


def failing(node: OneNode, prefix: str) -> None:
    """Copies to files of that name fail."""
    whole = node.files.run

    def run(job: Job) -> object:
        if isinstance(job, Copy) and job.name.startswith(prefix):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(job)

    node.files.run = run  # type: ignore[method-assign]  # the fault


def test_full_disk_refuses_publishes_and_lets_settles_go_on() -> None:
    node = full()
    with pytest.raises(DiskFull):
        node.enqueue(b"4")
    assert node.receive_and_ack(2).messages() == [b"3"]


def test_publishing_goes_on_when_there_is_room_again() -> None:
    node = full()
    node.files.disk.taken = 0
    second_passes(node)
    assert node.enqueue(b"4").messages() == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("call", [1, 2], ids=["write", "sync"])
def test_failed_write_stops_the_broker_and_confirms_nothing_more(call: int) -> None:
    node = OneNode().create_queue().enqueue(b"1")
    node.files.disk.fail(call, errno.EIO)
    with pytest.raises(StorageFailed, match="nothing more is confirmed"):
        node.enqueue(b"2")
    assert node.confirmed == [b"1"]
    disk = node.files.disk.crashed()
    assert OneNode(disk, node.clock).messages() == [b"1"]


@pytest.mark.covers("checkpoint", "failed write/sync", "disk full")
def test_failed_checkpoint_leaves_the_one_before_and_is_tried_again() -> None:
    node = OneNode().create_queue().enqueue(b"1").checkpoint()
    whole = node.files.run
    failing(node, "checkpoint-")
    node.enqueue(b"2").checkpoint()
    assert node.core.engine.checkpoint_failed
    node.files.run = whole  # type: ignore[method-assign]  # the fault is gone
    second_passes(node)
    assert not node.core.engine.checkpoint_failed
    assert OneNode(node.files.disk.crashed(), node.clock).messages() == [b"1", b"2"]


@pytest.mark.covers("archive", "failed write/sync", "disk full")
def test_failed_archive_run_leaves_the_journal_to_serve_and_is_made_again() -> None:
    node = OneNode().create_queue().enqueue(b"1", b"2", b"3")
    whole = node.files.run
    failing(node, "segment-")
    node.archive()
    assert node.messages() == node.confirmed
    assert not node.core.registry.use.total()
    node.files.run = whole  # type: ignore[method-assign]  # the fault is gone
    second_passes(node)
    assert node.core.registry.use.total()
    assert node.messages() == node.confirmed


@pytest.mark.covers("enqueue", "receive/lease", "read error")
def test_unreadable_bytes_make_their_messages_corrupt_and_leave_the_others() -> None:
    node = OneNode().create_queue().enqueue(b"1", b"2", b"3").archive()
    disk = node.files.disk.crashed()
    disk.spoil(next(name for name in disk.names if name.startswith("segment-")), 0)
    life = OneNode(disk, node.clock)
    life.files.cold = True
    with pytest.raises(Corrupt) as corrupt:
        life.messages()
    assert corrupt.value.detail == {"first": 0, "messages": 1}
    assert life.enqueue(b"4").confirmed == [b"4"]
