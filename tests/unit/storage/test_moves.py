"""What moves to a segment or out of one: in which order, and what happens meanwhile."""

from collections.abc import Callable

import pytest
from tests.fakes.memory_files import MemoryFiles
from tests.model.bench import Bench, batch
from tests.unit.storage.one_node import ARCHIVED_AFTER_MS

from penstock_broker.storage import archive, archiver, evacuation
from penstock_broker.storage.files import Copy, Drop, Job, Load
from penstock_broker.storage.segment import PREFIX
from penstock_protocol.messages import queues as q

SECOND_MS = 1_000
TURNS_MAX = 100
FILLING = b"f" * 7_000


class Moving(Bench):
    """A node with a queue whose messages are to be moved; a second one fills journal files."""

    def __init__(self, files: MemoryFiles | None = None) -> None:
        super().__init__(files)
        if files is None:
            self.peer = self.connect()
            for name in ("jobs", "filling"):
                self.call(self.peer, q.CreateQueue(name, {}, "check"))

    def filled(self) -> "Moving":
        """What was enqueued lies in a journal file that is not written to any more."""
        for _ in range(2):
            self.enqueue(self.peer, "filling", FILLING)
        return self

    def archived(self) -> "Moving":
        self.filled()
        for _ in range(4):
            self.clock.advance(ARCHIVED_AFTER_MS)
            self.settle()
        assert self.queue("jobs").log.young_position is None
        self.call(self.peer, q.Purge("filling"))
        return self

    def until(self, wanted: Callable[[Job], bool]) -> Job:
        """Turns and jobs until such a job is to be run; it is not."""
        for _ in range(TURNS_MAX):
            self.turn()
            for job in self.jobs:
                if wanted(job):
                    self.jobs.remove(job)
                    return job
            self.run_jobs()
        raise AssertionError("no such job")

    def finish(self, job: Job) -> None:
        self.core.done(job, self.files.run(job), self.clock.now())
        self.settle()

    def second(self) -> None:
        self.clock.advance(SECOND_MS)
        self.settle()

    def bodies(self) -> list[bytes]:
        return [body for each in self.receive(self.peer, "jobs") for body in each.bodies]

    @property
    def segments(self) -> set[str]:
        return {name for name in self.files.names() if name.startswith(PREFIX)}


def writes_segment(job: Job) -> bool:
    return isinstance(job, Copy) and job.name.startswith(PREFIX)


def drops_segment(job: Job) -> bool:
    return isinstance(job, Drop) and job.name.startswith(PREFIX)


# ---- To a segment


def test_segment_is_written_when_it_is_durable_that_it_was_begun() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.filled().clock.advance(ARCHIVED_AFTER_MS)
    node.until(writes_segment)
    assert 1 in Bench(node.files.crash(), node.clock).core.registry.node.segments


def test_nothing_says_that_a_message_was_moved_before_its_copy_is_done() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.filled().clock.advance(ARCHIVED_AFTER_MS)
    node.until(writes_segment)
    node.second()
    assert node.queue("jobs").log.young_position is not None
    life = Moving(node.files.crash())
    life.peer = life.connect()
    assert life.bodies() == [b"1"]


def test_segment_that_a_run_is_writing_stays() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.filled().clock.advance(ARCHIVED_AFTER_MS)
    writing = node.until(writes_segment)
    node.second()
    node.second()
    node.finish(writing)
    assert node.segments == {writing.name}
    assert node.bodies() == [b"1"]


def test_queue_that_is_deleted_while_it_is_moved_is_gone() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.filled().clock.advance(ARCHIVED_AFTER_MS)
    writing = node.until(writes_segment)
    node.call(node.peer, q.DeleteQueue("jobs"))
    node.finish(writing)
    assert set(Bench(node.files.kill(), node.clock).core.registry.queues) == {"filling"}


def test_batch_of_which_one_message_is_left_is_archived() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1", b"2", b"3")
    (held,) = node.receive(node.peer, "jobs", 2)
    node.ack(node.peer, "jobs", held.range)
    node.archived()
    assert node.queue("jobs").log.size_bytes
    assert node.bodies() == [b"3"]


