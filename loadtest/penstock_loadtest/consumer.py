"""Takes what one consumer process of a reader is given, and looks at every message of it.

Looking is put off until there are enough messages for one vectorised pass; the time of arrival is not.
"""

import asyncio
import time
from typing import Any

import numpy as np

from penstock_loadtest.adapter import Adapter, Bodies
from penstock_loadtest.latency import Latencies
from penstock_loadtest.payload import read
from penstock_loadtest.scenarios import Flow
from penstock_loadtest.verify import Tally

LOOK_AT = 2_000
"""Messages of one pass."""


class Consumer:
    """One consumer of reader `reader` of a flow."""

    def __init__(self, adapter: Adapter, flow: Flow, run: int, reader: int) -> None:
        self._adapter = adapter
        self._run = run
        self._size = flow.size
        self._reader = reader
        self._pause = flow.pauses_us[reader] / 1e6 if reader < len(flow.pauses_us) else 0.0
        self._bodies: list[bytes | memoryview] = []
        self._arrivals: list[int] = []
        self._counts: list[int] = []
        self._pending = 0
        self._tally = Tally()
        self._task: asyncio.Task[None] | None = None
        self.measure()

    def progress(self) -> dict[str, Any]:
        """Messages so far, each counted once."""
        self._look()
        return {"messages": self._tally.fresh}

    def begin(self) -> asyncio.Task[None]:
        """Start to take; the task ends after `end`, or with what went wrong."""
        self._task = asyncio.ensure_future(self._adapter.consume(self._reader, self._arrived))
        return self._task

    def measure(self) -> None:
        """What comes from now on is what counts."""
        self._look()
        self._latencies = Latencies()
        self._began = self._ended = 0
        self._messages = 0

    async def end(self) -> dict[str, Any]:
        """Stop; everything that was seen."""
        self._adapter.stop()
        if self._task is not None:
            await self._task
        self._look()
        return {
            "began": self._began / 1e9,
            "ended": self._ended / 1e9,
            "messages": self._messages,
            "latencies": self._latencies.encode(),
            "runs": self._tally.runs,
            "corrupt": self._tally.corrupt,
        }

    async def _arrived(self, bodies: Bodies, count: int) -> None:
        self._bodies.extend(bodies)
        self._arrivals.append(time.monotonic_ns())
        self._counts.append(count)
        self._pending += count
        if self._pending >= LOOK_AT:
            self._look()
        if self._pause:
            await asyncio.sleep(self._pause * count)

    def _look(self) -> None:
        if not self._pending:
            return
        seen = read(self._run, self._size, self._bodies, self._pending)
        arrivals = np.repeat(np.array(self._arrivals, dtype=np.int64), self._counts)
        if seen.kept is not None:
            # Where a body is missing altogether nobody knows which, and no latency is true.
            arrivals = arrivals[seen.kept] if len(seen.kept) == len(arrivals) else arrivals[:0]
        if len(arrivals):
            self._latencies.add_all(arrivals - seen.stamps.astype(np.int64))
        self._tally.add(seen)
        self._began = self._began or self._arrivals[0]
        self._ended = self._arrivals[-1]
        self._messages += self._pending
        self._bodies, self._arrivals, self._counts, self._pending = [], [], [], 0
