"""Makes the load of one producer process, and remembers what it tried and what failed.

A closed loop keeps `in_flight` callers busy, each with one call after the other. An open loop makes a call at
every instant of a schedule, whatever has become of the calls before, and counts from that instant.
"""

import asyncio
import time
from typing import Any, NamedTuple

from penstock_loadtest.adapter import Adapter
from penstock_loadtest.latency import Latencies
from penstock_loadtest.payload import Maker
from penstock_loadtest.scenarios import Flow
from penstock_loadtest.ticker import Ticker
from penstock_loadtest.verify import Run

TICK_MIN = 1_000_000
"""ns: calls that are due more often are made a few at a time."""
FAILURES_MAX = 100
OPEN_CALLS_MAX = 100_000
"""Calls of an open loop without a confirm. Beyond that the schedule waits, and its calls are late."""


class Call(NamedTuple):
    """Messages of one publish."""

    lane: int
    first: int
    messages: int


class Producer:
    """Producer `number` of a flow."""

    def __init__(self, adapter: Adapter, flow: Flow, run: int, number: int) -> None:
        self._adapter = adapter
        self._flow = flow
        self._maker = Maker(run, flow.size, flow.batch)
        self._base = number * flow.lanes
        self._sent = [0] * flow.lanes
        self._turn = 0
        self._left = 0
        self._end = 0.0
        self._expected_us = 0.0
        self._latencies = Latencies()
        self._failed: list[Run] = []
        self._failure: Exception | None = None
        self._calls = 0
        self.confirmed = 0

    def progress(self) -> dict[str, Any]:
        """Messages confirmed so far."""
        return {"messages": self.confirmed}

    async def publish(self, messages: int, seconds: float | None, rate: float | None) -> dict[str, Any]:
        """Publish that many messages, for at most so many seconds; what it took.

        Raises the first failure if there are too many of them.
        """
        self._latencies = Latencies(0 if rate else self._expected_us)
        self._left, confirmed, calls = messages, self.confirmed, self._calls
        began = time.monotonic()
        self._end = began + (seconds or float("inf"))
        if rate:
            await self._open_loop(rate)
        else:
            await asyncio.gather(*(self._caller() for _ in range(self._flow.in_flight)))
        ended = time.monotonic()
        self._expected_us = (ended - began) * 1e6 * self._flow.in_flight / max(1, self._calls - calls)
        return {
            "began": began,
            "ended": ended,
            "messages": self.confirmed - confirmed,
            "latencies": self._latencies.encode(),
        }

    def sent(self) -> dict[str, Any]:
        """Everything it tried, by lane, and what failed of it."""
        lanes = {self._base + lane: count for lane, count in enumerate(self._sent) if count}
        return {
            "lanes": list(lanes.items()),
            "failed": self._failed,
            "failure": None if self._failure is None else _told(self._failure),
            "durability": self._adapter.durability,
        }

    async def _caller(self) -> None:
        while (call := self._next()) is not None:
            await self._make(call, time.monotonic_ns())

    async def _open_loop(self, rate: float) -> None:
        interval = self._flow.batch / rate * 1e9
        begin = time.monotonic_ns()
        calls: set[asyncio.Task[None]] = set()
        made = 0
        with Ticker(begin, max(TICK_MIN, round(interval))) as ticker:
            while True:
                await ticker.tick()
                due = int((time.monotonic_ns() - begin) / interval) + 1
                while made < due and len(calls) < OPEN_CALLS_MAX:
                    call = self._next()
                    if call is None:
                        await asyncio.gather(*calls)
                        return
                    task = asyncio.ensure_future(self._make(call, begin + round(made * interval)))
                    calls.add(task)
                    task.add_done_callback(calls.discard)
                    made += 1

    def _next(self) -> Call | None:
        if self._left <= 0 or time.monotonic() >= self._end:
            return None
        lane, count = self._turn, min(self._flow.batch, self._left)
        self._turn = (lane + 1) % self._flow.lanes
        call = Call(lane, self._sent[lane], count)
        self._left -= count
        self._sent[lane] += count
        return call

    async def _make(self, call: Call, stamp: int) -> None:
        lane, first, count = call
        self._calls += 1
        try:
            await self._adapter.publish(lane, self._maker.make(self._base + lane, first, count, stamp))
        except Exception as error:
            self._failed.append([self._base + lane, first, count])
            self._failure = self._failure or error
            if len(self._failed) >= FAILURES_MAX:
                raise self._failure from error
            return
        self._latencies.add(time.monotonic_ns() - stamp)
        self.confirmed += count


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
