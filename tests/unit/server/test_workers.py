"""Threads that run jobs: real threads, a scripted `run`."""

import asyncio
import threading

import pytest

from penstock_broker.server import workers as room
from penstock_broker.server.workers import POOL_THREADS, QUICK_SECONDS, QUICK_WRITES, SMALL_BYTES, Workers
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


async def done(workers: Workers, results: Results, job: Job) -> object:
    """Submit it, and wait for its result."""
    ended = workers.submit(job)
    if ended is not None:
        return ended[0]
    results.expect(1)
    await asyncio.wait_for(results.all_there.wait(), 10)
    return results.got[-1][1]


async def test_small_write_needs_no_thread_while_the_disk_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    small, large = Write("w", 0, (bytes(SMALL_BYTES),)), Write("w", 0, (bytes(SMALL_BYTES), b"more"))
    for _ in range(QUICK_WRITES):
        assert await done(workers, results, small) == "w"
    for job in (small, large, Sync("w"), small):
        await done(workers, results, job)
    here = threading.current_thread().name
    assert [who for who, _ in disk.ran] == ["flusher"] * QUICK_WRITES + [here, "flusher", "flusher", here]
    workers.stop()


async def test_slow_write_sends_those_after_it_to_the_thread_until_the_disk_is_quick_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk(monkeypatch)
    workers, results = Workers(disk.run), Results(0)
    workers.start(asyncio.get_running_loop(), results)
    small = Write("w", 0, (b"small",))
    for _ in range(QUICK_WRITES):
        await done(workers, results, small)
    disk.seconds = 2 * QUICK_SECONDS
    await done(workers, results, small)
    disk.seconds = 0.0
    for _ in range(QUICK_WRITES + 1):
        await done(workers, results, small)
    here = threading.current_thread().name
    assert [who for who, _ in disk.ran] == ["flusher"] * QUICK_WRITES + [here] + [
        "flusher"
    ] * QUICK_WRITES + [here]
    workers.stop()


async def test_write_done_at_once_that_fails_gives_what_it_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(job: Job) -> object:
        raise OSError(5, "Input/output error")

    workers = Workers(run)
    workers._quick = QUICK_WRITES
    ended = workers.submit(Write("w", 0, ()))
    assert ended is not None
    assert isinstance(ended[0], OSError)


async def test_writes_run_one_at_a_time_in_order_beside_other_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "QUICK_WRITES", 1_000)
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
