"""What the fault tests found, each in its smallest form."""

import errno

import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench, batch

from penstock_broker.storage.files import PAGE_BYTES
from penstock_protocol.errors import Corrupt
from penstock_protocol.messages import queues as q

MINUTE_MS = 60_000


def queue_of(*bodies: bytes) -> Bench:
    """A life with a queue, its messages in blocks of their own."""
    life = Bench()
    connection = life.connect()
    life.call(connection, q.CreateQueue("jobs", {}, "check"))
    for body in bodies:
        life.enqueue(connection, "jobs", body)
    return life


def test_message_that_could_not_be_read_once_is_ready_after_a_restart_and_no_dead_letter() -> None:
    life = queue_of(b"1", b"2")
    life = Bench(life.files.kill(), life.clock)  # the first is read from a file now, not from a map
    connection = life.connect()
    life.files.disk.fail(1, errno.EIO)
    assert isinstance(life.call(connection, q.Receive("jobs", 1, 0)), Corrupt)
    life.core.engine.checkpoint_now()
    life.settle()
    life = Bench(life.files.kill(), life.clock)
    life.clock.advance(MINUTE_MS)
    life.settle()
    assert [got.bodies for got in life.receive(life.connect(), "jobs")] == [[b"1"], [b"2"]]


def test_damage_to_a_settled_message_holds_up_nothing_beside_it() -> None:
    life = Bench()
    connection = life.connect()
    life.call(connection, q.CreateQueue("jobs", {}, "check"))
    for body in (b"damaged", b"whole"):
        life.ask(connection, q.Enqueue("jobs", batch(body)))
    life.enqueue(connection, "jobs", bytes(3 * PAGE_BYTES))
    life.clock.advance(2 * MINUTE_MS)
    life.settle()
    (got,) = life.receive(connection, "jobs", 1)
    life.ack(connection, "jobs", got.range)
    life = Bench(life.files.kill(), life.clock)
    disk = life.files.disk
    (segment,) = (name for name in disk.names if name.startswith("segment-"))
    disk.flip(segment, disk.names[segment].shown.index(b"damaged"), 1)
    (got,) = life.receive(life.connect(), "jobs", 1)
    assert got.bodies == [b"whole"]


def test_newest_journal_file_that_lost_its_end_is_named_by_the_start() -> None:
    life = queue_of(b"1", b"2")
    name = life.core.engine.journal.files[-1].name
    disk = life.files.disk.crashed()
    disk.truncate(name, 2 * PAGE_BYTES)
    assert name in (Bench(MemoryFiles(disk), life.clock).core.report.torn or "")


@pytest.mark.parametrize("field", [0, 8, 16, 76], ids=["magic", "file", "salt", "crc32"])
def test_damage_to_the_only_block_of_a_file_is_named_by_the_start(field: int) -> None:
    life = queue_of(b"1")
    while life.core.engine.journal.files[-1].used > 2 * PAGE_BYTES:
        life.enqueue(life.connect(), "jobs", b"2")
    name = life.core.engine.journal.files[-1].name
    disk = life.files.disk.crashed()
    disk.flip(name, PAGE_BYTES + field, 1)
    assert name in (Bench(MemoryFiles(disk), life.clock).core.report.torn or "")
