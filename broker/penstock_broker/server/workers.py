"""Threads that run jobs: one for the journal's writes and syncs, in order, and a few for all other file work.

They run `Files.run` and nothing else, that is system calls, which release the interpreter lock; a Python
loop here would cost the event loop milliseconds. What a job gave or raised goes back to the event loop
as one call. Threads are daemons: a disk that never answers cannot keep a failed node alive.

While the disk is quick, the event loop waits for a small write, a millisecond at most: what it brings then
leaves in the same turn. The way back by a call to the event loop takes as long as such a write.
"""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

from penstock_broker.clock import stopwatch
from penstock_broker.storage.files import Job, Sync, Write

POOL_THREADS = 4

Run = Callable[[Job], object]
Done = Callable[[Job, object, float], None]
"""A job, its result or the exception it raised, and the seconds it took; called on the event loop."""
SMALL_BYTES = 16 << 10
QUICK_SECONDS = 0.0005
QUICK_SYNCS, SLOW_COUNTS = 32, 8
"""So many make a quick disk; a slow one counts against so many of them. Up to twice as many are kept in
mind, so that one slow sync now and then changes nothing, and more than one in nine do."""
AWAITED_SECONDS_MAX = 0.001
"""How long the event loop waits for a write, whatever the disk does."""


class Workers:
    """The threads of one node. The core bounds how many jobs are under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._writes: SimpleQueue[Job | None] = SimpleQueue()
        self._others: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._quick = 0
        """Quick syncs, less what slow ones took."""
        self._awaited: Job | None = None
        """The event loop waits for it."""
        self._ended: tuple[object, float] | None = None
        self._lock = Lock()
        """Of these two."""
        self._there = Lock()
        """Held by the event loop, which waits to get it once more."""
        self._there.acquire()

    def start(self, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        """Begin to take jobs; `done` is called on `loop` for each."""
        queues = {"flusher": self._writes, **{f"worker-{i}": self._others for i in range(POOL_THREADS)}}
        for name, jobs in queues.items():
            thread = Thread(target=self._take_all, args=(jobs, loop, done), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, job: Job) -> tuple[object, float] | None:
        """Hand a job to its thread. Writes and syncs are run one at a time, in the order of these calls. Of
        one that was waited for: its result and the seconds it took; `done` is not called."""
        if not isinstance(job, Write | Sync):
            self._others.put(job)
            return None
        if self._quick < QUICK_SYNCS or isinstance(job, Sync) or sum(map(len, job.data)) > SMALL_BYTES:
            self._writes.put(job)
            return None
        self._awaited = job
        self._writes.put(job)
        return self._await()

    def _await(self) -> tuple[object, float] | None:
        if not self._there.acquire(timeout=AWAITED_SECONDS_MAX):
            with self._lock:
                self._awaited = None
                if self._ended is None:
                    return None  # `done` will be called
            self._there.acquire()  # it came between
        ended, self._ended = self._ended, None
        return ended

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
        seconds = stopwatch() - began
        if isinstance(job, Write | Sync) and self._is_awaited(job, result, seconds):
            return True
        try:
            loop.call_soon_threadsafe(done, job, result, seconds)
        except RuntimeError:
            return False  # the loop is closed: the node ended without waiting for this job
        return True

    def _is_awaited(self, job: Write | Sync, result: object, seconds: float) -> bool:
        if isinstance(job, Sync) or job.sync:
            quick = self._quick + (1 if seconds <= QUICK_SECONDS else -SLOW_COUNTS)
            self._quick = max(0, min(quick, 2 * QUICK_SYNCS))
        with self._lock:
            if self._awaited is not job:
                return False
            self._awaited, self._ended = None, (result, seconds)
        self._there.release()
        return True
