"""What the fault tests found, each in its smallest form."""

import errno

from tests.model.bench import Bench, batch

from penstock_broker.storage.files import PAGE_BYTES
from penstock_protocol.errors import Corrupt
from penstock_protocol.messages import queues as q

MINUTE_MS = 60_000


def test_message_that_could_not_be_read_once_is_ready_after_a_restart_and_no_dead_letter() -> None:
    life = Bench()
    connection = life.connect()
    life.call(connection, q.CreateQueue("jobs", {}, "check"))
    life.enqueue(connection, "jobs", b"1")
    life.enqueue(connection, "jobs", b"2")
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
