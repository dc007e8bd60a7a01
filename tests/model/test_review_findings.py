"""What a review of the broker found: each a sentence, on a core driven by hand over files in memory."""

from random import Random
from typing import Any

import pytest
from tests.fakes.clock import ManualClock
from tests.fakes.memory_files import MemoryFiles

from penstock_broker.clock import stopwatch
from penstock_broker.core import Core
from penstock_broker.outputs import Close, Send
from penstock_broker.queues.histories import History
from penstock_broker.session import Connection
from penstock_broker.settings import CoreSettings
from penstock_broker.storage.files import Job, Load, StorageError, Write
from penstock_broker.storage.log import Young
from penstock_protocol import verbs
from penstock_protocol.batch import BatchBuilder
from penstock_protocol.errors import Corrupt, NotFound
from penstock_protocol.messages import queues as q
from penstock_protocol.messages import session as s
from penstock_protocol.messages.schema import unpack_document
from penstock_protocol.slices import Range, Slice, decode_slices, encode_ranges

KIB = 1024
SETTINGS = CoreSettings(journal_budget_bytes=1024 * KIB, journal_file_bytes_min=64 * KIB)


class Rig:
    """One life of a broker. Jobs wait in `jobs` until `settle` runs them."""

    def __init__(self, files: MemoryFiles | None = None, settings: CoreSettings = SETTINGS) -> None:
        self.files = files or MemoryFiles()
        self.clock = ManualClock()
        self.core = Core(self.files, settings, Random(1), self.clock.now())
        self.jobs: list[Job] = []
        self.sent: dict[tuple[Connection, int], Any] = {}
        self.pushed: list[Any] = []
        self._correlation = 0

    def connect(self, name: bytes = b"s" * 16) -> Connection:
        connection = self.core.connected(object())
        self.ask(connection, s.Hello(s.MAGIC, 1, 1, name, 0))
        return connection

    def tell(self, connection: Connection, request: Any, correlation: int | None = None) -> int:
        if correlation is None:
            self._correlation = correlation = self._correlation + 1
        verb = verbs.BY_REQUEST[type(request)]
        self.core.handle(connection, verb, correlation, request, self.clock.now())
        return correlation

    def turn(self) -> None:
        """One turn of the loop; no job runs."""
        now = self.clock.now()
        self.core.tick(now)
        for output in self.core.drain(now):
            if isinstance(output, Send):
                if output.correlation:
                    self.sent[output.connection, output.correlation] = output.message
                else:
                    self.pushed.append(output.message)
            elif not isinstance(output, Close):
                self.jobs.append(output)

    def run(self, job: Job) -> None:
        result: object
        try:
            result = self.files.run(job)
        except (OSError, StorageError) as error:
            result = error
        self.core.done(job, result, self.clock.now())

    def settle(self) -> None:
        """Turns and jobs until neither brings anything more."""
        self.turn()
        while self.jobs or (self.core.deadline or 0) <= self.clock.now().mono:
            if self.jobs:
                self.run(self.jobs.pop(0))
            self.turn()

    def ask(self, connection: Connection, request: Any) -> Any:
        correlation = self.tell(connection, request)
        self.settle()
        return self.sent.pop((connection, correlation))

    def enqueue(self, connection: Connection, queue: str, *bodies: bytes) -> Any:
        return self.ask(connection, q.Enqueue(queue, memoryview(batch(*bodies))))

    def receive(self, connection: Connection, queue: str, messages: int = 1, visibility: int = 1_000) -> Any:
        reply = self.ask(connection, q.Receive(queue, messages, 0, visibility))
        return slices(reply) if isinstance(reply, q.Delivery) else reply

    def stats(self, connection: Connection, queue: str) -> Any:
        return unpack_document(self.ask(connection, q.DescribeQueue(queue)).payload)["stats"]

    def killed(self) -> "Rig":
        return Rig(self.files.kill(), self.core.settings)


def batch(*bodies: bytes) -> bytes:
    builder = BatchBuilder()
    builder.extend(bodies)
    return builder.encode()


def slices(delivery: Any) -> list[Slice]:
    payload = b"".join(map(bytes, delivery.payload)) if delivery.payload else b""
    return [found for found, _ in decode_slices(memoryview(payload), delivery.slices)]


def of(*found: Slice) -> bytes:
    return encode_ranges([Range(item.token, item.first, item.partition, item.messages) for item in found])


