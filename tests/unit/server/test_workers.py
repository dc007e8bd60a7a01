"""Threads that run jobs: real threads, a scripted `run`."""

import asyncio
import threading
from random import Random

import pytest

from penstock_broker.server import workers as room
from penstock_broker.server.workers import (
    POOL_THREADS,
    QUICK_SECONDS,
    QUICK_SYNCS,
    SLOW_COUNTS,
    SMALL_BYTES,
    Workers,
)
from penstock_broker.storage.files import Drop, Job, Sync, Write


class Results:
    """Gathers what comes back, and says when `expected` are there."""

    def __init__(self, expected: int) -> None:
        self.got: list[tuple[Job, object]] = []
        self.all_there = asyncio.Event()
        self._expected = expected

    def expect(self, more: int) -> None:
        self._expected = len(self.got) + more
        self.all_there.clear()

    def __call__(self, job: Job, result: object, seconds: float) -> None:
        assert seconds >= 0
        self.got.append((job, result))
        if len(self.got) == self._expected:
            self.all_there.set()


class Disk:
    """Runs jobs, each of which takes `seconds` by the stopwatch of the room, and keeps who ran what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.ran: list[tuple[str, Job]] = []
        self._now = 0.0
        monkeypatch.setattr(room, "stopwatch", lambda: self._now)

    def run(self, job: Job) -> object:
        self.ran.append((threading.current_thread().name, job))
        self._now += self.seconds
        return job.name


SMALL, LARGE = Write("w", 0, (bytes(SMALL_BYTES),)), Write("w", 0, (bytes(SMALL_BYTES), b"more"))
UNSYNCED = Write("w", 0, (b"small",), False)


async def awaited(workers: Workers, results: Results, job: Job) -> bool:
    """Whether the result of a job came back at once; else it is waited for here."""
    before = len(results.got)
    results.expect(1)
    ended = workers.submit(job)
    if ended is not None:
        assert ended[0] == "w"
        assert len(results.got) == before
        return True
    await asyncio.wait_for(results.all_there.wait(), 10)
    assert results.got[before:] == [(job, "w")]
    return False


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that gets no processor is not taken for a slow disk."""
    monkeypatch.setattr(room, "AWAITED_SECONDS_MAX", 10)


@pytest.mark.usefixtures("patient")
async def test_small_write_is_waited_for_while_the_disk_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    assert [await awaited(workers, results, SMALL) for _ in range(QUICK_SYNCS + 1)] == [
        False
    ] * QUICK_SYNCS + [True]
    assert [await awaited(workers, results, job) for job in (LARGE, Sync("w"), SMALL)] == [False, False, True]
    assert {who for who, _ in disk.ran} == {"flusher"}
    workers.stop()


@pytest.mark.usefixtures("patient")
async def test_slow_syncs_end_that_until_the_disk_is_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    workers._quick = QUICK_SYNCS
    disk.seconds = 2 * QUICK_SECONDS
    assert [await awaited(workers, results, SMALL) for _ in range(2)] == [True, False]
    disk.seconds = 0.0
    needed = 2 * SLOW_COUNTS
    assert [await awaited(workers, results, SMALL) for _ in range(needed + 1)] == [False] * needed + [True]
    workers.stop()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("quick", "ends"), [(2 * SLOW_COUNTS, False), (SLOW_COUNTS // 2, True)])
async def test_one_slow_sync_among_many_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, *, quick: int, ends: bool
) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    workers._quick = 2 * QUICK_SYNCS
    found = []
    for number in range(10 * quick):
        disk.seconds = 2 * QUICK_SECONDS if number % (quick + 1) == 0 else 0.0
        found.append(await awaited(workers, results, SMALL))
    assert (False in found) == ends
    workers.stop()


@pytest.mark.usefixtures("patient")
async def test_disk_that_was_quick_for_long_is_slow_after_a_few_slow_syncs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    for _ in range(10 * QUICK_SYNCS):
        await awaited(workers, results, SMALL)
    disk.seconds = 2 * QUICK_SECONDS
    most = QUICK_SYNCS // SLOW_COUNTS + 1
    assert [await awaited(workers, results, SMALL) for _ in range(most + 1)] == [True] * most + [False]
    workers.stop()


@pytest.mark.usefixtures("patient")
async def test_writes_that_do_not_sync_say_nothing_about_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    for _ in range(2 * QUICK_SYNCS):
        assert not await awaited(workers, results, UNSYNCED)
    assert not await awaited(workers, results, SMALL)
    workers.stop()


async def test_disk_that_stalls_holds_up_the_event_loop_no_longer_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "AWAITED_SECONDS_MAX", 0.0)
    gate = threading.Event()

    def run(job: Job) -> object:
        gate.wait(10)
        return "w"

    workers, results = Workers(run), Results(1)
    workers.start(asyncio.get_running_loop(), results)
    workers._quick = QUICK_SYNCS
    assert workers.submit(SMALL) is None
    gate.set()
    await asyncio.wait_for(results.all_there.wait(), 10)
    assert results.got == [(SMALL, "w")]
    workers.stop()


