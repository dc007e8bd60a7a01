"""Threads that run jobs: one for the journal's writes and syncs, in order, and a few for all other file work.

They run `Files.run` and nothing else, that is system calls, which release the interpreter lock; a Python
loop here would cost the event loop milliseconds. What a job gave or raised goes back to the event loop
as one call. Threads are daemons: a disk that never answers cannot keep a failed node alive.
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


class Workers:
    """The threads of one node. The core bounds how many jobs are under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writes: SimpleQueue[Job | None] = SimpleQueue()
        self._others: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[Thread] = []

    def start(self, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        """Begin to take jobs; `done` is called on `loop` for each."""
        queues = {"flusher": self._writes, **{f"worker-{i}": self._others for i in range(POOL_THREADS)}}
        for name, jobs in queues.items():
            thread = Thread(target=self._take_all, args=(jobs, loop, done), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, job: Job) -> None:
        """Hand a job to its thread. Writes and syncs are run one at a time, in the order of these calls."""
        (self._writes if isinstance(job, Write | Sync) else self._others).put(job)

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
        began = stopwatch()
        try:
            result = self._run(job)
        except Exception as error:
            result = error
        try:
            loop.call_soon_threadsafe(done, job, result, stopwatch() - began)
        except RuntimeError:
            return False  # the loop is closed: the node ended without waiting for this job
        return True
