"""Threads that run jobs: real threads, a scripted `run`."""

import asyncio
import threading

import pytest

from penstock_broker.server.workers import POOL_THREADS, Workers
from penstock_broker.storage.files import Drop, Job, Write


class Results:
    """Gathers what comes back, and says when `expected` are there."""

    def __init__(self, expected: int) -> None:
        self.got: list[tuple[Job, object]] = []
        self.all_there = asyncio.Event()
        self._expected = expected

    def __call__(self, job: Job, result: object, seconds: float) -> None:
        assert seconds >= 0
        self.got.append((job, result))
        if len(self.got) == self._expected:
            self.all_there.set()


async def test_writes_run_one_at_a_time_in_order_beside_other_jobs() -> None:
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
