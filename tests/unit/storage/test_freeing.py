"""A journal file goes when all five conditions hold, and not while one does not."""

import pytest
from tests.model.bench import Bench

from penstock_broker.storage.files import Copy, Job, Load
from penstock_broker.storage.gathered import JournalFile
from penstock_protocol.messages import queues as q
from penstock_protocol.slices import encode_ranges

SECOND_MS = 1_000
ARCHIVED_AFTER_MS = 61_000
BODY = b"x" * 3_000


class Filled(Bench):
    """A node whose oldest journal file holds the first messages, and is followed by others."""

    def __init__(self) -> None:
        super().__init__()
        self.peer = self.connect()
        self.call(self.peer, q.CreateQueue("jobs", {}, "check"))
        while len(self.journal_files) < 3:
            self.enqueue(self.peer, "jobs", BODY)
        self.oldest = self.journal_files[0]

    @property
    def journal_files(self) -> list[JournalFile]:
        return self.core.engine.journal.files

    def archived(self) -> "Filled":
        self.clock.advance(ARCHIVED_AFTER_MS)
        self.settle()
        return self

    def checkpointed(self, times: int = 2) -> "Filled":
        for _ in range(times):
            self.core.engine.checkpoint_now()
            self.settle()
        return self

    def second(self) -> "Filled":
        self.clock.advance(SECOND_MS)
        self.settle()
        return self

    @property
    def kept(self) -> bool:
        return self.oldest in self.journal_files


@pytest.fixture
def node() -> Filled:
    return Filled()


def test_file_goes_when_nothing_needs_it(node: Filled) -> None:
    assert not node.archived().checkpointed().second().kept


def test_file_with_something_alive_stays(node: Filled) -> None:
    assert node.checkpointed().second().kept
    assert node.receive(node.peer, "jobs", 1)[0].bodies == [BODY]


def test_file_that_the_older_checkpoint_does_not_reflect_stays(node: Filled) -> None:
    assert node.archived().checkpointed(1).second().kept
    assert not node.checkpointed(1).second().kept


def test_file_stays_until_it_is_durable_that_nothing_in_it_is_alive(node: Filled) -> None:
    held = node.receive(node.peer, "jobs")
    node.checkpointed()
    node.ask(node.peer, q.Ack("jobs", memoryview(encode_ranges([got.range for got in held]))))
    node.core.engine.tick(node.clock.now().mono + SECOND_MS, node.clock.now().wall)
    node.turn()
    assert node.queue("jobs").messages == 0
    assert node.kept
    assert not node.second().kept


def test_file_that_a_job_reads_stays(node: Filled) -> None:
    read: list[object] = []
    node.core.engine.load(Load(node.oldest.name, 0, 10), read.append)
    node.turn()
    (reading,) = (job for job in node.jobs if isinstance(job, Load))
    node.jobs.remove(reading)
    assert node.archived().checkpointed().second().kept
    node.core.done(reading, node.files.run(reading), node.clock.now())
    assert read
    assert not node.second().kept


def test_file_of_which_a_view_is_alive_stays(node: Filled) -> None:
    view = node.files.view(node.oldest.name, 0, 10)
    assert node.archived().checkpointed().second().kept
    view.release()
    assert not node.second().kept


class Pressed(Filled):
    """The archiver's copies wait until the test says so."""

    def __init__(self) -> None:
        self.copies: list[Job] = []
        super().__init__()

    def run_jobs(self) -> None:
        held = [job for job in self.jobs if isinstance(job, Copy) and job.name.startswith("segment-")]
        self.copies += held
        self.jobs = [job for job in self.jobs if job not in held]
        super().run_jobs()

    def copy(self) -> None:
        (job,) = self.copies
        self.copies.clear()
        self.core.done(job, self.files.run(job), self.clock.now())
        self.settle()


def test_files_go_while_one_run_follows_the_other() -> None:
    node = Pressed()
    engine = node.core.engine
    while engine.journal.bytes < engine.sizes.budget:
        node.enqueue(node.peer, "jobs", BODY)
    node.checkpointed()
    node.copy()
    assert node.copies, "there is no pressure"
    node.copy()
    assert not node.kept
    assert node.copies