async def test_every_write_ends_once_whether_it_was_waited_for_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = Random(1)
    monkeypatch.setattr(room, "QUICK_SECONDS", 10)
    pause = threading.Event()

    def run(job: Job) -> object:
        pause.wait(random.random() / 1_000)
        return "w"

    workers, results = Workers(run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    workers._quick = QUICK_SYNCS
    monkeypatch.setattr(room, "AWAITED_SECONDS_MAX", 0.0005)
    at_once = [await awaited(workers, results, SMALL) for _ in range(1_000)]
    assert len(results.got) == at_once.count(False)
    workers.stop()


async def test_write_that_was_waited_for_and_failed_gives_what_it_raised(patient: None) -> None:
    def run(job: Job) -> object:
        raise OSError(5, "Input/output error")

    workers = Workers(run)
    workers.start(asyncio.get_running_loop(), Results(0))
    workers._quick = QUICK_SYNCS
    ended = workers.submit(SMALL)
    assert ended is not None
    assert isinstance(ended[0], OSError)
    workers.stop()


async def test_writes_run_one_at_a_time_in_order_beside_other_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "QUICK_SYNCS", 1_000)
    ran: list[tuple[str, str]] = []
    overlapping: list[str] = []
    writing = threading.Lock()

    def run(job: Job) -> object:
        if isinstance(job, Write):
            if not writing.acquire(blocking=False):
                overlapping.append(job.name)
            ran.append((threading.current_thread().name, job.name))
            writing.release()
        return job.name

    workers, results = Workers(run), Results(200)
    workers.start(asyncio.get_running_loop(), results)
    for number in range(100):
        workers.submit(Write(f"w{number}", 0, ()))
        workers.submit(Drop(f"d{number}"))
    await asyncio.wait_for(results.all_there.wait(), 10)
    workers.stop()
    assert ran == [("flusher", f"w{number}") for number in range(100)]
    assert not overlapping
    writes = [result for job, result in results.got if isinstance(job, Write)]
    assert writes == [f"w{number}" for number in range(100)]


async def test_slow_jobs_leave_the_flusher_and_one_another_alone() -> None:
    gate, under_way = threading.Event(), threading.Semaphore(0)

    def run(job: Job) -> object:
        if isinstance(job, Drop):
            under_way.release()
            gate.wait(10)
        return None

    workers, results = Workers(run), Results(1)
    workers.start(asyncio.get_running_loop(), results)
    for number in range(POOL_THREADS):
        workers.submit(Drop(str(number)))
    for _ in range(POOL_THREADS):
        assert await asyncio.to_thread(under_way.acquire, timeout=10)
    workers.submit(Write("w", 0, ()))
    await asyncio.wait_for(results.all_there.wait(), 10)
    assert results.got[0][0] == Write("w", 0, ())
    gate.set()
    workers.stop()


async def test_what_a_job_raises_comes_back_as_its_result_and_the_thread_goes_on() -> None:
    def run(job: Job) -> object:
        raise OSError(5, "Input/output error")

    workers, results = Workers(run), Results(2)
    workers.start(asyncio.get_running_loop(), results)
    workers.submit(Write("a", 0, ()))
    workers.submit(Write("b", 0, ()))
    await asyncio.wait_for(results.all_there.wait(), 10)
    workers.stop()
    assert [(job, type(result)) for job, result in results.got] == [
        (Write("a", 0, ()), OSError),
        (Write("b", 0, ()), OSError),
    ]


async def test_thread_keeps_no_view_of_a_job_that_is_done() -> None:
    block = bytearray(4096)
    workers, results = Workers(lambda job: None), Results(1)
    workers.start(asyncio.get_running_loop(), results)
    workers.submit(Write("a", 0, (memoryview(block),)))
    await asyncio.wait_for(results.all_there.wait(), 10)
    results.got.clear()
    workers.stop()
    block.append(0)  # raises BufferError while any view is alive


@pytest.mark.filterwarnings("error")
def test_job_that_ends_after_the_event_loop_ends_its_thread_quietly() -> None:
    begun, gate = threading.Event(), threading.Event()

    def run(job: Job) -> object:
        begun.set()
        gate.wait(10)
        return None

    loop = asyncio.new_event_loop()
    workers = Workers(run)
    workers.start(loop, lambda *_: None)
    workers.submit(Write("a", 0, ()))
    assert begun.wait(10)
    loop.close()
    gate.set()
    workers._threads[0].join(10)
    assert not workers._threads[0].is_alive()
    workers.stop()
