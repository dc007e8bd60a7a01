"""Journal files that are free again: kept within the budget, of one size, and not while the disk is full."""

from random import Random

from tests.fakes.disk import Disk
from tests.unit.storage.one_node import ARCHIVED_AFTER_MS, FILE_BYTES, SETTINGS, OneNode

from penstock_broker.storage.files import Drop, Job, Prepare
from penstock_broker.storage.journal import Journal, JournalSettings

BUDGET = SETTINGS.journal_budget_bytes or 0


class Watched(OneNode):
    """It remembers what it did."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.done: list[Job] = []
        super().__init__(disk)

    def _do(self, job: Job) -> None:
        self.done.append(job)
        super()._do(job)

    def go_on_for(self, size: int) -> "Watched":
        """Enqueue and settle so many bytes of messages, one after the other."""
        for _ in range(size // 3_000):
            self.enqueue(bytes(3_000)).receive_and_ack(1)
        return self


def test_after_one_budget_of_bytes_no_file_is_filled_anew() -> None:
    node = Watched().create_queue()
    assert isinstance(node, Watched)
    node.go_on_for(2 * BUDGET)
    node.done.clear()
    node.go_on_for(2 * BUDGET)
    prepares = [job for job in node.done if isinstance(job, Prepare)]
    assert len(prepares) > BUDGET // FILE_BYTES
    assert all(job.recycle for job in prepares)
    assert sum(node.files.names().values()) < BUDGET + 4 * FILE_BYTES


def test_on_a_full_disk_nothing_is_kept_to_be_recycled() -> None:
    node = Watched(Disk(capacity=4 * BUDGET)).create_queue()
    assert isinstance(node, Watched)
    node.go_on_for(2 * BUDGET)
    journal = node.core.engine.journal
    kept = sum(node.files.names().values()) - journal.bytes - journal.spare_bytes
    assert kept > BUDGET // 4
    node.files.disk.taken = node.files.disk.free
    node.clock.advance(ARCHIVED_AFTER_MS)
    node.turn()
    assert any(isinstance(job, Drop) and job.name.startswith("journal-") for job in node.done)
    assert node.files.disk.free > BUDGET // 4


def test_files_of_an_outgrown_size_are_given_up() -> None:
    journal: Journal[int] = Journal(JournalSettings(1 << 20, FILE_BYTES, 4 * FILE_BYTES), Random(1), 1)
    assert journal.keep("journal-1", FILE_BYTES)
    assert not journal.outgrown
    journal.file_size *= 2
    assert not journal.keep("journal-2", FILE_BYTES)
    assert journal.outgrown
    assert journal.surrender() == [Drop("journal-1")]
    assert not journal.outgrown