def test_batch_that_cannot_be_read_once_is_moved_later_as_it_is() -> None:
    before = Moving()
    before.enqueue(before.peer, "jobs", b"1")
    place = before.queue("jobs").log.at(0)
    assert place is not None
    file, at = before.core.engine.journal.locate(before.queue("jobs").log.position(0) - place.length)
    before.filled()
    node = Moving(before.files.kill())
    node.files.disk.spoil(file.name, at)
    writing = node.until(writes_segment)
    with pytest.raises(OSError, match="error") as failed:
        node.files.run(writing)
    node.core.done(writing, failed.value, node.clock.now())
    node.files.disk.names[file.name].unreadable.clear()
    node.peer = node.connect()
    node.archived()
    assert node.bodies() == [b"1"]


# ---- Out of a segment


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(evacuation, "SEGMENT_BYTES_MIN", 1)


@pytest.mark.usefixtures("small_segments")
def test_batch_of_which_one_message_is_left_is_evacuated() -> None:
    node = Moving()
    for _ in range(5):
        node.ask(node.peer, q.Enqueue("jobs", batch(*[b"%03d" % number * 50 for number in range(10)])))
    node.settle()
    node.archived()
    before = node.segments
    node.enqueue(node.peer, "jobs", b"another")
    node.archived()
    held = node.receive(node.peer, "jobs", 49)
    node.ack(node.peer, "jobs", *[each.range for each in held])
    for _ in range(4):
        node.clock.advance(archiver.EVACUATE_EVERY_MS)
        node.settle()
    assert before - node.segments
    assert node.core.engine.archiver.bytes_moved[archive.Kind.MOVED]
    assert node.bodies() == [b"009" * 50, b"another"]


def test_open_segment_is_evacuated_into_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evacuation, "SEGMENT_BYTES_MIN", 1)
    node = Moving()
    for number in range(5):
        node.enqueue(node.peer, "jobs", b"%d" % number * 1_000)
    node.archived()
    held = node.receive(node.peer, "jobs", 4)
    node.ack(node.peer, "jobs", *[each.range for each in held])
    before = node.segments
    for _ in range(4):
        node.clock.advance(archiver.EVACUATE_EVERY_MS)
        node.settle()
    assert not before & node.segments
    assert node.bodies() == [b"4" * 1_000]


def test_segment_that_a_queue_may_need_whose_snapshots_are_damaged_stays() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.archived()
    for _ in range(2):
        node.core.engine.checkpoint_now()
        node.settle()
    disk = node.files.disk.crashed()
    for slot in Bench(MemoryFiles(disk.crashed()), node.clock).core.report.slots:
        disk.flip(slot.name, slot.rows[node.queue("jobs").uuid].at, 0x41)
    life = Moving(MemoryFiles(disk))
    assert life.core.registry.corrupt == {node.queue("jobs").uuid}
    for _ in range(3):
        life.second()
    assert life.segments == node.segments != set()


@pytest.mark.usefixtures("small_segments")
def test_segment_is_unlinked_when_it_is_durable_that_it_is_not_needed() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.archived()
    node.ack(node.peer, "jobs", *[each.range for each in node.receive(node.peer, "jobs")])
    node.clock.advance(SECOND_MS)
    dropped = node.until(drops_segment)
    later = Bench(node.files.crash(), node.clock)
    assert int(dropped.name.removeprefix(PREFIX)) not in later.core.registry.node.segments


def test_segment_that_a_job_reads_stays_until_it_has() -> None:
    node = Moving()
    node.enqueue(node.peer, "jobs", b"1")
    node.archived()
    (name,) = node.segments
    read: list[object] = []
    node.core.engine.load(Load(name, 0, 10), read.append)
    reading = node.until(lambda job: isinstance(job, Load))
    node.ack(node.peer, "jobs", *[each.range for each in node.receive(node.peer, "jobs")])
    node.second()
    assert node.segments == {name}
    node.finish(reading)
    node.second()
    assert (len(read), node.segments) == (1, set())