def create(rig: Rig, connection: Connection, name: str, **settings: Any) -> None:
    assert isinstance(rig.ask(connection, q.CreateQueue(name, settings, "check")), s.Document)


# ---- Recovery


class PowerCutError(BaseException):
    """The power goes while the broker starts."""


class CutAtWrite(MemoryFiles):
    """The power goes in a start's first journal write, before its sync."""

    cut: Write | None = None

    def run(self, job: Job) -> object:
        if not isinstance(job, Write):
            return super().run(job)
        self.cut = job
        next(self.steps(job))
        raise PowerCutError


def cut_start(files: MemoryFiles) -> CutAtWrite:
    life = CutAtWrite(files.disk)
    with pytest.raises(PowerCutError):
        Core(life, SETTINGS, Random(2), ManualClock().now())
    life.close()
    return life


def kept_sectors(life: CutAtWrite, sectors: int) -> MemoryFiles:
    """The machine after a power cut that kept the first sectors of the write under way."""
    assert life.cut is not None
    inode = life.disk.names[life.cut.name]
    first = life.cut.offset // 512
    wanted = range(first, first + sectors)
    keep = [i for i, unit in enumerate(life.disk.unsynced()) if unit.inode is inode and unit.sector in wanted]
    assert len(keep) == sectors
    return MemoryFiles(life.disk.crashed(keep))


def test_confirmed_message_survives_a_start_that_tore_the_copy_of_its_block() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    assert isinstance(rig.enqueue(me, "a", Random(3).randbytes(3_000)), q.Confirm)
    rig.core.disconnected(me, rig.clock.now())
    rig.files.close()
    after = Rig(kept_sectors(cut_start(MemoryFiles(rig.files.disk)), 1))
    assert after.stats(after.connect(), "a")["ready"] == 1


def test_start_does_not_recycle_the_file_that_holds_the_unproven_block() -> None:
    rig = Rig()
    me = rig.connect()
    journal = rig.core.engine.journal
    rig.files.disk.taken = rig.files.disk.free
    created = 0
    while not (len(journal.files) == 3 and journal.files[-1].used == 8192):
        create(rig, me, f"a{created}")
        created += 1
    assert not journal._spares
    rig.files.close()
    rig.files.disk.taken = 0
    after = Rig(kept_sectors(cut_start(MemoryFiles(rig.files.disk)), 0))
    assert after.stats(after.connect(), f"a{created - 1}")["ready"] == 0


def test_queue_deleted_while_a_checkpoint_is_made_does_not_stop_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock_broker.storage.saver.MACHINES_PER_TURN", 1)
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.enqueue(me, "a", b"1")
    rig.core.engine.checkpoint_now()
    rig.turn()
    rig.turn()  # node and catalogue are encoded
    rig.tell(me, q.Enqueue("a", memoryview(batch(b"2"))))
    rig.tell(me, q.DeleteQueue("a"))
    rig.settle()
    assert "checkpoint-0" in rig.files.names()
    after = rig.killed()
    assert not after.core.registry.queues


def checkpoint(rig: Rig) -> None:
    rig.core.engine.checkpoint_now()
    for _ in range(20):
        rig.settle()
    assert not rig.core.engine.checkpointing


def rot_snapshot(rig: Rig, uuid: bytes, which: int = 0) -> None:
    """Damage a machine's snapshot in the newest (0) or the older (1) checkpoint."""
    slot = rig.core.engine._saver._slots[which]
    rig.files.disk.flip(slot.name, slot.rows[uuid].at, 0xFF)


def test_damaged_snapshot_of_a_machine_that_the_older_checkpoint_does_not_know_is_replayed() -> None:
    rig = Rig()
    me = rig.connect()
    checkpoint(rig)
    create(rig, me, "a")
    rig.enqueue(me, "a", b"1")
    checkpoint(rig)
    rot_snapshot(rig, rig.core.registry.queues["a"].uuid)
    after = rig.killed()
    assert after.stats(after.connect(), "a")["ready"] == 1


def test_damaged_catalogue_falls_back_though_a_queue_was_deleted_since() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    create(rig, me, "b")
    rig.enqueue(me, "a", b"1")
    checkpoint(rig)
    rig.enqueue(me, "a", b"2")
    rig.ask(me, q.DeleteQueue("a"))
    checkpoint(rig)
    rot_snapshot(rig, rig.core.registry.catalogue.uuid)
    after = rig.killed()
    assert set(after.core.registry.queues) == {"b"}


