"""A publish that was taken is written, whatever becomes of the disk: a file that is ready has room for it."""

from contextlib import suppress
from random import Random

import pytest

from penstock_broker.durability import FSYNC
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.storage.files import PAGE_BYTES, Job, Prepare
from penstock_broker.storage.journal import Journal, JournalSettings
from penstock_protocol.errors import Busy

FILE_MIN, FILE_MAX, BUDGET = 16 << 10, 256 << 10, 4 << 20
STEPS = 400


class Disk:
    """A journal whose jobs end in an order of their own; once it is full, no file can be made any more."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.journal: Journal[int] = Journal(JournalSettings(BUDGET, FILE_MIN, FILE_MAX), self.random, 1)
        self.journal.open(0, 0, 0, [])
        self.full = False
        self.jobs: list[Job] = []
        self.wall = 0
        self.taken: list[int] = []
        self.drain()

    def append(self, size: int, *, publish: bool) -> None:
        part = Part(bytes(16), Kind.APPEND, 0, 1, 0, b"", 0)
        body = Body(memoryview(bytes(size)), 0)
        reserved = self.journal.reserve([part], [body], self.wall, publish=publish, within=FSYNC)
        self.journal.copy(reserved)
        position = reserved.places[-1].position
        self.taken.append(position)
        self.journal.wait(position, position)

    def turn(self) -> None:
        self.jobs += self.journal.jobs(0, self.wall)

    def job_ends(self) -> None:
        job = self.jobs.pop(self.random.randrange(len(self.jobs)))
        if isinstance(job, Prepare):
            self.journal.prepared(job, ok=not self.full)
        else:
            self.journal.done()

    def drain(self) -> None:
        self.turn()
        while self.jobs:
            self.job_ends()
            self.turn()


def test_two_files_are_ready_whenever_one_is_begun() -> None:
    disk = Disk(1)
    for files in (1, 2):
        while len(disk.journal.files) < files:
            disk.wall += 60_000  # slowly: files keep their size
            disk.append(4_000, publish=True)
            disk.drain()
        assert disk.journal.spare_bytes == 2 * (FILE_MIN - PAGE_BYTES)


@pytest.mark.parametrize("seed", range(60))
def test_what_was_taken_is_written_on_a_disk_that_fills_at_any_time(seed: int) -> None:
    disk = Disk(seed)
    full_from = disk.random.randrange(STEPS)
    for step in range(STEPS):
        disk.full = step >= full_from
        disk.wall += disk.random.choice((1, 3_000))
        what = disk.random.choice(("publish", "publish", "settle", "turn", "end", "end"))
        if what == "publish" and not disk.journal.full:
            size = disk.random.choice((100, 3_000, 14_000, 60_000, 200_000))
            with suppress(Busy):
                disk.append(size, publish=True)
        elif what == "settle" and not disk.full:  # some pages are kept for them, not any number
            disk.append(60, publish=False)
        elif what == "end" and disk.jobs:
            disk.job_ends()
        else:
            disk.turn()
    disk.full = True
    disk.drain()
    assert disk.journal.idle
    assert disk.journal.released == sorted(disk.taken)


def test_publish_without_a_file_for_it_is_taken_as_soon_as_there_is_one() -> None:
    disk = Disk(1)
    with pytest.raises(Busy, match="being prepared"):
        disk.append(100_000, publish=True)
    disk.drain()
    assert disk.journal.spare_bytes >= 100_000
    disk.append(100_000, publish=True)
    disk.drain()
    assert disk.journal.released == disk.taken


def test_publishes_leave_a_file_to_what_frees_space() -> None:
    disk = Disk(1)
    disk.full = True
    with suppress(Busy):
        for _ in range(1_000):
            disk.append(1_000, publish=True)
    assert 0 < len(disk.taken) < 100
    for _ in range((FILE_MIN - PAGE_BYTES) // 200):
        disk.append(60, publish=False)
    disk.drain()
    assert disk.journal.released == disk.taken


def test_large_publish_gets_the_file_that_was_made_for_it_however_many_small_ones_come() -> None:
    disk = Disk(1)
    with pytest.raises(Busy, match="being prepared"):
        disk.append(FILE_MAX, publish=True)
    disk.drain()
    with suppress(Busy):
        while disk.taken[-1:] < [BUDGET]:
            disk.append(10_000, publish=True)
    disk.append(FILE_MAX, publish=True)
    disk.drain()
    assert disk.journal.released == disk.taken


def test_large_file_serves_small_blocks_where_no_other_can_be_made() -> None:
    disk = Disk(1)
    with pytest.raises(Busy):
        disk.append(FILE_MAX, publish=True)
    disk.drain()
    disk.full = True
    for _ in range(FILE_MAX // 10_000):
        disk.append(9_000, publish=False)
        disk.drain()
    assert disk.journal.full
    assert disk.journal.idle
