"""What the machine can do without any broker: a write made durable, and a round trip over loopback.

`python -m penstock_loadtest.bare` is the process at the other end of the round trip; it prints its port.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from penstock_loadtest.agent import runner
from penstock_loadtest.broker import roomy
from penstock_loadtest.latency import Latencies, merged, summary
from penstock_loadtest.scenarios import KIB, MIB
from penstock_loadtest.ticker import Ticker

SYNCS = 2_000
ECHOES = 5_000
PACED_SECONDS = 5.0
FILE_BYTES = 16 * MIB
BLOCK_BYTES = 4 * KIB
"""What a broker writes for a message of 1 KiB: a block of the disk."""
_BLOCK = os.urandom(BLOCK_BYTES)


async def bare(rate: float | None) -> dict[str, Any]:
    """Latencies of pwrite and fdatasync of a block (`sync`), and of 1 KiB there and back (`echo`); of an open
    loop, of a block on its schedule (`paced`). To be measured twice, and handed to `both`."""
    if rate:
        return {"paced": (await _paced(rate)).encode()}
    return {
        "sync": summary(merged([_syncs().encode()])),
        "echo": summary(merged([(await _echoes()).encode()])),
    }


def both(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The summaries, in µs, of what was measured before and after a run: the better one of a single call,
    everything on a schedule."""
    if "paced" in before:
        return {"paced": summary(merged([before["paced"], after["paced"]]))}
    return min(before, after, key=_cost)


def _cost(found: dict[str, Any]) -> float:
    total: float = found["sync"]["p50"] + found["echo"]["p50"]
    return total


async def _paced(rate: float) -> Latencies:
    """A block made durable at each instant of a schedule, for 5 s, counted from that instant. Those that come
    due during a sync share the next one, as in a broker."""
    latencies = Latencies()
    interval, instants, done = round(1e9 / rate), round(rate * PACED_SECONDS), 0
    with _file() as fd:
        begin = time.monotonic_ns()
        with Ticker(begin, interval) as ticker:
            while done < instants:
                await ticker.tick()
                due = min(instants, (time.monotonic_ns() - begin) // interval + 1)
                _make_durable(fd, done)
                ended = time.monotonic_ns()
                for instant in range(done, due):
                    latencies.add(ended - begin - instant * interval)
                done = due
    return latencies


def _syncs() -> Latencies:
    latencies = Latencies()
    with _file() as fd:
        for number in range(SYNCS):
            began = time.monotonic_ns()
            _make_durable(fd, number)
            latencies.add(time.monotonic_ns() - began)
    return latencies


@contextmanager
def _file() -> Iterator[int]:
    """A file whose blocks are there, as those of a journal are."""
    with tempfile.TemporaryFile(dir=roomy()) as file:
        os.pwrite(file.fileno(), bytes(FILE_BYTES), 0)
        os.fsync(file.fileno())
        yield file.fileno()


def _make_durable(fd: int, number: int) -> None:
    os.pwrite(fd, _BLOCK, number * BLOCK_BYTES % FILE_BYTES)
    os.fdatasync(fd)


async def _echoes() -> Latencies:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock_loadtest.bare"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        loop = asyncio.get_running_loop()
        transport, caller = await loop.create_connection(Caller, "127.0.0.1", port)
        await caller.done
        transport.close()
        return caller.latencies
    finally:
        process.kill()
        await process.wait()


class Caller(asyncio.Protocol):
    """Sends 1 KiB, waits for it to come back, and again."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.done = asyncio.get_running_loop().create_future()
        self._data = os.urandom(KIB)
        self._left = ECHOES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the echo went away"))

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing:
            return
        self.latencies.add(time.monotonic_ns() - self._began)
        self._left -= 1
        if self._left:
            self._send()
        else:
            self.done.set_result(None)

    def _send(self) -> None:
        self._missing = len(self._data)
        self._began = time.monotonic_ns()
        self._transport.write(self._data)


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    runner()(_serve())