def test_queue_whose_snapshots_are_damaged_stays_corrupt_and_keeps_its_bytes() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    create(rig, me, "b")
    rig.enqueue(me, "a", b"1" * 100_000)
    rig.clock.advance(120_000)
    for _ in range(3):
        rig.enqueue(me, "b", b"1" * 40_000)
        rig.clock.advance(120_000)
        checkpoint(rig)
    uuid = rig.core.registry.queues["a"].uuid
    segments = set(rig.core.engine.node.segments)
    assert segments
    rot_snapshot(rig, uuid)
    rot_snapshot(rig, uuid, 1)
    for _ in range(3):
        rig = rig.killed()
        me = rig.connect()
        assert isinstance(rig.enqueue(me, "a", b"2"), Corrupt)
        assert isinstance(rig.enqueue(me, "b", b"2"), q.Confirm)
        rig.clock.advance(2_000)
        checkpoint(rig)
        checkpoint(rig)
    assert segments <= set(rig.core.engine.node.segments)


# ---- Nothing undurable is said


def test_waiting_receive_hears_of_the_delete_when_it_is_durable() -> None:
    rig = Rig()
    me, other = rig.connect(), rig.connect(b"o" * 16)
    create(rig, me, "a")
    waiting = rig.tell(me, q.Receive("a", 1, 10_000))
    rig.settle()
    rig.tell(other, q.DeleteQueue("a"))
    rig.turn()
    assert (me, waiting) not in rig.sent
    rig.settle()
    assert isinstance(rig.sent[me, waiting], NotFound)


# ---- What a peer must not reach


def test_message_that_fails_more_often_than_two_bytes_count_is_returned() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a", dead_letter=None, max_attempts=None, max_deliveries=None)
    rig.enqueue(me, "a", b"1")
    (found,) = rig.receive(me, "a")
    rig.core.registry.queues["a"].histories[0] = History(65_535, 65_535)
    assert rig.ask(me, q.Nack("a", q.Outcome.RETRY, 0, None, memoryview(of(found)))).messages == 1
    (found,) = rig.receive(me, "a")
    assert found.first == 0


def test_settling_many_single_messages_of_one_lease_takes_no_quadratic_time() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.enqueue(me, "a", *[b""] * 10_000)
    (found,) = rig.receive(me, "a", 10_000)
    singles = [found._replace(first=first, messages=1) for first in range(9_999, -1, -1)]
    began = stopwatch()
    assert rig.ask(me, q.Extend("a", 5_000, memoryview(of(*singles)))).messages == 10_000
    assert rig.ask(me, q.Ack("a", memoryview(of(*singles)))).messages == 10_000
    assert stopwatch() - began < 1.5


def test_second_open_request_under_one_correlation_is_refused() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.tell(me, q.Receive("a", 1, 10_000), 7)
    rig.tell(me, q.Receive("a", 1, 10_000), 7)
    rig.core.disconnected(me, rig.clock.now())
    rig.settle()
    assert not len(rig.core.registry.queues["a"].handout)


# ---- Leases


def test_goodbye_releases_every_part_of_a_lease_that_was_extended_in_part() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.enqueue(me, "a", b"1", b"2", b"3", b"4")
    rig.ask(me, q.Consume("a", 1, 4, 60_000, 0, False, b""))
    (found,) = slices(rig.pushed[-1])
    one = found._replace(first=1, messages=1)
    assert rig.ask(me, q.Extend("a", 90_000, memoryview(of(one)))).messages == 1
    rig.ask(me, s.Goodbye())
    assert rig.stats(rig.connect(b"o" * 16), "a")["ready"] == 4


def test_one_damaged_batch_keeps_no_other_message_from_being_received() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    for body in (b"1", b"2", b"3"):
        rig.enqueue(me, "a", body)
    rig = rig.killed()
    me = rig.connect()
    place = rig.core.registry.queues["a"].log.at(0)
    assert isinstance(place, Young)
    file, at = rig.core.engine.journal.locate(place.position)
    rig.files.disk.flip(file.name, at + 36, 0xFF)
    assert isinstance(rig.receive(me, "a", 10), Corrupt)
    assert [(found.first, found.messages) for found in rig.receive(me, "a", 10)] == [(1, 1), (2, 1)]


