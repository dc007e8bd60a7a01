"""Threads that run jobs: one for the journal's writes and syncs, in order, and a few for all other file work.

They run `Files.run` and nothing else, that is system calls, which release the interpreter lock; a Python
loop here would cost the event loop milliseconds. What a job gave or raised goes back to the event loop
as one call. Threads are daemons: a disk that never answers cannot keep a failed node alive.

A small write needs no thread while the disk is quick: there and back takes longer than the write. One that
takes long after all holds up the event loop once; what follows goes by the thread, until the disk is quick
again.
"""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from penstock_broker.clock import stopwatch
from penstock_broker.storage.files import Job, Sync, Write

POOL_THREADS = 4

Run = Callable[[Job], object]
Done = Callable[[Job, object, float], None]
"""A job, its result or the exception it raised, and the seconds it took; called on the event loop."""
SMALL_BYTES = 16 << 10
QUICK_SECONDS = 0.0005
QUICK_WRITES = 32
"""So many in a row make a quick disk."""


class Workers:
    """The threads of one node. The core bounds how many jobs are under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writes: SimpleQueue[Job | None] = SimpleQueue()
        self._others: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._quick = 0
        """Writes and syncs in a row that were quick. Who runs one counts it; there is one at a time."""

    def start(self, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        """Begin to take jobs; `done` is called on `loop` for each."""
        queues = {"flusher": self._writes, **{f"worker-{i}": self._others for i in range(POOL_THREADS)}}
        for name, jobs in queues.items():
            thread = Thread(target=self._take_all, args=(jobs, loop, done), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, job: Job) -> tuple[object, float] | None:
        """Hand a job to its thread; or run it here, and return its result and the seconds it took. Writes and
        syncs are run one at a time: the next one is submitted when that before it is done."""
        if not isinstance(job, Write | Sync):
            self._others.put(job)
        elif (
            self._quick >= QUICK_WRITES and isinstance(job, Write) and sum(map(len, job.data)) <= SMALL_BYTES
        ):
            return self._do(job)
        else:
            self._writes.put(job)
        return None

    def stop(self) -> None:
        """Run what was submitted to its end, and end the threads."""
        self._writes.put(None)
        for _ in range(POOL_THREADS):
            self._others.put(None)
        for thread in self._threads:
            thread.join()

    def _take_all(self, jobs: SimpleQueue[Job | None], loop: asyncio.AbstractEventLoop, done: Done) -> None:
        while self._take(jobs.get(), loop, done):
            pass

    def _take(self, job: Job | None, loop: asyncio.AbstractEventLoop, done: Done) -> bool:
        """A function of its own, so that no view of the job's bytes is kept while waiting for the next."""
        if job is None:
            return False
        result, seconds = self._do(job)
        try:
            loop.call_soon_threadsafe(done, job, result, seconds)
        except RuntimeError:
            return False  # the loop is closed: the node ended without waiting for this job
        return True

    def _do(self, job: Job) -> tuple[object, float]:
        began = stopwatch()
        try:
            result = self._run(job)
        except Exception as error:
            result = error
        seconds = stopwatch() - began
        if isinstance(job, Write | Sync):
            self._quick = self._quick + 1 if seconds <= QUICK_SECONDS else 0
        return result, seconds
