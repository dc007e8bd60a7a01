"""When the journal writes, when it syncs, and who is released by which."""

from random import Random
from types import SimpleNamespace

import pytest

from penstock_broker.durability import FSYNC, OS_MS
from penstock_broker.storage.blocks import decode_block_header
from penstock_broker.storage.engine import NOW, Engine
from penstock_broker.storage.entries import Body, Kind, Part
from penstock_broker.storage.files import PAGE_BYTES, Job, Prepare, Sync, Write
from penstock_broker.storage.journal import Journal, JournalSettings

FILE_BYTES = 16 << 10
SOON_MS = 50
LATER_MS = 400


class Bench:
    """A journal whose files are ready at once; its writes and syncs are done when the test says so."""

    def __init__(self) -> None:
        settings = JournalSettings(1 << 20, FILE_BYTES, FILE_BYTES)
        self.journal: Journal[str] = Journal(settings, Random(1), 1)
        self.journal.open(0, 0, 0, [])
        self.mono = 1_000
        self.turn()

    def append(self, within: int, size: int = 10) -> int:
        """An entry; its position."""
        body = Body(memoryview(bytes(size)), 0)
        reserved = self.journal.reserve(
            [Part(bytes(16), Kind.APPEND, 0, 1, 0, b"", 0)], [body], 0, publish=False, within=within
        )
        self.journal.copy(reserved)
        return reserved.places[-1].position

    def confirmed(self, who: str, within: int, size: int = 10) -> None:
        """An entry, and who waits for it in its own mode."""
        self.journal.wait(self.append(within, size), who, within)
        assert who not in self.journal.released

    def turn(self) -> Job | None:
        """The write or sync that is begun now, if any."""
        begun: list[Job] = []
        preparing = True
        while preparing:
            jobs = self.journal.jobs(self.mono, 0)
            preparing = any(isinstance(job, Prepare) for job in jobs)
            for job in jobs:
                if isinstance(job, Prepare):
                    self.journal.prepared(job, ok=True)
                else:
                    begun.append(job)
        assert len(begun) <= 1
        return begun[0] if begun else None

    def write(self, *, sync: bool) -> Write:
        """A write is begun now, with or without a sync."""
        job = self.turn()
        assert isinstance(job, Write)
        assert job.sync == sync
        return job

    def sync(self) -> Sync:
        """A sync is begun now."""
        job = self.turn()
        assert isinstance(job, Sync)
        return job

    def done(self) -> list[str]:
        """What was begun is done; who is released."""
        self.journal.done()
        released = self.journal.released[:]
        self.journal.released.clear()
        return released


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_fsync_is_one_job_that_writes_and_syncs(bench: Bench) -> None:
    bench.confirmed("strict", FSYNC)
    bench.write(sync=True)
    assert bench.done() == ["strict"]
    assert bench.turn() is None
    assert bench.journal.sync_at is None


def test_interval_is_released_by_the_write_and_synced_when_its_time_is_over(bench: Bench) -> None:
    bench.confirmed("weak", SOON_MS)
    bench.write(sync=False)
    assert bench.done() == ["weak"]
    assert bench.journal.durable < bench.journal.written
    assert bench.journal.sync_at == bench.mono + SOON_MS
    bench.mono += SOON_MS - 1
    assert bench.turn() is None
    bench.mono += 1
    bench.sync()
    assert bench.journal.sync_at is None
    assert bench.done() == []
    assert bench.journal.durable == bench.journal.written
    assert bench.turn() is None


def test_interval_begins_with_the_entry_that_waits_longest(bench: Bench) -> None:
    bench.append(SOON_MS)
    bench.write(sync=False)
    bench.done()
    bench.mono += SOON_MS - 1
    bench.append(SOON_MS)
    bench.write(sync=False)
    bench.done()
    bench.mono += 1
    bench.sync()


def test_write_that_begins_when_a_sync_is_due_brings_it(bench: Bench) -> None:
    bench.append(SOON_MS)
    bench.write(sync=False)
    bench.done()
    bench.mono += SOON_MS
    bench.append(OS_MS)
    bench.write(sync=True)
    bench.done()
    assert bench.journal.durable == bench.journal.written
    assert bench.turn() is None


def test_shorter_interval_makes_the_sync_due_earlier(bench: Bench) -> None:
    bench.append(LATER_MS)
    bench.append(SOON_MS)
    bench.write(sync=False)
    bench.done()
    assert bench.journal.sync_at == bench.mono + SOON_MS


def test_longer_interval_puts_no_sync_off(bench: Bench) -> None:
    bench.append(SOON_MS)
    bench.append(LATER_MS)
    bench.write(sync=False)
    bench.done()
    assert bench.journal.sync_at == bench.mono + SOON_MS


def test_os_is_never_due(bench: Bench) -> None:
    bench.confirmed("weak", OS_MS)
    bench.write(sync=False)
    assert bench.done() == ["weak"]
    bench.mono += 1 << 40
    assert bench.turn() is None
    assert bench.journal.sync_at is None