def test_delivery_that_waits_for_a_failure_to_be_durable_is_not_overtaken() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.enqueue(me, "a", b"1", b"2", b"3")
    (found,) = rig.receive(me, "a")
    nack = rig.tell(me, q.Nack("a", q.Outcome.RETRY, 0, None, memoryview(of(found))))
    both, last = rig.tell(me, q.Receive("a", 2, 0)), rig.tell(me, q.Receive("a", 1, 0))
    rig.settle()
    assert [key[1] for key in rig.sent if key[1] in (nack, both, last)] == [nack, both, last]


def test_deliveries_of_one_connection_keep_their_order_while_bytes_are_loaded() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.enqueue(me, "a", b"1")
    rig.enqueue(me, "a", b"2")
    rig = rig.killed()
    me = rig.connect()
    rig.files.peek = lambda *extent: None  # type: ignore[method-assign]  # nothing is in memory
    rig.tell(me, q.Consume("a", 1, 3, 60_000, 0, False, b""))
    rig.turn()
    loads, rig.jobs = [job for job in rig.jobs if isinstance(job, Load)], []
    assert loads
    rig.enqueue(me, "a", b"3")
    rig.jobs += loads
    rig.settle()
    assert [found.first for push in rig.pushed for found in slices(push)] == [0, 1, 2]


# ---- Bounds


def sizes(rig: Rig) -> int:
    queue = rig.core.registry.queues["a"]
    heaps = (
        queue.leases._heap,
        queue.handout._ends._heap,
        queue.states.order,
        queue.indexes.delays,
        rig.core._alarms._heap,
    )
    return sum(map(len, heaps))


@pytest.mark.parametrize("settle", ["ack", "release", "nack and purge"])
def test_nothing_is_remembered_of_messages_that_came_and_went(settle: str) -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a", dead_letter=None, max_attempts=None, max_deliveries=None)
    rig.enqueue(me, "a", b"keeps the queue from being empty")
    rig.receive(me, "a", visibility=43_000_000)
    rig.enqueue(me, "a", b"x")
    for _ in range(1_000):
        reply = rig.ask(me, q.Receive("a", 1, 1_000_000, 40_000_000))
        payload = memoryview(of(*slices(reply)))
        if settle == "release":
            rig.ask(me, q.Nack("a", q.Outcome.RELEASE, None, None, payload))
            continue
        if settle == "ack":
            rig.ask(me, q.Ack("a", payload))
        else:
            rig.ask(me, q.Nack("a", q.Outcome.RETRY, 90_000_000, None, payload))
            rig.ask(me, q.Purge("a"))
        rig.enqueue(me, "a", b"x")
        rig.clock.advance(1)
    assert sizes(rig) < 700


def test_session_remembers_no_deleted_queue_and_no_earlier_producer_id() -> None:
    rig = Rig()
    me = rig.connect()
    for number in range(10):
        create(rig, me, "a")
        rig.ask(me, q.Consume("a", 1, 1, None, 0, False, b""))
        rig.ask(me, q.Stop(1))
        rig.ask(me, q.DeleteQueue("a"))
        me = rig.core.connected(object())
        rig.ask(me, s.Hello(s.MAGIC, 1, 1, b"s" * 16, 5 + number))
    assert me.session is not None
    assert not me.session.queues
    assert len(rig.core.presence._producers) == 1


# ---- The clean stop


def test_clean_stop_of_many_queues_needs_nobody_to_wake_it() -> None:
    rig = Rig()
    me = rig.connect()
    for number in range(300):
        rig.tell(me, q.CreateQueue(f"q{number}", {}, "check"))
    rig.settle()
    rig.core.stop(rig.clock.now())
    rig.settle()
    while not rig.core.stopped:
        deadline = rig.core.deadline
        assert deadline is not None
        assert deadline <= rig.clock.now().mono, "the next turn would come by chance"
        rig.settle()


def test_clean_stop_ends_though_clients_go_on_acking() -> None:
    rig = Rig()
    me = rig.connect()
    create(rig, me, "a")
    rig.enqueue(me, "a", *[b""] * 300)
    (found,) = rig.receive(me, "a", 300, 100_000)
    rig.core.stop(rig.clock.now())
    for first in range(300):
        rig.tell(me, q.Ack("a", memoryview(of(found._replace(first=first, messages=1)))))
        rig.turn()
        if rig.jobs:
            rig.run(rig.jobs.pop(0))
    assert rig.core.stopped