def test_strict_entry_has_all_before_it_synced_with_it(bench: Bench) -> None:
    bench.confirmed("weak", OS_MS)
    bench.write(sync=False)
    bench.confirmed("strict", FSYNC)
    bench.confirmed("weak too", OS_MS)
    assert bench.done() == ["weak"]
    bench.write(sync=True)
    assert bench.done() == ["strict", "weak too"]
    assert bench.journal.durable == bench.journal.written


def test_who_waits_strictly_for_a_weak_entry_that_is_written_has_a_sync_at_once(bench: Bench) -> None:
    position = bench.append(OS_MS)
    bench.write(sync=False)
    bench.done()
    bench.journal.wait(position, "strict")
    assert bench.journal.released == []
    bench.sync()
    assert bench.done() == ["strict"]


def test_who_waits_strictly_for_a_weak_entry_in_flight_has_a_sync_behind_it(bench: Bench) -> None:
    position = bench.append(OS_MS)
    bench.write(sync=False)
    bench.journal.wait(position, "strict")
    bench.journal.wait(position, "weak", OS_MS)
    assert bench.done() == ["weak"]
    bench.sync()
    assert bench.done() == ["strict"]


def test_who_waits_strictly_for_a_weak_entry_that_is_gathered_has_it_synced_with_its_write(
    bench: Bench,
) -> None:
    bench.journal.wait(bench.append(OS_MS), "strict")
    bench.write(sync=True)
    assert bench.done() == ["strict"]


def test_weak_waiter_of_what_is_written_is_released_at_once(bench: Bench) -> None:
    position = bench.append(OS_MS)
    bench.write(sync=False)
    bench.done()
    bench.journal.wait(position, "weak", SOON_MS)
    assert bench.journal.released == ["weak"]
    assert bench.turn() is None


def test_nothing_is_written_while_a_sync_runs_and_what_gathers_follows(bench: Bench) -> None:
    bench.append(SOON_MS)
    bench.write(sync=False)
    bench.done()
    bench.mono += SOON_MS
    bench.sync()
    durable = bench.journal.written
    bench.confirmed("weak", OS_MS)
    assert bench.turn() is None
    assert bench.done() == []
    assert bench.journal.durable == durable
    bench.write(sync=False)
    assert bench.done() == ["weak"]
    assert bench.journal.durable == durable


def test_demand_brings_a_sync_wherever_the_entry_is(bench: Bench) -> None:
    bench.journal.demand(bench.append(OS_MS))
    bench.write(sync=True)
    bench.done()
    position = bench.append(OS_MS)
    bench.write(sync=False)
    bench.journal.demand(position)
    bench.done()
    bench.sync()
    bench.journal.demand(position)
    bench.done()
    bench.journal.demand(position)
    assert bench.turn() is None


def test_file_is_synced_before_the_next_one_is_written_to(bench: Bench) -> None:
    bench.append(OS_MS, FILE_BYTES // 2)
    first = bench.write(sync=False)
    bench.done()
    bench.append(OS_MS, FILE_BYTES // 2)
    assert bench.sync().name == first.name
    bench.done()
    assert bench.write(sync=False).name > first.name


def test_waiters_of_what_is_synced_before_a_file_is_begun_are_released_by_that(bench: Bench) -> None:
    position = bench.append(OS_MS, FILE_BYTES // 2)
    bench.write(sync=False)
    bench.journal.wait(position, "strict")
    bench.confirmed("next", OS_MS, FILE_BYTES // 2)
    assert bench.done() == []
    bench.sync()
    assert bench.done() == ["strict"]
    bench.write(sync=False)
    assert bench.done() == ["next"]


def test_blocks_name_what_is_durable_and_not_what_is_written(bench: Bench) -> None:
    durable = []
    for within in (OS_MS, OS_MS, FSYNC, OS_MS):
        bench.append(within)
        job = bench.write(sync=within == FSYNC)
        header = decode_block_header(memoryview(job.data[0]), 0)
        assert header is not None
        durable.append(header.durable)
        bench.done()
    assert durable == [0, 0, 0, 3 * PAGE_BYTES]


@pytest.mark.parametrize(
    ("encoding", "archive_at", "sync_at", "first"),
    [
        (False, None, None, None),
        (False, 7, None, 7),
        (False, None, 7, 7),
        (False, 7, 9, 7),
        (False, 9, 7, 7),
        (True, 9, 7, NOW),
    ],
)
def test_engine_is_woken_for_whatever_comes_first(
    encoding: bool, archive_at: int | None, sync_at: int | None, first: int | None
) -> None:
    engine = SimpleNamespace(
        _saver=SimpleNamespace(encoding=encoding),
        archiver=SimpleNamespace(wake_at=archive_at),
        journal=SimpleNamespace(sync_at=sync_at),
    )
    assert Engine.wake_at.fget(engine) == first  # type: ignore[attr-defined]
